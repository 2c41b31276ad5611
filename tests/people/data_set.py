"""The data of a study: who is held out of what, and where an encoder and a check come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.window import WindowSet, read_windows
from people import fingerprints
from people.workers import command

_LAST_OF_V1 = "111004"
"""Records of BUT PPG up to here are of the first release; what a sample numbers from 2xxxxx on is from elsewhere."""


@dataclass(frozen=True)
class DataSet:
    """Files of windows.

    Attributes:
        windows: Labelled windows with subjects (npz), who are held out in turn.
        unlabelled: Windows of the same subjects for self-supervision; None for the fold's training windows.
        pretraining: Folder with train_windows.npz, or None.
        external: Labelled windows of others, which nothing is trained on, or None.
        folds: ``subject`` (leave one out), or a number of folds.
    """

    windows: Path
    unlabelled: Path | None = None
    pretraining: Path | None = None
    external: Path | None = None
    folds: str = "subject"

    def read(self) -> WindowSet:
        """Return the labelled windows."""
        return read_windows(self.windows, labelled=True)

    def digests(self) -> dict[str, Any]:
        """Return digests of what there is."""
        files = {"windows": self.windows, "unlabelled": self.unlabelled, "external": self.external}
        found: dict[str, Any] = {name: fingerprints.digest_of(path) for name, path in files.items() if path}
        return found | ({"pretraining": fingerprints.digest_of_folder(self.pretraining)} if self.pretraining else {})


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
