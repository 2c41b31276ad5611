"""The study that all workers of a sweep share, and what it leaves behind: a table, trials.csv, best.yaml, two pictures.

It is Optuna's database (SQLite in the sweep's folder, or any that SQLAlchemy knows) with Optuna's heartbeat: a running
trial whose worker gives no sign of life is failed by another worker and put in line again. No lock outlives its
process: the kernel frees SQLite's.
"""

from __future__ import annotations

import inspect
import shutil
import warnings
import zlib
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState

from butppg_lightning.cli.sweep.plan import METRICS, method_of, nearest
from butppg_lightning.cli.sweep.storage import GRACE, open_storage
from butppg_lightning.console import print_table, suggestion
from butppg_lightning.data.features import remove_features
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.drawing import save_figure
from butppg_lightning.evaluation.scores import write_csv
from butppg_lightning.files import atomic_write, require_writable
from butppg_lightning.training.run_folder import BEST, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

STUDY, CACHE = "study.db", "cache"
_KINDS: dict[str, dict[str, Any]] = {
    "sampler": {"tpe": TPESampler, "random": RandomSampler, "grid": RandomSampler},  # the points of a grid are fixed
    "pruning": {"none": NopPruner, "median": MedianPruner, "hyperband": HyperbandPruner},
}
_FILES = (_TABLE, _BEST, _HISTORY, _IMPORTANCE) = ("trials.csv", "best.yaml", "history.png", "importance.png")
_EARLIER = ("study.journal", "study.journal.lock", "sweep.json")  # of earlier versions
_SHOWN, _MOST_COLUMNS = 10, 5
_FEWEST = 4  # complete trials below which importance says nothing
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)
replaced_by = RetryHeartbeatStaleTrialCallback.retried_trial_number  # the lost trial that one is instead of, or None
put_in_line_again = RetryHeartbeatStaleTrialCallback()


class PlacedSampler(PartialFixedSampler):
    """Draws each trial's parameters from the plan's seed and the trial's place in the sweep.

    So workers do not draw the same, a continued study goes on as an uninterrupted one would, and a grid is gone
    through point by point by any number of workers.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__({}, make_method(plan, "sampler"))
        self.plan = plan

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the sampler for the trial."""
        # all trials: hyperband shows the sampler but some of them
        place = place_of(trial, study._storage.get_all_trials(study._study_id, deepcopy=False))
        fixed = self.plan.grid_point(place) if self.plan.grid else {}
        seed = zlib.crc32(f"{self.plan.seed}/{place}".encode())
        super().__init__(fixed, make_method(self.plan, "sampler", seed=seed))
        super().before_trial(study, trial)


def make_method(plan: Plan, key: str, **more: Any) -> Any:
    """Make the sampler (key ``sampler``) or the pruner (``pruning``) of a sweep; refuse an unknown one or option."""
    method, options = method_of(getattr(plan, key))
    if method not in _KINDS[key]:
        raise UserError(f"{plan.source}: {key} is {method}{nearest(method, _KINDS[key])}")
    kind = _KINDS[key][method]
    known = set(inspect.signature(kind).parameters) - {"seed"}
    if unknown := sorted(set(options) - known):
        raise UserError(f"{plan.source}: {key} has no option {unknown[0]}{nearest(unknown[0], known)}")
    try:
        return kind(**options, **more)
    except (TypeError, ValueError) as error:
        raise UserError(f"{plan.source}: {key}: {' '.join(str(error).split())}") from error


def open_study(plan: Plan, record: dict[str, Any]) -> optuna.Study:
    """Open the study of a sweep, or begin it; ``record`` is what may not change while it goes on."""
    folder, where = plan.folder, plan.study
    if (folder / "study.journal").exists() and not plan.overwrite:
        raise UserError(f"{folder} holds a sweep of an earlier version; choose another --output_dir, or --overwrite it")
    storage = _storage(where, require_writable(folder))
    if plan.overwrite and plan.name in optuna.get_all_study_names(storage):
        old = optuna.load_study(study_name=plan.name, storage=storage)
        give_up_lost(old, folder)
        if old.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            known = f"that one was killed shows after {GRACE} s"
            raise UserError(f"--overwrite: a worker is still at the sweep in {folder}; stop it first ({known})")
        optuna.delete_study(study_name=str(plan.name), storage=storage)
    study = optuna.create_study(
        storage=storage,
        sampler=PlacedSampler(plan),
        pruner=make_method(plan, "pruning"),
        study_name=plan.name,
        direction=METRICS[plan.metric],
        load_if_exists=True,
    )
    home = str(folder.resolve())
    if "record" not in study.user_attrs:
        study.set_user_attr("folder", home)
        study.set_user_attr("record", record)
    elif where is not None and home != study.user_attrs["folder"]:
        raise UserError(
            f"the study {plan.name} in {where} has its trials in {study.user_attrs['folder']}, not in {home}: all "
            f"workers need the same --output_dir; for another study add, say, name: {plan.name}2 to {plan.source}"
        )
    stored = study.user_attrs["record"]
    for key in sorted({*stored, *record}):
        before, now = stored.get(key, "not set"), record.get(key, "not set")
        if before != now:
            raise UserError(
                f"{folder} holds a sweep whose {key} is {before}, {plan.source} or the command line now says {now}; "
                "take that back, choose another --output_dir, or --overwrite the sweep (more trials are welcome)"
            )
    return study


def rejoin(plan: Plan, study: optuna.Study) -> optuna.Study:
    """Return another view of an open study, for a worker in another thread: its sampler is at one trial at a time."""
    name, pruner = study.study_name, make_method(plan, "pruning")
    return optuna.load_study(study_name=name, storage=study._storage, sampler=PlacedSampler(plan), pruner=pruner)


def trial_folder(folder: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return folder / "trials" / f"{number:04d}"


def is_fresh(trial: FrozenTrial) -> bool:
    """Return whether a trial takes a place of its own: it replaces no lost one, and was not begun as one too many."""
    return replaced_by(trial) is None and "surplus" not in trial.user_attrs


def place_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return a trial's place in the sweep: how many fresh ones came before it, or before the one it is instead of."""
    lost = replaced_by(trial)
    return sum(map(is_fresh, trials[: trial.number if lost is None else lost]))


def give_up_lost(study: optuna.Study, folder: Path) -> None:
    """Give up the running trials whose worker is gone, and put them in line again."""
    fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        age = datetime.now() - (trial.datetime_start or datetime.now())
        # killed before the first sign of life: the heartbeat knows nothing of it
        if age > timedelta(seconds=GRACE) and not trial_folder(folder, trial.number).exists():
            _again(study, study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True))


def finish(plan: Plan, study: optuna.Study) -> None:
    """Write and print the outcome of a sweep so far."""
    folder = plan.folder
    trials = [trial for trial in study.get_trials(deepcopy=False) if "surplus" not in trial.user_attrs]
    rows = [_row(plan, trial) for trial in trials]
    columns = ["trial", "state", plan.metric, *plan.search, "epochs", "seconds", "begun", "instead_of", "reason"]
    write_csv(folder / _TABLE, {column: [row[column] for row in rows] for column in columns})
    counts = ", ".join(f"{count} {state}" for state, count in Counter(row["state"] for row in rows).most_common())
    print(f"Sweep {plan.name}: {len(rows)} trials: {counts or 'none begun'}")
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        print(f"no trial is complete, so there is no best one; see {folder / _TABLE}")
        return
    _print_best(plan, sorted(complete, key=lambda row: row[plan.metric], reverse=study.direction.name == "MAXIMIZE"))
    draw(plan, study, len(complete))
    _write_best(plan, study)


def remove_outcome(folder: Path) -> None:
    """Remove what a sweep left in its folder, and nothing else there."""
    for name in (*_FILES, *_EARLIER):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "trials", ignore_errors=True)
    remove_features(folder / CACHE)


def draw(plan: Plan, study: optuna.Study, complete: int) -> None:
    """Draw how a sweep with so many complete trials went, and the share of variance that each parameter explains.

    The shares are those of a random forest, taken apart by functional ANOVA (Hutter, Hoos and Leyton-Brown 2014).
    """
    import matplotlib as mpl

    mpl.use("Agg")  # no display
    from matplotlib import pyplot
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as pictures

    save_figure(pictures.plot_optimization_history(study, target_name=plan.metric).figure, plan.folder / _HISTORY)
    try:
        if complete < _FEWEST:
            raise ValueError(f"{complete} complete trials say nothing of importance; {_FEWEST} are the least")
        forest = FanovaImportanceEvaluator(seed=plan.seed)
        figure: Any = pictures.plot_param_importances(study, evaluator=forest, target_name=plan.metric).figure
        figure.set_layout_engine("constrained")
        save_figure(figure, plan.folder / _IMPORTANCE)
    except (RuntimeError, ValueError) as reason:  # of Optuna: where all trials are alike
        print(f"no {_IMPORTANCE}: {reason}")
    pyplot.close("all")


def shown(value: Any) -> str:
    """Return a value for a person."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _again(study: optuna.Study, trial: FrozenTrial) -> None:
    print(f"trial {trial.number} was lost with its worker; another takes its place", flush=True)
    put_in_line_again(study, trial)


def _storage(where: str | None, folder: Path) -> RDBStorage:
    return open_storage(where, folder / STUDY, _again)


def _row(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    state, error = trial.state.name.lower(), trial.user_attrs.get("error")
    if trial.state == TrialState.FAIL:
        state, error = ("failed", error) if error else ("lost", "its worker was killed or interrupted")
    return {
        "trial": trial.number,
        "state": state,
        plan.metric: trial.value,
        **{key: trial.params.get(key) for key in plan.search},
        "epochs": trial.user_attrs.get("epochs"),
        "seconds": trial.duration and round(trial.duration.total_seconds(), 1),
        "begun": trial.datetime_start and trial.datetime_start.isoformat(timespec="seconds"),
        "instead_of": replaced_by(trial),
        "reason": error,
    }


def _print_best(plan: Plan, ranked: list[dict[str, Any]]) -> None:
    names = [key.rpartition(".")[2] for key in plan.search]
    names = names if len(set(names)) == len(names) else list(plan.search)
    wide = len(names) > _MOST_COLUMNS
    best = ranked[: _SHOWN // 2 if wide else _SHOWN]
    columns = ("trial", plan.metric, *plan.search, "epochs", "seconds")
    table = [("trial", plan.metric, *names, "epochs", "seconds")]
    table += [tuple(shown(row[key]) for key in columns) for row in best]
    if wide:  # a row for each parameter: that many columns would be cut
        table = list(zip(*table, strict=True))
    title = f"The best {len(best)} of {len(ranked)} complete trials" if len(ranked) > 1 else "The complete trial"
    print_table(title, table[0], table[1:])


def _write_best(plan: Plan, study: optuna.Study) -> None:
    folder, trial = plan.folder, study.best_trial
    own = trial_folder(folder, trial.number)
    try:
        config = yaml.safe_load((own / SETTINGS).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{own / SETTINGS} of the best trial cannot be read: {error.strerror}") from error
    for key in ("test", "save_every_epoch"):
        config.pop(key, None)
    config["calibrate"] = study.user_attrs["record"].get("calibrate", True)
    config["output_dir"] = str(folder / "best")
    if config["cache"]["folder"] == str(folder / CACHE):
        config["cache"]["folder"] = None
    best = f"rial {trial.number} of the sweep {plan.name}, {plan.metric} {trial.value:.4f}"
    with atomic_write(folder / _BEST) as file:
        file.write(f"# T{best}\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}".encode())
    print(f"Best: t{best}, chosen on the validation windows, so it flatters")
    model = suggestion("test --ckpt_path", own / BEST, "--data.root", Path(config["data"]["root"]))
    print(f"  train it again and test it: {suggestion('fit --config', folder / _BEST)}")
    print(f"  or test its model:          {model}")
    print(f"Results: {folder}")
