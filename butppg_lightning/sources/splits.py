"""Splits by subject that keep the class balance: nobody is in two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  (jsonargparse reads the types of SplitPlan)
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.data.overlap import refuse_shared_windows, window_digests
from butppg_lightning.errors import UserError
from butppg_lightning.files import refuse_existing, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

SPLITS = ("train", "val", "test")
Assignment = dict[str, list[str]]  # split name to the subjects in it
_TRIALS = 2000  # random assignments tried; the best is kept


@dataclass(frozen=True)
class SplitSummary:
    """What one written split holds: how many windows, how many of them good (None without labels), and of whom."""

    windows: int
    good: int | None
    subjects: list[str]

    @classmethod
    def of(cls, part: WindowSet) -> SplitSummary:
        """Summarise the windows of a split."""
        good = None if part.labels is None else int(np.asarray(part.labels).sum())
        return cls(len(part), good, sorted(set(np.asarray(part.subjects).tolist())))

    @property
    def good_share(self) -> float | None:
        """Share of good windows, 0 to 1."""
        return None if self.good is None else self.good / self.windows


@dataclass(frozen=True)
class SplitPlan:
    """Who goes where: options that contradict each other, or would replace splits, are refused before anything is read.

    Args:
        output: Folder for the splits.
        val_share: Share of the windows for validation.
        test_share: Share of the windows for the test.
        val_subjects: Validate on just these: names, comma-separated.
        test_subjects: Test on just these: names, comma-separated.
        folds: Write fold_0, fold_1, ... instead, each with all splits.
        seed: Seed of the assignment.
        allow_overlap: Accept the same window in two splits.
        overwrite: Replace splits that are there.
    """

    output: Path
    val_share: float = 0.15
    test_share: float = 0.15
    val_subjects: str = ""
    test_subjects: str = ""
    folds: int = 0
    seed: int = 0
    allow_overlap: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_shares(self.val_share, self.test_share, self.seed)
        if self.folds and (self.val_subjects or self.test_subjects):
            raise UserError("--folds deals all subjects out; drop --val_subjects and --test_subjects")
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"--folds is {self.folds}; expected at least 2")
        refuse_existing((folder / f"{split}.npz" for folder in self.folders for split in SPLITS), self.overwrite)

    @property
    def folders(self) -> list[Path]:
        """The folders that will hold splits: the output itself, or one for each fold."""
        return [self.output / f"fold_{fold}" for fold in range(self.folds)] if self.folds else [self.output]

    def assign(self, windows: WindowSet) -> dict[Path, Assignment]:
        """Return, for each folder to write, who is in which split: whole subjects, keeping the class balance."""
        if self.folds:
            shares = {"val": self.val_share, "test": 0.0}
            tests = folds_by_subject(windows, self.folds, self.seed)
            named = [{"val": [], "test": test} for test in tests]
        else:
            shares = {"val": self.val_share, "test": self.test_share}
            named = [{"val": _names(self.val_subjects), "test": _names(self.test_subjects)}]
        assigned = [_assign(windows, fixed, shares, self.seed) for fixed in named]
        if not self.allow_overlap:
            digests = window_digests(windows)
            for splits in assigned:
                parts = {split: digests[subjects_named(windows, names)] for split, names in splits.items()}
                refuse_shared_windows(parts, "these splits", "--allow_overlap")
        return dict(zip(self.folders, assigned, strict=True))


def check_shares(val: float, test: float, seed: int) -> None:
    """Refuse shares that leave nothing to train on, and a negative seed."""
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val_share {val:g} and --test_share {test:g} must be at least 0 and leave some to train on")
    if seed < 0:
        raise UserError(f"--seed is {seed}; it must be 0 or more")


def write_splits(windows: WindowSet, assigned: Assignment, folder: Path) -> dict[str, SplitSummary]:
    """Write a folder's splits (one without subjects loses its file) and splits.json; return their summaries."""
    written = {}
    for split, subjects in assigned.items():
        path = folder / f"{split}.npz"
        if not subjects:
            path.unlink(missing_ok=True)
            continue
        part = windows.take(np.flatnonzero(subjects_named(windows, subjects)))
        part.save(path)
        written[split] = SplitSummary.of(part)
    write_json(folder / "splits.json", assigned)
    return written


def split_by_subject(windows: WindowSet, shares: Mapping[str, float], seed: int = 0) -> dict[str, list[str]]:
    """Return sorted subjects by split: sizes and class balance come close to the shares of the windows (sum 1)."""
    names, owner = np.unique(_subjects(windows), return_inverse=True)
    if windows.labels is None:
        raise UserError("the windows have no labels to balance the splits by")
    counts = np.stack([np.bincount(owner[windows.labels == label], minlength=len(names)) for label in (0, 1)], axis=1)
    wanted = {split: share for split, share in shares.items() if share > 0}
    if len(names) < len(wanted):
        raise UserError(f"{len(names)} subjects cannot be split into {len(wanted)} parts without sharing one")
    asked = np.array(list(wanted.values()))
    targets = asked[:, None] * counts.sum(axis=0)
    generator = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(names), dtype=np.int64), np.inf
    for _ in range(_TRIALS):
        assigned = generator.choice(len(wanted), len(names), p=asked / asked.sum())
        if len(np.unique(assigned)) < len(wanted):
            assigned[generator.permutation(len(names))[: len(wanted)]] = np.arange(len(wanted))
        reached = np.stack([counts[assigned == row].sum(axis=0) for row in range(len(wanted))])
        # relative to each target, so that a small validation split counts as much as a large training one
        cost = float((((reached - targets) / np.maximum(targets, 1)) ** 2).sum())
        if cost < best_cost:
            best, best_cost = assigned, cost
    return {split: [str(name) for name in names[best == row]] for row, split in enumerate(wanted)}


def folds_by_subject(windows: WindowSet, folds: int, seed: int = 0) -> list[list[str]]:
    """Deal the subjects of labelled windows out to test sets of similar size and class balance, one for each fold.

    As many folds as subjects is leave-one-subject-out; more, or fewer than two, end in a UserError.
    """
    if folds < 2:
        raise UserError(f"--folds is {folds}; expected at least 2")
    return list(split_by_subject(windows, {str(fold): 1 / folds for fold in range(folds)}, seed).values())


def subjects_named(windows: WindowSet, subjects: Sequence[str]) -> Array:
    """Return the mask ``[N]`` of windows of the named subjects, all of whom must be there."""
    known = set(_subjects(windows).tolist())
    for name in subjects:
        if name not in known:
            raise UserError(f"subject {name} is not in the file; it has {', '.join(sorted(known)[:20])}")
    return np.isin(_subjects(windows), list(subjects))


def _subjects(windows: WindowSet) -> Array:
    if windows.subjects is None:
        raise UserError("the windows have no 'subjects', so they cannot be split by subject; save who they come from")
    return windows.subjects


def _assign(windows: WindowSet, named: Assignment, shares: dict[str, float], seed: int) -> Assignment:
    for split, subjects in named.items():
        if subjects_named(windows, subjects).any():
            shares = {**shares, split: 0.0}
    both = set(named["val"]) & set(named["test"])
    if both:
        raise UserError(f"subject {min(both)} is named for both val and test")
    fixed = [subject for subjects in named.values() for subject in subjects]
    rest = windows.take(~subjects_named(windows, fixed)) if fixed else windows
    if not len(rest):
        raise UserError("every subject is named for val or test; none is left to train on")
    shares = {"train": 1 - sum(shares.values()), **shares}
    assigned = split_by_subject(rest, shares, seed)
    return {split: sorted(assigned.get(split, []) + named.get(split, [])) for split in SPLITS}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
