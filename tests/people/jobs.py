"""What a worker does: train an encoder, or fit a method on one fold and score who was held out."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from butppg_lightning.files import atomic_write
from butppg_lightning.sources.splits import subjects_named
from butppg_lightning.window import WindowSet, read_windows
from people import fingerprints
from people.data_set import DataSet
from people.folds import Fold, join, softened, training_windows, unlabelled_windows
from people.methods import Method
from people.workers import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.npz import Array


@dataclass(frozen=True)
class EncoderJob:
    """Train an encoder by self-supervision, going on where a killed run stopped.

    Attributes:
        title: For messages.
        arguments: Of ``butppg pretrain``.
        data: Where windows are.
        folder: Where ``encoder.pt`` goes.
        fingerprint: Of what it is made from.
        log: Where the output goes.
        fold: On whose windows ``source`` is continued; None to train one on the windows for pretraining.
        mixed: Whether the continuation also sees the pretraining's windows.
        source: The encoder that is continued, or None.
    """

    title: str
    arguments: str
    data: DataSet
    folder: Path
    fingerprint: str
    log: Path
    fold: Fold | None = None
    mixed: bool = False
    source: EncoderJob | None = None

    @property
    def result(self) -> Path:
        """The encoder's checkpoint, the only file that is kept of its training."""
        return self.folder / "encoder.pt"

    def run(self) -> None:
        """Train it; nothing is selected when it continues another one: the last epoch's is kept."""
        begin, run = time.monotonic(), self.folder / "run"
        if run.exists() and not (run / "last.ckpt").is_file():
            shutil.rmtree(run)  # killed before its first epoch's end
        start = [] if self.source is None else ["--model.pretrained", str(self.source.result)]
        where = ["--data.root", str(self._root()), "--output_dir", str(run), "--resume", "auto"]
        command("pretrain", *shlex.split(self.arguments), *start, *where)
        (run / ("best_model.pt" if self.source is None else "final_model.pt")).replace(self.result)
        for folder in (run, self.folder / "windows"):
            shutil.rmtree(folder, ignore_errors=True)
        seconds = round(time.monotonic() - begin, 2)
        fingerprints.finish(self.result, self.fingerprint, arguments=self.arguments, seconds=seconds)

    def _root(self) -> Path:
        """Return the folder of the windows to train on, written if they are a fold's."""
        assert self.data.pretraining is not None
        if self.fold is None:
            return self.data.pretraining
        found, place = self.folder / "windows" / "train_windows.npz", str(self.data.unlabelled or self.data.windows)
        if not found.is_file():
            plain = None if self.data.unlabelled is None else read_windows(self.data.unlabelled, labelled=False)
            parts = [("own", unlabelled_windows(self.data.read(), plain, self.fold, place))]
            if self.mixed:
                others = read_windows(self.data.pretraining / "train_windows.npz", labelled=False)
                parts.append(("pretraining", others))
            join(parts).save(found)
        return found.parent


@dataclass(frozen=True)
class FitJob:
    """Fit a method on a fold's training windows and score others.

    Attributes:
        title: For messages.
        method: What is fitted.
        seed: Its seed.
        data: Where windows are.
        fold: Who is trained on, and who is held out.
        scored: The npz file to score: of it those who are held out, or everybody if nobody is; None to keep the
            trained run itself.
        encoder: What a network starts from, or None.
        result: The CSV to write; or ``best_model.pt`` of the run to keep.
        work: Folder for what is not kept.
        fingerprint: Of what the result is made from.
        log: Where the output goes.
    """

    title: str
    method: Method
    seed: int
    data: DataSet
    fold: Fold
    scored: Path | None
    encoder: EncoderJob | None
    result: Path
    work: Path
    fingerprint: str
    log: Path

    def run(self) -> None:
        """Fit, score, and write ``row, subject, label`` and ``logit`` (of a network) or ``score``."""
        begin, place = time.monotonic(), str(self.data.windows)
        train = training_windows(self.data.read(), self.fold, place)
        if self.method.soft_labels:
            train = softened(train, self.method.soft_labels, place)
        shutil.rmtree(self.work, ignore_errors=True)  # of a killed run
        run = self.work / "run" if self.scored else self.result.parent
        if self.method.kind == "network":
            shutil.rmtree(run, ignore_errors=True)
            train.save(self.work / "windows" / "train.npz")
            self._fit(run)
        if self.scored is not None:
            fingerprints.forget(self.result)
            self._score(self.scored, train, run / "best_model.pt")
        shutil.rmtree(self.work, ignore_errors=True)
        seconds = round(time.monotonic() - begin, 2)
        fingerprints.finish(self.result, self.fingerprint, fit=self.method.fit, seed=self.seed, seconds=seconds)

    def _fit(self, run: Path) -> None:
        start = [] if self.encoder is None else ["--model.pretrained", str(self.encoder.result)]
        where = ["--data.root", str(self.work / "windows"), "--output_dir", str(run)]
        fixed = ["--seed_everything", str(self.seed), "--select", "last"]
        if self.method.channels:
            fixed += ["--data.use_channels", f"[{', '.join(self.method.channels)}]"]
        command("fit", *shlex.split(self.method.fit), *start, *where, *fixed)

    def _score(self, path: Path, train: WindowSet, checkpoint: Path) -> None:
        windows = read_windows(path, labelled=True)
        rows = np.flatnonzero(subjects_named(windows, self.fold.test)) if self.fold.test else np.arange(len(windows))
        windows = windows.take(rows)
        network = self.method.kind == "network"
        scores = (
            network_logits(checkpoint, windows, self.method.channels)
            if network
            else baseline_scores(self.method, self.seed, train, windows)
        )
        columns = {"row": rows, "subject": windows.subjects, "label": windows.labels}
        table = pd.DataFrame(columns | {"logit" if network else "score": scores})
        with atomic_write(self.result) as file:
            table.to_csv(file, index=False)  # all digits


def network_logits(checkpoint: Path, windows: WindowSet, channels: Sequence[str] | None = None) -> Array:
    """Return the logits ``[N]`` of a fine-tuned network: the one place where the study scores windows by a network.

    With ``channels`` it is as if the others had not been recorded.
    """
    from butppg_lightning.data.dataset import WindowDataset
    from butppg_lightning.models.checkpoints import restore_network
    from butppg_lightning.models.prediction import predict

    network, _ = restore_network(checkpoint)
    served = WindowDataset(windows, network.channels, channels)
    return predict(network, served.batches()).logits.astype(np.float64)


def baseline_scores(method: Method, seed: int, train: WindowSet, windows: WindowSet) -> Array:
    """Return the scores ``[N]`` of a baseline, or of a logistic regression on groups of indices."""
    from butppg_lightning.models.indices.signal_indices import index_names
    from people.baselines import logistic, make_baseline

    indices = method.kind == "indices"
    model = logistic(method.name, index_names(method.indices)) if indices else make_baseline(method.baseline, seed)
    return model.fit(train).score(windows)
