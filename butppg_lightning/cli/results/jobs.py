"""What a worker does: train an encoder, or fit a method on one fold and score who was held out."""

from __future__ import annotations

import csv
import io
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.cli.results import fingerprints
from butppg_lightning.cli.results.workers import command
from butppg_lightning.files import atomic_write
from butppg_lightning.models.prediction import predict_windows
from butppg_lightning.sources.splits import subjects_named
from butppg_lightning.window import read_windows

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.cli.results.definition import Method, Words
    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

ENCODER = "encoder.pt"
"""An encoder's checkpoint, the only file that is kept of its training."""
KEPT = "best_model.pt"
"""The checkpoint of a run that is kept."""
_BATCH = 256


@dataclass(frozen=True)
class EncoderJob:
    """Train an encoder by self-supervision, going on where a killed run stopped.

    Attributes:
        title: For messages.
        words: After ``butppg pretrain``.
        root: Folder with the windows.
        source: The encoder to start from, or None.
        folder: Where ``encoder.pt`` goes.
        fingerprint: Of what it is made from.
        log: Where the output goes.
        threads: To use.
    """

    title: str
    words: Words
    root: Path
    source: Path | None
    folder: Path
    fingerprint: str
    log: Path
    threads: int = 1

    @property
    def result(self) -> Path:
        """The encoder's checkpoint."""
        return self.folder / ENCODER

    def run(self) -> None:
        """Train it; nothing is selected when it continues another one: the last epoch's is kept."""
        from butppg_lightning.training.run_folder import BEST, FINAL, LAST

        begin = time.monotonic()
        run = self.folder / "run"
        if run.exists() and not (run / LAST).is_file():
            shutil.rmtree(run)  # killed before its first epoch's end
        given = [] if self.source is None else ["--model.pretrained", str(self.source)]
        words = ["pretrain", *self.words, *given, "--data.root", str(self.root), "--output_dir", str(run)]
        command([*words, "--resume", "auto"])
        (run / (BEST if self.source is None else FINAL)).replace(self.result)
        shutil.rmtree(run)
        told = {"words": list(self.words), "seconds": round(time.monotonic() - begin, 2)}
        fingerprints.finish(self.result, self.fingerprint, **told)


@dataclass(frozen=True)
class FitJob:
    """Fit a method on a fold's training windows and score others.

    Attributes:
        title: For messages.
        method: What is fitted.
        seed: Its seed.
        root: Folder with ``train.npz`` and nothing of those who are scored.
        encoder: Checkpoint to start from, or None.
        windows: The npz file to score.
        subjects: Whose windows of it; None for all.
        result: The CSV to write; None to keep the run itself.
        run_folder: Folder of the run.
        fingerprint: Of what the result is made from.
        log: Where the output goes.
    """

    title: str
    method: Method
    seed: int
    root: Path
    encoder: Path | None
    windows: Path
    subjects: tuple[str, ...] | None
    result: Path | None
    run_folder: Path
    fingerprint: str
    log: Path
    threads: int = 1

    def run(self) -> None:
        """Fit, score, and write ``row, subject, label`` and ``logit`` (of a network) or ``score``."""
        begin = time.monotonic()
        checkpoint = self._fit() if self.method.kind == "network" else None
        if self.result is not None:
            rows, windows = self._held_out()
            scores = (
                self._rival_scores(windows)
                if checkpoint is None
                else network_scores(checkpoint, windows, self.method.channels)
            )
            fingerprints.note_of(self.result).unlink(missing_ok=True)
            write_scores(self.result, rows, windows, "score" if checkpoint is None else "logit", scores)
            shutil.rmtree(self.run_folder, ignore_errors=True)
        told = {"words": list(self.method.fit), "seed": self.seed, "seconds": round(time.monotonic() - begin, 2)}
        fingerprints.finish(self.result or self.run_folder / KEPT, self.fingerprint, **told)

    def _fit(self) -> Path:
        from butppg_lightning.training.run_folder import BEST

        shutil.rmtree(self.run_folder, ignore_errors=True)  # of a killed run
        start = [] if self.encoder is None else ["--model.pretrained", str(self.encoder)]
        where = ["--data.root", str(self.root), "--output_dir", str(self.run_folder)]
        fixed = ["--seed_everything", str(self.seed), "--select", "last"]
        if self.method.channels:
            fixed += ["--data.use_channels", f"[{', '.join(self.method.channels)}]"]
        command(["fit", *self.method.fit, *start, *where, *fixed])
        return self.run_folder / BEST

    def _held_out(self) -> tuple[Array, WindowSet]:
        windows = read_windows(self.windows, labelled=True)
        rows = (
            np.arange(len(windows)) if self.subjects is None else np.flatnonzero(subjects_named(windows, self.subjects))
        )
        return rows, windows.take(rows)

    def _rival_scores(self, windows: WindowSet) -> Array:
        from butppg_lightning.evaluation.baselines import make_rival
        from butppg_lightning.evaluation.baselines.logistic import IndexLogistic
        from butppg_lightning.models.indices.signal_indices import index_names

        train = read_windows(self.root / "train.npz", labelled=True)
        if self.method.kind == "indices":
            return IndexLogistic(self.method.name, index_names(self.method.members)).fit(train).score(windows)
        return make_rival(self.method.members[0], self.seed).fit(train).score(windows)


def network_scores(checkpoint: Path, windows: WindowSet, channels: tuple[str, ...] | None = None) -> Array:
    """Return the logits ``[N]`` of a fine-tuned network, in single precision.

    Args:
        checkpoint: The network's.
        windows: The windows.
        channels: Those to use, as if the others had not been recorded; None for all.
    """
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.models.checkpoints.classifier import restore_network

    network, _ = restore_network(checkpoint)
    served, found = WindowDataset(windows, network.preprocess.channels, channels), []
    for start in range(0, len(windows), _BATCH):
        batch = served.fetch(np.arange(start, min(start + _BATCH, len(windows))))
        found.append(predict_windows(network, **batch).logits)
    return np.concatenate(found).astype(np.float64)


def write_scores(path: Path, rows: Array, windows: WindowSet, kind: str, scores: Array) -> None:
    """Write a CSV of scores, atomically, with all digits.

    Args:
        path: The file.
        rows: ``[N]`` numbers of the windows in their file.
        windows: The N windows, labelled, with subjects.
        kind: Name of the last column.
        scores: ``[N]``.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "subject", "label", kind])
    columns = (rows.tolist(), np.asarray(windows.subjects).tolist(), np.asarray(windows.labels).tolist())
    table.writerows(zip(*columns, map(repr, scores.tolist()), strict=True))
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_scores(path: Path) -> tuple[Array, Array]:
    """Return the rows and scores of a CSV that :func:`write_scores` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    return np.array([int(line[0]) for line in lines]), np.array([float(line[-1]) for line in lines])
