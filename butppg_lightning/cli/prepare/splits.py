"""`butppg prepare splits`: one labelled file → subject-wise splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from butppg_lightning.console import print_table
from butppg_lightning.files import write_json
from butppg_lightning.sources.splits import SplitPlan, SplitSummary, write_splits
from butppg_lightning.version import __version__
from butppg_lightning.window import read_windows

MANIFEST_FILE = "manifest.json"
"""What was written, and what was left out and why."""


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


def print_splits(folder: Path, written: dict[str, SplitSummary]) -> None:
    """Print how many windows and subjects every split of a folder has, and what share is good."""
    rows = (
        (split, str(part.windows), str(len(part.subjects)), f"{100 * (part.good_share or 0.0):.1f} %")
        for split, part in written.items()
    )
    print_table(f"Splits in {folder}", ("split", "windows", "subjects", "good"), rows)


def write_manifest(output: Path, command: str, content: dict[str, Any]) -> None:
    """Write the manifest of a ``prepare`` command into the output folder."""
    write_json(output / MANIFEST_FILE, {"written_by": f"butppg_lightning {__version__}, prepare {command}", **content})


def plain_options(*groups: dict[str, Any]) -> dict[str, Any]:
    """Return what the user asked for as a manifest keeps it: paths as text, nested groups flat."""
    options = {key: value for group in groups for key, value in group.items() if not isinstance(value, dict)}
    return {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
