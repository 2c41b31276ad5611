"""`butppg prepare splits`: one labelled file → subject-wise splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from butppg_lightning.cli.prepare.writing import SplitPlan, print_splits, write_splits
from butppg_lightning.window import read_windows


def splits(*, source: Path, output: Path, **plan: Any) -> None:
    """Split one labelled npz file by subject, so that nobody is in two splits, keeping the class balance.

    Args:
        source: npz with signals, labels and subjects.
        output: Folder for the splits and splits.json.
        **plan: Options of SplitPlan.

    Example:
        butppg prepare splits --source windows.npz --output data/mine --val_share 0.15 --test_share 0.15
    """
    dealt = SplitPlan(output, **plan)
    windows = read_windows(source, labelled=True)
    for folder, assigned in dealt.assign(windows).items():
        print_splits(folder, write_splits(windows, assigned, folder))
