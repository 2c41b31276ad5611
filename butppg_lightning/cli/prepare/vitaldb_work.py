"""The work of `butppg prepare vitaldb-windows`: case after case into stores, and on from there after a kill."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.console import progress_bar
from butppg_lightning.data.store import STORE_SUFFIX, StoreWriter, read_store
from butppg_lightning.data.store.layout import read_manifest
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.files import require_writable, write_json
from butppg_lightning.sources.parallel import in_order
from butppg_lightning.sources.vitaldb.windowing import REASONS, CaseWindows, Gate, case_windows
from butppg_lightning.window import PRETRAIN_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_VERSION = 2  # raise it when the same files give other windows


@dataclass(frozen=True)
class SplitReport:
    """What became of a split's cases.

    Attributes:
        cases: For each case its name, patient, number of windows, what was left out, and why it is unusable.
    """

    cases: list[dict[str, Any]]

    @property
    def windows(self) -> int:
        """Windows kept."""
        return sum(case["windows"] for case in self.cases)

    @property
    def unusable(self) -> int:
        """Cases that gave no windows because something is wrong with them."""
        return sum(bool(case["unusable"]) for case in self.cases)

    @property
    def patients(self) -> set[str]:
        """Patients with windows."""
        return {case["patient"] for case in self.cases if case["windows"]}

    @property
    def left_out(self) -> dict[str, int]:
        """Windows left out, by reason."""
        return {reason: sum(case["left_out"].get(reason, 0) for case in self.cases) for reason in REASONS}

    def summary(self) -> dict[str, Any]:
        """The counts as plain JSON."""
        counts = {"cases": len(self.cases), "unusable_cases": self.unusable, "patients": len(self.patients)}
        return {**counts, "windows": self.windows, "left_out": self.left_out}


class Work:
    """Fills a store per split in a folder of its own, then moves them where they belong.

    The folder is there only while a run is unfinished. Shards are written as cases are done, and each shard says
    which cases it has, so that a run goes on behind the last one.

    Args:
        output: Folder of the windows.
        places: Where each case is.
        cases: Split to case to patient.
        gate: Which windows pass.
        dtype: Of the stores. A run with another one, another gate or other cases does not go on.
    """

    STORE_FROM = 50_000
    """Windows of a split from which on a store is written rather than an npz file, which is built in memory."""
    ENDINGS = (".npz", STORE_SUFFIX)
    """Endings of a split's windows."""

    def __init__(
        self,
        output: Path,
        places: Mapping[str, Path | int | str],
        cases: Mapping[str, Mapping[str, str]],
        gate: Gate,
        dtype: str,
    ) -> None:
        self.output = output
        self.folder = output / ".vitaldb_parts"
        self.places, self.cases, self.gate, self.dtype = places, cases, gate, dtype
        content = json.dumps([_VERSION, cases, {case: _identity(place) for case, place in places.items()}])
        self.settings = {**vars(gate), "dtype": dtype, "cases": hashlib.sha256(content.encode()).hexdigest()[:24]}

    @property
    def begun(self) -> bool:
        """Whether an unfinished run left its folder."""
        return (self.folder / "settings.json").is_file()

    def begin(self, *, anew: bool) -> None:
        """Make the folder, or take up what another run left.

        Args:
            anew: Throw away what a run with other options left.

        Raises:
            UserError: If one did and ``anew`` is not set, or the folder cannot be written.
        """
        if self.begun:
            there = _read_json(self.folder / "settings.json")
            other = [key for key in self.settings if there.get(key) != self.settings[key]]
            if other and not anew:
                what = "other cases or files" if other == ["cases"] else f"another {other[0]}"
                raise UserError(f"{self.output} holds an unfinished run with {what}; begin anew with --overwrite")
            if other:
                self.discard()
        require_writable(self.folder)
        write_json(self.folder / "settings.json", self.settings)

    def run(self, workers: int) -> dict[str, SplitReport]:
        """Cut the cases that are not done yet.

        Args:
            workers: Number of processes.

        Returns:
            What became of each split's cases.

        Raises:
            UserError: If the server cannot be reached or the disk is full.
            StoppedError: If the user interrupts it.
        """
        if self._reports.is_file():
            return {split: SplitReport(cases) for split, cases in _read_json(self._reports).items()}
        try:
            with progress_bar("cutting cases", len(self.places)) as progress:
                reports = {split: self._fill(split, workers, progress) for split in self.cases}
        except KeyboardInterrupt:
            raise StoppedError("interrupted; the same command goes on where it stopped", 128 + signal.SIGINT) from None
        write_json(self._reports, {split: report.cases for split, report in reports.items()})
        return reports

    def finish(self, store: str) -> None:
        """Put every split's windows where training looks for them, and remove the folder.

        Args:
            store: auto, always or never.

        Raises:
            UserError: If the disk is full.
        """
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

    @property
    def _reports(self) -> Path:
        return self.folder / "reports.json"

    def _fill(self, split: str, workers: int, progress: Callable[[int], None]) -> SplitReport:
        patients = self.cases[split]
        part = self.folder / f"{split}{STORE_SUFFIX}"
        with StoreWriter(part, PRETRAIN_CHANNELS, dtype=self.dtype) as writer:
            done = [note for shard in writer.manifest.shards for note in shard.notes]
            progress(len(done))
            todo = [case for case in patients if case not in {note["case"] for note in done}]
            work = functools.partial(case_windows, gate=self.gate)
            found = in_order(work, [self.places[case] for case in todo], min(workers, len(todo)))
            for case, result in zip(todo, found, strict=True):
                note = _note(case, patients[case], result)
                writer.add(result.signals, subjects=[patients[case]] * len(result.signals), note=note)
                done.append(note)
                progress(1)
        return SplitReport(done)


def _note(case: str, patient: str, result: CaseWindows) -> dict[str, Any]:
    left_out = {reason: count for reason, count in result.left_out.items() if count}
    counts = {"windows": len(result.signals), "left_out": left_out}
    return {"case": case, "patient": patient, **counts, "unusable": result.unusable}


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
