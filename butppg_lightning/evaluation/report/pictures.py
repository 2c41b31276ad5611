"""The pictures of the report, as inline SVG; the page says what they show."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation import drawing, reliability
from butppg_lightning.evaluation.bootstrap import GRID as SHARES
from butppg_lightning.evaluation.bootstrap import Ranking, curve_bands, roc
from butppg_lightning.evaluation.drawing import ACCENT, AGAINST, FAINT, GOOD, GRID, INK, PAPER, POOR, percent_square
from butppg_lightning.evaluation.report.cases import KINDS, Case
from butppg_lightning.evaluation.report.heart_rate import TOLERANCE, HeartRates, coverage_bands, coverage_curves
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.evaluation.report.groups import Group
    from butppg_lightning.npz import Array

STAGES = {"stage1_head_only": "head", "stage2_partial": "last blocks", "stage3_full": "everything"}
LEAST_PUSH = 0.2
"""Of the logit; where nothing moves it by as much, all tints are faint."""
_FEWEST_KEPT = 0.1  # share kept down to which the heart-rate curves are drawn
_LINE = 17.0  # points of height per row
_LANE = 5.0  # scaled units from one channel's middle to its lane's edge; more is cut off
_DRAWN_SAMPLES = 625  # of 1250: 62.5 Hz, above what a picture of this width resolves
_GAIN = {"PPG": 2.0}  # its quartiles are 1 apart: of a pulse, the peaks lie at about 1.5


def curve_pictures(evidence: Evidence, at: dict[str, float | None]) -> tuple[str, str]:
    """Return the ROC and the precision-recall curve with their bands; ``at`` is what the threshold does."""
    labels = np.asarray(evidence.labels)
    hits, alarms = (counts[0] for counts in Ranking(labels, evidence.probabilities).counts())
    bands, share = curve_bands(labels, evidence.probabilities, evidence.subjects), float(labels.mean())
    with drawing.inline_figure("roc", "ROC curve with a 95 % band", 300) as (axes, roc_drawn):
        if bands is not None:
            axes.fill_between(SHARES, *bands[0], color=GOOD, alpha=0.2, linewidth=0)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(*roc(hits, alarms), color=GOOD)
        axes.text(0.62, 0.55, "guessing", color=FAINT, rotation=40, ha="center", va="center", fontsize=9.5)
        if at["specificity"] is not None and at["sensitivity"] is not None:
            _ring(axes, 1 - at["specificity"], at["sensitivity"])
        percent_square(axes, "poor windows called good (%)", "good windows called good (%)")
    with drawing.inline_figure("precision", "Precision-recall curve with a 95 % band", 300) as (axes, precision_drawn):
        if bands is not None:
            axes.fill_between(SHARES[1:], *bands[1][:, 1:], color=GOOD, alpha=0.2, linewidth=0, step="pre")
        axes.axhline(share, color=FAINT, linewidth=1, linestyle="--")
        axes.text(0.0, share - 0.02, "guessing", color=FAINT, va="top", fontsize=9.5)
        axes.step(hits / hits[-1], hits / (hits + alarms), color=GOOD, where="pre")
        if at["sensitivity"] is not None and at["precision"] is not None:
            _ring(axes, at["sensitivity"], at["precision"])
        percent_square(axes, "good windows called good (%)", "of those called good, good (%)")
    return roc_drawn.svg, precision_drawn.svg


def confusion_picture(evidence: Evidence) -> str:
    """Return the confusion matrix at the threshold."""
    labels, called = np.asarray(evidence.labels), evidence.called
    with drawing.inline_figure("confusion", "Confusion matrix", 230) as (axes, drawn):
        for row, label in enumerate((1, 0)):
            total = int((labels == label).sum())
            for column, verdict in enumerate((True, False)):
                count = int(((labels == label) & (called == verdict)).sum())
                share = count / total if total else 0.0
                colour = GOOD if (label == 1) == verdict else POOR
                box = [column, column + 0.97], row, row + 0.95
                axes.fill_between(*box, color=colour, alpha=0.06 + 0.5 * share, lw=0)
                says = f"{share:.1%} of the row" if total else "no such window"
                for text, shift, size in ((f"{count:,}", 3, 17), (says, -15, 10)):
                    middle = column + 0.485, row + 0.475
                    axes.annotate(text, middle, (0, shift), textcoords="offset points", ha="center", fontsize=size)
        axes.set(xlim=(0, 1.97), ylim=(1.95, 0), ylabel="label")
        axes.set_xticks([0.485, 1.485], ["called good", "called poor"])
        axes.set_yticks([0.475, 1.475], ["good", "poor"])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return drawn.svg


def reliability_picture(evidence: Evidence) -> str:
    """Return the reliability diagram."""
    with drawing.inline_figure("reliability", "Reliability diagram", 300) as (axes, drawn):
        reliability.reliability_axes(axes, np.asarray(evidence.labels), evidence.probabilities)
    return drawn.svg


def spread_picture(evidence: Evidence) -> str:
    """Return the histogram of the probabilities, by label where there are labels."""
    with drawing.inline_figure("spread", "Histogram of the probabilities", 300) as (axes, drawn):
        reliability.count_axes(axes, evidence.labels, evidence.probabilities)
        if evidence.labels is not None:
            _legend_above(axes)
        axes.margins(y=0.16)
        axes.axvline(evidence.threshold, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        side, shift = ("left", 4) if evidence.threshold < 0.6 else ("right", -4)
        axes.annotate(
            "threshold", (evidence.threshold, 0.98), (shift, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha=side, va="top", fontsize=9.5,
        )  # fmt: skip
    return drawn.svg


def heart_rate_pictures(evidence: Evidence, rates: HeartRates) -> tuple[str, str]:
    """Return mean error, and share within the tolerance, against the share of windows kept."""
    shares = np.linspace(_FEWEST_KEPT, 1, 46)
    bands = coverage_bands(rates, evidence.subjects, shares)
    kept, *ordered = coverage_curves(rates.errors)
    _, *ideal = coverage_curves(np.sort(rates.errors))
    drawn_from = max(0, int(np.ceil(_FEWEST_KEPT * len(kept))) - 1)
    at = float((rates.probabilities >= evidence.threshold).mean())
    found = []
    for column, (name, scale) in enumerate((("mean", 1.0), ("within", 100.0))):
        curve, best = scale * ordered[column], scale * ideal[column]
        title = "Heart-rate error against the share of windows kept"
        with drawing.inline_figure(f"heart-rate-{name}", title, 290) as (axes, drawn):
            axes.fill_between(100 * shares, *(scale * bands[column]), color=GOOD, alpha=0.2, linewidth=0)
            axes.plot(100 * kept[drawn_from:], curve[drawn_from:], color=GOOD, label="by probability", zorder=3)
            axes.plot(100 * kept[drawn_from:], best[drawn_from:], color=ACCENT, linewidth=1.4, label="ideal order")
            axes.axhline(curve[-1], color=FAINT, linewidth=1.2, linestyle="--", label="random order")
            if at >= _FEWEST_KEPT:
                _ring(axes, 100 * at, curve[max(1, round(at * len(curve))) - 1])
            axes.set(xlim=(100 * _FEWEST_KEPT - 2, 102), xlabel="windows kept (%)")
            axes.set_ylabel(f"within {TOLERANCE:g} bpm (%)" if column else "mean absolute error (bpm)")
            axes.set_ylim(*((None, 102) if column else (0, None)))
            axes.grid(True)
            axes.set_axisbelow(True)
            _legend_above(axes)
        found.append(drawn.svg)
    return found[0], found[1]


def accuracy_picture(groups: Sequence[Group]) -> str:
    """Return each subject's accuracy, and what its commoner answer would get."""
    with drawing.inline_figure("subjects", "Accuracy of each subject", 62 + _LINE * len(groups)) as (axes, drawn):
        for row, group in enumerate(groups):
            low, high = group.accuracy_interval
            axes.plot([100 * low, 100 * high], [row, row], color=GOOD, linewidth=1.4)
            axes.plot(100 * group.accuracy, row, "o", color=GOOD, markersize=6)
            axes.plot(100 * group.majority, row, "|", color=INK, markersize=10, mew=1.6)
        axes.set(xlim=(-2, 102), xlabel="windows called right (%)")
        _rows(axes, groups)
    return drawn.svg


def auroc_picture(name: str, title: str, groups: Sequence[Group], overall: float | None = None) -> str:
    """Return the AUROC of each group, and an upright line where ``overall`` is."""
    height = 62 + _LINE * (1 if overall is None else 1.25) * len(groups)
    with drawing.inline_figure(name, title, height) as (axes, drawn):
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle="--", zorder=1)
        if overall is not None:
            axes.axvline(overall, color=FAINT, linewidth=1, zorder=1)
        for row, group in enumerate(groups):
            if group.auroc is None:
                axes.text(0.01, row, "one class only", color=FAINT, va="center", fontsize=9.5)
                continue
            if group.auroc_interval is not None:
                axes.plot(group.auroc_interval, [row, row], color=GOOD, linewidth=1.4)
            inside = PAPER if group.auroc_interval is None else GOOD
            axes.plot(group.auroc, row, "o", color=GOOD, markersize=6, markerfacecolor=inside)
        axes.set(xlim=(-0.02, 1.02), xlabel="AUROC")
        _rows(axes, groups)
    return drawn.svg


def case_picture(number: int, case: Case, channels: Sequence[str]) -> str:
    """Return a window's signals, tinted by what each second of each channel did to its verdict."""
    title = f"Signals of window {case.row}, {KINDS[case.kind]}"
    with drawing.inline_figure(f"case-{number}", title, 84 + 40 * len(channels)) as (axes, drawn):
        seconds = case.signals.shape[1] / SAMPLING_RATE
        largest = max(float(np.abs(case.support).max()), LEAST_PUSH)
        for lane, name in enumerate(channels):
            middle = -2 * _LANE * lane
            if not case.usable[lane]:
                axes.text(seconds / 2, middle, "not usable", color=FAINT, ha="center", va="center")
                continue
            edges = np.linspace(0, seconds, case.support.shape[1] + 1)
            for second, strength in enumerate((case.support[lane] / largest).tolist()):
                if abs(strength) >= 0.04:  # else invisible, and half of the picture's size
                    lane_edges = middle - 0.92 * _LANE, middle + 0.92 * _LANE
                    look = {"color": tint(strength), "alpha": 0.55 * abs(strength), "linewidth": 0}
                    axes.fill_between(edges[second : second + 2], *lane_edges, **look)
            times, values = _outline(case.signals[lane] * _GAIN.get(name, 1.0))
            width = 1.1 if name == "PPG" else 0.8
            axes.plot(times, middle + np.clip(values, -_LANE, _LANE), color=INK, linewidth=width)
        for colour, side in tint_legend(case).items():
            axes.fill_between([], [], [], color=colour, alpha=0.55, linewidth=0, label=side)
        _legend_above(axes)
        axes.set_yticks(-2 * _LANE * np.arange(len(channels)), channels)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xlim=(0, seconds), xlabel="seconds", ylim=(-2 * _LANE * (len(channels) - 0.5), _LANE))
        axes.set_xticks(np.arange(0, seconds + 0.1, 2))
    return drawn.svg


def tint(support: float) -> str:
    """Return the colour of what spoke for a window's own verdict (above 0), or against it."""
    return ACCENT if support > 0 else AGAINST


def tint_legend(case: Case) -> dict[str, str]:
    """Return what each colour says of this window."""
    other = "poor" if case.verdict == "good" else "good"
    return {tint(1): f"spoke for “{case.verdict}”, the verdict", tint(-1): f"spoke for “{other}”"}


def training_picture(
    quantity: str, curves: dict[str, tuple[Array, str]], stages: Sequence[str], best: int | None
) -> str:
    """Return a quantity per epoch (values and colour by name), the stages shaded, ``best``, an epoch from 0, marked."""
    with drawing.inline_figure(f"training-{quantity.lower()}", f"{quantity} per epoch", 250) as (axes, drawn):
        _shade(axes, stages)
        last = max(len(values) for values, _ in curves.values())
        for label, (values, colour) in curves.items():
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, marker=".", markersize=4)
        if best is not None and best < last:
            axes.axvline(best + 1, color=INK, linewidth=1.1, linestyle=":", label="this checkpoint")
        axes.set(xlim=(0.5, last + 0.5), xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(f"{quantity} (validation)" if quantity == "AUROC" else quantity)
        axes.legend(loc="best")
    return drawn.svg


def _outline(signal: Array) -> tuple[Array, Array]:
    """Return fewer samples that keep every peak: the lowest and the highest of each piece, in their order."""
    length = max(1, 2 * len(signal) // _DRAWN_SAMPLES)
    pieces = signal[: len(signal) // length * length].reshape(-1, length)
    places = np.sort(np.stack([pieces.argmin(axis=1), pieces.argmax(axis=1)], axis=1), axis=1)
    rows = np.unique((places + length * np.arange(len(pieces))[:, None]).ravel())
    return rows / SAMPLING_RATE, signal[rows]


def _shade(axes: Any, stages: Sequence[str]) -> None:
    start = 0
    for number, (stage, epochs) in enumerate(groupby(stages)):
        count = len(list(epochs))
        axes.axvspan(start + 0.5, start + count + 0.5, color=FAINT, alpha=(0.06, 0.16, 0.28)[number % 3], linewidth=0)
        if count * 8 >= len(stages):  # else its name does not fit
            middle = start + count / 2 + 0.5
            axes.annotate(
                STAGES.get(stage, stage), (middle, 1), (0, 3), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", fontsize=9.5,
            )  # fmt: skip
        start += count


def _rows(axes: Any, groups: Sequence[Group]) -> None:
    names = [group.name if len(group.name) <= 18 else group.name[:17] + "…" for group in groups]
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.hlines(np.arange(len(names)), *axes.get_xlim(), color=GRID, linewidth=0.6, zorder=0)


def _ring(axes: Any, horizontal: float, vertical: float) -> None:
    axes.plot(horizontal, vertical, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, mew=1.8, zorder=5)


def _legend_above(axes: Any) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=3, handlelength=1.4, handletextpad=0.4,
        columnspacing=0.9, borderaxespad=0,
    )  # fmt: skip
