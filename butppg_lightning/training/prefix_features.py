"""Features of the frozen prefix: which a split needs in a stage, and how they are computed, stored and found again."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import torch

from butppg_lightning.console import say
from butppg_lightning.data.features import FeatureFile, Features, Layout, folder_bytes, free_bytes, stored_features
from butppg_lightning.data.module import EpochBatches
from butppg_lightning.models.freezing import prefix_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lightning.pytorch import Trainer
    from torch import Tensor

    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.data.module import WindowDataModule
    from butppg_lightning.models.network import Depth, QualityNetwork

_FORMAT = 2  # of the stored features; another number makes every older file another key
_CHUNK = 128  # rows computed together; part of the meaning of varied features: random draws are made per chunk
_FIRST = 16  # rows of the first chunk, which is computed again to see whether what is stored can be used
_LARGEST_SEED = 2**63 - 1
_SILENT_ROWS = 2000  # fewer are there in a moment, and need no announcement
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # relative, for another batch shape's rounding
_TOLERANCE_HALF = 0.05
_STORED = 1e-4  # the same chunk again: a machine that rounds otherwise computes once more, which costs time only


class SplitClassifier(Protocol):
    """What the cache needs of a LightningModule: a network that can be cut in two, as PPGQualityClassifier has."""

    network: QualityNetwork
    variation: Any
    hparams: Any
    device: torch.device
    prefix: Callable[..., Tensor]
    logits: Callable[[dict[str, Any]], Tensor]
    side_inputs: Callable[[dict[str, Any]], Tensor | None]


class Wanted(NamedTuple):
    """A tensor of features that is to be had."""

    key: str  # digest of everything it depends on
    rows: int
    produce: Callable[[int, int], Tensor]  # computes rows from the first number up to (not including) the second
    title: str  # for messages
    facts: dict[str, Any]  # for the description of the file
    always: bool = False  # in memory if there is room nowhere


class FeatureBuilder:
    """Computes features once, on one or several processes of a machine, into memory or a file, or takes them from one.

    ``budget`` and ``memory`` are the bytes that ``folder`` and the memory may hold; no folder, no files.
    """

    def __init__(self, trainer: Trainer, folder: Path | None, budget: float, memory: float) -> None:
        self.trainer, self.folder, self.budget, self.memory = trainer, folder, budget, memory
        self._writer: str = trainer.strategy.broadcast(uuid.uuid4().hex)
        self._in_use: dict[str, Tensor] = {}
        self._mapped: set[str] = set()
        self._needed: set[str] = set()
        self._side: set[str] = set()

    def keep_only(self, keys: set[str]) -> None:
        """Let go of every tensor but these, and the side inputs; what is here and to come keeps its file, too."""
        self._needed = keys | self._side
        self._in_use = {key: value for key, value in self._in_use.items() if key in self._needed}

    def build(self, wanted: Wanted) -> Tensor | None:
        """Return ``[rows, ...]``, computed only if neither memory nor the folder has it; None if there is no room."""
        if wanted.key in self._in_use:
            return self._in_use[wanted.key]
        begin = time.monotonic()
        first = wanted.produce(0, min(_FIRST, wanted.rows))
        layout = Layout((wanted.rows, *first.shape[1:]), first.dtype)
        file = FeatureFile(self.folder, wanted.key, self._writer) if self.folder is not None else None
        found = self._load(file, first, layout, wanted.title) if file is not None else None
        how = "taken from an earlier run"
        if found is None:
            if wanted.rows > _SILENT_ROWS:
                say(f"frozen-prefix cache: computing {wanted.title} ...")
            found, how = self._compute(wanted, file, first, layout), "computed"
        if found is not None:
            self._in_use[wanted.key] = found
            place = f"{_in_units(layout.bytes)} {'mapped from disk' if wanted.key in self._mapped else 'in memory'}"
            say(f"frozen-prefix cache: {wanted.title}, {place}, {how} in {time.monotonic() - begin:.1f} s")
        return found

    def side_inputs(self, model: SplitClassifier, split: str) -> Features | None:
        """Return the side inputs ``[rows, K]`` of a split's windows, as recorded; None where the run needs no window.

        They go where features go. Where there is no room they are held in memory all the same: each takes less than 200
        bytes.
        """
        datamodule = cast("WindowDataModule", self.trainer.datamodule)  # type: ignore[attr-defined]
        dataset, rows = datamodule.splits[split], _rows_needed(self.trainer, datamodule, split)
        count = len(dataset) if rows is None else len(rows)
        if not count:
            return None

        def produce(start: int, stop: int) -> Tensor:
            index = np.arange(start, stop) if rows is None else rows[start:stop]
            batch = windows_on_device(self.trainer, model, dataset, index)
            return cast("Tensor", model.side_inputs(batch)).cpu()

        facts = {**_facts(self.trainer, model, dataset, rows), "indices": model.hparams["indices"], "depth": "side"}
        wanted = Wanted(_key(facts), count, produce, f"side inputs of {count:,} {split} windows", facts, always=True)
        self._side.add(wanted.key)
        self._needed.add(wanted.key)
        side = self.build(wanted)
        if side is None:  # the disk failed
            side = torch.cat([produce(*chunk) for chunk in _chunks(count)])
        return Features([side], "side", rows)

    def _load(self, file: FeatureFile, first: Tensor, layout: Layout, title: str) -> Tensor | None:
        sound = False
        if self.trainer.is_global_zero and file.exists():
            try:
                stored = file.layout()
                if stored != layout:
                    raise ValueError(f"it is {list(stored.shape)} {stored.dtype}")
                # the key cannot know of a changed library or encoder source; a chunk computed afresh does
                stored_first = file.load(layout, mapped=True)[: len(first)]
                known = torch.equal(stored_first.isnan(), first.isnan())  # side inputs may be missing
                if not known or not alike(stored_first.nan_to_num(), first.nan_to_num(), _STORED):
                    raise ValueError("it is not what this network computes")
                _attempt(file.note_use)
                sound = True
            except ValueError as error:
                say(f"frozen-prefix cache: the stored {title} cannot be used ({error}); computing it again")
                file.discard()
        return self._open(file, layout) if self.trainer.strategy.broadcast(sound) else None

    def _open(self, file: FeatureFile, layout: Layout) -> Tensor | None:
        """Return what is stored; None, in all processes, if another run has removed it since it was looked at."""
        mapped = self.trainer.world_size > 1 or layout.bytes > self._memory_left()
        try:
            found = file.load(layout, mapped=mapped)
        except (OSError, RuntimeError):  # torch's word for a file that is not there
            found = None
        if not self.trainer.strategy.reduce_boolean_decision(found is not None, all=True):
            return None
        if mapped:
            self._mapped.add(file.data.stem)
        return found

    def _compute(self, wanted: Wanted, file: FeatureFile | None, first: Tensor, layout: Layout) -> Tensor | None:
        strategy, world, rank = self.trainer.strategy, self.trainer.world_size, self.trainer.global_rank
        stored, refused = (False, None) if file is None else self._may_store(file, layout)
        alone = wanted.always and not stored  # each process for itself
        world, rank = (1, 0) if alone else (world, rank)
        fits = alone or (world == 1 and layout.bytes <= self._memory_left())
        kept = torch.empty(layout.shape, dtype=layout.dtype) if fits else None
        if refused:
            self._report_lost(file, wanted.title, refused, kept)
        if not fits and not stored:
            if not refused:
                say(f"frozen-prefix cache off for {wanted.title}: {self._no_room(layout)}")
            return None
        problem: OSError | None = None
        for number, (row, end) in enumerate(_chunks(wanted.rows)):
            if number % world != rank or (problem and kept is None):
                continue
            piece = wanted.produce(row, end) if row else first
            if kept is not None:
                kept[row : row + len(piece)] = piece
            if file is not None and stored and problem is None:
                problem = _attempt(lambda: file.write(piece, row, layout))  # noqa: B023
        if file is not None and stored:
            written = strategy.reduce_boolean_decision(problem is None, all=True)
            if written and self.trainer.is_global_zero:
                problem = _attempt(lambda: file.finish(layout, wanted.facts))
            if strategy.broadcast(written and problem is None):
                found = kept if kept is not None else self._open(file, layout)
                if found is not None:
                    return found
                problem = OSError("another run removed it")
            self._report_lost(file, wanted.title, problem, kept)
        return kept

    def _may_store(self, file: FeatureFile, layout: Layout) -> tuple[bool, OSError | None]:
        room = self.trainer.is_global_zero and self._make_room(layout.bytes)
        problem = _attempt(lambda: file.begin(layout)) if room else None
        return self.trainer.strategy.broadcast((room and problem is None, problem))

    def _report_lost(self, file: FeatureFile | None, title: str, problem: OSError | None, kept: Tensor | None) -> None:
        reason = (problem.strerror or str(problem)) if problem else "another process could not write"
        rest = "kept in memory only" if kept is not None else "off"
        say(f"frozen-prefix cache: {title} cannot be stored in {self.folder} ({reason}); {rest}")
        if self.trainer.is_global_zero and file is not None:
            file.discard()

    def _memory_left(self) -> float:
        used = sum(value.nbytes for key, value in self._in_use.items() if key not in self._mapped)
        return self.memory - used

    def _make_room(self, size: int) -> bool:
        """Return whether so many bytes may be stored, after what this run does not need went if it must, oldest first.

        Another run that has it open keeps it; one that wants it later computes it again.
        """
        folder, left = self.folder, self._disk_left()
        assert folder is not None
        others = [] if left >= size else [one for one in stored_features(folder) if one.data.stem not in self._needed]
        if left + sum(one.bytes for one in others) < size:
            return False
        for one in others:
            if self._disk_left() < size:
                one.discard()
        return self._disk_left() >= size

    def _disk_left(self) -> float:
        assert self.folder is not None
        return min(self.budget - folder_bytes(self.folder), free_bytes(self.folder)) if self.budget > 0 else 0

    def _no_room(self, layout: Layout) -> str:
        need = f"{_in_units(layout.bytes)} fit neither --cache.memory_gb ({self.memory / 1e9:g})"
        if self.folder is None:
            return f"{need} nor, without a run folder, on disk"
        free = _in_units(free_bytes(self.folder))
        return f"{need} nor --cache.budget_gb ({self.budget / 1e9:g}) and the disk ({free})"


class SplitFeatures:
    """The features of one split (train or val) at one depth.

    Where a later stage needs a shallower depth, ``base``, that is computed first, and gone on from. With ``views``
    above 0 so many random variations are computed instead of the windows as they are, drawn by the stage's first
    epoch, ``since``. Precision and device are the trainer's.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: SplitClassifier,
        split: str,
        depth: Depth,
        base: int | None,
        views: int,
        since: int,
    ) -> None:
        self.trainer, self.model, self.split, self.since = trainer, model, split, since
        self.depth, self.base = depth, base
        self.views: list[int | None] = list(range(views)) if views else [None]
        self.datamodule = cast("WindowDataModule", trainer.datamodule)  # type: ignore[attr-defined]
        self.dataset: WindowDataset = self.datamodule.splits[split]
        self.rows = _rows_needed(trainer, self.datamodule, split)
        self.count = len(self.dataset) if self.rows is None else len(self.rows)
        self._weights = {part: prefix_digest(model.network, part) for part in (depth, base) if part is not None}

    def keys(self) -> set[str]:
        """Return the keys of all features of the split."""
        base = [] if self.base is None else [self._wanted(self.base)]
        return {wanted.key for wanted in (*base, *(self._wanted(self.depth, view) for view in self.views))}

    def build(self, builder: FeatureBuilder) -> Features | None:
        """Compute what is not there yet; None if there is no room for it, or no row."""
        if not self.count:
            return None
        tokens = None if self.base is None else builder.build(self._wanted(self.base))
        found = [builder.build(self._wanted(self.depth, view, tokens)) for view in self.views]
        ready = [view for view in found if view is not None]
        return Features(ready, self.depth, self.rows) if len(ready) == len(found) else None

    def _wanted(self, depth: Depth, view: int | None = None, tokens: Tensor | None = None) -> Wanted:
        """Return what is to be had at a depth: from the windows, or from the base's tokens where they are there."""
        facts = self._facts(depth, view)
        blocks = len(self.model.network.encoder.blocks)  # type: ignore[arg-type]
        end = f"to block {depth} of {blocks}" if isinstance(depth, int) else f"through all {blocks} blocks"
        title = f"{self.count:,} {self.split} windows {end}"
        if view is not None:
            title += f", variation {view + 1} of {len(self.views)}"

        def produce(start: int, stop: int) -> Tensor:
            return self._encoded(start, stop, depth, view) if tokens is None else self._advanced(tokens[start:stop])

        return Wanted(_key(facts), self.count, produce, title, facts)

    def _encoded(self, start: int, stop: int, depth: Depth, view: int | None) -> Tensor:
        index = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
        batch = windows_on_device(self.trainer, self.model, self.dataset, index)
        with torch.random.fork_rng(enabled=view is not None), self.trainer.precision_plugin.forward_context():
            if view is not None:
                torch.manual_seed(self._seed(view, start))
            return self.model.prefix(batch, depth, vary=view is not None).cpu()

    @torch.no_grad()
    def _advanced(self, tokens: Tensor) -> Tensor:
        with self.trainer.precision_plugin.forward_context():
            tokens = tokens.to(self.model.device)
            return self.model.network.run(tokens, cast("int", self.base), self.depth).cpu()

    def _seed(self, view: int, row: int) -> int:
        numbers = f"{self.datamodule.seed} {self.since} {view} {row}".encode()
        return int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little") & _LARGEST_SEED

    def _facts(self, depth: Depth, view: int | None) -> dict[str, Any]:
        options = self.model.hparams
        facts: dict[str, Any] = {
            **_facts(self.trainer, self.model, self.dataset, self.rows),
            "weights": self._weights[depth],
            **{key: options[key] for key in ("encoder", "encoder_channels")},
            "head": options["head"] if depth == "pooled" else None,
            "depth": depth,
        }
        if view is not None:
            variation = {key: options[key] for key in ("channel_dropout", "augment")}
            facts["variation"] = {**variation, "seed": self.datamodule.seed, "since": self.since, "view": view}
        return facts


def _facts(trainer: Trainer, model: SplitClassifier, dataset: WindowDataset, rows: np.ndarray | None) -> dict[str, Any]:
    """Return what everything that is computed from a split's windows depends on."""
    from butppg_lightning.version import __version__

    return {
        "format": _FORMAT,
        "versions": [__version__, torch.__version__],
        "preprocess": model.hparams["preprocess"],
        "data": dataset.fingerprint(),
        "rows": "all" if rows is None else hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
        "precision": str(trainer.precision),
        "device": model.device.type,
    }


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the chunks of so many rows."""
    yield 0, min(_FIRST, rows)
    for row in range(_FIRST, rows, _CHUNK):
        yield row, min(row + _CHUNK, rows)


def _key(facts: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def windows_on_device(
    trainer: Trainer, model: SplitClassifier, dataset: WindowDataset, index: np.ndarray
) -> dict[str, Any]:
    """Return a batch of windows where the model computes, in the run's precision."""
    batch = {key: value.to(model.device) for key, value in dataset.fetch(index).items()}
    return cast("dict[str, Any]", trainer.precision_plugin.convert_input(batch))


def alike(one: Tensor, other: Tensor, tolerance: float | None = None) -> bool:
    """Return whether two tensors are the same but for the rounding of another batch shape."""
    tolerance = _TOLERANCE.get(other.dtype, _TOLERANCE_HALF) if tolerance is None else tolerance
    return bool((one.double() - other.double()).norm() <= tolerance * other.double().norm())


def _rows_needed(trainer: Trainer, datamodule: WindowDataModule, split: str) -> np.ndarray | None:
    """Return which rows a limited run will ever ask for, sorted; None when it is all of them."""
    size = datamodule.batch_size * trainer.world_size
    batches = EpochBatches(datamodule.splits[split], size, seed=datamodule.seed, shuffle=split == "train")
    limit = trainer.limit_train_batches if split == "train" else trainer.limit_val_batches
    count = min(limit, len(batches)) if isinstance(limit, int) else int(limit * len(batches))
    if count >= len(batches):
        return None
    epochs = range(trainer.max_epochs or 0) if split == "train" else range(1)
    asked = [batches.order(epoch)[: count * size] for epoch in epochs]
    return np.unique(torch.cat(asked).numpy()) if asked else np.empty(0, np.int64)


def _in_units(size: float) -> str:
    """Return a number of bytes for a person.

    Examples:
        >>> _in_units(7_680_000), _in_units(1_920_000_000)
        ('7.7 MB', '1.9 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _attempt(work: Callable[[], None]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None
