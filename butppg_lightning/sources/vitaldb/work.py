"""Windows of VitalDB cases into stores, case after case, and on from there after a kill."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from butppg_lightning.console import progress_bar
from butppg_lightning.data.store import STORE_SUFFIX, StoreWriter, read_store
from butppg_lightning.data.store.layout import read_manifest
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.files import require_writable, write_json
from butppg_lightning.sources.parallel import in_order
from butppg_lightning.sources.vitaldb.windowing import REASONS, Gate, case_windows
from butppg_lightning.window import PRETRAIN_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_VERSION = 2  # raise it when the same files give other windows

Case = dict[str, Any]
"""What became of a case: its name, patient, number of windows, what was left out, and why it is unusable."""


def summary(cases: list[Case]) -> dict[str, Any]:
    """Return the counts of a split's cases as plain JSON; unusable cases are those with something wrong."""
    return {
        "cases": len(cases),
        "unusable_cases": sum(bool(case["unusable"]) for case in cases),
        "patients": len({case["patient"] for case in cases if case["windows"]}),
        "windows": sum(case["windows"] for case in cases),
        "left_out": {reason: sum(case["left_out"].get(reason, 0) for case in cases) for reason in REASONS},
    }


@dataclass(frozen=True)
class Work:
    """Fills a store per split in a folder of its own, then moves them where they belong.

    The folder is there only while a run is unfinished. Shards are written as cases are done, and each shard says
    which cases it has, so that a run goes on behind the last one; one with another gate, dtype or other cases does not.
    """

    output: Path  # folder of the windows
    places: Mapping[str, Path | int | str]  # where each case is
    cases: Mapping[str, Mapping[str, str]]  # split to case to patient
    gate: Gate
    dtype: str  # of the stores

    STORE_FROM: ClassVar = 50_000  # windows of a split from which on a store is written; an npz file is built in memory
    ENDINGS: ClassVar = (".npz", STORE_SUFFIX)  # of a split's windows

    @property
    def folder(self) -> Path:
        """Folder of the unfinished run."""
        return self.output / ".vitaldb_parts"

    @property
    def begun(self) -> bool:
        """Whether an unfinished run left its folder."""
        return (self.folder / "settings.json").is_file()

    def begin(self, *, anew: bool) -> None:
        """Make the folder, or take up what another run left; if it had other options, throw that away or refuse."""
        content = json.dumps([_VERSION, self.cases, {case: _identity(place) for case, place in self.places.items()}])
        cases = hashlib.sha256(content.encode()).hexdigest()[:24]
        settings = {**vars(self.gate), "dtype": self.dtype, "cases": cases}
        if self.begun:
            there = _read_json(self.folder / "settings.json")
            other = [key for key in settings if there.get(key) != settings[key]]
            if other and not anew:
                what = "other cases or files" if other == ["cases"] else f"another {other[0]}"
                raise UserError(f"{self.output} holds an unfinished run with {what}; begin anew with --overwrite")
            if other:
                self.discard()
        require_writable(self.folder)
        write_json(self.folder / "settings.json", settings)

    def run(self, workers: int) -> dict[str, list[Case]]:
        """Make the windows of the cases that are not done yet; returns what became of each split's cases."""
        path = self.folder / "reports.json"
        if path.is_file():
            return dict(_read_json(path))
        try:
            with progress_bar("reading cases", len(self.places)) as progress:
                reports = {split: self._fill(split, workers, progress) for split in self.cases}
        except KeyboardInterrupt:
            raise StoppedError("interrupted; the same command goes on where it stopped", 128 + signal.SIGINT) from None
        write_json(path, reports)
        return reports

    def finish(self, store: str) -> None:
        """Put every split's windows where training looks for them (``store``: auto, always or never), and clean up."""
        for split in self.cases:
            part = self.folder / f"{split}{STORE_SUFFIX}"
            if not part.is_dir():
                continue  # an earlier run came so far
            file, folder = (self.output / f"{split}_windows{ending}" for ending in self.ENDINGS)
            manifest = read_manifest(part)
            count = len(manifest)
            large = store == "always" or (store == "auto" and (count >= self.STORE_FROM or manifest.dtype == "float16"))
            shutil.rmtree(folder, ignore_errors=True)
            if count and not large:
                read_store(part, verify=False).save(file)
            else:
                file.unlink(missing_ok=True)
            if count and large:
                part.rename(folder)
            else:
                shutil.rmtree(part)
        self.discard()

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _fill(self, split: str, workers: int, progress: Callable[[int], None]) -> list[Case]:
        patients = self.cases[split]
        part = self.folder / f"{split}{STORE_SUFFIX}"
        with StoreWriter(part, PRETRAIN_CHANNELS, dtype=self.dtype) as writer:
            done = [note for shard in writer.manifest.shards for note in shard.notes]
            progress(len(done))
            todo = [case for case in patients if case not in {note["case"] for note in done}]
            work = functools.partial(case_windows, gate=self.gate)
            found = in_order(work, [self.places[case] for case in todo], min(workers, len(todo)))
            for case, result in zip(todo, found, strict=True):
                note = {
                    "case": case,
                    "patient": patients[case],
                    "windows": len(result.signals),
                    "left_out": {reason: count for reason, count in result.left_out.items() if count},
                    "unusable": result.unusable,
                }
                writer.add(result.signals, subjects=[patients[case]] * len(result.signals), note=note)
                done.append(note)
                progress(1)
        return done


def _identity(place: Path | int | str) -> Any:
    if not isinstance(place, Path):
        return place
    status = place.stat()
    return [place.name, status.st_size, status.st_mtime_ns]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged; remove the folder {path.parent} and begin anew") from None
