"""How well good windows are told from poor ones: ROC, precision-recall, and the verdicts at the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.bootstrap import GRID, roc
from butppg_lightning.evaluation.ranking import Ranking
from butppg_lightning.evaluation.report.canvas import FAINT, GOOD, INK, POOR, drawing
from butppg_lightning.evaluation.report.page import Picture, Section, Table
from butppg_lightning.evaluation.report.words import counted, fraction, percent, span

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.npz import Array


def ranking_section(evidence: Evidence) -> Section:
    """Return ROC and precision-recall curves with bands; a sentence where a single class leaves them undefined."""
    section = Section("Telling good from poor at every threshold")
    if not evidence.both_classes:
        section.text.append("Undefined: the curves need labelled windows of both classes.")
        return section
    people = evidence.subject_count
    drawn = "windows (no subjects are named)" if people is None else counted(people, "subject")
    if people == 1:
        drawn = "windows of the one subject"
    section.text.append(
        "The curves show every threshold there is; the ring marks the one in use. The band holds 95 % of the curves "
        f"that arise when the {drawn} are drawn anew, 1,000 times."
    )
    section.parts += [_roc_picture(evidence), _precision_picture(evidence)]
    return section


def verdict_section(evidence: Evidence) -> Section:
    """Return the confusion matrix at the threshold, and the checkpoint's other operating points."""
    section = Section("The verdicts at the threshold")
    if evidence.labels is None:
        section.text.append("Undefined: the windows have no labels.")
        return section
    cut = f"A window is called good from the probability {evidence.threshold:.3g} on ({evidence.threshold_from})."
    section.text.append(cut)
    section.parts.append(_confusion_picture(evidence))
    if evidence.points and evidence.both_classes:
        section.parts.append(_points_table(evidence))
    return section


def shares(labels: Array, called: Array) -> dict[str, float | None]:
    """Return sensitivity, specificity and precision (0..1, None where nothing is counted), and what share is kept."""
    hits = int((called & (labels == 1)).sum())
    rest = int((~called & (labels == 0)).sum())
    good, poor, kept = int(labels.sum()), int((labels == 0).sum()), int(called.sum())
    return {
        "sensitivity": hits / good if good else None,
        "specificity": rest / poor if poor else None,
        "precision": hits / kept if kept else None,
        "kept": kept / len(labels),
    }


def _ring(axes: Any, horizontal: float | None, vertical: float | None) -> None:
    if horizontal is not None and vertical is not None:
        axes.plot(
            horizontal, vertical, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, mew=1.8, zorder=5
        )


def _square(axes: Any, horizontal: str, vertical: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=horizontal, ylabel=vertical)
    ticks = np.linspace(0, 1, 6)
    axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axes.set_yticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axes.grid(True)
    axes.set_axisbelow(True)


def _roc_picture(evidence: Evidence) -> Picture:
    labels = np.asarray(evidence.labels)
    rate, sensitivity = roc(*(counts[0] for counts in Ranking(labels, evidence.probabilities).counts()))
    at = shares(labels, evidence.called)
    specificity = at["specificity"]
    with drawing("roc", "ROC curve with a 95 % band", 300) as drawn:
        axes = drawn.figure.add_subplot()
        if evidence.bands is not None:
            axes.fill_between(GRID, *evidence.bands.sensitivity, color=GOOD, alpha=0.2, linewidth=0)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(rate, sensitivity, color=GOOD)
        axes.text(0.62, 0.55, "guessing", color=FAINT, rotation=40, ha="center", va="center", fontsize=9.5)
        _ring(axes, None if specificity is None else 1 - specificity, at["sensitivity"])
        _square(axes, "poor windows called good (%)", "good windows called good (%)")
    interval = span(evidence.metrics["auroc_ci95"])
    says = (
        f"The area under the curve is {fraction(evidence.metrics['auroc'])} (95 % interval {interval}). At the ring, "
        f"{percent(at['sensitivity'], 0)} of the good windows are kept and "
        f"{percent(None if specificity is None else 1 - specificity, 0)} of the poor ones get through."
    )
    return Picture(drawn.svg, says, "ROC")


def _precision_picture(evidence: Evidence) -> Picture:
    labels = np.asarray(evidence.labels)
    hits, alarms = (counts[0] for counts in Ranking(labels, evidence.probabilities).counts())
    at, share = shares(labels, evidence.called), float(labels.mean())
    with drawing("precision", "Precision-recall curve with a 95 % band", 300) as drawn:
        axes = drawn.figure.add_subplot()
        if evidence.bands is not None:
            axes.fill_between(
                GRID[1:], *evidence.bands.precision[:, 1:], color=GOOD, alpha=0.2, linewidth=0, step="pre"
            )
        axes.axhline(share, color=FAINT, linewidth=1, linestyle="--")
        axes.text(0.0, share - 0.02, "guessing", color=FAINT, va="top", fontsize=9.5)
        axes.step(hits / hits[-1], hits / (hits + alarms), color=GOOD, where="pre")
        _ring(axes, at["sensitivity"], at["precision"])
        _square(axes, "good windows called good (%)", "of those called good, good (%)")
    says = (
        f"Average precision is {fraction(evidence.metrics['auprc'])} (95 % interval "
        f"{span(evidence.metrics['auprc_ci95'])}); guessing gets {share:.3f}, the share of good windows. "
    )
    says += (
        "Nothing is called good at the threshold, so there is no ring."
        if at["precision"] is None
        else f"At the ring, {percent(at['precision'], 0)} of the windows called good are good."
    )
    return Picture(drawn.svg, says, "Precision and recall")


def _confusion_picture(evidence: Evidence) -> Picture:
    labels, called = np.asarray(evidence.labels), evidence.called
    with drawing("confusion", "Confusion matrix", 230) as drawn:
        axes = drawn.figure.add_subplot()
        for row, label in enumerate((1, 0)):
            total = int((labels == label).sum())
            for column, verdict in enumerate((True, False)):
                count = int(((labels == label) & (called == verdict)).sum())
                share = count / total if total else 0.0
                colour = GOOD if (label == 1) == verdict else POOR
                axes.fill_between(
                    [column, column + 0.97], row, row + 0.95, color=colour, alpha=0.06 + 0.5 * share, lw=0
                )
                middle = column + 0.485, row + 0.475
                axes.annotate(f"{count:,}", middle, (0, 3), textcoords="offset points", ha="center", fontsize=17)
                told = f"{share:.1%} of the row" if total else "no such window"
                axes.annotate(told, middle, (0, -15), textcoords="offset points", ha="center", fontsize=10)
        axes.set(xlim=(0, 1.97), ylim=(1.95, 0))
        axes.set_xticks([0.485, 1.485], ["called good", "called poor"])
        axes.set_yticks([0.475, 1.475], ["good", "poor"])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("label")
    at = shares(labels, called)
    says = f"Blue is right, orange wrong. {percent(at['kept'], 0)} of all windows are called good"
    if at["precision"] is not None:
        says += f", and {percent(at['precision'], 0)} of those are"
    return Picture(drawn.svg, says + ".", "Confusion matrix")


def _points_table(evidence: Evidence) -> Table:
    labels, rows = np.asarray(evidence.labels), []
    for point in evidence.points:
        at = shares(labels, evidence.probabilities >= point.threshold)
        told = (percent(at[key], 0) for key in ("sensitivity", "specificity", "precision", "kept"))
        rows.append((point.name, fraction(point.threshold), *told))
    return Table(
        ("operating point", "cut", "good kept", "poor stopped", "precision", "all kept"),
        rows,
        "The checkpoint's operating points, and what they do on these windows; --operating-point chooses one.",
        frozenset(number for number, point in enumerate(evidence.points) if point.chosen),
        beside=True,
    )
