"""Which trials still have a worker: a killed one cannot say that it is gone."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import IO

from butppg_lightning.errors import UserError
from butppg_lightning.files import make_folder

MARK = ".worker"
"""Name of the file in a trial's folder that its worker holds."""

BEAT = 5.0
"""Seconds between two signs of life."""

GRACE = 60.0
"""Seconds without a sign of life after which the worker of another machine counts as gone."""


class Alive:
    """A worker's claim on a trial: it locks the file and touches it every few seconds, as long as it lives.

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = make_folder(folder) / MARK
        try:
            self._file: IO[str] = self.path.open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another output folder") from error
        # without locks (some network disks) only the signs of life count
        where = machine() if _lock(self._file) else None
        json.dump({"machine": where, "host": platform.node(), "process": os.getpid()}, self._file)
        self._file.flush()
        self._touched = time.monotonic()

    def beat(self) -> None:
        """Give a sign of life, if it is time for one."""
        if time.monotonic() - self._touched > BEAT:
            os.utime(self._file.fileno())
            self._touched = time.monotonic()

    def end(self) -> None:
        """Give the trial up; its state in the study has been told by now."""
        self.path.unlink(missing_ok=True)
        self._file.close()


class Watch:
    """Judges whether trials have lost their worker.

    On the same machine the kernel knows: it frees a lock the moment its process ends, and never before, also if the
    process is suspended. Of other machines the signs of life are watched, for as long as :data:`GRACE` by this
    machine's own clock; clocks of two machines are never compared.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[float, float]] = {}

    def is_lost(self, folder: Path) -> bool:
        """Tell whether the worker of the trial in ``folder``, which the study says is running, is gone."""
        path = folder / MARK
        try:
            with path.open("r+", encoding="utf-8") as file:
                if _owner(file) == machine():
                    return _lock(file)
                sign = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            sign = -1.0  # a trial begins a moment before its mark does
        now = time.monotonic()
        if self._seen.get(path, (None, now))[0] != sign:
            self._seen[path] = (sign, now)
        return now - self._seen.setdefault(path, (sign, now))[1] > GRACE


def machine() -> str:
    """Return what tells this machine (containers on it included) from others, and from itself before a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _owner(file: IO[str]) -> str | None:
    try:
        owner: str = json.load(file)["machine"]
    except (ValueError, KeyError, TypeError):
        return None  # not written yet
    return owner


def _lock(file: IO[str]) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # another process holds it, or there are no locks here
        return False
    return True
