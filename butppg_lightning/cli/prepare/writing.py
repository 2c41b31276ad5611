"""What every `butppg prepare` command that writes splits has in common: the options, who goes where, the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.cli.checks import refuse_existing, require_at_least
from butppg_lightning.console import print_table
from butppg_lightning.data.overlap import refuse_shared_windows, window_digests
from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json
from butppg_lightning.sources.splits import folds_by_subject, split_by_subject, subjects_named

if TYPE_CHECKING:
    from butppg_lightning.window import WindowSet

SPLITS = ("train", "val", "test")
Assignment = dict[str, list[str]]
"""Split name to the subjects in it."""


@dataclass(frozen=True)
class SplitSummary:
    """What one written split holds.

    Attributes:
        windows: Number of windows.
        good: Number of those labelled good.
        subjects: Who they come from.
    """

    windows: int
    good: int
    subjects: list[str]

    @property
    def good_share(self) -> float:
        """Share of good windows, 0 to 1."""
        return self.good / self.windows


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

    Raises:
        UserError: If shares leave nobody to train on, folds are impossible, or split files exist.
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
        """Assign whole subjects to splits, keeping the class balance.

        Args:
            windows: Labelled windows with subjects.

        Returns:
            For each folder to write, who is in which split.

        Raises:
            UserError: If there are too few subjects, a named one is not there, or copies of one window would come
                into different splits.
        """
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
    """Refuse shares that leave nothing to train on, and a negative seed.

    Raises:
        UserError: In these cases.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val_share {val:g} and --test_share {test:g} must be at least 0 and leave some to train on")
    require_at_least(0, seed=seed)


def plain_options(*groups: dict[str, Any]) -> dict[str, Any]:
    """Return what the user asked for as a manifest keeps it: paths as text, nested groups flat."""
    options = {key: value for group in groups for key, value in group.items() if not isinstance(value, dict)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}


def write_splits(windows: WindowSet, assigned: Assignment, folder: Path) -> dict[str, SplitSummary]:
    """Write train.npz, val.npz, test.npz and splits.json into one folder.

    Args:
        windows: The labelled windows to deal out.
        assigned: Who is in which split; the file of a split without subjects is removed.
        folder: Where to.

    Returns:
        What was written, by split.

    Raises:
        UserError: If a file cannot be written.
    """
    written = {}
    for split, subjects in assigned.items():
        path = folder / f"{split}.npz"
        if not subjects:
            path.unlink(missing_ok=True)
            continue
        part = windows.take(np.flatnonzero(subjects_named(windows, subjects)))
        part.save(path)
        written[split] = SplitSummary(len(part), int(np.asarray(part.labels).sum()), subjects)
    write_json(folder / "splits.json", assigned)
    return written


def print_splits(folder: Path, written: dict[str, SplitSummary]) -> None:
    """Print how many windows and subjects every split of a folder has, and what share is good."""
    rows = (
        (split, str(part.windows), str(len(part.subjects)), f"{100 * part.good_share:.1f} %")
        for split, part in written.items()
    )
    print_table(f"Splits in {folder}", ("split", "windows", "subjects", "good"), rows)


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
