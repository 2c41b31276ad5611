"""Bootstrap bands of curves and figures: whole subjects are drawn, as windows of one person resemble each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.npz import Array

RESAMPLES = 1000
_TAILS = (2.5, 97.5)
GRID = np.linspace(0, 1, 101)
"""False-positive rates, or sensitivities, at which bands are given."""


def window_weights(count: int, subjects: Array | None, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Array]:
    """Yield how often each window is in each bootstrap resample, ``[count]``.

    Args:
        count: Number of windows.
        subjects: ``[count]`` names; with fewer than two different ones, or None, windows are drawn instead.
        resamples: Number of resamples.
        seed: Seed of the drawing.
    """
    generator = np.random.default_rng(seed)
    owner = np.arange(count)
    if subjects is not None and len(np.unique(subjects)) > 1:
        owner = np.unique(subjects, return_inverse=True)[1]
    groups = int(owner.max()) + 1
    for _ in range(resamples):
        drawn = generator.integers(0, groups, groups)
        yield np.bincount(drawn, minlength=groups)[owner].astype(np.float64)


class Ranking:
    """Windows in falling order of their probability, ready to be weighed.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}.
        probabilities: ``[N]``.
    """

    def __init__(self, labels: Array, probabilities: Array) -> None:
        self.order = np.argsort(-probabilities, kind="stable")
        self.good = labels[self.order].astype(np.float64)
        self.values = probabilities[self.order]
        self.last_of_tie = np.r_[np.diff(self.values) != 0, True]

    def counts(self, weights: Array | None = None) -> tuple[Array, Array]:
        """Return good and poor windows called good as the threshold falls from one value to the next, ``[U]`` each."""
        weighed = np.ones(len(self.good)) if weights is None else weights[self.order]
        hits, alarms = np.cumsum(weighed * self.good), np.cumsum(weighed * (1 - self.good))
        return hits[self.last_of_tie], alarms[self.last_of_tie]


def roc(hits: Array, alarms: Array) -> tuple[Array, Array]:
    """Return false-positive rate and sensitivity, from (0, 0) to (1, 1); both classes must be there."""
    return np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]


def area(hits: Array, alarms: Array) -> float:
    """Return the area under the ROC curve."""
    rate, sensitivity = roc(hits, alarms)
    return float((np.diff(rate) * (sensitivity[1:] + sensitivity[:-1]) / 2).sum())


@dataclass(frozen=True, eq=False)
class Bands:
    """95 % bands over resamples.

    Attributes:
        sensitivity: ``[2, 101]`` low and high sensitivity at each false-positive rate of :data:`GRID`.
        precision: ``[2, 101]`` low and high precision at each sensitivity of :data:`GRID`.
        accuracy: Low and high accuracy (percent).
        balanced_accuracy: Low and high balanced accuracy (percent).
        margin: Low and high difference of accuracy and majority rate (percentage points).
    """

    sensitivity: Array
    precision: Array
    accuracy: list[float]
    balanced_accuracy: list[float]
    margin: list[float]


def bands(labels: Array, probabilities: Array, subjects: Array | None, threshold: float) -> Bands | None:
    """Return the bands, or None with a single class.

    Args:
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]``.
        subjects: ``[N]`` or None.
        threshold: At or above it a window is called good.
    """
    if len(np.unique(labels)) < 2:
        return None
    ranking, right = Ranking(labels, probabilities), (probabilities >= threshold) == (labels == 1)
    upper, purity, rates = [], [], []
    for weights in window_weights(len(labels), subjects):
        hits, alarms = ranking.counts(weights)
        if not hits[-1] or not alarms[-1]:
            continue  # a resample of one class has no curve
        rate, sensitivity = roc(hits, alarms)
        highest = np.r_[np.diff(rate) > 0, True]
        upper.append(np.interp(GRID, rate[highest], sensitivity[highest]))
        reached = np.searchsorted(hits / hits[-1], GRID - 1e-12).clip(max=len(hits) - 1)
        called = hits[reached] + alarms[reached]
        purity.append(hits[reached] / np.maximum(called, 1e-12))
        of_good = (weights * right)[labels == 1].sum() / hits[-1]
        of_poor = (weights * right)[labels == 0].sum() / alarms[-1]
        total = hits[-1] + alarms[-1]
        accuracy = (of_good * hits[-1] + of_poor * alarms[-1]) / total
        rates.append((accuracy, (of_good + of_poor) / 2, accuracy - max(hits[-1], alarms[-1]) / total))
    if not rates:
        return None
    edges = 100 * np.percentile(np.array(rates), _TAILS, axis=0)
    accuracy_edges, balanced, margin = ([float(edge) for edge in edges[:, column]] for column in range(3))
    return Bands(
        np.percentile(upper, _TAILS, axis=0), np.percentile(purity, _TAILS, axis=0), accuracy_edges, balanced, margin
    )


def area_interval(labels: Array, probabilities: Array, subjects: Array | None) -> tuple[float, float] | None:
    """Return the 95 % interval of AUROC; None with a single class."""
    if len(np.unique(labels)) < 2:
        return None
    ranking, found = Ranking(labels, probabilities), []
    for weights in window_weights(len(labels), subjects, resamples=400):
        hits, alarms = ranking.counts(weights)
        if hits[-1] and alarms[-1]:
            found.append(area(hits, alarms))
    if not found:
        return None
    low, high = np.percentile(found, _TAILS)
    return float(low), float(high)


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927).

    Examples:
        >>> tuple(round(edge, 3) for edge in wilson(8, 10))
        (0.49, 0.943)
    """
    squared = 1.96**2 / count
    centre, spread = (
        right / count + squared / 2,
        1.96 * ((right / count * (1 - right / count) + squared / 4) / count) ** 0.5,
    )
    return (centre - spread) / (1 + squared), (centre + spread) / (1 + squared)
