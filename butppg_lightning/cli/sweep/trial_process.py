"""One trial: `butppg fit` in a process of its own, which leaves memory, devices and settings as they were.

The process is forked from one that has imported the libraries once (four seconds, more than a small trial takes) and
done nothing else. It is watched through the history that a run writes after every epoch, so the same works for a run
on several devices; a trial that crashes, or that the system kills for its memory, does not take the worker with it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LOG = "log.txt"
_PATIENCE = 30.0  # seconds that a run has to end in order
_JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def leave_job_step() -> None:
    """Forget that this process is one of several of a job: here each is a worker by itself, not a rank of one run."""
    for name in _JOB:
        os.environ.pop(name, None)


def prepare() -> None:
    """Begin to import the libraries in the process that trials are forked from."""
    from multiprocessing import forkserver, resource_tracker

    multiprocessing.get_context("forkserver").set_forkserver_preload(["butppg_lightning.cli.finetune"])
    resource_tracker.ensure_running()  # of its own accord it would unblock the signal
    # Ctrl-C is the worker's affair: it ends its trial in order
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class TrialProcess:
    """A running `butppg fit`.

    Args:
        folder: The trial's folder.
        words: The words after ``butppg fit``.
    """

    def __init__(self, folder: Path, words: list[str]) -> None:
        prepare()
        context = multiprocessing.get_context("forkserver")
        self.folder = folder
        self.log = folder / LOG
        self._process = context.Process(target=_fit, args=(words, str(self.log)), name=folder.name)
        self._process.start()

    def wait(self, seconds: float) -> bool:
        """Wait for its end for so long; tell whether it has come."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def stop(self) -> None:
        """End it and all its processes: in order if it can, else at once."""
        if not self.wait(0):
            self._signal(signal.SIGTERM)
            self.wait(_PATIENCE)
        self._signal(signal.SIGKILL)  # also what a killed run left behind
        self._process.join()

    def history(self, metric: str) -> list[float | None]:
        """Return a metric after each epoch so far; None where it is undefined."""
        from butppg_lightning.training.run_folder import HISTORY

        try:
            history = json.loads((self.folder / HISTORY).read_bytes())
        except FileNotFoundError:
            return []
        values: list[float | None] = history.get(metric, [])
        return values

    def last_line(self) -> str:
        """Return what it said last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if self.log.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("butppg: ") if said else "it said nothing"

    def _signal(self, number: int) -> None:
        own = self._process.pid
        assert own is not None
        try:
            os.killpg(own, number)  # it leads a process group of its own
        except ProcessLookupError:  # not yet, a moment after its start; or it is gone
            if self._process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(own, number)


def _fit(words: list[str], log: str) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_with_worker, daemon=True).start()
    _look_like_fit(words)
    from butppg_lightning.cli import main

    sys.exit(main(["fit", *words]))


def _end_with_worker() -> None:
    from multiprocessing.connection import wait

    worker: Any = multiprocessing.parent_process()
    wait([worker.sentinel])
    os.killpg(os.getpid(), signal.SIGKILL)


def _look_like_fit(words: list[str]) -> None:
    # Lightning starts the other processes of a run on several devices with this one's command line
    from importlib.util import find_spec

    import __main__

    sys.argv = ["butppg", "fit", *words]
    __main__.__spec__ = find_spec("butppg_lightning.__main__")
