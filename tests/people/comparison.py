"""Which of two methods ranks better within unseen people, said with no more certainty than their number allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import bootstrap, permutation_test
from sklearn.metrics import roc_auc_score

from butppg_lightning.evaluation.bootstrap import FEWEST_SUBJECTS

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_FLIPS = 100_000  # as many are drawn where all sign flips would be more: from 17 subjects on


def auroc(labels: Array, scores: Array) -> float | None:
    """Return the area under the ROC curve; None with a single class."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else None


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
    return found, mean(found.values())


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def spread(values: Iterable[float | None]) -> float | None:
    """Return the standard deviation of what is known; None below two values."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def interval(values: Sequence[float]) -> list[float] | None:
    """Return the 95 % percentile bootstrap interval of the mean over subjects (Efron and Tibshirani 1993).

    With a handful of subjects it is narrower than it ought to be: about 0.85 coverage at 6. None below two subjects.
    """
    if len(values) < 2:
        return None
    found = bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return [float(found.low), float(found.high)]


@dataclass(frozen=True)
class SignFlip:
    """What per-subject differences say.

    Attributes:
        mean: Mean difference.
        above: Subjects whose difference is above 0.
        below: Subjects whose difference is below 0.
        subjects: Number of subjects.
        p_value: Two-sided; among 6 subjects never below 2/64 = 0.031.
        exact: Whether all sign flips were tried, rather than a random sample of them.
        verdict: ``better``, ``worse`` or ``not shown``.
    """

    mean: float
    above: int
    below: int
    subjects: int
    p_value: float
    exact: bool
    verdict: str


def sign_flip_test(differences: Sequence[float] | Array) -> SignFlip:
    """Compare two methods by their per-subject differences (Fisher 1935).

    If there were no difference, each subject's could as well have the other sign: the p-value is the share of all 2^n
    sign flips whose mean is at least as far from 0. Beyond 16 subjects 100,000 random flips stand for all of them, the
    observed one among them (Phipson and Smyth 2010).

    The verdict is a rule fixed beforehand: ``better`` if at least five sixths of the subjects (5 of 6, rounded up) and
    the mean are above 0, ``worse`` if they are below, else ``not shown``; also with fewer than 5 subjects.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("differences must be a list of at least one finite number")
    count, found, p_value = len(values), float(values.mean()), 1.0
    if count > 1:  # a single one lies as far from 0 with either sign
        p_value = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=_FLIPS, rng=0).pvalue
    above, below = int((values > 0).sum()), int((values < 0).sum())
    needed, verdict = math.ceil(5 * count / 6), "not shown"
    if count >= FEWEST_SUBJECTS and above >= needed and found > 0:
        verdict = "better"
    elif count >= FEWEST_SUBJECTS and below >= needed and found < 0:
        verdict = "worse"
    return SignFlip(found, above, below, count, float(p_value), 2**count <= _FLIPS, verdict)
