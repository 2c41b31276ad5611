"""Figures of merit of a binary classifier, with intervals that respect who the windows came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.calibration_figures import (
    brier_score,
    calibration_slope,
    debiased_calibration_error,
    expected_ece,
)
from butppg_lightning.evaluation.calibration_figures import expected_calibration_error as expected_calibration_error

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, np.dtype[Any]]
FRACTIONS = ("auroc", "auprc", "f1", "mcc", "ece")


def auroc(labels: Array, scores: Array) -> float | None:
    """Return the area under the ROC curve, ties counted half; None with a single class.

    Args:
        labels: ``[N]`` in {0, 1}.
        scores: ``[N]``, higher for class 1.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[inverse][labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(labels: Array, scores: Array) -> float | None:
    """Return average precision (the step-wise area under the precision-recall curve); None with a single class."""
    positives = labels.sum()
    if not positives or positives == len(labels):
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.r_[np.diff(scores[order]) != 0, True]
    hits = np.cumsum(labels[order])[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float((np.diff(np.r_[0, hits]) / positives * precision).sum())


def classification_metrics(labels: Array, probabilities: Array, threshold: float = 0.5) -> dict[str, float | None]:
    """Return the guide's figures and the field's.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}.
        probabilities: ``[N]`` probability of good.
        threshold: At or above it a window is called good.

    Returns:
        ``accuracy``, ``class_0_acc``, ``class_1_acc``, ``majority_accuracy`` and ``balanced_accuracy`` in percent;
        ``loss`` (mean negative log likelihood, nats); ``auroc``, ``auprc``, ``f1``, ``mcc``, ``ece`` (equal mass),
        ``macro_f1``, ``brier``, ``ece_debiased`` and ``ece_if_calibrated`` (the plain ECE that a perfectly calibrated
        model would show with as many windows) as fractions; ``calibration_slope`` and ``calibration_intercept``. None
        where a single class, or classes that are told apart without error, leave a figure undefined.
    """
    labels = np.asarray(labels).astype(np.int64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    called = (probabilities >= threshold).astype(np.int64)
    right = called == labels
    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    share = float(labels.mean())
    slope, intercept = calibration_slope(labels, probabilities)
    return {
        "loss": float(-(labels * np.log(inside) + (1 - labels) * np.log1p(-inside)).mean()),
        "accuracy": 100 * float(right.mean()),
        "class_0_acc": 100 * float(right[labels == 0].mean()) if share < 1 else None,
        "class_1_acc": 100 * float(right[labels == 1].mean()) if share > 0 else None,
        "majority_accuracy": 100 * max(share, 1 - share),
        "auroc": auroc(labels, probabilities),
        "auprc": auprc(labels, probabilities),
        **_confusion_metrics(labels, called),
        "ece": expected_calibration_error(labels, probabilities),
        "ece_debiased": debiased_calibration_error(labels, probabilities),
        "ece_if_calibrated": expected_ece(probabilities),
        "balanced_accuracy": 50 * float(right[labels == 0].mean() + right[labels == 1].mean())
        if 0 < share < 1
        else None,
        "macro_f1": _macro_f1(labels, called),
        "brier": brier_score(labels, probabilities),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def bootstrap_intervals(
    labels: Array,
    probabilities: Array,
    subjects: Array | None = None,
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Return percentile bootstrap intervals of the fractions (Efron & Tibshirani 1993).

    Windows of one person resemble each other, so whole subjects are drawn where they are known and there are at
    least two; otherwise windows are.

    Args:
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]``.
        subjects: ``[N]`` or None.
        threshold: At or above it a window is called good.
        resamples: Number of resamples.
        level: Coverage.
        seed: Seed of the resampling.

    Returns:
        ``<key>_ci95`` as [low, high] for auroc, auprc, f1, mcc and ece; None where a figure is undefined.
    """
    labels = np.asarray(labels).astype(np.int64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    draw = _resampler(len(labels), subjects, np.random.default_rng(seed))
    values: dict[str, list[float]] = {key: [] for key in FRACTIONS}
    for _ in range(resamples):
        rows = draw()
        found = _fractions(labels[rows], probabilities[rows], threshold)
        for key in FRACTIONS:
            value = found[key]
            if value is not None:
                values[key].append(value)
    tail = 50 * (1 - level)
    return {
        f"{key}_ci95": [float(edge) for edge in np.percentile(drawn, [tail, 100 - tail])] if drawn else None
        for key, drawn in values.items()
    }


def _fractions(labels: Array, probabilities: Array, threshold: float) -> dict[str, float | None]:
    return {
        "auroc": auroc(labels, probabilities),
        "auprc": auprc(labels, probabilities),
        **_confusion_metrics(labels, (probabilities >= threshold).astype(np.int64)),
        "ece": expected_calibration_error(labels, probabilities),
    }


def _confusion_metrics(labels: Array, called: Array) -> dict[str, float | None]:
    hit = float((called & labels).sum())
    false_alarm = float((called & (1 - labels)).sum())
    miss = float(((1 - called) & labels).sum())
    rest = len(labels) - hit - false_alarm - miss
    spread = (hit + false_alarm) * (hit + miss) * (rest + false_alarm) * (rest + miss)
    return {
        "f1": 2 * hit / (2 * hit + false_alarm + miss) if hit + false_alarm + miss else None,
        # a constant answer has no correlation with anything: 0 by convention (Chicco & Jurman 2020)
        "mcc": (hit * rest - false_alarm * miss) / spread**0.5 if spread else 0.0,
    }


def _macro_f1(labels: Array, called: Array) -> float | None:
    of_good = _confusion_metrics(labels, called)["f1"]
    of_poor = _confusion_metrics(1 - labels, 1 - called)["f1"]
    return None if of_good is None or of_poor is None else (of_good + of_poor) / 2


def _resampler(count: int, subjects: Array | None, generator: np.random.Generator) -> Callable[[], Array]:
    names = np.unique(subjects) if subjects is not None else np.empty(0)
    if names.size < 2:
        return lambda: generator.integers(0, count, count)
    groups = [np.flatnonzero(subjects == name) for name in names]
    return lambda: np.concatenate([groups[row] for row in generator.integers(0, len(groups), len(groups))])
