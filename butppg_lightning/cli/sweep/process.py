"""One trial: `butppg fit` in a process of its own, which leaves memory, devices and settings as they were.

It is forked from one that has imported the libraries once (four seconds, more than a small trial takes) and done
nothing else, and watched through the history that a run writes after every epoch, on several devices too.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
from importlib.util import find_spec
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from butppg_lightning.files import make_folder

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE = 30.0  # seconds that a run has to end in order
_LOCK = threading.Lock()  # a process that starts looks, in multiprocessing, after those of other threads
_JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def prepare() -> None:
    """Begin to import the libraries in the process that trials are forked from."""
    for name in _JOB:  # each process of a job is a worker by itself, not a rank of one run
        os.environ.pop(name, None)
    # threads that spin while they wait for one another keep those of other workers' trials from the cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["butppg_lightning.cli.finetune"])
    resource_tracker.ensure_running()  # of its own accord it would unblock the signal
    # Ctrl-C is the worker's affair: it ends its trial in order
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class TrialProcess:
    """A running `butppg fit` with its arguments and threads, in a trial's folder, to whose log it adds."""

    def __init__(self, folder: Path, arguments: list[str], threads: int) -> None:
        self.folder = make_folder(folder)
        self.log = folder / "log.txt"
        self.log.touch()
        with _LOCK:
            prepare()
            context = multiprocessing.get_context("forkserver")
            self._process = context.Process(target=_fit, args=(self.log, arguments, threads))
            self._process.start()

    def wait(self, seconds: float) -> bool:
        """Wait for its end for so long; return whether it has come."""
        wait([self._process.sentinel], seconds)
        with _LOCK:
            return self._process.exitcode is not None

    def stop(self) -> None:
        """End it and all its processes: in order if it can, else at once."""
        if not self.wait(0):
            self._signal(signal.SIGTERM)
            self.wait(_PATIENCE)
        self.kill()
        self.wait(_PATIENCE)

    def kill(self) -> None:
        """End it and all its processes at once, also what a killed run left behind."""
        self._signal(signal.SIGKILL)
        with _LOCK:
            self._process.kill()

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
        said = self.log.read_text(encoding="utf-8", errors="replace").strip() or "it said nothing"
        return said.rpartition("\n")[2].strip().removeprefix("butppg: ") if code else ""

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)  # type: ignore[arg-type]
        except ProcessLookupError:  # gone, or so young that it leads no group of its own yet
            self._process.terminate()


def _fit(log: Path, arguments: list[str], threads: int) -> None:
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_with_worker, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    gc.freeze()  # what was imported before the fork is never rubbish, and looking through it takes long
    # Lightning starts the other processes of a run on several devices with this one's command line
    import __main__

    sys.argv = ["butppg", "fit", *arguments]
    __main__.__spec__ = find_spec("butppg_lightning.__main__")
    from butppg_lightning.cli import main

    sys.exit(main(["fit", *arguments]))


def _end_with_worker() -> None:
    worker: Any = multiprocessing.parent_process()
    wait([worker.sentinel])
    os.killpg(os.getpid(), signal.SIGKILL)
