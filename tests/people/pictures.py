"""The pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_curve

from butppg_lightning.evaluation.drawing import new_figure, save_figure
from butppg_lightning.evaluation.reliability import Panel, draw_reliability
from people.comparison import auroc, mean
from people.figures import Calibrated, risk_coverage
from people.held import Held

WITHIN, ROC, RELIABILITY, RISK = "within_subject.png", "roc.png", "reliability.png", "risk_coverage.png"
_INK, _FAINT = "#222222", "#9A9A9A"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B3FA0", "#000000")
_GRID = np.linspace(0, 1, 201)


def draw_all(
    folder: Path, content: dict[str, Any], held: Mapping[str, Held], calibrated: Mapping[str, Calibrated]
) -> list[str]:
    """Draw the pictures in place of an earlier run's, and return their names.

    What could not be calibrated is in no picture of probabilities.
    """
    for name in (WITHIN, ROC, RELIABILITY, RISK):
        (folder / name).unlink(missing_ok=True)
    reference = content["reference"]
    chosen = [name for name, each in held.items() if each.method.drawn or name == reference][: len(_COLOURS)]
    draw_within(folder / WITHIN, content)
    draw_roc(folder / ROC, [held[name] for name in chosen])
    drawn = [WITHIN, ROC]
    if not calibrated[reference].failed:
        draw_calibration(folder / RELIABILITY, held[reference], calibrated[reference])
        drawn.append(RELIABILITY)
    if sure := [(held[name], calibrated[name]) for name in chosen if not calibrated[name].failed]:
        draw_risk(folder / RISK, sure)
        drawn.append(RISK)
    return drawn


def draw_within(path: Path, content: dict[str, Any]) -> None:
    """Draw each subject's AUROC as a dot and their mean as a line, a row per method, the best on top."""
    rows = [found for found in content["methods"].values() if found["within_mean"] is not None]
    rows.sort(key=lambda found: found["within_mean"])
    subjects, places = list(content["protocol"]["subjects"]), np.arange(len(rows))
    few = len(subjects) <= len(_COLOURS)  # else the dots of all have one colour
    figure, axes = new_figure(8.6, 1.4 + 0.32 * len(rows))
    axes.vlines([found["within_mean"] for found in rows], places - 0.36, places + 0.36, _INK, linewidth=2.2, zorder=2)
    for number, name in enumerate(subjects):
        values = [np.nan if found["within"][name] is None else found["within"][name] for found in rows]
        shift = 0.3 * (number / max(len(subjects) - 1, 1) - 0.5) if few else 0.0
        colour, label = (_COLOURS[number], f"subject {name}") if few else (_COLOURS[0], None)
        alpha = 0.9 if few else 0.35
        axes.plot(values, places + shift, "o", color=colour, markersize=5, alpha=alpha, label=label, zorder=3)
    axes.plot([], [], color=_INK, linewidth=2.2, label="mean")
    axes.axvline(0.5, color=_FAINT, linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(places, [found["title"] for found in rows], fontsize=9)
    axes.set(xlabel="AUROC within a held-out subject (mean over seeds)", xlim=(None, 1.01))
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.7, zorder=0)
    figure.legend(loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_roc(path: Path, methods: Sequence[Held]) -> None:
    """Draw pooled out-of-fold ROC curves, the sensitivities averaged over the seeds."""
    figure, axes = new_figure(6.2, 5.8)
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle="--")
    for number, held in enumerate(methods):
        curves = [np.interp(_GRID, *roc_curve(held.labels, scores)[:2]) for scores in held.scores]
        area = mean(auroc(held.labels, scores) for scores in held.scores)
        label = held.title if area is None else f"{held.title} {area:.3f}"
        axes.plot(_GRID, np.mean(curves, axis=0), label=label, **_line(number))
    axes.set(xlabel="share of poor windows called good", ylabel="share of good windows called good")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(
        title="pooled AUROC", fontsize=8, title_fontsize=8, loc="lower right", framealpha=0.9, edgecolor="white"
    )
    save_figure(figure, path)


def draw_risk(path: Path, methods: Sequence[tuple[Held, Calibrated]]) -> None:
    """Draw how many verdicts are wrong when only the surest windows are judged, averaged over the seeds."""
    figure, axes = new_figure(6.6, 4.6)
    grid = _GRID[_GRID >= 0.1]
    for number, (held, calibrated) in enumerate(methods):
        curves = [np.interp(grid, *risk_coverage(held.labels, each)) for each in calibrated.probabilities]
        axes.plot(100 * grid, 100 * np.mean(curves, axis=0), label=held.title, **_line(number))
    axes.set(xlabel="windows judged, the surest first (%)", ylabel="wrong verdicts among them (%)", ylim=(0, None))
    axes.grid(color="#E5E5E5", linewidth=0.7)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    save_figure(figure, path)


def draw_calibration(path: Path, held: Held, calibrated: Calibrated) -> None:
    """Draw reliability diagrams of a network's first seed, before and after calibration."""
    # one seed: several would count each window several times
    panels = [
        Panel(f"{held.title}, seed 0, before calibration", held.labels, expit(held.scores[0])),
        Panel("calibrated on the other folds", held.labels, calibrated.probabilities[0]),
    ]
    draw_reliability(path, panels)


def _line(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number], "linewidth": 1.5 if number else 2.4}
