"""The data of a study: who is held out of what, and where an encoder and a check come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet, read_windows
from people import fingerprints
from people.folds import join
from people.workers import command

_LAST_OF_V1 = "111004"
"""Records of BUT PPG up to here are of the first release; what a sample numbers from 2xxxxx on is from elsewhere."""
_RATE_LABELS, _NO_LABEL = "labels_hr", -1
_VALIDATED = slice(4, None, 10)  # of a file's subjects by name: every tenth validates the pretraining


@dataclass(frozen=True)
class DataSet:
    """Files of windows.

    Attributes:
        windows: Labelled windows with subjects (npz), who are held out in turn.
        unlabelled: Windows of the same subjects for self-supervision; None for the fold's training windows.
        pretraining: Folder with train_windows.npz, or None.
        external: Labelled windows of others, which nothing is trained on, or None.
        patients: Files of further patients (PPG and ECG), for the pretraining and, by ``labels_hr``, a supervised one.
        rhythm: Windows with ``rhythm`` (SR or AF) of others, which no classifier is fitted to the labels of, or None.
        folds: ``subject`` (leave one out), or a number of folds.
    """

    windows: Path
    unlabelled: Path | None = None
    pretraining: Path | None = None
    external: Path | None = None
    patients: tuple[Path, ...] = ()
    rhythm: Path | None = None
    folds: str = "subject"

    def read(self) -> WindowSet:
        """Return the labelled windows."""
        return read_windows(self.windows, labelled=True)

    def digests(self) -> dict[str, Any]:
        """Return digests of what there is."""
        names = ("windows", "unlabelled", "external", "rhythm")
        files = {name: getattr(self, name) for name in names}
        found: dict[str, Any] = {name: fingerprints.digest_of(path) for name, path in files.items() if path}
        found |= {"patients": [fingerprints.digest_of(path) for path in self.patients]} if self.patients else {}
        return found | ({"pretraining": fingerprints.digest_of_folder(self.pretraining)} if self.pretraining else {})

    def write_pool(self, folder: Path) -> None:
        """Write the windows for pretraining and those of all further patients as one set of each split."""
        assert self.pretraining is not None
        parts: dict[str, list[tuple[str, WindowSet]]] = {"train": [], "val": []}
        for split, found in parts.items():
            if (path := self.pretraining / f"{split}_windows.npz").is_file():
                found.append((self.pretraining.name, read_windows(path, labelled=False)))
        for name, windows in self._patients():
            subjects = np.asarray(windows.subjects)
            validated = np.isin(subjects, np.unique(subjects)[_VALIDATED])
            for split, rows in (("train", ~validated), ("val", validated)):
                parts[split] += [(name, windows.take(rows))] if rows.any() else []
        for split, found in parts.items():
            if found:
                join(found).save(folder / f"{split}_windows.npz")

    def write_supervised(self, folder: Path) -> None:
        """Write the windows of further patients whose PPG rate is known to agree, or not, with their ECG's."""
        parts, labels = [], []
        for name, windows in self._patients():
            rates = windows.extras.get(_RATE_LABELS)
            if rates is None:
                raise UserError(f"{name} of --patients has no '{_RATE_LABELS}' to fit an encoder to")
            rows = rates != _NO_LABEL
            parts.append((name, windows.take(rows)))
            labels.append(rates[rows].astype(np.int64))
        replace(join(parts), labels=np.concatenate(labels)).save(folder / "train.npz")

    def _patients(self) -> list[tuple[str, WindowSet]]:
        """Return the windows of each file by its folder's name, without those that stand twice."""
        found = []
        for path in self.patients:
            windows = read_windows(path, labelled=False)
            if windows.subjects is None:
                raise UserError(f"{path} has no 'subjects'; save who its windows come from")
            repeated = windows.extras.get("repeated", np.zeros(len(windows), dtype=bool))
            found.append((path.parent.name, windows.take(~repeated.astype(bool))))
        return found


def paths_of(option: str, text: str) -> tuple[Path, ...]:
    """Return comma-separated files, each of which must be there."""
    found = tuple(Path(name) for name in text.split(",") if name)
    for path in found:
        if not path.is_file():
            raise UserError(f"--{option} {path} does not exist")
    return found


def whole_release(source: Path, output: Path, workers: int) -> Path:
    """Prepare a BUT PPG release (or some of its records) by `butppg prepare but-ppg`, once, into one npz file."""
    found = output / "train.npz"
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    files = {str(path.relative_to(source)): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    asked = fingerprints.fingerprint(source=str(source.resolve()), files=files)
    if not fingerprints.is_done(found, asked):
        shares = ("--val_share", "0", "--test_share", "0", "--workers", str(workers), "--overwrite", "true")
        command("prepare", "but-ppg", "--source", str(source), "--output", str(output), *shares)
        fingerprints.finish(found, asked)
    return found


def first_records(source: Path, output: Path, workers: int) -> Path:
    """Return the npz file of the records of the first release (100001 to 111004) among those of a folder."""
    whole, found = whole_release(source, output, workers), output / "windows.npz"
    asked = fingerprints.fingerprint(source=fingerprints.digest_of(whole))
    if not fingerprints.is_done(found, asked):
        windows = read_windows(whole, labelled=True)
        rows = np.flatnonzero(windows.extras["record"].astype(str) <= _LAST_OF_V1)
        if not len(rows):
            raise UserError(f"{source} has no labelled record of BUT PPG v1 (100001 to {_LAST_OF_V1}); drop --release")
        windows.take(rows).save(found)
        fingerprints.finish(found, asked)
    return found
