"""`butppg mock`: synthetic splits to try everything on, without a download."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from butppg_lightning.sources.synthetic.splits import SplitSummary

_NEXT_COMMAND = {
    "but_ppg": "butppg fit --config finetune.yaml --data.root {folder} --output_dir runs/first",
    "vitaldb": "butppg pretrain --config pretrain.yaml --data.root {folder} --output_dir runs/pretrained",
}


def run(arguments: list[str]) -> None:
    """Write synthetic splits and say what was written.

    Args:
        arguments: The words after ``butppg mock``.

    Raises:
        UserError: If an option is wrong, the samples are too few, or split files exist and may not be replaced.
    """
    options = parse(_parser(), arguments)
    output = Path(options.output)
    # scipy takes half a second: --help does without it
    from butppg_lightning.sources.synthetic.splits import SPLIT_FILES, write_mock

    existing = [name for name in SPLIT_FILES[options.layout].values() if (output / name).exists()]
    if existing and not options.overwrite:
        raise UserError(f"{output} already holds {', '.join(existing)}; choose another --output or add --overwrite")
    written = write_mock(
        output,
        options.samples,
        seed=options.seed,
        layout=options.layout,
        good_share=options.good_share,
        progress=True,
    )
    print("\n".join(_table(written)))
    print(f"\nnext: {_NEXT_COMMAND[options.layout].format(folder=shlex.quote(str(output)))}")


def _parser() -> OneLineErrors:
    parser = command_parser(
        "mock",
        "Write synthetic splits: beats, motion and corruption drawn at random, labels by BUT PPG's own rule.",
        "butppg mock --output data/mock --samples 1000 --seed 0",
    )
    parser.add_argument("--output", type=str, required=True, help="Folder the splits are written to.")
    parser.add_argument("--samples", type=int, default=1000, help="Windows of all splits together.")
    parser.add_argument("--seed", type=int, default=0, help="The same seed writes the same files, bit for bit.")
    parser.add_argument(
        "--layout",
        choices=("but_ppg", "vitaldb"),
        default="but_ppg",
        help="but_ppg: train, val and test with five channels and labels. vitaldb: PPG and ECG for pretraining.",
    )
    parser.add_argument("--good_share", type=float, default=0.21, help="Share of good windows, 0.05 to 0.95 (but_ppg).")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace split files that exist.")
    return parser


def _table(written: dict[str, SplitSummary]) -> list[str]:
    lines = [f"{'split':<6} {'windows':>8} {'subjects':>9} {'good':>7}  file"]
    for split, part in written.items():
        share = "-" if part.good_share is None else f"{part.good_share:.1%}"
        lines.append(f"{split:<6} {part.windows:>8} {part.subjects:>9} {share:>7}  {part.path}")
    return lines
