"""A worker: runs trials until the sweep is complete; any number of them share one study."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from butppg_lightning.cli.sweep.folder import trial_folder
from butppg_lightning.cli.sweep.liveness import Alive, Watch
from butppg_lightning.cli.sweep.parameter import in_words
from butppg_lightning.cli.sweep.plan import option_word
from butppg_lightning.cli.sweep.study import DONE, give_up, give_up_lost, is_fresh, place_of
from butppg_lightning.cli.sweep.trial_process import TrialProcess
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint
from butppg_lightning.training.run_folder import BEST, FINAL, FINETUNING, LAST

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    import optuna
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

_say = partial(print, flush=True)  # a sweep overnight is followed in a log file
_LOOK = 0.2  # seconds between two looks at a running trial
_WAIT = 1.0  # seconds between two looks at what other workers do
_MOST_FAILURES = 3


class Worker:
    """Runs the trials of a sweep.

    Args:
        plan: The sweep.
        study: Its study.
        words: What every trial starts with.
        folder: The sweep's folder.
    """

    def __init__(self, plan: Plan, study: optuna.Study, words: list[str], folder: Path) -> None:
        self.plan = plan
        self.study = study
        self.words = words
        self.folder = folder
        self._watch = Watch()
        self._stop: int | None = None
        self._failures = 0

    def run(self) -> None:
        """Run trials until as many as planned are complete, those of other workers included.

        Raises:
            StoppedError: If a signal ended it; the same command continues.
            UserError: If the first trial, or several one after the other, failed.
        """
        told: list[int] = []
        with _Signals(self._note):
            while not self._stop:
                for number in give_up_lost(self.study, self._watch, self.folder):
                    _say(f"trial {number} was lost with its worker; another takes its place")
                trials = self.study.get_trials(deepcopy=False)
                waiting = any(trial.state == TrialState.WAITING for trial in trials)
                running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
                if waiting or sum(map(is_fresh, trials)) < self.plan.trials:
                    self._run_one()
                elif running:
                    if running != told:
                        _say(f"waiting for {numbered(running)} of other workers")
                    told = running
                    time.sleep(_WAIT)
                else:
                    return
        done = len(self.study.get_trials(deepcopy=False, states=DONE))
        raise StoppedError(
            f"interrupted after {done} of {self.plan.trials} trials; the same command continues the sweep",
            128 + (self._stop or signal.SIGINT),
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._stop:  # asked twice: at once
            raise KeyboardInterrupt
        self._stop = number

    def _run_one(self) -> None:
        trial = self.study.ask()
        found = self.study.get_trials(deepcopy=False)
        own = found[trial.number]
        if is_fresh(own) and place_of(own, found) >= self.plan.trials:
            trial.set_user_attr("surplus", True)  # another worker took the last place at the same moment
            self.study.tell(trial, state=TrialState.FAIL)
            return
        mark = Alive(trial_folder(self.folder, trial.number))
        process = None
        try:
            options = {one.key: one.option(one.suggest(trial)) for one in self.plan.parameters}
            trial.set_user_attr("folder", str(trial_folder(self.folder, trial.number)))
            _say(f"trial {trial.number}: {in_words(options)}")
            begin = time.monotonic()
            process = self._start(trial.number, options)
            state = self._follow(trial, process, mark)
            if state is not None:
                self._tell(trial, process, state, time.monotonic() - begin)
        except UpdateFinishedTrialError:
            _say(f"trial {trial.number} showed no sign of life for so long that another worker gave it up; left to it")
        finally:
            if process is not None:
                process.stop()
            give_up(self.study, self.study.get_trials(deepcopy=False)[trial.number], "its worker was interrupted")
            mark.end()

    def _start(self, number: int, options: dict[str, Any]) -> TrialProcess:
        folder = trial_folder(self.folder, number)
        own = {"output_dir": str(folder), "test": False, "overwrite": True}
        words = [option_word(key, value) for key, value in {**options, **own}.items()]
        return TrialProcess(folder, [*self.words, *words])

    def _follow(self, trial: optuna.Trial, process: TrialProcess, mark: Alive) -> TrialState | None:
        """Report epoch by epoch; return how the trial ended, or None if the worker is to stop."""
        reported, ended = 0, False
        while not ended:
            ended = process.wait(_LOOK)  # then look once more: it may have gone on since the last look
            mark.beat()
            history = process.history(self.plan.metric)
            for epoch in range(reported, len(history)):
                value = history[epoch]
                if value is None:
                    continue
                trial.report(value, epoch)
                # a finished run is not pruned: nothing would be saved
                if trial.should_prune() and not ended:
                    process.stop()
                    return TrialState.PRUNED
            reported = len(history)
            if self._stop and not ended:
                return None
        return TrialState.COMPLETE if process.exit_code == 0 else TrialState.FAIL

    def _tell(self, trial: optuna.Trial, process: TrialProcess, state: TrialState, seconds: float) -> None:
        value, problem = None, None
        if state == TrialState.COMPLETE:
            value = value_of_best(process.folder, self.plan.metric)
            if value is None:
                state, problem = TrialState.FAIL, f"{self.plan.metric} is undefined at the best epoch"
        elif state == TrialState.FAIL:
            problem = describe_failure(process)
        # a pruned run goes on for a moment until it is stopped
        last = self.study.get_trials(deepcopy=False)[trial.number].last_step
        epochs = (last or 0) + 1 if state == TrialState.PRUNED else len(process.history(self.plan.metric))
        trial.set_user_attr("seconds", round(seconds, 1))
        trial.set_user_attr("epochs", epochs)
        if problem:
            trial.set_user_attr("error", problem)
        frozen = self.study.tell(trial, value, state=state)
        self._report(frozen, process)
        if self.plan.keep == "best":
            self._discard_weights()

    def _report(self, trial: FrozenTrial, process: TrialProcess) -> None:
        epochs, seconds = trial.user_attrs["epochs"], trial.user_attrs["seconds"]
        self._failures = self._failures + 1 if trial.state == TrialState.FAIL else 0
        if trial.state == TrialState.COMPLETE:
            best = "  (best so far)" if self.study.best_trial.number == trial.number else ""
            _say(f"trial {trial.number}: {self.plan.metric} {trial.value:.4f}, {epochs} epochs, {seconds:g} s{best}")
        elif trial.state == TrialState.PRUNED:
            _say(f"trial {trial.number}: pruned after {epochs} epochs, {self.plan.metric} {trial.value:.4f}")
        else:
            first = not self.study.get_trials(deepcopy=False, states=DONE)
            if first or self._failures >= _MOST_FAILURES:
                which = "no trial has succeeded" if first else f"{self._failures} trials failed one after the other"
                raise UserError(
                    f"{which}; trial {trial.number} ended with: {trial.user_attrs['error']} (all of it: {process.log}; "
                    "after a change of the YAML start with --overwrite)"
                )
            _say(f"trial {trial.number} failed: {trial.user_attrs['error']}")

    def _discard_weights(self) -> None:
        trials = self.study.get_trials(deepcopy=False, states=(*DONE, TrialState.FAIL))
        complete = any(trial.state == TrialState.COMPLETE for trial in trials)
        best = self.study.best_trial.number if complete else None
        for trial in trials:
            if trial.number != best:
                for name in (BEST, FINAL, LAST):
                    for path in trial_folder(self.folder, trial.number).glob(f"*{name}*"):  # halves of a killed run too
                        path.unlink(missing_ok=True)


class _Signals:
    """Turns Ctrl-C and SIGTERM into a note: an exception in the middle of a write could spoil the study's lock."""

    def __init__(self, note: Any) -> None:
        self._note = note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # a job in the background ignores Ctrl-C
                    self._before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def value_of_best(folder: Path, metric: str) -> float | None:
    """Return a metric of the model that a run chose as its best; None where it is undefined."""
    figures = {name: key for key, name in FINETUNING.metrics.items()}
    value: float | None = read_checkpoint(folder / BEST)["metrics"][figures[metric]]
    return value


def describe_failure(process: TrialProcess) -> str:
    """Return one line on why a run failed."""
    code = process.exit_code or 0
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    return process.last_line()


def numbered(numbers: list[int]) -> str:
    """Return trials by their numbers.

    Examples:
        >>> numbered([3]), numbered([3, 5])
        ('trial 3', 'trials 3, 5')
    """
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
