"""The frozen-prefix cache: the frozen part of the network runs once per window, not once per epoch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning

from butppg_lightning.console import say
from butppg_lightning.data.features import remove_features
from butppg_lightning.data.module import WindowDataModule
from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import BlockEncoder
from butppg_lightning.models.freezing import (
    blocks_in,
    depth_before,
    evaluating,
    frozen_depth,
    prefix_digest,
    prefix_versions,
)
from butppg_lightning.models.network import QualityNetwork
from butppg_lightning.training.prefix_features import (
    FeatureBuilder,
    SplitClassifier,
    SplitFeatures,
    alike,
    windows_on_device,
)
from butppg_lightning.training.run_folder import CACHE, RunFolder
from butppg_lightning.training.staged_unfreezing import StagedUnfreezing, staging

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.models.network import Depth

_SPLITS = ("train", "val")


class FrozenPrefixCache(Callback):
    """Runs the frozen part once per window and stage; training and validation go on from what it made.

    Side inputs depend on nothing that trains: they are computed once per window and run, also where all else trains.

    The result is the same as without it, but for the rounding of another batch shape. It switches itself off, in one
    line, where that could not be: random variation of the training windows (unless ``views`` stores some), a
    trainable input projection, no room.

    Args:
        enabled: Whether to cache at all.
        budget_gb: Gigabytes that files may take, those of all runs that share a folder together: what was used longest
            ago makes room for what is needed now; 0 for none.
        memory_gb: Gigabytes that may be held in memory; what is larger is mapped from its file.
        views: With random variation: how many variations of each training window to store, drawn afresh at each
            stage and used in turn, epoch by epoch; 0 for none, so that variation is drawn anew for every batch.
        folder: Folder for the files, shared between runs; null for one in the run's folder, removed with its end.
        keep: Keep the files after the run's end.

    Raises:
        UserError: If a number is negative.
    """

    def __init__(
        self,
        enabled: bool = True,
        budget_gb: float = 10.0,
        memory_gb: float = 0.5,
        views: int = 0,
        folder: str | None = None,
        keep: bool = False,
    ) -> None:
        for name, value in (("budget_gb", budget_gb), ("memory_gb", memory_gb), ("views", views)):
            if value < 0:
                raise UserError(f"cache.{name} is {value}; expected at least 0")
        self.enabled, self.views = enabled, views
        self.budget_gb, self.memory_gb = budget_gb, memory_gb
        self.folder, self.keep = folder, keep
        self._builder: FeatureBuilder | None = None
        self._waiting: dict[str, SplitFeatures] = {}
        self._impossible: str | None = None
        # what is frozen, since which epoch, and what it looked like
        self._depth: Depth | None = None
        self._since = 0
        self._resumed: tuple[Depth | None, int] | None = None
        self._versions: tuple[int, ...] = ()
        self._digest = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start with nothing stored."""
        self._builder, self._waiting, self._resumed, self._impossible = None, {}, None, None
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks[callbacks.index(self) :]:
            if isinstance(other, StagedUnfreezing | BaseFinetuning):
                raise UserError(f"the callback FrozenPrefixCache stands before {type(other).__name__}; put it after")

    def state_dict(self) -> dict[str, Any]:
        """Return since which epoch which depth is in force: it decides which variation an epoch sees."""
        return {"depth": self._depth, "since": self._since, "views": self.views}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the stored variations; with another number of views the epochs would see other windows."""
        if self.enabled and state_dict["views"] != self.views:
            raise UserError(
                f"the checkpoint was trained with cache.views {state_dict['views']}, this run asks for {self.views}; "
                "resume with the same number"
            )
        self._resumed = (state_dict["depth"], state_dict["since"])

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Serve the validation windows; the epoch that follows needs them as well."""
        self._serve(trainer, pl_module, ("val",))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Serve what fits the stage and the epoch; a run resumed mid-epoch never reaches ``on_train_epoch_start``."""
        self._serve(trainer, pl_module, _SPLITS)

    on_train_epoch_start = on_train_start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of everything; a finished run's files go too."""
        self._forget(trainer)
        own = self._files(trainer)
        if own is not None and self.folder is None and not self.keep and trainer.is_global_zero:
            remove_features(own)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of everything but the files, which a resumed run takes up again."""
        self._forget(trainer)

    def _forget(self, trainer: Trainer) -> None:
        for dataset in _datasets(trainer).values():
            dataset.features = dataset.indices = None
        self._builder, self._waiting = None, {}

    def _serve(self, trainer: Trainer, pl_module: LightningModule, splits: tuple[str, ...]) -> None:
        if not self.enabled:
            return
        if self._impossible is None:
            self._impossible = _reason_against(trainer, pl_module)
            if self._impossible:
                say(f"frozen-prefix cache off: {self._impossible}")
        if self._impossible:
            return
        model = cast("SplitClassifier", pl_module)
        if self._has_changed(trainer, model):
            self._plan(trainer, model)
        datasets, builder = _datasets(trainer), cast("FeatureBuilder", self._builder)
        for split in filter(datasets.__contains__, splits):
            if wanted := self._waiting.pop(split, None):
                datasets[split].features = wanted.build(builder)
            varied = split == "train" and model.variation.drops_axes
            if model.network.indices is not None and datasets[split].indices is None and not varied:
                datasets[split].indices = builder.side_inputs(model, split)
        if served := datasets["train"].features:
            served.view = (trainer.current_epoch - self._since) % len(served.views)

    def _has_changed(self, trainer: Trainer, model: SplitClassifier) -> bool:
        depth = frozen_depth(model.network)
        versions = prefix_versions(model.network, depth) if depth is not None else ()
        if self._builder is not None and (depth, versions) == (self._depth, self._versions):
            return False
        digest = prefix_digest(model.network, depth) if depth is not None else ""
        changed = self._builder is None or (depth, digest) != (self._depth, self._digest)
        self._depth, self._versions, self._digest = depth, versions, digest
        return changed

    def _plan(self, trainer: Trainer, model: SplitClassifier) -> None:
        """Say which features each split is to have from now on; they are computed when they are first served."""
        resumed, self._resumed = self._resumed, None
        same = resumed is not None and resumed[0] == self._depth
        self._since = resumed[1] if resumed is not None and same else trainer.current_epoch
        self._waiting = {}
        datasets = _datasets(trainer)
        for dataset in datasets.values():
            dataset.features = None
        if self._builder is None:
            folder = None if trainer.fast_dev_run else self._files(trainer)  # type: ignore[attr-defined]
            self._builder = FeatureBuilder(trainer, folder, self.budget_gb * 1e9, self.memory_gb * 1e9)
            if model.network.indices is not None and model.variation.drops_axes:
                say("frozen-prefix cache off for train's side inputs: channel_dropout takes single axes of ACC away")
        if self._depth is None:
            self._builder.keep_only(set())
            what = "nothing" if model.network.indices is None else "nothing but the side inputs"
            say(f"frozen-prefix cache off: the input projection trains, so that {what} stays the same")
            return
        base = _shallower_base(trainer, model, self._depth)
        for split in datasets:
            varied = split == "train" and bool(model.variation)
            if varied and (reason := self._reason_against_views(model)):
                say(f"frozen-prefix cache off for train: its windows are varied at random for every batch{reason}")
                continue
            part, views = (None, self.views) if varied else (base, 0)
            self._waiting[split] = SplitFeatures(trainer, model, split, self._depth, part, views, self._since)
        self._builder.keep_only({key for wanted in self._waiting.values() for key in wanted.keys()})  # noqa: SIM118

    def _reason_against_views(self, model: SplitClassifier) -> str:
        variation = model.variation
        if variation.changes_labels:
            return ", and their labels with them"
        if model.network.indices is not None and variation.drops_channels:
            return ", and the indices with the channels they lose"
        return "" if self.views else " (--cache.views K stores K variations of each)"

    def _files(self, trainer: Trainer) -> Path | None:
        if self.folder is not None:
            return Path(self.folder)
        runs = [callback.folder for callback in trainer.checkpoint_callbacks if isinstance(callback, RunFolder)]
        return runs[0] / CACHE if runs else None


def _datasets(trainer: Trainer) -> dict[str, WindowDataset]:
    splits: dict[str, WindowDataset] = getattr(trainer.datamodule, "splits", {})  # type: ignore[attr-defined]
    return {split: splits[split] for split in _SPLITS if split in splits}


def _shallower_base(trainer: Trainer, model: SplitClassifier, depth: Depth) -> int | None:
    """Return the shallowest depth that a later stage needs, if the way to ``depth`` leads through it."""
    staged = staging(trainer)
    later = [depth_before(model.network, stage.trainable) for stage in (staged.later_stages if staged else [])]
    base = min((deep for deep in later if isinstance(deep, int)), default=None)
    return base if base is not None and base != depth and base <= blocks_in(model.network, depth) else None


def _reason_against(trainer: Trainer, pl_module: LightningModule) -> str:
    if not isinstance(getattr(pl_module, "network", None), QualityNetwork) or not hasattr(pl_module, "prefix"):
        return f"{type(pl_module).__name__} is no PPGQualityClassifier"
    if not isinstance(trainer.datamodule, WindowDataModule):  # type: ignore[attr-defined]
        return "the windows do not come from a BUTPPGDataModule"
    if trainer.num_nodes > 1:
        return "the run is on several machines, which need not share a disk"
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        return "overfit_batches replaces the sampler"
    encoder = type(cast("QualityNetwork", pl_module.network).encoder)
    # ours does what its parts do by its definition
    if encoder.forward is not BlockEncoder.forward and not _goes_on_alike(trainer, cast("SplitClassifier", pl_module)):
        return f"{encoder.__name__}.forward does more than embed, blocks and norm"
    return ""


@torch.no_grad()
def _goes_on_alike(trainer: Trainer, model: SplitClassifier) -> bool:
    # an encoder of the user's own may do more on its way than its parts do one after the other
    dataset = next(iter(_datasets(trainer).values()))
    # a window that lacks a channel too: some encoders go another way then
    present = dataset.windows.present
    lacking = np.empty(0, np.int64) if present is None else np.flatnonzero(~present.all(axis=1))[:1]
    rows = np.unique([0, len(dataset) - 1, *lacking])
    batch = windows_on_device(trainer, model, dataset, rows)
    middle = len(model.network.encoder.blocks) // 2  # type: ignore[arg-type]
    forward = trainer.precision_plugin.forward_context()
    # without autocast: its rounding would hide a small difference
    with evaluating(model.network), forward, torch.autocast(model.device.type, enabled=False):
        whole = model.logits(batch)
        side = model.side_inputs(batch)
        return all(
            alike(model.network.run(model.prefix(batch, depth), depth, "logits", side), whole)
            for depth in (middle, "encoded")
        )
