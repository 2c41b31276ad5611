"""The trials that one command runs at once: a worker in a thread for each, and the signals that end them."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from butppg_lightning.cli.sweep.study import rejoin
from butppg_lightning.cli.sweep.worker import LOOK, Worker
from butppg_lightning.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna

    from butppg_lightning.cli.sweep.plan import Plan

_MOST = 4  # by default: each takes about a gigabyte


def run_trials(plan: Plan, study: optuna.Study, arguments: list[str], shared: dict[str, Any]) -> None:
    """Run trials until the sweep is complete, then calibrate the best; ``shared`` is the configuration of all."""
    jobs, threads = plan.jobs or at_once(shared), torch.get_num_threads()
    kept = bool(shared["calibrate"]) and plan.keep == "best"
    with _noted_signals() as signals, ThreadPoolExecutor(jobs) as pool:
        views = [study, *(rejoin(plan, study) for _ in range(jobs - 1))]
        share = max(1, threads // jobs)
        workers = [Worker(plan, view, arguments, signals, share, calibrates=not kept) for view in views]
        try:
            if jobs > 1:
                # the first trial stores the features that the others take up, on all threads; beside trials of one
                # thread each its threads would wait for one another most of the time
                workers[0].threads = threads
                _await([pool.submit(workers[0].run, once=True)], signals)
                workers[0].threads = share
            _await([pool.submit(worker.run) for worker in workers], signals)
            if kept and not all(worker.is_late for worker in workers):
                workers[0].calibrate_best()
        except KeyboardInterrupt:  # asked twice
            for worker in workers:
                worker.kill()
            raise


def at_once(shared: dict[str, Any]) -> int:
    """Return how many trials of a configuration run at once unless the plan says: one a thread where a CPU trains."""
    on_cpu = shared["trainer.accelerator"] == "cpu" or not torch.accelerator.is_available()
    alone = shared["trainer.devices"] in ("auto", 1, "1") and shared["trainer.num_nodes"] == 1
    return min(_MOST, torch.get_num_threads()) if on_cpu and alone else 1


def _await(running: list[Future[None]], signals: list[int]) -> None:
    """Wait for all workers; where one fails the others end in order, and its error is raised."""
    open_ones = set(running)
    while open_ones:
        ended, open_ones = wait(open_ones, LOOK, FIRST_EXCEPTION)
        if not signals and any(one.exception() for one in ended):
            signals.append(0)
    errors = [error for error in (one.exception() for one in running) if error is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, StoppedError))


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM, so that a trial ends in order; asked twice, it ends at once."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    # a job in the background ignores Ctrl-C
    before = {one: signal.signal(one, note) for one in numbers if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
