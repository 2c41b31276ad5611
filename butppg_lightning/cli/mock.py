"""`butppg mock`: synthetic splits to try everything on, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from butppg_lightning.console import suggestion
from butppg_lightning.files import refuse_existing

_NEXT_COMMAND = {
    "but_ppg": ("fit --config finetune.yaml --data.root", "", "--output_dir", "runs/first"),
    "recording": ("score --checkpoint runs/first/best_model.pt --input", "recording.csv", "--output-dir", "out"),
    "vitaldb": ("pretrain --config pretrain.yaml --data.root", "", "--output_dir", "runs/pretrained"),
}


def mock(
    *,
    output: Path,
    samples: int = 1000,
    seed: int = 0,
    layout: Literal["but_ppg", "vitaldb", "recording"] = "but_ppg",
    good_share: float = 0.21,
    overwrite: bool = False,
) -> None:
    """Write synthetic splits: beats, motion and corruption drawn at random, labels by BUT PPG's own rule.

    Args:
        output: Folder the splits are written to.
        samples: Windows of all splits together; of a recording, its tens of seconds.
        seed: The same seed writes the same files, bit for bit.
        layout: but_ppg: train, val and test with five channels and labels. vitaldb: PPG and ECG for pretraining.
            recording: recording.csv, one person's five channels as a device would export them.
        good_share: Share of good windows, 0.05 to 0.95 (but_ppg, recording).
        overwrite: Replace split files that exist.

    Raises:
        UserError: If an option is wrong, the samples are too few, or split files exist and may not be replaced.

    Example:
        butppg mock --output data/mock --samples 1000 --seed 0
    """
    # scipy takes half a second: --help does without it
    from butppg_lightning.sources.synthetic.generate import SPLIT_FILES, write_mock, write_recording

    command, file, *more = _NEXT_COMMAND[layout]
    following = f"\nnext: {suggestion(command, output / file, *more)}"
    if layout == "recording":
        target = output / "recording.csv"
        refuse_existing([target], overwrite)
        write_recording(target, samples, seed=seed, good_share=good_share)
        print(f"{target}: {10 * samples} s of five channels at 125 Hz\n{following}")
        return
    refuse_existing((output / name for name in SPLIT_FILES[layout].values()), overwrite)
    written = write_mock(output, samples, seed=seed, layout=layout, good_share=good_share, progress=True)
    print(f"{'split':<6} {'windows':>8} {'subjects':>9} {'good':>7}  file")
    for split, part in written.items():
        share = "-" if part.good_share is None else f"{part.good_share:.1%}"
        print(f"{split:<6} {part.windows:>8} {len(part.subjects):>9} {share:>7}  {output / SPLIT_FILES[layout][split]}")
    print(following)
