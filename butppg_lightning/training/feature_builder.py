"""Computes features once, on one or several processes of a machine, into memory or a file, or takes them from one."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.console import say
from butppg_lightning.data.feature_files import FeatureFile, Layout, folder_bytes, free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning.pytorch import Trainer
    from torch import Tensor

CHUNK = 128
"""Rows computed together. Part of the meaning of varied features: the random draws are made per chunk."""

_SILENT_ROWS = 2000  # fewer are there in a moment, and need no announcement
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}  # relative, for another batch shape's rounding
_TOLERANCE_HALF = 0.05
_STORED = 1e-4  # the same chunk again: a machine that rounds otherwise computes once more, which costs time only


class FeatureBuilder:
    """Builds tensors of features and remembers those in use.

    Args:
        trainer: Its strategy says how many processes work together.
        folder: Where files go; None for memory only.
        budget: Bytes that the folder may hold.
        memory: Bytes that may be kept in memory.
    """

    def __init__(self, trainer: Trainer, folder: Path | None, budget: float, memory: float) -> None:
        self.trainer = trainer
        self.folder = folder
        self.budget = budget
        self.memory = memory
        self._writer: str = trainer.strategy.broadcast(uuid.uuid4().hex)
        self._in_use: dict[str, Tensor] = {}
        self._mapped: set[str] = set()

    def keep_only(self, keys: set[str]) -> None:
        """Let go of every tensor but these."""
        self._in_use = {key: value for key, value in self._in_use.items() if key in keys}

    def build(
        self, key: str, count: int, produce: Callable[[int, int], Tensor], title: str, facts: dict[str, Any]
    ) -> Tensor | None:
        """Return features, computed only if neither memory nor the folder has them.

        Args:
            key: Digest of everything they depend on.
            count: Number of rows.
            produce: Computes rows from the first number up to (not including) the second.
            title: What they are, for messages.
            facts: What they are, for the description of the file.

        Returns:
            ``[count, ...]``, or None where they find no room (said in one line).
        """
        if key in self._in_use:
            return self._in_use[key]
        begin = time.monotonic()
        first = produce(0, min(CHUNK, count))
        file = FeatureFile(self.folder, key, self._writer) if self.folder is not None else None
        found = self._load(file, first, count, title) if file is not None else None
        how = "taken from an earlier run"
        if found is None:
            if count > _SILENT_ROWS:
                say(f"frozen-prefix cache: computing {title} ...")
            found = self._compute(file, first, Layout((count, *first.shape[1:]), first.dtype), produce, title, facts)
            how = "computed"
        if found is not None:
            self._in_use[key] = found
            size = Layout(tuple(found.shape), found.dtype).bytes
            place = "mapped from disk" if key in self._mapped else "in memory"
            say(f"frozen-prefix cache: {title}, {in_units(size)} {place}, {how} in {time.monotonic() - begin:.1f} s")
        return found

    def _load(self, file: FeatureFile, first: Tensor, count: int, title: str) -> Tensor | None:
        found: Tensor | None = None
        if self.trainer.is_global_zero and file.exists():
            try:
                found = self._checked(file, first, count)
            except ValueError as error:
                say(f"frozen-prefix cache: the stored {title} cannot be used ({error}); computing it again")
                file.discard()
        if not self.trainer.strategy.broadcast(found is not None):
            return None
        return self._open(file, Layout((count, *first.shape[1:]), first.dtype))

    def _checked(self, file: FeatureFile, first: Tensor, count: int) -> Tensor:
        layout = file.layout()
        if layout != Layout((count, *first.shape[1:]), first.dtype):
            raise ValueError(f"it is {list(layout.shape)} {layout.dtype}")
        found = file.load(layout, mapped=True)
        # the key cannot know of a changed library or encoder source; a chunk computed afresh does
        if not alike(found[: len(first)], first, _STORED):
            raise ValueError("it is not what this network computes")
        return found

    def _open(self, file: FeatureFile, layout: Layout) -> Tensor:
        mapped = self.trainer.world_size > 1 or layout.bytes > self._memory_left()
        if mapped:
            self._mapped.add(file.data.stem)
        return file.load(layout, mapped=mapped)

    def _compute(
        self,
        file: FeatureFile | None,
        first: Tensor,
        layout: Layout,
        produce: Callable[[int, int], Tensor],
        title: str,
        facts: dict[str, Any],
    ) -> Tensor | None:
        strategy, world, rank = self.trainer.strategy, self.trainer.world_size, self.trainer.global_rank
        fits = world == 1 and layout.bytes <= self._memory_left()
        kept = torch.empty(layout.shape, dtype=layout.dtype) if fits else None
        stored, refused = self._may_store(file, layout)
        if refused:
            self._tell_lost(file, title, refused, kept)
        elif not fits and not stored:
            say(f"frozen-prefix cache off for {title}: {self._no_room(layout)}")
        if not fits and not stored:
            return None
        problem: OSError | None = None
        for number, row in enumerate(range(0, layout.shape[0], CHUNK)):
            if number % world != rank or (problem and kept is None):
                continue
            piece = produce(row, min(row + CHUNK, layout.shape[0])) if row else first
            if kept is not None:
                kept[row : row + len(piece)] = piece
            if file is not None and stored and problem is None:
                problem = _attempt(lambda: file.write(piece, row, layout))  # noqa: B023
        if file is not None and stored:
            written = strategy.reduce_boolean_decision(problem is None, all=True)
            if written and self.trainer.is_global_zero:
                problem = _attempt(lambda: file.finish(layout, facts))
            if strategy.broadcast(written and problem is None):
                return kept if kept is not None else self._open(file, layout)
            self._tell_lost(file, title, problem, kept)
        return kept

    def _may_store(self, file: FeatureFile | None, layout: Layout) -> tuple[bool, OSError | None]:
        if file is None:
            return False, None
        begun, problem = False, None
        if self.trainer.is_global_zero and self._disk_left() >= layout.bytes:
            problem = _attempt(file.begin)
            begun = problem is None
        return self.trainer.strategy.broadcast((begun, problem))

    def _tell_lost(self, file: FeatureFile | None, title: str, problem: OSError | None, kept: Tensor | None) -> None:
        reason = (problem.strerror or str(problem)) if problem else "another process could not write"
        rest = "kept in memory only" if kept is not None else "off"
        say(f"frozen-prefix cache: {title} cannot be stored in {self.folder} ({reason}); {rest}")
        if self.trainer.is_global_zero and file is not None:
            file.discard()

    def _memory_left(self) -> float:
        held = (value for key, value in self._in_use.items() if key not in self._mapped)
        return self.memory - sum(value.numel() * value.element_size() for value in held)

    def _disk_left(self) -> float:
        assert self.folder is not None
        return min(self.budget - folder_bytes(self.folder), free_bytes(self.folder)) if self.budget > 0 else 0

    def _no_room(self, layout: Layout) -> str:
        need = f"{in_units(layout.bytes)} fit neither --cache.memory_gb ({self.memory / 1e9:g})"
        if self.folder is None:
            return f"{need} nor, without a run folder, on disk"
        return (
            f"{need} nor --cache.budget_gb ({self.budget / 1e9:g}) and the disk ({in_units(free_bytes(self.folder))})"
        )


def alike(one: Tensor, other: Tensor, tolerance: float | None = None) -> bool:
    """Tell whether two tensors are the same but for the rounding of another batch shape."""
    difference = (one.double() - other.double()).norm()
    tolerance = _TOLERANCE.get(other.dtype, _TOLERANCE_HALF) if tolerance is None else tolerance
    return bool(difference <= tolerance * other.double().norm())


def in_units(size: float) -> str:
    """Return a number of bytes for a person.

    Examples:
        >>> in_units(7_680_000), in_units(1_920_000_000)
        ('7.7 MB', '1.9 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _attempt(work: Callable[[], None]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None
