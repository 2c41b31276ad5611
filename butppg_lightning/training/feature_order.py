"""What features a split needs in a stage: their names, and how each is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch

from butppg_lightning.data.features import Features
from butppg_lightning.data.sampler import EpochBatches
from butppg_lightning.models.freezing import blocks_in, prefix_digest
from butppg_lightning.training.feature_builder import CHUNK

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor

    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.data.module import WindowDataModule
    from butppg_lightning.models.network import Depth, QualityNetwork
    from butppg_lightning.training.feature_builder import FeatureBuilder

_FORMAT = 1  # of the stored features; another number makes every older file another key
_LARGEST_SEED = 2**63 - 1


class SplitClassifier(Protocol):
    """What the cache needs of a LightningModule: a network that can be cut in two, as PPGQualityClassifier has.

    ``variation`` is true where training windows are varied at random; ``prefix`` maps a batch of windows to the
    features at a depth, ``logits`` a batch of windows or of features to logits ``[B]``.
    """

    network: QualityNetwork
    variation: Any
    hparams: Any

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def prefix(self, batch: dict[str, Any], depth: Depth, *, vary: bool = False) -> Tensor:
        """Return features ``[B, ...]``."""

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Return logits ``[B]``."""

    def side_inputs(self, batch: dict[str, Any]) -> Tensor | None:
        """Return the head's side inputs ``[B, K]``; None for a head without."""


@dataclass
class FeatureOrder:
    """The features of one split at one depth.

    Attributes:
        trainer: Precision and device are its own.
        model: Whose prefix it is.
        split: train or val.
        depth: Where the prefix ends.
        base: A shallower depth that a later stage needs: computed first, and gone on from; None for none.
        views: Number of random variations; 0 for the windows as they are.
        since: The epoch the stage began with; variations are drawn by it.
    """

    trainer: Trainer
    model: SplitClassifier
    split: str
    depth: Depth
    base: int | None = None
    views: int = 0
    since: int = 0

    def __post_init__(self) -> None:
        """Look up what the order is about."""
        self.datamodule = cast("WindowDataModule", self.trainer.datamodule)  # type: ignore[attr-defined]
        self.dataset: WindowDataset = self.datamodule.splits[self.split]
        self.rows = rows_needed(self.trainer, self.datamodule, self.split)
        self.count = len(self.dataset) if self.rows is None else len(self.rows)
        depths = {self.depth, self.base} - {None}
        self._weights = {depth: prefix_digest(self.model.network, cast("Depth", depth)) for depth in depths}

    def wanted(self) -> set[str]:
        """Return the names of all features of the order."""
        if self.base is not None:
            return {self._key(self.base), self._key(self.depth)}
        return {self._key(self.depth, view) for view in self._views()}

    def build(self, builder: FeatureBuilder) -> Features | None:
        """Compute what is not there yet; None if there is no room for it, or no row."""
        if not self.count:
            return None
        base, depth, tokens = self.base, self.depth, None
        if base is not None:
            tokens = self._built(builder, base, None, lambda start, stop: self._encoded(start, stop, base, None))
        if tokens is not None:
            found = [self._built(builder, depth, None, lambda start, stop: self._advanced(tokens[start:stop]))]
        else:
            found = [
                self._built(
                    builder, self.depth, view, lambda start, stop, v=view: self._encoded(start, stop, self.depth, v)
                )
                for view in self._views()
            ]
        ready = [view for view in found if view is not None]
        return Features(ready, self.depth, self.rows) if len(ready) == len(found) else None

    def side_inputs(self) -> Tensor:
        """Compute the side inputs ``[N, K]`` of every window of the split, as recorded; a few ten bytes each."""
        found = []
        for start in range(0, len(self.dataset), CHUNK):
            batch = self.dataset.fetch(np.arange(start, min(start + CHUNK, len(self.dataset))))
            batch = {key: value.to(self.model.device) for key, value in batch.items()}
            batch = self.trainer.precision_plugin.convert_input(batch)
            found.append(cast("Tensor", self.model.side_inputs(batch)).cpu())
        return torch.cat(found)

    def _views(self) -> list[int | None]:
        return list(range(self.views)) if self.views else [None]

    def _built(self, builder: FeatureBuilder, depth: Depth, view: int | None, produce: Any) -> Tensor | None:
        blocks = len(self.model.network.encoder.blocks)  # type: ignore[arg-type]
        end = f"to block {depth} of {blocks}" if isinstance(depth, int) else f"through all {blocks} blocks"
        title = f"{self.count:,} {self.split} windows {end}"
        if view is not None:
            title += f", variation {view + 1} of {self.views}"
        return builder.build(self._key(depth, view), self.count, produce, title, self._facts(depth, view))

    def _encoded(self, start: int, stop: int, depth: Depth, view: int | None) -> Tensor:
        index = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
        batch = {key: value.to(self.model.device) for key, value in self.dataset.fetch(index).items()}
        precision = self.trainer.precision_plugin
        with torch.random.fork_rng(enabled=view is not None), precision.forward_context():
            if view is not None:
                torch.manual_seed(self._seed(view, start // CHUNK))
            features = self.model.prefix(precision.convert_input(batch), depth, vary=view is not None)
        return features.cpu()

    @torch.no_grad()
    def _advanced(self, tokens: Tensor) -> Tensor:
        with self.trainer.precision_plugin.forward_context():
            tokens = tokens.to(self.model.device)
            return self.model.network.run(tokens, cast("int", self.base), self.depth).cpu()

    def _seed(self, view: int, chunk: int) -> int:
        numbers = f"{self.datamodule.seed} {self.since} {view} {chunk}".encode()
        return int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little") & _LARGEST_SEED

    def _key(self, depth: Depth, view: int | None = None) -> str:
        facts = json.dumps(self._facts(depth, view), sort_keys=True, default=str)
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def _facts(self, depth: Depth, view: int | None) -> dict[str, Any]:
        from butppg_lightning.version import __version__

        options = self.model.hparams
        facts: dict[str, Any] = {
            "format": _FORMAT,
            "versions": [__version__, torch.__version__],
            "weights": self._weights[depth],
            "encoder": options["encoder"],
            "preprocess": options["preprocess"],
            "encoder_channels": options["encoder_channels"],
            "head": options["head"] if depth == "pooled" else None,
            "data": self.dataset.fingerprint(),
            "rows": "all" if self.rows is None else hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest(),
            "depth": depth,
            "precision": str(self.trainer.precision),
            "device": self.model.device.type,
        }
        if view is not None:
            variation = {key: options[key] for key in ("channel_dropout", "augment")}
            facts["variation"] = {**variation, "seed": self.datamodule.seed, "since": self.since, "view": view}
        return facts


def rows_needed(trainer: Trainer, datamodule: WindowDataModule, split: str) -> np.ndarray | None:
    """Return which rows a limited run will ever ask for, sorted; None when it is all of them."""
    dataset = datamodule.splits[split]
    size = datamodule.batch_size * trainer.world_size
    batches = EpochBatches(dataset, size, seed=datamodule.seed, shuffle=split == "train")
    limit = trainer.limit_train_batches if split == "train" else trainer.limit_val_batches
    count = min(limit, len(batches)) if isinstance(limit, int) else int(limit * len(batches))
    if count >= len(batches):
        return None
    epochs = range(trainer.max_epochs or 0) if split == "train" else range(1)
    asked = [batches.order(epoch)[: count * size] for epoch in epochs]
    return np.unique(torch.cat(asked).numpy()) if asked else np.empty(0, np.int64)


def shallower_base(depth: Depth, later: list[Depth | None], model: SplitClassifier) -> int | None:
    """Return the shallowest depth that a later stage needs, if the way to ``depth`` leads through it."""
    depths = [deep for deep in later if isinstance(deep, int)]
    base = min(depths, default=None)
    return base if base is not None and base != depth and base <= blocks_in(model.network, depth) else None
