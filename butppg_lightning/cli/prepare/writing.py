"""What every `butppg prepare` command that writes splits has in common: the options, who goes where, the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import print_table
from butppg_lightning.data.overlap import refuse_shared_windows, window_digests
from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json
from butppg_lightning.sources.splits import folds_by_subject, split_by_subject, subjects_named

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.cli.parser import OneLineErrors
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


def add_split_options(parser: OneLineErrors) -> None:
    """Declare the options that say who goes where."""
    parser.add_argument("--val_share", type=float, default=0.15, help="share of the windows for validation")
    parser.add_argument("--test_share", type=float, default=0.15, help="share of the windows for the test")
    parser.add_argument("--val_subjects", type=str, default="", help="validate on just these: names, comma-separated")
    parser.add_argument("--test_subjects", type=str, default="", help="test on just these: names, comma-separated")
    parser.add_argument("--folds", type=int, default=0, help="write fold_0, fold_1, ... instead, each with all splits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the assignment")
    parser.add_argument("--allow_overlap", type=bool, default=False, help="accept the same window in two splits")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace splits that are there")


def check_split_options(options: Any) -> None:
    """Refuse, before anything is read, options that contradict each other or splits that would be replaced.

    Raises:
        UserError: If shares leave nobody to train on, folds are impossible, or split files exist.
    """
    val, test = options.val_share, options.test_share
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val_share {val:g} and --test_share {test:g} must be at least 0 and leave some to train on")
    if options.folds and (options.val_subjects or options.test_subjects):
        raise UserError("--folds deals all subjects out; drop --val_subjects and --test_subjects")
    if options.folds < 0 or options.folds == 1:
        raise UserError(f"--folds is {options.folds}; expected at least 2")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; it must be 0 or more")
    paths = [folder / f"{split}.npz" for folder in split_folders(options) for split in SPLITS]
    existing = [path for path in paths if path.exists()]
    if existing and not options.overwrite:
        raise UserError(f"{existing[0]} exists; choose another --output, or replace it with --overwrite")


def split_folders(options: Any) -> list[Path]:
    """Return the folders that will hold splits: the output itself, or one for each fold."""
    output: Path = options.output
    return [output / f"fold_{fold}" for fold in range(options.folds)] if options.folds else [output]


def assign_subjects(windows: WindowSet, options: Any) -> dict[Path, Assignment]:
    """Assign whole subjects to splits, keeping the class balance.

    Args:
        windows: Labelled windows with subjects.
        options: What :func:`add_split_options` declares, and ``output``.

    Returns:
        For each folder to write, who is in which split.

    Raises:
        UserError: If there are too few subjects, a named one is not there, or copies of one window would come into
            different splits.
    """
    if options.folds:
        shares = {"val": options.val_share, "test": 0.0}
        tests = folds_by_subject(windows, options.folds, options.seed)
        named = [{"val": [], "test": test} for test in tests]
    else:
        shares = {"val": options.val_share, "test": options.test_share}
        named = [{"val": _names(options.val_subjects), "test": _names(options.test_subjects)}]
    assigned = [_assign(windows, fixed, shares, options.seed) for fixed in named]
    if not options.allow_overlap:
        digests = window_digests(windows)
        for splits in assigned:
            parts = {split: digests[subjects_named(windows, names)] for split, names in splits.items()}
            refuse_shared_windows(parts, "these splits", "--allow_overlap")
    return dict(zip(split_folders(options), assigned, strict=True))


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
