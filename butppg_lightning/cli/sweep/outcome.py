"""What a sweep leaves behind: a table, trials.csv, best.yaml and two pictures of Optuna's."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml
from optuna.trial import TrialState

from butppg_lightning.cli.sweep.study import replaced_by, trial_folder
from butppg_lightning.console import print_table
from butppg_lightning.data.feature_files import remove_features
from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.drawing import save_figure
from butppg_lightning.files import atomic_write
from butppg_lightning.training.run_folder import BEST, SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

CACHE = "cache"
_FILES = (_TABLE, _BEST, _HISTORY, _IMPORTANCE) = ("trials.csv", "best.yaml", "history.png", "importance.png")
_EARLIER = ("study.journal", "study.journal.lock", "sweep.json")  # of earlier versions
_SHOWN, _MOST_COLUMNS = 10, 5
_FEWEST = 4  # complete trials below which importance says nothing


def finish(plan: Plan, study: optuna.Study) -> None:
    """Write and print the outcome of a sweep so far."""
    folder = plan.folder
    trials = [trial for trial in study.get_trials(deepcopy=False) if "surplus" not in trial.user_attrs]
    rows = [_row(plan, trial) for trial in trials]
    columns = ["trial", "state", plan.metric, *plan.search, "epochs", "seconds", "begun", "instead_of", "reason"]
    text = io.StringIO()
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    with atomic_write(folder / _TABLE) as file:
        file.write(text.getvalue().encode())
    counts = ", ".join(f"{count} {state}" for state, count in Counter(row["state"] for row in rows).most_common())
    print(f"Sweep {plan.name}: {len(rows)} trials: {counts or 'none begun'}")
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        print(f"no trial is complete, so there is no best one; see {folder / _TABLE}")
        return
    _print_best(plan, sorted(complete, key=lambda row: row[plan.metric], reverse=study.direction.name == "MAXIMIZE"))
    draw(plan, study, len(complete))
    _write_best(plan, study.best_trial)


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


def _write_best(plan: Plan, trial: FrozenTrial) -> None:
    folder, own = plan.folder, trial_folder(plan.folder, trial.number)
    try:
        config = yaml.safe_load((own / SETTINGS).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{own / SETTINGS} of the best trial cannot be read: {error.strerror}") from error
    config.pop("test", None)
    config["output_dir"] = str(folder / "best")
    if config["cache"]["folder"] == str(folder / CACHE):
        config["cache"]["folder"] = None
    best = f"rial {trial.number} of the sweep {plan.name}, {plan.metric} {trial.value:.4f}"
    with atomic_write(folder / _BEST) as file:
        file.write(f"# T{best}\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}".encode())
    print(f"Best: t{best}, chosen on the validation windows, so it flatters")
    print(f"  train it again and test it: butppg fit --config {folder / _BEST}")
    print(f"  or test its model:          butppg test --ckpt_path {own / BEST} --data.root {config['data']['root']}")
    print(f"Results: {folder}")
