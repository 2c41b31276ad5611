"""Pictures of a sweep: how it went, and which parameters mattered."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState

from butppg_lightning.evaluation.drawing import new_figure, save_figure

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from butppg_lightning.cli.sweep.plan import Plan

_BLUE, _ORANGE, _INK, _FAINT = "#0072B2", "#D55E00", "#222222", "#9A9A9A"
_FEWEST = 4  # complete trials below which a forest says nothing


def draw_history(path: Path, plan: Plan, trials: list[FrozenTrial]) -> None:
    """Draw the metric of every trial, and the best so far, as a PNG.

    Args:
        path: The PNG.
        plan: The sweep.
        trials: Its trials.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    figure, axes = new_figure(7.2, 4.2)
    numbers = [trial.number for trial in complete]
    values = np.array([trial.value for trial in complete], dtype=float)
    so_far = (np.maximum if plan.direction == "maximize" else np.minimum).accumulate(values)
    last = max(trial.number for trial in trials)
    axes.step([*numbers, last], [*so_far, so_far[-1]], where="post", color=_BLUE, linewidth=1.6, label="best so far")
    axes.plot(numbers, values, "o", color=_BLUE, markersize=5, label="complete")
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED and trial.value is not None]
    if pruned:
        places, last_values = [trial.number for trial in pruned], [trial.value for trial in pruned]
        axes.plot(places, last_values, "x", color=_FAINT, markersize=6, label="pruned, at its last epoch")
    failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    if failed:
        axes.plot(
            failed, [0.02] * len(failed), "|", color=_ORANGE, markersize=12, markeredgewidth=2,
            transform=axes.get_xaxis_transform(), label="failed or lost",
        )  # fmt: skip
    axes.set(xlabel="trial", ylabel=plan.metric, title=f"{plan.name}: {len(complete)} complete trials")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)


def draw_importance(path: Path, plan: Plan, study: optuna.Study, complete: list[FrozenTrial]) -> str:
    """Draw the share of the metric's variance that each parameter explains, as a PNG.

    A random forest over the complete trials, taken apart by functional ANOVA (Hutter, Hoos and Leyton-Brown 2014).

    Args:
        path: The PNG.
        plan: The sweep.
        study: Its study.
        complete: Its complete trials.

    Returns:
        Why there is no picture; empty if there is one.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(complete) < _FEWEST:
        return f"{len(complete)} complete trials say nothing of importance; {_FEWEST} are the least"
    if len({trial.value for trial in complete}) == 1:
        return "all trials have the same value"
    if all(len({repr(trial.params[one.key]) for trial in complete}) == 1 for one in plan.parameters):
        return "all trials have the same parameters"
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=plan.seed))
    keys = list(found)[::-1]
    figure, axes = new_figure(7.2, 1.6 + 0.42 * len(keys))
    bars = axes.barh(range(len(keys)), [found[key] for key in keys], color=_BLUE, height=0.62)
    axes.bar_label(bars, labels=[f"{found[key]:.0%}" for key in keys], padding=4, fontsize=9, color=_INK)
    axes.set_yticks(range(len(keys)), ["\n".join(textwrap.wrap(key, 32)) for key in keys])
    axes.set(
        xlim=(0, max(found.values()) * 1.12), xlabel=f"share of the variance of {plan.metric} (fANOVA)",
        title=f"{plan.name}: what mattered in {len(complete)} complete trials",
    )  # fmt: skip
    save_figure(figure, path)
    return ""
