"""What a worker does: train an encoder, or fit a method on one fold and score who was held out."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from butppg_lightning.files import atomic_write
from butppg_lightning.sources.splits import subjects_named
from butppg_lightning.window import WindowSet, read_windows
from people import fingerprints
from people.conditions import INDICES, changed
from people.data_set import DataSet
from people.folds import Fold, join, softened, training_windows, unlabelled_windows
from people.methods import Method
from people.workers import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.npz import Array
    from people.baselines import Baseline


@dataclass(frozen=True)
class EncoderJob:
    """Train an encoder by self-supervision or on other people's labels, going on where a killed run stopped.

    Attributes:
        title: For messages.
        arguments: Of ``butppg pretrain``, or of ``butppg fit`` for a supervised one.
        data: Where windows are.
        folder: Where ``encoder.pt`` goes.
        fingerprint: Of what it is made from.
        log: Where the output goes.
        fold: On whose windows ``source`` is continued; None to train one on the windows for pretraining.
        mixed: Whether the continuation also sees the pretraining's windows.
        source: The encoder that is continued, or None.
        pooled: Whether the pretraining has the further patients too.
        supervised: Whether it is fitted to the labels of the further patients.
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
    pooled: bool = False
    supervised: bool = False

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
        fixed = ["--select", "last"] if self.supervised else []
        command("fit" if self.supervised else "pretrain", *shlex.split(self.arguments), *start, *where, *fixed)
        (run / ("best_model.pt" if self.source is None else "final_model.pt")).replace(self.result)
        for folder in (run, self.folder / "windows"):
            shutil.rmtree(folder, ignore_errors=True)
        seconds = round(time.monotonic() - begin, 2)
        fingerprints.finish(self.result, self.fingerprint, arguments=self.arguments, seconds=seconds)

    def _root(self) -> Path:
        """Return the folder of the windows to train on, written if they are a fold's."""
        assert self.data.pretraining is not None
        own = self.folder / "windows"
        if self.supervised or self.pooled:
            shutil.rmtree(own, ignore_errors=True)  # of a killed run
            (self.data.write_supervised if self.supervised else self.data.write_pool)(own)
            return own
        if self.fold is None:
            return self.data.pretraining
        found, place = own / "train_windows.npz", str(self.data.unlabelled or self.data.windows)
        if not found.is_file():
            plain = None if self.data.unlabelled is None else read_windows(self.data.unlabelled, labelled=False)
            parts = [("own", unlabelled_windows(self.data.read(), plain, self.fold, place))]
            if self.mixed:
                others = read_windows(self.data.pretraining / "train_windows.npz", labelled=False)
                parts.append(("pretraining", others))
            join(parts).save(found)
        return found.parent


@dataclass(frozen=True)
class Target:
    """What a fitted method is for.

    Attributes:
        result: The CSV of scores to write; or ``best_model.pt`` of the run to keep.
        fingerprint: Of what it is made from.
        windows: The npz file to score: of it those who are held out, or everybody if nobody is; None to keep the
            trained run itself.
        condition: Of :data:`people.conditions.CONDITIONS`, under which they are scored; empty for as they are.
    """

    result: Path
    fingerprint: str
    windows: Path | None
    condition: str = ""

    @property
    def done(self) -> bool:
        """Whether it is there, made from the same."""
        return fingerprints.is_done(self.result, self.fingerprint)


@dataclass(frozen=True)
class FitJob:
    """Fit a method on a fold's training windows and score others.

    Attributes:
        title: For messages.
        method: What is fitted.
        seed: Its seed.
        data: Where windows are.
        fold: Who is trained on, and who is held out.
        targets: What to write, at least one.
        encoder: What a network starts from, or None.
        work: Folder for what is not kept.
        log: Where the output goes.
        indices: The signal indices of the data set's windows, computed beforehand, or None.
    """

    title: str
    method: Method
    seed: int
    data: DataSet
    fold: Fold
    targets: tuple[Target, ...]
    encoder: EncoderJob | None
    work: Path
    log: Path
    indices: Path | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(target.done for target in self.targets)

    @property
    def keeps_run(self) -> bool:
        """Whether the trained model itself is wanted."""
        return self.targets[0].windows is None

    def run(self) -> None:
        """Fit, score, and write ``row, subject, label`` (if known) and ``logit`` (of a network) or ``score``."""
        begin, place, whole = time.monotonic(), str(self.data.windows), self._read(self.data.windows)
        train = training_windows(whole, self.fold, place)
        if self.method.soft_labels:
            train = softened(train, self.method.soft_labels, place)
        shutil.rmtree(self.work, ignore_errors=True)  # of a killed run
        run = self.targets[0].result.parent if self.keeps_run else self.work / "run"
        if self.method.kind == "network":
            shutil.rmtree(run, ignore_errors=True)
            train.save(self.work / "windows" / "train.npz")
            self._fit(run)
        model = None if self.method.kind == "network" else fitted_baseline(self.method, self.seed, train)
        people = np.unique(np.asarray(whole.subjects)).tolist()
        for target in self.targets:
            fingerprints.forget(target.result)
            if target.windows is not None:
                self._score(target, people, run / "best_model.pt" if model is None else model)
            # what the fit took is said once, of the first
            note = {"seconds": round(time.monotonic() - begin, 2)} if target is self.targets[0] else {}
            fingerprints.finish(target.result, target.fingerprint, fit=self.method.fit, seed=self.seed, **note)
        shutil.rmtree(self.work, ignore_errors=True)

    def _fit(self, run: Path) -> None:
        start = [] if self.encoder is None else ["--model.pretrained", str(self.encoder.result)]
        where = ["--data.root", str(self.work / "windows"), "--output_dir", str(run)]
        fixed = ["--seed_everything", str(self.seed), "--select", "last"]
        if self.method.channels:
            fixed += ["--data.use_channels", f"[{', '.join(self.method.channels)}]"]
        command("fit", *shlex.split(self.method.fit), *start, *where, *fixed)

    def _read(self, path: Path) -> WindowSet:
        windows = read_windows(path, labelled=False)
        if self.indices is None or path != self.data.windows:
            return windows
        return replace(windows, extras={**windows.extras, INDICES: np.load(self.indices)})

    def _score(self, target: Target, people: list[str], model: Path | Baseline) -> None:
        assert target.windows is not None
        windows = self._read(target.windows)
        rows = np.flatnonzero(subjects_named(windows, self.fold.test)) if self.fold.test else np.arange(len(windows))
        windows = windows.take(rows)
        if target.condition:
            windows = changed(windows, target.condition, people)
        columns = {"row": rows, "subject": windows.subjects}
        if windows.labels is not None:
            columns["label"] = windows.labels
        if isinstance(model, Path):
            columns["logit"] = network_logits(model, windows, self.method.channels)
        else:
            columns["score"] = model.score(windows)
        table = pd.DataFrame(columns)
        with atomic_write(target.result) as file:
            table.to_csv(file, index=False)  # all digits


def write_indices(windows: WindowSet, path: Path, digest: str) -> None:
    """Write all signal indices of a data set's windows ``[N, K]`` once, rather than in every job."""
    from butppg_lightning.models.indices.signal_indices import INDEX_NAMES
    from people.baselines import index_columns

    asked = fingerprints.fingerprint(windows=digest, names=INDEX_NAMES, code=fingerprints.code_digest())
    if fingerprints.is_done(path, asked):
        return
    fingerprints.forget(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.save(file, index_columns(windows, INDEX_NAMES))
    fingerprints.finish(path, asked)


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


def fitted_baseline(method: Method, seed: int, train: WindowSet) -> Baseline:
    """Return a baseline, or a logistic regression on groups of indices, fitted on windows."""
    from butppg_lightning.models.indices.signal_indices import index_names
    from people.baselines import logistic, make_baseline

    indices = method.kind == "indices"
    model = logistic(method.name, index_names(method.indices)) if indices else make_baseline(method.baseline, seed)
    return model.fit(train)
