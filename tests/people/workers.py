"""Processes that do one job each at a time, with their output in files; and the commands that jobs run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from butppg_lightning.console import progress_bar, say
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.sources.parallel import follow_parent

if TYPE_CHECKING:
    from people.jobs import EncoderJob, FitJob

_REPORT_EVERY = 60.0  # seconds between lines of progress where there is no terminal
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "OMP_WAIT_POLICY": "PASSIVE",  # on a busy machine threads that wait actively take twice as long
}
_GO_ON = "the same command goes on where it stopped"


def command(*arguments: str) -> None:
    """Run a `butppg` command in this process; its mistakes are raised."""
    from butppg_lightning.cli import main

    if code := main(["--debug", *arguments]):  # to debug is to raise what the command would print
        raise UserError(f"`butppg {arguments[0]}` ended with code {code}")


@contextmanager
def start_workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes when they are needed; they end with this block, at once if it is left by an error or Ctrl-C."""
    # spawned rather than forked: a fork would copy the locks of whatever threads the program has
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        yield pool
    except KeyboardInterrupt:
        stop.set()
        raise StoppedError(f"interrupted; {_GO_ON}", 128 + signal.SIGINT) from None
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_jobs(pool: ProcessPoolExecutor, what: str, jobs: Sequence[EncoderJob | FitJob], threads: int) -> None:
    """Run jobs in any order, each with so many threads; if one fails its line is raised, and the rest is not begun."""
    if not jobs:
        return
    say(f"{what}: {len(jobs)} to do; output in {jobs[0].log.parent}")
    begin = reported = time.monotonic()
    running = [pool.submit(_work, job, threads) for job in jobs]
    with progress_bar(what, len(jobs)) as progress:
        for number, done in enumerate(as_completed(running), start=1):
            try:
                failure = done.result()
            except BrokenProcessPool:
                failure = f"a process was killed (out of memory?); {_GO_ON}, --workers 1 needs less"
            if failure:
                raise UserError(failure)
            progress(1)
            now = time.monotonic()
            if not sys.stderr.isatty() and now - reported > _REPORT_EVERY:
                left = (now - begin) / number * (len(jobs) - number) / 60
                say(f"{what}: {number} of {len(jobs)} done, about {left:.0f} min left")
                reported = now


def _begin(stop: Any) -> None:
    """Leave interrupts to the parent, and end when it says so or is gone, however it ended."""
    follow_parent()
    os.environ.update(_ENVIRONMENT)  # read when torch is loaded
    threading.Thread(target=_end_when, args=(stop,), daemon=True).start()


def _end_when(stop: Any) -> None:
    stop.wait()
    os._exit(1)


def _work(job: EncoderJob | FitJob, threads: int) -> str:
    """Run a job with its output in its log; return nothing, or in one line why it failed."""
    import torch

    try:
        _log_to(job.log)
        torch.set_num_threads(threads)
        job.run()
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())
        reason = reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"
        return f"{job.title} failed: {reason}; its output is in {job.log}"
    return ""


def _log_to(path: Path) -> None:
    """Let what this process prints go to a file, until the next job's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):  # the file descriptors rather than sys.stdout: loggers keep the stream they began with
            os.dup2(file.fileno(), number)
