"""ROC and precision-recall curves of windows that count several times, and the bootstrap intervals this gives.

Whole subjects are drawn where they are known, as windows of one person resemble each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.evaluation.reliability import mass_bins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from butppg_lightning.npz import Array

FEWEST_SUBJECTS = 5
"""With fewer subjects nothing is shown: all of four agree by chance in one case of eight."""
GRID = np.linspace(0, 1, 101)
"""False-positive rates, or sensitivities, at which bands are given."""
INTERVALS = tuple(
    f"{name}_ci95"
    for name in ("auroc", "auprc", "f1", "mcc", "ece", "accuracy", "balanced_accuracy", "accuracy_above_majority")
)
"""What :func:`bootstrap_intervals` returns."""
_EDGES = (2.5, 97.5)  # percentiles between which 95 % lie
_AT_ONCE = 2_000_000  # weights held in memory


class Ranking:
    """Windows in falling order of their score (any numbers, higher for good), ready to be weighed."""

    def __init__(self, labels: Array, scores: Array) -> None:
        scores = np.asarray(scores)
        self.order = np.argsort(-scores, kind="stable")
        self.good = np.asarray(labels)[self.order].astype(np.float64)
        self.last_of_tie = np.r_[np.diff(scores[self.order]) != 0, True]

    def counts(self, weights: Array | None = None) -> tuple[Array, Array]:
        """Return good and poor windows called good as the threshold falls from one value to the next, ``[R, U]`` each.

        ``weights [R, N]`` say how often each window counts; None for once (R is 1).
        """
        weighed = np.ones((1, len(self.good))) if weights is None else weights[:, self.order]
        hits = np.cumsum(weighed * self.good, axis=1)[:, self.last_of_tie]
        alarms = np.cumsum(weighed * (1 - self.good), axis=1)[:, self.last_of_tie]
        return hits, alarms


def roc(hits: Array, alarms: Array) -> tuple[Array, Array]:
    """Return false-positive rate and sensitivity, from (0, 0) to (1, 1), of one row of :meth:`Ranking.counts`."""
    return np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]


def auroc(labels: Array, scores: Array) -> float | None:
    """Return the area under the ROC curve, ties counted half; None with a single class.

    Of any scores ``[N]``, in float64, and equal rankings give equal areas, as comparisons of methods need.
    """
    area = float(_areas(*Ranking(labels, scores).counts())[0])
    return None if np.isnan(area) else area


def _areas(hits: Array, alarms: Array) -> Array:
    """Return the areas under ROC curves ``[R]`` of :meth:`Ranking.counts`; NaN with a single class."""
    above = hits - np.diff(hits, axis=1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((np.diff(alarms, axis=1, prepend=0) * above).sum(axis=1) / (hits[:, -1] * alarms[:, -1]))


def _average_precisions(hits: Array, alarms: Array) -> Array:
    """Return the average precisions ``[R]`` of :meth:`Ranking.counts`; NaN without good windows."""
    precision = hits / np.maximum(hits + alarms, 1e-12)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1])


def window_weights(count: int, subjects: Array | None = None, *, resamples: int = 1000) -> Iterator[Array]:
    """Yield how often each window is in each bootstrap resample, ``[R, count]`` at a time (Efron 1979).

    With fewer than two different ``subjects [count]``, or None, windows are drawn instead. Every call draws the same.
    """
    generator = np.random.default_rng(0)
    owner = np.arange(count)
    if subjects is not None and len(np.unique(subjects)) > 1:
        owner = np.unique(subjects, return_inverse=True)[1]
    groups, rows = int(owner.max()) + 1, max(1, _AT_ONCE // count)
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, groups, (min(rows, resamples - start), groups))
        numbered = drawn + groups * np.arange(len(drawn))[:, None]
        times = np.bincount(numbered.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield times[:, owner].astype(np.float64)


def bootstrap_intervals(
    labels: Array, probabilities: Array, subjects: Array | None = None, *, threshold: float = 0.5, resamples: int = 1000
) -> dict[str, list[float] | None]:
    """Return 95 % percentile bootstrap intervals of the metrics (Efron and Tibshirani 1993).

    Args:
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]``.
        subjects: ``[N]`` or None.
        threshold: At or above it a window is called good.
        resamples: Number of resamples.

    Returns:
        ``<name>_ci95`` as [low, high] for each of :class:`WeightedMetrics`; None where it is undefined in every
        resample.
    """
    metrics = WeightedMetrics(labels, probabilities, threshold)
    found = [metrics(weights) for weights in window_weights(len(labels), subjects, resamples=resamples)]
    intervals: dict[str, list[float] | None] = {}
    for name in found[0]:
        values = np.concatenate([part[name] for part in found])
        known = values[~np.isnan(values)]
        intervals[f"{name}_ci95"] = np.percentile(known, _EDGES).tolist() if known.size else None
    return intervals


class WeightedMetrics:
    """The metrics of many resamples at once, each of which counts every window a whole number of times."""

    def __init__(self, labels: Array, probabilities: Array, threshold: float) -> None:
        labels, probabilities = np.asarray(labels).astype(np.int64), np.asarray(probabilities, dtype=np.float64)
        self.ranking = Ranking(labels, probabilities)
        self.known = np.nan if np.isnan(probabilities).any() else 1.0  # NaN has no rank
        called, good = probabilities >= threshold, labels == 1
        self.cells = np.stack([called & good, called & ~good, ~called & good, ~called & ~good], axis=1).astype(float)
        self.rising = np.argsort(probabilities, kind="stable")
        self.gaps = (probabilities - labels)[self.rising]

    def __call__(self, weights: Array) -> dict[str, Array]:
        """Return metrics ``[R]`` by name, of ``weights [R, N]``: how often each window counts; NaN where undefined.

        Fractions, but accuracy and balanced accuracy in percent, ``accuracy_above_majority`` in percentage points.
        """
        hits, alarms = self.ranking.counts(weights)
        hit, alarm, miss, rest = (weights @ self.cells).T
        good, poor = hit + miss, alarm + rest
        total, both = good + poor, np.where((good > 0) & (poor > 0), 1.0, np.nan)
        spread = np.sqrt((hit + alarm) * good * (rest + alarm) * (rest + miss))
        accuracy = 100 * (hit + rest) / total
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "auroc": self.known * _areas(hits, alarms),
                "auprc": self.known * both * _average_precisions(hits, alarms),
                "f1": 2 * hit / (2 * hit + alarm + miss),
                "mcc": np.where(spread > 0, (hit * rest - alarm * miss) / np.where(spread > 0, spread, 1), 0.0),
                "ece": self._calibration_errors(weights[:, self.rising]),
                "accuracy": accuracy,
                "balanced_accuracy": 50 * (hit / good + rest / poor),
                "accuracy_above_majority": accuracy - 100 * np.maximum(good, poor) / total,
            }

    def _calibration_errors(self, weights: Array) -> Array:
        # within a window that counts k times the sums rise in k equal steps, so that an edge between two bins of
        # equal mass may fall amid them: interpolation
        reached, sums = np.cumsum(weights, axis=1), np.cumsum(weights * self.gaps, axis=1)
        found = []
        for row, total in enumerate(reached[:, -1]):
            starts, _ = mass_bins(int(total))
            at = np.interp(np.r_[starts, total], np.r_[0, reached[row]], np.r_[0, sums[row]])
            found.append(np.abs(np.diff(at)).sum() / total)
        return np.array(found)


def curve_bands(labels: Array, probabilities: Array, subjects: Array | None) -> tuple[Array, Array] | None:
    """Return 95 % bands of the ROC and of the precision-recall curve, or None with a single class.

    They are ``[2, 101]`` low and high sensitivity at each false-positive rate of :data:`GRID`, and ``[2, 101]`` low
    and high precision at each sensitivity.
    """
    ranking = Ranking(labels, probabilities)
    upper, purity = [], []
    for weights in window_weights(len(labels), subjects):
        for hits, alarms in zip(*ranking.counts(weights), strict=True):
            if not hits[-1] or not alarms[-1]:
                continue  # a resample of one class has no curve
            rate, sensitivity = roc(hits, alarms)
            highest = np.r_[np.diff(rate) > 0, True]
            upper.append(np.interp(GRID, rate[highest], sensitivity[highest]))
            reached = np.searchsorted(hits / hits[-1], GRID - 1e-12).clip(max=len(hits) - 1)
            purity.append(hits[reached] / np.maximum(hits[reached] + alarms[reached], 1e-12))
    return (np.percentile(upper, _EDGES, axis=0), np.percentile(purity, _EDGES, axis=0)) if upper else None


def bootstrap_mean(values: Sequence[float] | Array) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over subjects (Efron and Tibshirani 1993).

    With a handful of subjects it is narrower than it ought to be: about 0.85 coverage at 6 for a nominal 0.95.
    No value at all, or one that is not finite, is a ValueError.
    """
    known = np.asarray(values, dtype=np.float64)
    if known.ndim != 1 or not len(known) or not np.isfinite(known).all():
        raise ValueError("values must be a list of at least one finite number")
    drawn = np.concatenate(list(window_weights(len(known), resamples=10_000)))
    low, high = np.percentile(drawn @ known / len(known), _EDGES)
    return float(low), float(high)
