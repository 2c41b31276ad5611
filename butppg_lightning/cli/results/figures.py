"""The figures of a comparison: within people and over all, before and after calibration, with what seeds change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.bootstrap import bootstrap_mean
from butppg_lightning.evaluation.calibration import fit_calibration
from butppg_lightning.evaluation.comparison import (
    paired_differences,
    sign_flip_test,
)
from butppg_lightning.evaluation.metrics import compute_metrics
from butppg_lightning.evaluation.ranking import auprc, auroc, within_subject_auroc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.cli.results.definition import Method
    from butppg_lightning.npz import Array

SECONDARY = (
    "auprc", "balanced_accuracy", "macro_f1", "mcc", "brier", "loss", "calibration_slope", "calibration_intercept",
    "ece", "ece_debiased", "ece_if_calibrated", "accuracy", "majority_accuracy",
)  # fmt: skip
"""What is told of calibrated probabilities and of the verdicts at the balanced threshold."""
_CUT = ("accuracy", "majority_accuracy", "balanced_accuracy", "macro_f1", "mcc")
_SPREADS = 10.0  # interquartile ranges from the median, beyond which a rival's score is one that means "cannot tell"
_NEAREST = 1e-3  # to 0 and 1 of a rival's probabilities: a forest's votes


@dataclass(eq=False)
class Held:
    """What a method says of windows whose people it was not trained on.

    Attributes:
        method: The method.
        labels: ``[N]`` in {0 poor, 1 good}.
        subjects: ``[N]`` names.
        scores: ``[S, N]``, one row per seed, higher for good: logits of networks.
        folds: ``[N]`` number of the fold in which a window was held out.
        within: ``[S, N]`` what ranks a person's windows among themselves; None for ``scores``.
    """

    method: Method
    labels: Array
    subjects: Array
    scores: Array
    folds: Array
    within: Array | None = None

    @property
    def logits(self) -> Array:
        """``[S, N]`` what is calibrated: logits as they are, other scores without what lies far outside."""
        if self.method.kind in ("network", "ensemble"):
            return self.scores
        if self.scores.min() >= 0 and self.scores.max() <= 1:
            inside = np.clip(self.scores, _NEAREST, 1 - _NEAREST)
            return np.asarray(np.log(inside) - np.log1p(-inside))
        low, middle, high = np.percentile(self.scores, [25, 50, 75])
        return np.asarray(np.clip(self.scores, middle - _SPREADS * (high - low), middle + _SPREADS * (high - low)))


def combine(method: Method, found: Mapping[str, Held]) -> Held:
    """Return what a combination of methods says.

    Ranks are taken within each person's windows, and for what is pooled over people among all windows.

    Args:
        method: An ``ensemble`` or a ``rank_mean``.
        found: Its members by name, over the same windows.
    """
    from butppg_lightning.evaluation.baselines import rank_mean

    first = found[method.members[0]]
    if method.kind == "ensemble":
        scores = first.scores.mean(axis=0, keepdims=True)
        return Held(method, first.labels, first.subjects, scores, first.folds)
    members = [found[name].scores for name in method.members]
    seeds = max(len(scores) for scores in members)
    everyone, within = np.empty((2, seeds, len(first.labels)))
    for seed in range(seeds):
        scores = [each[seed % len(each)] for each in members]
        everyone[seed] = rank_mean(scores)
        for name in np.unique(first.subjects):
            rows = np.flatnonzero(first.subjects == name)
            within[seed, rows] = rank_mean([each[rows] for each in scores])
    return Held(method, first.labels, first.subjects, everyone, first.folds, within)


def primary(held: Held) -> dict[str, Any]:
    """Return AUROC within subjects and pooled, as means over the seeds and their standard deviations.

    Returns:
        ``within`` (subject to mean over seeds), ``within_mean``, ``within_sd``, ``within_ci95`` over the subjects,
        ``pooled_auroc``, ``pooled_sd``; ``seeds`` has the mean of each. None where undefined.
    """
    own = held.scores if held.within is None else held.within
    by_seed = [within_subject_auroc(held.labels, scores, held.subjects) for scores in own]
    names = list(by_seed[0][0])
    within = {name: _mean([found[name] for found, _ in by_seed]) for name in names}
    known = [value for value in within.values() if value is not None]
    pooled = [auroc(held.labels, scores) for scores in held.scores]
    return {
        "within": within,
        "within_mean": _mean([mean for _, mean in by_seed]),
        "within_sd": _spread([mean for _, mean in by_seed]),
        "within_ci95": list(bootstrap_mean(known)) if known else None,
        "pooled_auroc": _mean(pooled),
        "pooled_sd": _spread(pooled),
        "seeds": {"within_mean": [mean for _, mean in by_seed], "pooled_auroc": pooled},
    }


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the per-subject differences of ``one`` less ``other`` say; None if no subject has both figures."""
    differences = paired_differences(one["within"], other["within"])
    if not differences:
        return None
    return {"differences": differences, **asdict(sign_flip_test(list(differences.values())))}


@dataclass(eq=False)
class Calibrated:
    """Probabilities of held-out windows, calibrated on the predictions for the people of the other folds.

    Attributes:
        probabilities: ``[S, N]`` in 0..1.
        called: ``[S, N]`` bool: at or above the other folds' balanced threshold.
        failed: Why it was not possible, or empty.
    """

    probabilities: Array
    called: Array
    failed: str = ""


def calibrate(held: Held) -> Calibrated:
    """Calibrate each fold on the others, for every seed."""
    import torch

    logits = held.logits
    probabilities, called = np.full(logits.shape, np.nan), np.zeros(logits.shape, dtype=bool)
    for seed, values in enumerate(logits):
        for fold in np.unique(held.folds):
            inside = held.folds == fold
            try:
                fitted = fit_calibration(held.labels[~inside], values[~inside], "the other folds")
            except UserError as error:
                return Calibrated(probabilities, called, str(error))
            found = fitted.probabilities(torch.from_numpy(values[inside])).double().numpy()
            probabilities[seed, inside] = found
            called[seed, inside] = found >= fitted.threshold()
    return Calibrated(probabilities, called)


def secondary(held: Held, calibrated: Calibrated) -> dict[str, Any]:
    """Return the figures of :data:`SECONDARY`, as means over the seeds; None where undefined."""
    if calibrated.failed:
        return {**dict.fromkeys(SECONDARY), "not_calibrated": calibrated.failed}
    found = []
    for probabilities, called in zip(calibrated.probabilities, calibrated.called, strict=True):
        figures = compute_metrics(held.labels, probabilities)
        # each fold has a threshold of its own, so the verdicts stand in for the probabilities
        verdicts = compute_metrics(held.labels, called.astype(np.float64))
        found.append(figures | {key: verdicts[key] for key in _CUT})
    means = {key: _mean([figures[key] for figures in found]) for key in SECONDARY}
    # ranked before calibration: each fold's own temperature would mix up the order between folds
    return means | {"auprc": _mean([auprc(held.labels, scores) for scores in held.scores])}


def risk_coverage(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    """Return the share of wrong verdicts among the surest windows, for every share of windows kept.

    Args:
        labels: ``[N]`` in {0, 1}.
        probabilities: ``[N]`` of good; from 0.5 on a window is called good, and the farther from it the surer.

    Returns:
        Coverage ``[N]`` in 0..1, rising, and risk ``[N]`` in 0..1 (Geifman and El-Yaniv 2017).
    """
    order = np.argsort(-np.abs(probabilities - 0.5), kind="stable")
    wrong = (probabilities >= 0.5)[order] != (labels == 1)[order]
    count = np.arange(1, len(labels) + 1)
    return count / len(labels), np.cumsum(wrong) / count


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
