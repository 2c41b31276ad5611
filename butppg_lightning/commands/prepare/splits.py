"""`butppg prepare splits`: one labelled file → subject-wise splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from butppg_lightning.commands.parser import command_parser, parse
from butppg_lightning.console import print_table
from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json
from butppg_lightning.sources.splits import folds_by_subject, split_by_subject, subjects_named
from butppg_lightning.window import WindowSet, read_windows


def run(arguments: list[str]) -> None:
    """Split one labelled file by subject."""
    parser = command_parser(
        "prepare splits",
        "Split one labelled npz file by subject, so that nobody is in two splits, keeping the class balance.",
        "butppg prepare splits --source windows.npz --output data/mine --val_share 0.15 --test_share 0.15",
    )
    parser.add_argument("--source", type=Path, required=True, help="npz with signals, labels and subjects")
    parser.add_argument("--output", type=Path, required=True, help="folder for the splits and splits.json")
    parser.add_argument("--val_share", type=float, default=0.15, help="share of the windows for validation")
    parser.add_argument("--test_share", type=float, default=0.15, help="share of the windows for the test")
    parser.add_argument("--val_subjects", type=str, default="", help="validate on just these: names, comma-separated")
    parser.add_argument("--test_subjects", type=str, default="", help="test on just these: names, comma-separated")
    parser.add_argument("--folds", type=int, default=0, help="write fold_0, fold_1, ... instead, each with all splits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the assignment")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace splits that are there")
    options = parse(parser, arguments)
    windows = read_windows(options.source, labelled=True)
    _check_shares(options.val_share, options.test_share)
    named = {"val": _names(options.val_subjects), "test": _names(options.test_subjects)}
    if not options.folds:
        shares = {"val": options.val_share, "test": options.test_share}
        _write(windows, _assign(windows, named, shares, options.seed), options.output, options.overwrite)
        return
    if any(named.values()):
        raise UserError("--folds deals all subjects out; drop --val_subjects and --test_subjects")
    for fold, test in enumerate(folds_by_subject(windows, options.folds, options.seed)):
        shares = {"val": options.val_share, "test": 0.0}
        assigned = _assign(windows, {"val": [], "test": test}, shares, options.seed)
        _write(windows, assigned, options.output / f"fold_{fold}", options.overwrite)


def _assign(
    windows: WindowSet, named: dict[str, list[str]], shares: dict[str, float], seed: int
) -> dict[str, list[str]]:
    for split, subjects in named.items():
        taken = subjects_named(windows, subjects)
        if not taken.any():
            continue
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
    return {split: sorted(assigned.get(split, []) + named.get(split, [])) for split in ("train", "val", "test")}


def _write(windows: WindowSet, assigned: dict[str, list[str]], output: Path, overwrite: bool) -> None:
    paths = {split: output / f"{split}.npz" for split in assigned}
    existing = [str(path) for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]} exists; choose another --output, or replace it with --overwrite")
    rows = []
    for split, subjects in assigned.items():
        if not subjects:
            paths[split].unlink(missing_ok=True)
            continue
        part = windows.take(np.flatnonzero(subjects_named(windows, subjects)))
        part.save(paths[split])
        share = float(part.labels.mean()) if part.labels is not None else 0.0
        rows.append((split, str(len(part)), str(len(subjects)), f"{100 * share:.1f} %"))
    write_json(output / "splits.json", assigned)
    print_table(f"Splits in {output}", ("split", "windows", "subjects", "good"), rows)


def _check_shares(val: float, test: float) -> None:
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val_share {val:g} and --test_share {test:g} must be at least 0 and leave some to train on")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
