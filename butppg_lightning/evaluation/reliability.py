"""Whether probabilities mean what they say: calibration errors, the calibration slope, and the reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from butppg_lightning.evaluation import drawing
from butppg_lightning.evaluation.calibration import fit_logistic
from butppg_lightning.evaluation.drawing import FAINT, GOOD, INK, POOR
from butppg_lightning.extras import require

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

_CLOSEST = 1e-7  # to 0 and 1, where float32 probabilities end
_CERTAIN = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution
_MARKS = ("#D55E00", "#009E73", "#7B3FA0")  # of the thresholds; told apart by everybody (Okabe and Ito 2008)


class ReliabilityCurve(NamedTuple):
    """Of each bin ``[B]``, ascending: mean probability, share of good windows, its 95 % interval, number of windows."""

    predicted: Array
    observed: Array
    low: Array
    high: Array
    counts: Array


def reliability_curve(labels: Array, probabilities: Array, bins: int = 10) -> ReliabilityCurve:
    """Return the reliability curve over bins of equal mass, with Wilson intervals."""
    order = np.argsort(probabilities, kind="stable")
    starts, counts = mass_bins(len(order), bins)
    predicted = np.add.reduceat(np.asarray(probabilities, dtype=np.float64)[order], starts) / counts
    observed = np.add.reduceat(np.asarray(labels, dtype=np.float64)[order], starts) / counts
    return ReliabilityCurve(predicted, observed, *wilson(observed, counts), counts)


def wilson(share: Array, counts: Array) -> tuple[Array, Array]:
    """Return the ends of 95 % intervals of observed shares, each of so many windows (Wilson 1927).

    Examples:
        >>> [round(float(edge), 3) for edge in wilson(np.array(0.8), np.array(10))]
        [0.49, 0.943]
    """
    squared = _CERTAIN**2 / counts
    centre = (share + squared / 2) / (1 + squared)
    half = _CERTAIN * np.sqrt(share * (1 - share) / counts + squared / (4 * counts)) / (1 + squared)
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def expected_calibration_error(labels: Array, probabilities: Array, bins: int = 10) -> float:
    """Return the mean gap between probability and frequency over bins of equal mass (Nixon et al. 2019).

    It is positive also where nothing is wrong: see :func:`expected_ece`.
    """
    curve = reliability_curve(labels, probabilities, bins)
    return float((np.abs(curve.observed - curve.predicted) * curve.counts).sum() / len(labels))


def debiased_calibration_error(labels: Array, probabilities: Array, bins: int = 10) -> float:
    """Return the equal-mass ECE less what the labels' chance adds to it (Kumar, Liang and Ma 2019, appendix on L1).

    In each bin the frequency is taken as normal about what was observed; how much larger the absolute gap is then
    expected to be is subtracted. That takes away some two fifths of what :func:`expected_calibration_error` shows
    where nothing is wrong, so :func:`expected_ece` belongs beside it. Never below 0.
    """
    curve = reliability_curve(labels, probabilities, bins)
    gaps = np.abs(curve.observed - curve.predicted)
    spread = np.sqrt(curve.observed * (1 - curve.observed) / curve.counts)  # standard error
    ratio = gaps / np.where(spread == 0, 1, spread)
    within = torch.erf(torch.from_numpy(ratio / 2**0.5)).numpy()  # scipy's would take half a second to import
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + gaps * within
    expected = np.where(spread == 0, gaps, folded)
    return float(np.maximum(0.0, ((2 * gaps - expected) * curve.counts).sum() / len(labels)))  # NaN stays NaN


def expected_ece(probabilities: Array, bins: int = 10, resamples: int = 200, seed: int = 0) -> float:
    """Return the ECE that these probabilities would show if they were perfectly calibrated.

    Labels are drawn from the probabilities (the consistency resampling of Broecker and Smith 2007) and the mean
    of :func:`expected_calibration_error` over the draws is returned: about 0.07 at 170 windows and 10 bins.
    """
    ordered = np.sort(np.asarray(probabilities, dtype=np.float64))
    generator = np.random.default_rng(seed)
    starts, sizes = mass_bins(len(ordered), bins)
    total = 0.0
    for _ in range(resamples):
        drawn = generator.random(len(ordered)) < ordered
        total += float(np.abs(np.add.reduceat(ordered - drawn, starts)).sum())
    return total / resamples / int(sizes.sum())


def calibration_slope(labels: Array, probabilities: Array) -> tuple[float | None, float | None]:
    """Return calibration slope and intercept (Cox 1958; Van Calster et al. 2016).

    Returns:
        The slope of a logistic regression of the labels on the probabilities' logits (1 is ideal; below 1 they are
        too extreme), and calibration-in-the-large, the intercept with the slope held at 1 (0 is ideal; below 0 they
        are too high). None where the likelihood has no maximum: a single class, or a probability is NaN; the
        slope also where the probabilities separate the classes or are all the same.
    """
    labels = np.asarray(labels).astype(np.float64)
    inside = np.clip(np.asarray(probabilities, dtype=np.float64), _CLOSEST, 1 - _CLOSEST)
    logits = np.log(inside) - np.log1p(-inside)
    above, below = logits[labels == 1], logits[labels == 0]
    if not len(above) or not len(below) or not np.isfinite(logits).all():
        return None, None
    intercept = float(fit_logistic(np.ones((len(labels), 1)), labels, logits)[0])
    # Albert and Anderson 1984: a finite maximum exists exactly if the classes overlap
    overlap = above.min() < below.max() and below.min() < above.max()
    slope = float(fit_logistic(np.stack([logits, np.ones_like(logits)], axis=1), labels)[0]) if overlap else None
    return slope, intercept


def mass_bins(count: int, bins: int = 10) -> tuple[Array, Array]:
    """Return the first row and the number of rows of each bin of equal mass, ``[B]`` each, of sorted windows."""
    sizes = np.array([len(part) for part in np.array_split(np.arange(count), min(bins, count))])
    return np.cumsum(sizes) - sizes, sizes


class Panel(NamedTuple):
    """One diagram of a picture: heading, labels and probabilities ``[N]``, and thresholds to mark, by name."""

    title: str
    labels: Array
    probabilities: Array
    thresholds: Mapping[str, float] | None = None


def draw_reliability(path: Path, panels: Sequence[Panel], bins: int = 10) -> None:
    """Draw reliability diagrams side by side as a PNG, such as before and after a calibration."""
    require("matplotlib.figure", "the reliability diagram", "evaluation")
    options: dict[str, Any] = {"sharex": True, "squeeze": False, "height_ratios": [4, 1]}
    figure, axes = drawing.new_figure(5.2 * len(panels), 6.4, dpi=110, nrows=2, ncols=len(panels), **options)
    for (upper, lower), panel in zip(axes.T, panels, strict=True):
        for number, (name, value) in enumerate((panel.thresholds or {}).items()):
            colour = _MARKS[number % len(_MARKS)]
            upper.axvline(value, color=colour, linewidth=1.2, linestyle=":", zorder=2, label=f"{name} {value:.2f}")
        if panel.thresholds:
            upper.legend(title="thresholds", fontsize=8, title_fontsize=8, edgecolor="white", loc="lower right")
        reliability_axes(upper, panel.labels, panel.probabilities, bins)
        found = expected_calibration_error(panel.labels, panel.probabilities, bins)
        says = f"ECE {found:.3f}; a perfect model (dashed) would show {expected_ece(panel.probabilities, bins):.3f}"
        upper.set_title(f"{panel.title}\n{says}", fontsize=10, color=INK)
        count_axes(lower, panel.labels, panel.probabilities)
        lower.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.25), ncols=2)
        upper.set_xlabel("")
    drawing.save_figure(figure, path)


def reliability_axes(axes: Any, labels: Array, probabilities: Array, bins: int = 10) -> None:
    """Draw the share of good windows over the mean probability, per bin of equal mass, with 95 % intervals."""
    curve = reliability_curve(labels, probabilities, bins)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", zorder=1)
    errors = np.stack([curve.observed - curve.low, curve.high - curve.observed])
    axes.errorbar(
        curve.predicted, curve.observed, yerr=errors, color=GOOD, marker="o", markersize=6, linewidth=1.6,
        elinewidth=1.2, capsize=3, zorder=3,
    )  # fmt: skip
    drawing.percent_square(axes, "mean probability of good (%)", "windows that are good (%)")


def count_axes(axes: Any, labels: Array | None, probabilities: Array) -> None:
    """Draw how many windows have which probability, good above poor where there are labels."""
    bins = np.linspace(0, 1, 26)
    if labels is None:
        axes.hist(probabilities, bins=bins, color=FAINT)
    else:
        split = [np.asarray(probabilities)[np.asarray(labels) == label] for label in (1, 0)]
        axes.hist(split, bins=bins, stacked=True, color=[GOOD, POOR], label=["good", "poor"])
    drawing.percent_ticks(axes.set_xticks)
    axes.set(xlim=(-0.02, 1.02), xlabel="probability of good (%)", ylabel="windows")
