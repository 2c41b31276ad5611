"""The database of a sweep's study: opened by many workers at once, and never waited for without a word."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import IntegrityError, OperationalError

from butppg_lightning.console import quoted, say
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna import Study
    from optuna.trial import FrozenTrial

BEAT, GRACE = 5, 30
"""Seconds between two signs of life of a worker, and without one after which it counts as gone (by the clock of the
database; with SQLite, by those of the workers' machines)."""

_ATTEMPTS = 5  # to open a database
_PATIENCE, _BUSY = 5.0, 60.0  # seconds to wait for another worker's transaction: without a word; in all


def open_storage(where: str | None, file: Path, on_lost: Callable[[Study, FrozenTrial], None]) -> RDBStorage:
    """Open a database, or make it: ``where`` the user says, else in a file; ``on_lost`` gets a lost worker's trial."""
    url = where if where and "://" in where else f"sqlite:///{Path(where or file).resolve()}"
    waiting = {"connect_args": {"timeout": _BUSY}} if url.startswith("sqlite:") else None
    beat: Any = {"heartbeat_interval": BEAT, "grace_period": GRACE, "heartbeat_stale_trial_callback": on_lost}
    if waiting:
        _say_if_locked(Path(url.removeprefix("sqlite:///")))
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(url, waiting, **beat)
        except Exception as error:  # of the database's own driver
            # workers that begin at the same moment make the same tables
            again = isinstance(error, OperationalError | IntegrityError) and "locked" not in str(error)
            if not again or attempt == _ATTEMPTS - 1:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"--study {where or url} cannot be opened: {reason}") from error
            time.sleep(0.5)
    raise AssertionError


@contextmanager
def storage_reported() -> Iterator[None]:
    """Turn the failure of a study's database into a line."""
    try:
        yield
    except StorageInternalError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"the study cannot be read or written: {reason}") from error


def _say_if_locked(path: Path) -> None:
    """Say what is waited for, if another process does not let go of an SQLite file."""
    try:
        if path.is_file():
            with closing(sqlite3.connect(path, timeout=_PATIENCE)) as database:
                database.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        say(f"{path}: {error}; waiting for up to {_BUSY:.0f} s (`fuser {quoted(path)}` names the process)")
