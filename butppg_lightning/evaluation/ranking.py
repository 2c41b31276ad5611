"""How well scores of any kind rank good windows above poor ones, exactly, also where windows count several times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from butppg_lightning.npz import Array


FEWEST_SUBJECTS = 5
"""With fewer subjects nothing is shown: all of four agree by chance in one case of eight."""


def auroc(labels: Array, scores: Array) -> float | None:
    """Return the area under the ROC curve, ties counted half; None with a single class.

    In float64, and equal rankings give equal areas, as comparisons of methods need; for probabilities alone see
    :func:`butppg_lightning.evaluation.metrics.quality_metrics`.

    Args:
        labels: ``[N]`` in {0, 1}.
        scores: ``[N]``, higher for class 1; any numbers.
    """
    hits, alarms = Ranking(labels, scores).counts()
    return float(areas(hits, alarms)[0]) if hits[0, -1] and alarms[0, -1] else None


def auprc(labels: Array, scores: Array) -> float | None:
    """Return average precision (the step-wise area under the precision-recall curve); None with a single class."""
    hits, alarms = Ranking(labels, scores).counts()
    return float(average_precisions(hits, alarms)[0]) if hits[0, -1] and alarms[0, -1] else None


def within_subject_auroc(labels: Array, scores: Array, subjects: Array) -> tuple[dict[str, float | None], float | None]:
    """Return how well each subject's own windows are ranked.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}.
        scores: ``[N]``, higher for good; only their order within a subject counts.
        subjects: ``[N]`` names.

    Returns:
        Subject (sorted by name) to AUROC, None where the subject has windows of a single class; and the mean over the
        subjects that have one, each counting once, None if there is none.
    """
    labels, scores, subjects = np.asarray(labels), np.asarray(scores), np.asarray(subjects).astype(str)
    found = {
        str(name): auroc(labels[subjects == name], scores[subjects == name]) for name in np.unique(subjects).tolist()
    }
    known = [value for value in found.values() if value is not None]
    return found, float(np.mean(known)) if known else None


class Ranking:
    """Windows in falling order of their score, ready to be weighed.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}.
        scores: ``[N]``.
    """

    def __init__(self, labels: Array, scores: Array) -> None:
        scores = np.asarray(scores)
        self.order = np.argsort(-scores, kind="stable")
        self.good = np.asarray(labels)[self.order].astype(np.float64)
        self.values = scores[self.order]
        self.last_of_tie = np.r_[np.diff(self.values) != 0, True]

    def counts(self, weights: Array | None = None) -> tuple[Array, Array]:
        """Return good and poor windows called good as the threshold falls from one value to the next, ``[R, U]`` each.

        Args:
            weights: ``[R, N]``, how often each window counts; None for once (R is 1).
        """
        weighed = np.ones((1, len(self.good))) if weights is None else weights[:, self.order]
        hits = np.cumsum(weighed * self.good, axis=1)[:, self.last_of_tie]
        alarms = np.cumsum(weighed * (1 - self.good), axis=1)[:, self.last_of_tie]
        return hits, alarms


def areas(hits: Array, alarms: Array) -> Array:
    """Return the areas under ROC curves ``[R]`` of :meth:`Ranking.counts`; NaN with a single class."""
    above = hits - np.diff(hits, axis=1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((np.diff(alarms, axis=1, prepend=0) * above).sum(axis=1) / (hits[:, -1] * alarms[:, -1]))


def average_precisions(hits: Array, alarms: Array) -> Array:
    """Return the average precisions ``[R]`` of :meth:`Ranking.counts`; NaN without good windows."""
    precision = hits / np.maximum(hits + alarms, 1e-12)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1])
