"""A worker: runs trials until the sweep is complete; any number share one study. And what it checks before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from butppg_lightning.cli.configs import merge_encoder
from butppg_lightning.cli.sweep.plan import option
from butppg_lightning.cli.sweep.process import TrialProcess
from butppg_lightning.cli.sweep.study import give_up_lost, is_fresh, place_of, put_in_line_again, shown, trial_folder
from butppg_lightning.cli.training import TrainingCLI
from butppg_lightning.cli.training_parser import check_values
from butppg_lightning.errors import StoppedError, UserError
from butppg_lightning.models.calibration import stored_calibration
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.training.interruptions import LAST
from butppg_lightning.training.run_folder import BEST, FINAL, FINETUNING

if TYPE_CHECKING:
    import optuna
    from lightning.pytorch.cli import LightningArgumentParser
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
LOOK, _WAIT = 0.2, 1.0  # seconds between two looks at a running trial; at what other workers do
_MOST_FAILURES = 3


def check_trials(plan: Plan, arguments: list[str]) -> dict[str, Any]:
    """Check that `butppg fit` takes every key and value of a sweep, and that model and data can be made.

    Returns the resolved configuration before any parameter is set: dotted key to plain value.
    """
    trial = _Unbuilt("fit", arguments)
    shared = _flat(trial.plain_config())
    ends = {key: list(getattr(one, "choices", ())) or [one.low, one.high] for key, one in plan.search.items()}
    try:
        for found in (option(key, value) for key, values in ends.items() for value in values):
            trial.read([*arguments, found])
    except UserError as error:
        raise UserError(f"{plan.source}, parameters: {error}") from None
    trial.read([*arguments, *(option(key, values[0]) for key, values in ends.items())])
    TrainingCLI.instantiate_classes(trial)
    if trial.datamodule.has("test") and not trial.datamodule.has("val"):
        raise UserError(
            f"{trial.datamodule.root} has no val.npz, so trials would be chosen on test.npz; split by subject with: "
            "butppg prepare splits --source W.npz --output DIR"
        )
    trial.datamodule.setup("fit")
    return shared


class Worker:
    """Runs the trials of a sweep, one after the other.

    Args:
        plan: The sweep.
        study: Its study.
        arguments: What every trial's `butppg fit` starts with.
        signals: Those that have come; any ends the worker, whose trial is put in line again.
        threads: Threads of a trial.
        calibrates: Whether each trial calibrates its model.
    """

    def __init__(
        self,
        plan: Plan,
        study: optuna.Study,
        arguments: list[str],
        signals: list[int],
        threads: int,
        calibrates: bool = True,
    ) -> None:
        self.plan, self.study, self.folder, self.threads = plan, study, plan.folder, threads
        self.arguments = [*arguments, "--test=false", "--save_every_epoch=false"]
        self.arguments += [] if calibrates else ["--calibrate=false"]
        self.is_late = False
        """Whether the last trial was another worker's."""
        self._signals = signals
        self._process: TrialProcess | None = None
        self._failures = 0
        self._given_up = False

    def run(self, once: bool = False) -> None:
        """Run trials until as many as planned are complete, those of other workers included; or ``once``, if any."""
        reported: list[int] = []
        while not self._signals:
            give_up_lost(self.study, self.folder)
            running = self._numbers(TrialState.RUNNING)
            if self._numbers(TrialState.WAITING) or sum(map(is_fresh, self._trials())) < self.plan.trials:
                self.is_late = False
                self.run_one()
                if once:
                    return
                continue
            if once or not running:
                return
            if running != reported:
                _print(f"waiting for {', '.join(map(str, running))}, the trials of other workers")
            reported, self.is_late = running, True
            time.sleep(_WAIT)
        self._stop()

    def run_one(self) -> None:
        """Run the next trial."""
        self._given_up = False
        try:
            self.study.optimize(self._objective, n_trials=1, catch=_FailedError, callbacks=[self._after])
        except ValueError:  # of Optuna: a trial cannot end twice
            if not self._given_up:
                raise
            _print("there was no sign of life of this trial for so long that another worker took it; left to it")

    def _objective(self, trial: optuna.Trial) -> float:
        trials = self._trials()
        own = trials[trial.number]
        if is_fresh(own) and place_of(own, trials) >= self.plan.trials:
            trial.set_user_attr("surplus", True)
            raise _FailedError  # another worker took the last place at the same moment
        options = {key: _suggest(trial, key, one) for key, one in self.plan.search.items()}
        _print(f"trial {trial.number}: " + ", ".join(f"{key} {shown(value)}" for key, value in options.items()))
        process = self._start(trial.number, {**options, "overwrite": True})
        try:
            return self._follow(trial, process)
        except (TrialPruned, _FailedError):
            raise
        except UpdateFinishedTrialError:
            self._given_up = True
            raise
        except BaseException:  # the worker is stopped, or at fault: not the trial
            put_in_line_again(self.study, self._trials()[trial.number])
            raise
        finally:
            process.stop()

    def _follow(self, trial: optuna.Trial, process: TrialProcess) -> float:
        """Report epoch by epoch; return the metric of the model that the run chose as its best."""
        metric, reported, ended, failure = self.plan.metric, 0, False, ""
        while not ended:
            ended = process.wait(LOOK)  # then look once more: it may have gone on since the last look
            history = process.history(metric)
            for epoch, value in enumerate(history[reported:], reported):
                if value is None:
                    continue
                trial.report(value, epoch)
                if trial.should_prune() and not ended:  # a finished run is not pruned: nothing would be saved
                    trial.set_user_attr("epochs", epoch + 1)
                    raise TrialPruned
            reported = len(history)
            failure = process.failure() if ended else ""
            if self._signals and (failure or not ended):
                self._stop()
        trial.set_user_attr("epochs", reported)
        best = None
        if not failure:
            names = {name: key for key, name in FINETUNING.metrics.items()}
            best = read_checkpoint(process.folder / BEST)["metrics"][names[metric]]
        if best is None:
            trial.set_user_attr("error", failure or f"{metric} is undefined at the best epoch")
            raise _FailedError
        return float(best)

    def calibrate_best(self) -> None:
        """Calibrate the best trial's model, if it is not: its run, which is complete, does what comes after that."""
        if not self._numbers(TrialState.COMPLETE):
            return
        trial = self.study.best_trial
        folder = trial_folder(self.folder, trial.number)
        if stored_calibration(read_checkpoint(folder / BEST), folder / BEST).fitted:
            return
        process = self._start(trial.number, {**trial.params, "resume": "auto", "calibrate": True})
        try:
            while not process.wait(LOOK):
                if self._signals:
                    self._stop()
            if failure := process.failure():
                _print(f"trial {trial.number}, the best, is left uncalibrated: {failure}")
        finally:
            process.stop()

    def _start(self, number: int, options: dict[str, Any]) -> TrialProcess:
        folder = trial_folder(self.folder, number)
        options = {**options, "output_dir": str(folder)}
        arguments = [*self.arguments, *(option(key, value) for key, value in options.items())]
        self._process = TrialProcess(folder, arguments, self.threads)
        return self._process

    def kill(self) -> None:
        """End a running trial at once."""
        if self._process is not None:
            self._process.kill()

    def _after(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Report a trial that ended, and discard the weights that are not the best."""
        if "surplus" in trial.user_attrs:
            return
        number, error = trial.number, trial.user_attrs.get("error")
        self._failures = self._failures + 1 if error else 0
        done = self._numbers(*_DONE)
        if error and (not done or self._failures == _MOST_FAILURES):
            which = f"{self._failures} trials failed one after the other" if done else "no trial has succeeded"
            log = trial_folder(self.folder, number) / "log.txt"
            hint = f"all of it: {log}; after a change of the YAML start with --overwrite"
            raise UserError(f"{which}; trial {number} ended with: {error} ({hint})")
        if error:
            _print(f"trial {number} failed: {error}")
        else:
            pruned = "pruned after " if trial.state == TrialState.PRUNED else ""
            best = "  (best so far)" if not pruned and study.best_trial.number == number else ""
            epochs, time_taken = f"{trial.user_attrs['epochs']} epochs", str(trial.duration).partition(".")[0]
            _print(f"trial {number}: {pruned}{epochs}, {self.plan.metric} {trial.value:.4f}, {time_taken}{best}")
        if self.plan.keep == "best":
            self._discard_weights()

    def _discard_weights(self) -> None:
        ended = self._numbers(*_DONE, TrialState.FAIL)  # first: a better one may end in between
        best = self.study.best_trial.number if self._numbers(TrialState.COMPLETE) else None
        for number in ended:
            for name in (BEST, FINAL, LAST) if number != best else ():
                for path in trial_folder(self.folder, number).glob(f"*{name}*"):  # halves of a killed run too
                    path.unlink(missing_ok=True)

    def _stop(self) -> NoReturn:
        done = f"{len(self._numbers(*_DONE))} of {self.plan.trials} trials"
        line = f"interrupted after {done}; the same command continues the sweep"
        raise StoppedError(line, 128 + self._signals[0])

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _numbers(self, *states: TrialState) -> list[int]:
        return [trial.number for trial in self._trials(*states)]


class _FailedError(Exception):
    """A trial does not count; the sweep goes on."""


class _Unbuilt(TrainingCLI):
    """Reads the arguments of `butppg fit`, and builds data and model only when asked to."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.read(self.arguments)

    def read(self, arguments: list[str]) -> None:
        self.config = self.parser.parse_args(merge_encoder(arguments))
        self.output_dir = Path(self.config.output_dir)
        check_values(self.config, self.command, arguments)

    def before_instantiate_classes(self, **_: Any) -> Any:
        pass

    instantiate_classes = instantiate_trainer = before_instantiate_classes


def _suggest(trial: optuna.Trial, key: str, one: Any) -> Any:
    if hasattr(one, "choices"):
        return trial.suggest_categorical(key, one.choices)
    suggest: Any = trial.suggest_int if isinstance(one.low, int) else trial.suggest_float
    return suggest(key, one.low, one.high, log=one.log, step=one.step)


def _flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        inner = isinstance(value, dict) and value
        flat.update(_flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value})
    return flat


def _print(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # whole lines, of several workers; a sweep overnight is followed in a log
