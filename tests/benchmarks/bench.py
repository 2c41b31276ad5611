"""What the rows share: sizes, windows, and runs that several rows look at."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import runs
from runs import Run
from windows import write_splits


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        windows: Training windows of the large run; val and test hold a tenth each.
        head: Epochs of stage 1.
        epochs: Epochs of both stages.
        sample: Training windows of what is timed for two epochs of each stage, and scaled.
        small: Training windows of the small run.
        medium: Training windows of the run that is compared whole with the plain loop, of 2 + 8 epochs.
        growth: Training windows of the runs that show how cost grows.
        augmented: Windows of the runs with augmentation, all splits together.
        views: Stored variations tried.
        repeats: How often short runs are repeated; the median counts.
        rounds: Rounds of single steps.
        scored: Windows scored.
        trials: Trials of the sweep.
        hours: Length of the long recordings.
    """

    windows: int = 10_000
    head: int = 5
    epochs: int = 30
    sample: int = 1000
    small: int = 100
    medium: int = 2000
    growth: tuple[int, ...] = (1000, 10_000, 100_000)
    augmented: int = 1000
    views: tuple[int, ...] = (1, 4, 8)
    repeats: int = 3
    rounds: int = 10
    scored: int = 512
    trials: int = 20
    hours: float = 24.0

    @property
    def partial(self) -> int:
        """Epochs of stage 2."""
        return self.epochs - self.head


QUICK = Sizes(160, 2, 5, 64, 48, 64, (64, 128, 256), 80, (1, 2), 2, 2, 64, 2, 0.5)


class Bench:
    """Runs things once, whichever rows ask for them.

    Args:
        sizes: How much is measured.
        scratch: A folder for windows and runs.
    """

    def __init__(self, sizes: Sizes, scratch: Path) -> None:
        self.sizes = sizes
        self.scratch = scratch

    def data(self, windows: int) -> Path:
        """Return a folder with so many training windows."""
        return write_splits(self.scratch / f"windows_{windows}", windows)

    def fit(self, name: str, data: Path, *words: str, **variables: str) -> Run:
        """Run `butppg fit --config finetune.yaml` with further words and environment variables."""
        folder = self.scratch / name
        settings = ["--config", "finetune.yaml", "--data.root", str(data), "--output_dir", str(folder / "run")]
        return runs.butppg(["fit", *settings, *words], folder, clock=True, **variables)

    def pretrain(self, name: str, *words: str) -> Run:
        """Run `butppg pretrain --config pretrain.yaml` with further words on ``sample`` windows of PPG and ECG."""
        data, folder = self.scratch / "pretraining", self.scratch / name
        if not data.exists():
            count = ["--samples", str(self.sizes.sample), "--seed", "0"]
            runs.butppg(["mock", "--output", str(data), "--layout", "vitaldb", *count], folder)
        settings = ["--config", "pretrain.yaml", "--data.root", str(data), "--output_dir", str(folder / "run")]
        return runs.butppg(["pretrain", *settings, *words], folder, clock=True)

    def kernel(self, work: str, count: int = 128, rounds: int | None = None) -> dict[str, Any]:
        """Time single steps; see kernels.py."""
        windows = str(self.data(self.sizes.sample) / "train.npz")
        words = [work, "--windows", windows, "--count", str(count), "--rounds", str(rounds or self.sizes.rounds)]
        return runs.answer(runs.script("kernels.py", words, self.scratch / f"kernel_{work}"))

    def test_metrics(self, name: str) -> dict[str, Any]:
        """Return the test figures of a run."""
        found: dict[str, Any] = json.loads((self.scratch / name / "run" / "test_metrics.json").read_text())
        return found

    def forget(self, name: str) -> None:
        """Remove a folder of the scratch folder."""
        shutil.rmtree(self.scratch / name)

    @property
    def large(self) -> Run:
        """The large run as a user would start it; tried once.

        Raises:
            RuntimeError: If it failed.
        """
        if isinstance(self._large, Exception):
            raise RuntimeError(f"the large run failed: {self._large}")
        return self._large

    @cached_property
    def _large(self) -> Run | Exception:
        sizes = self.sizes
        try:
            return self.fit("large", self.data(sizes.windows), *self.stages(sizes.head, sizes.epochs))
        except Exception as error:
            return error

    def baseline(self, precision: str) -> float:
        """Return the seconds that BackboneFinetuning would take for the large run."""
        folder = self.scratch / f"baseline_{precision}"
        words = ["--data", str(self.data(self.sizes.sample)), "--folder", str(folder), "--precision", precision]
        return self.scaled(runs.script("baselines.py", words, folder))

    @staticmethod
    def stages(head: int, epochs: int) -> list[str]:
        """Return the words that set the epochs of stage 1 and of both stages."""
        return ["--stages.head_only_epochs", str(head), "--trainer.max_epochs", str(epochs)]

    def scaled(self, run: Run) -> float:
        """Return what a run of two epochs of each stage on ``sample`` windows means for the large run."""
        return run.scaled(self.sizes.windows / self.sizes.sample, self.sizes.head, self.sizes.partial)


def minutes(seconds: float) -> str:
    """Return a duration for a person.

    Examples:
        >>> minutes(7.25), minutes(252)
        ('7.2 s', '4.2 min')
    """
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
