"""One trial: `butppg fit` in a process of its own, which leaves memory, devices and settings as they were.

It is forked from one that has imported the libraries once (four seconds, more than a small trial takes) and done
nothing else, and watched through the history that a run writes after every epoch, on several devices too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE = 30.0  # seconds that a run has to end in order
_JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def prepare() -> None:
    """Begin to import the libraries in the process that trials are forked from."""
    for name in _JOB:  # each process of a job is a worker by itself, not a rank of one run
        os.environ.pop(name, None)
    multiprocessing.set_forkserver_preload(["butppg_lightning.cli.finetune"])
    main_thread = threading.current_thread() is threading.main_thread()
    # Ctrl-C is the worker's affair: it ends its trial in order
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
    forkserver.ensure_running()
    if main_thread:
        signal.signal(signal.SIGINT, before)


class TrialProcess:
    """A running `butppg fit`.

    Args:
        folder: The trial's folder.
        arguments: The arguments of `butppg fit`.
    """

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        prepare()
        self.folder = folder
        self.log = folder / "log.txt"
        self._process = multiprocessing.get_context("forkserver").Process(target=_fit, args=(arguments, str(self.log)))
        self._process.start()

    def wait(self, seconds: float) -> bool:
        """Wait for its end for so long; return whether it has come."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def stop(self) -> None:
        """End it and all its processes: in order if it can, else at once."""
        own = self._process.pid or 0
        if not self.wait(0):
            try:
                os.killpg(own, signal.SIGTERM)
            except ProcessLookupError:  # a moment after its start it leads no group of its own yet
                self._process.terminate()
            self.wait(_PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(own, signal.SIGKILL)  # also what a killed run left behind
        self._process.kill()
        self._process.join()

    def history(self, metric: str) -> list[float | None]:
        """Return a metric after each epoch so far; None where it is undefined."""
        from butppg_lightning.training.run_folder import HISTORY

        path = self.folder / HISTORY
        values: list[float | None] = json.loads(path.read_bytes()).get(metric, []) if path.exists() else []
        return values

    def failure(self) -> str:
        """Return why the run failed, in one line; empty if it did not."""
        code = self._process.exitcode or 0
        if code < 0:
            return f"killed by {signal.Signals(-code).name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"
        said = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return (said or "it said nothing").rpartition("\n")[2].removeprefix("butppg: ") if code else ""


def _fit(arguments: list[str], log: str) -> None:
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_with_worker, daemon=True).start()
    # Lightning starts the other processes of a run on several devices with this one's command line
    from importlib.util import find_spec

    import __main__

    sys.argv = ["butppg", "fit", *arguments]
    __main__.__spec__ = find_spec("butppg_lightning.__main__")
    from butppg_lightning.cli import main

    sys.exit(main(["fit", *arguments]))


def _end_with_worker() -> None:
    worker: Any = multiprocessing.parent_process()
    wait([worker.sentinel])
    os.killpg(os.getpid(), signal.SIGKILL)
