"""Whether probabilities mean what they say: the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.evaluation.reliability import reliability_curve
from butppg_lightning.evaluation.report.canvas import FAINT, GOOD, INK, POOR, drawing
from butppg_lightning.evaluation.report.page import Picture, Section
from butppg_lightning.evaluation.report.words import fraction

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence

_BINS = 10


def reliability_section(evidence: Evidence) -> Section:
    """Return the reliability diagram and how the probabilities are spread."""
    section = Section("What a probability is worth")
    if evidence.labels is None:
        section.text.append("Without labels no frequency can be set against the probabilities; this is their spread.")
    else:
        section.text.append(
            "If the model says 70 % to many windows, 70 % of them should be good. That is a matter of its own: a model "
            "may rank well and still be too sure of itself."
        )
        section.parts.append(_reliability_picture(evidence))
    section.parts.append(_spread_picture(evidence))
    return section


def _reliability_picture(evidence: Evidence) -> Picture:
    curve = reliability_curve(np.asarray(evidence.labels), evidence.probabilities, _BINS)
    with drawing("reliability", "Reliability diagram", 300) as drawn:
        axes = drawn.figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        errors = np.stack([curve.observed - curve.low, curve.high - curve.observed])
        axes.errorbar(
            curve.predicted, curve.observed, yerr=errors, color=GOOD, marker="o", markersize=6, linewidth=1.6,
            elinewidth=1.2, capsize=3,
        )  # fmt: skip
        ticks = np.linspace(0, 1, 6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
        axes.set_yticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
        axes.set(xlabel="mean probability of good (%)", ylabel="windows that are good (%)")
        axes.grid(True)
        axes.set_axisbelow(True)
    metrics = evidence.metrics
    found, chance = metrics["ece"], metrics["ece_if_calibrated"]
    says = (
        f"Ten groups of equally many windows, with 95 % intervals; on the dashed line probabilities would be exact. "
        f"They miss by {fraction(found)} on average (ECE); a perfect model would seem to miss by {fraction(chance)} "
        "with as many windows. "
    )
    return Picture(drawn.svg, says + _slope(metrics.get("calibration_slope")), "Reliability")


def _slope(slope: float | None) -> str:
    if slope is None:
        return "The calibration slope is undefined here."
    if slope <= 0:
        return f"The calibration slope is {slope:.2f}: higher probabilities do not mean better windows here."
    if slope < 0.75:
        return f"The calibration slope is {slope:.2f}; below 1, probabilities tend to be too extreme."
    if slope > 1.33:
        return f"The calibration slope is {slope:.2f}; above 1, probabilities tend to be too timid."
    return f"The calibration slope is {slope:.2f}; 1 is ideal."


def _spread_picture(evidence: Evidence) -> Picture:
    bins = np.linspace(0, 1, 26)
    with drawing("spread", "Histogram of the probabilities", 300) as drawn:
        axes = drawn.figure.add_subplot()
        if evidence.labels is None:
            axes.hist(evidence.probabilities, bins=bins, color=FAINT)
        else:
            split = [evidence.probabilities[evidence.labels == label] for label in (1, 0)]
            axes.hist(split, bins=bins, stacked=True, color=[GOOD, POOR], label=["good", "poor"])
            axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.1), handlelength=1.1, handleheight=1.1)
        axes.margins(y=0.16)
        axes.axvline(evidence.threshold, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        side, shift = ("left", 4) if evidence.threshold < 0.6 else ("right", -4)
        axes.annotate(
            "threshold", (evidence.threshold, 0.98), (shift, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha=side, va="top", fontsize=9.5,
        )  # fmt: skip
        ticks = np.linspace(0, 1, 6)
        axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
        axes.set(xlim=(0, 1), xlabel="probability of good (%)", ylabel="windows")
    low, high = np.percentile(evidence.probabilities, [10, 90])
    says = f"Eight of ten windows get a probability between {100 * low:.0f} and {100 * high:.0f} %."
    if high - low < 0.1:
        says += " The model hardly tells windows apart."
    elif evidence.labels is not None:
        says += " The further blue and orange lie apart, the surer the verdicts."
    return Picture(drawn.svg, says, "Where the probabilities lie")
