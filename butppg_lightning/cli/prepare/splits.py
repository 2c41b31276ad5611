"""`butppg prepare splits`: one labelled file → subject-wise splits."""

from __future__ import annotations

from pathlib import Path

from butppg_lightning.cli.parser import command_parser, parse
from butppg_lightning.cli.prepare.writing import (
    add_split_options,
    assign_subjects,
    check_split_options,
    print_splits,
    write_splits,
)
from butppg_lightning.window import read_windows


def run(arguments: list[str]) -> None:
    """Split one labelled file by subject."""
    parser = command_parser(
        "prepare splits",
        "Split one labelled npz file by subject, so that nobody is in two splits, keeping the class balance.",
        "butppg prepare splits --source windows.npz --output data/mine --val_share 0.15 --test_share 0.15",
    )
    parser.add_argument("--source", type=Path, required=True, help="npz with signals, labels and subjects")
    parser.add_argument("--output", type=Path, required=True, help="folder for the splits and splits.json")
    add_split_options(parser)
    options = parse(parser, arguments)
    check_split_options(options)
    windows = read_windows(options.source, labelled=True)
    for folder, assigned in assign_subjects(windows, options).items():
        print_splits(folder, write_splits(windows, assigned, folder))
