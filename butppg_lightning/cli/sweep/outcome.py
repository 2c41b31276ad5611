"""What a sweep leaves behind: a table, trials.csv, best.yaml and two pictures."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml
from optuna.trial import TrialState

from butppg_lightning.cli.sweep.folder import CACHE, OUTPUTS, trial_folder
from butppg_lightning.cli.sweep.parameter import shown
from butppg_lightning.cli.sweep.pictures import draw_history, draw_importance
from butppg_lightning.console import print_table
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write
from butppg_lightning.training.run_folder import BEST, SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

TABLE, BEST_CONFIG, HISTORY, IMPORTANCE = OUTPUTS
_SHOWN, _SHOWN_WIDE = 10, 6
_MOST_COLUMNS = 5


def finish(plan: Plan, study: optuna.Study, folder: Path) -> None:
    """Write and print the outcome so far.

    Args:
        plan: The sweep.
        study: Its study.
        folder: Its folder.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("surplus")]
    _write_table(plan, trials, folder / TABLE)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    print(f"Sweep {plan.name}: {_counts(trials)}")
    if not complete:
        print(f"no trial is complete, so there is no best one; see {folder / TABLE}")
        return
    _print_best(plan, complete)
    draw_history(folder / HISTORY, plan, trials)
    if reason := draw_importance(folder / IMPORTANCE, plan, study, complete):
        print(f"no {IMPORTANCE}: {reason}")
    _write_best(plan, study.best_trial, folder)


def state_of(trial: FrozenTrial) -> str:
    """Return a trial's state in one word: complete, pruned, failed, lost, running or waiting."""
    if trial.state == TrialState.FAIL:
        return "lost" if "lost" in trial.user_attrs else "failed"
    return str(trial.state.name.lower())


def option_of(plan: Plan, trial: FrozenTrial, key: str) -> Any:
    """Return what `butppg fit` was told for a parameter, or an empty word if the trial did not get so far."""
    parameter = next(one for one in plan.parameters if one.key == key)
    return parameter.option(trial.params[key]) if key in trial.params else ""


def _counts(trials: list[FrozenTrial]) -> str:
    counted = Counter(map(state_of, trials))
    return f"{len(trials)} trials{': ' if trials else ', none begun'}" + ", ".join(
        f"{number} {state}" for state, number in counted.most_common()
    )


def _ranked(plan: Plan, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    sign = -1 if plan.direction == "maximize" else 1
    return sorted(trials, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def _print_best(plan: Plan, complete: list[FrozenTrial]) -> None:
    keys = [parameter.key for parameter in plan.parameters]
    last = [key.rpartition(".")[2] for key in keys]
    wide = len(keys) > _MOST_COLUMNS
    ranked = _ranked(plan, complete)[: _SHOWN_WIDE if wide else _SHOWN]
    columns = [
        ("trial", [str(trial.number) for trial in ranked]),
        (plan.metric, [f"{trial.value:.4f}" for trial in ranked]),
        *(
            (name, [shown(option_of(plan, trial, key)) for trial in ranked])
            for key, name in zip(keys, last if len(set(last)) == len(last) else keys, strict=True)
        ),
        ("epochs", [str(trial.user_attrs["epochs"]) for trial in ranked]),
        ("seconds", [f"{trial.user_attrs['seconds']:.0f}" for trial in ranked]),
    ]
    title = f"The best {len(ranked)} of {len(complete)} complete trials" if len(complete) > 1 else "The complete trial"
    if wide:  # a row for each parameter: that many columns would be cut
        (first, numbers), *rows = columns
        print_table(title, (first, *numbers), [(name, *values) for name, values in rows])
    else:
        names, values = zip(*columns, strict=True)
        print_table(title, names, list(zip(*values, strict=True)))


def _write_table(plan: Plan, trials: list[FrozenTrial], path: Path) -> None:
    keys = [parameter.key for parameter in plan.parameters]
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["trial", "state", plan.metric, *keys, "epochs", "seconds", "begun", "instead_of", "reason"])
    for trial in trials:
        attributes = trial.user_attrs
        table.writerow(
            [
                trial.number,
                state_of(trial),
                "" if trial.value is None else repr(trial.value),
                *(_cell(option_of(plan, trial, key)) for key in keys),
                attributes.get("epochs", ""),
                attributes.get("seconds", ""),
                "" if trial.datetime_start is None else trial.datetime_start.isoformat(timespec="seconds"),
                attributes.get("instead_of", ""),
                attributes.get("error", attributes.get("lost", "")),
            ]
        )
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _write_best(plan: Plan, trial: FrozenTrial, folder: Path) -> None:
    own = trial_folder(folder, trial.number)
    try:
        config = yaml.safe_load((own / SETTINGS).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{own / SETTINGS} of the best trial cannot be read: {error.strerror}") from error
    config.pop("test", None)
    config["output_dir"] = str(folder / "best")
    if config["cache"]["folder"] == str(folder / CACHE):
        config["cache"]["folder"] = None
    head = f"# Trial {trial.number} of the sweep {plan.source.name}: {plan.metric} {trial.value:.4f}.\n"
    with atomic_write(folder / BEST_CONFIG) as file:
        file.write((head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)).encode())
    print(
        f"Best: trial {trial.number}, {plan.metric} {trial.value:.4f}, chosen on the validation windows, so it flatters"
    )
    print(f"  train it again and test it: butppg fit --config {folder / BEST_CONFIG}")
    print(f"  or test its model:          butppg test --ckpt_path {own / BEST} --data.root {config['data']['root']}")
    print(f"Results: {folder}")
