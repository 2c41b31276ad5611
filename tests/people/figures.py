"""From predictions to figures: within people and over all, before and after calibration, with what seeds change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn import metrics

from butppg_lightning.errors import UserError
from butppg_lightning.evaluation.calibration import fit_temperature, roc_points
from butppg_lightning.evaluation.reliability import (
    calibration_slope,
    debiased_calibration_error,
    expected_calibration_error,
    expected_ece,
)
from people.comparison import auroc, interval, mean, sign_flip_test, spread, within_subject_auroc
from people.held import Held

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from people.study import Study


def primary(held: Held) -> dict[str, Any]:
    """Return AUROC within subjects and pooled, as means over the seeds and their standard deviations.

    Returns:
        ``within`` (subject to mean over seeds), ``within_mean``, ``within_sd``, ``within_ci95`` over the subjects,
        ``pooled_auroc``, ``pooled_sd``; ``seeds`` has the mean of each. None where undefined.
    """
    own = held.scores if held.within is None else held.within
    by_seed = [within_subject_auroc(held.labels, scores, held.subjects) for scores in own]
    within = {name: mean(found[name] for found, _ in by_seed) for name in by_seed[0][0]}
    means, pooled = [found for _, found in by_seed], [auroc(held.labels, scores) for scores in held.scores]
    return {
        "within": within,
        "within_mean": mean(means),
        "within_sd": spread(means),
        "within_ci95": interval([value for value in within.values() if value is not None]),
        "pooled_auroc": mean(pooled),
        "pooled_sd": spread(pooled),
        "seeds": {"within_mean": means, "pooled_auroc": pooled},
    }


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the per-subject differences of ``one`` less ``other`` say; None if no subject has both figures."""
    pairs = {name: (value, other["within"].get(name)) for name, value in one["within"].items()}
    differences = {name: first - second for name, (first, second) in pairs.items() if None not in (first, second)}
    return {"differences": differences, **asdict(sign_flip_test([*differences.values()]))} if differences else None


@dataclass(eq=False)
class Calibrated:
    """Probabilities of held-out windows, calibrated on the predictions for the people of the other folds.

    Attributes:
        probabilities: ``[S, N]`` in 0..1.
        called: ``[S, N]`` bool: at or above the threshold of the other folds' largest balanced accuracy.
        failed: Why it was not possible, or empty.
    """

    probabilities: Array
    called: Array
    failed: str = ""


def calibrate(held: Held) -> Calibrated:
    """Calibrate each fold on the others, for every seed."""
    logits = held.logits
    probabilities, called = np.full(logits.shape, np.nan), np.zeros(logits.shape, dtype=bool)
    for seed, values in enumerate(logits):
        for fold in np.unique(held.folds):
            inside = held.folds == fold
            labels, others = held.labels[~inside], values[~inside]
            try:
                temperature, bias = fit_temperature(labels, others)
            except UserError as error:
                return Calibrated(probabilities, called, str(error))
            thresholds, kept, alarms = roc_points(labels, others)
            probabilities[seed, inside] = expit(values[inside] / temperature + bias)
            called[seed, inside] = values[inside] >= thresholds[np.argmax(kept - alarms)]
    return Calibrated(probabilities, called)


def secondary(held: Held, calibrated: Calibrated) -> dict[str, Any]:
    """Return figures of calibrated probabilities and of the verdicts, as means over the seeds; None where undefined."""
    if calibrated.failed:
        return {"not_calibrated": calibrated.failed}
    pairs = zip(calibrated.probabilities, calibrated.called, strict=True)
    found = pd.DataFrame([_of_probabilities(held.labels, *pair) for pair in pairs])
    # ranked before calibration: each fold's own temperature would mix up the order between folds
    ranked = np.mean([metrics.average_precision_score(held.labels, scores) for scores in held.scores])
    return {"auprc": float(ranked)} | {key: mean(values.dropna()) for key, values in found.items()}


def _of_probabilities(labels: Array, probabilities: Array, called: Array) -> dict[str, float | None]:
    slope, intercept = calibration_slope(labels, probabilities)
    return {
        "balanced_accuracy": 100 * metrics.balanced_accuracy_score(labels, called),
        "macro_f1": metrics.f1_score(labels, called, average="macro"),
        "mcc": metrics.matthews_corrcoef(labels, called),
        "brier": metrics.brier_score_loss(labels, probabilities),
        "loss": metrics.log_loss(labels, probabilities),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "ece": expected_calibration_error(labels, probabilities),
        "ece_debiased": debiased_calibration_error(labels, probabilities),
        "ece_if_calibrated": expected_ece(probabilities),
        "accuracy": 100 * metrics.accuracy_score(labels, called),
        "majority_accuracy": 100 * max(labels.mean(), 1 - labels.mean()),
    }


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


def out_of_fold(held: Held) -> pd.DataFrame:
    """Return a network's predictions for everybody, all seeds, as `butppg calibrate --predictions` takes them."""
    seeds, count = held.scores.shape
    columns = {"subject": np.tile(held.subjects, seeds), "label": np.tile(held.labels, seeds)}
    return pd.DataFrame({"seed": np.repeat(range(seeds), count), **columns, "logit": held.scores.ravel()})


def describe(
    held: Mapping[str, Held], reference: str, calibrated: Mapping[str, Calibrated] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the figures of each method: of the main comparison, or of an ablation's rows if nothing is calibrated."""
    best, described = primary(held[reference]), {}
    for name, each in held.items():
        found = best if name == reference else primary(each)
        described[name] = {**asdict(each.method), "title": each.title, "kind": each.method.kind, **found}
        described[name]["chosen"] = each.chosen
        if calibrated is None:
            described[name]["this_less_reference"] = None if name == reference else compare(found, best)
        else:  # "better" says that the reference is
            described[name]["reference_less_this"] = None if name == reference else compare(best, found)
            described[name] |= secondary(each, calibrated[name])
    return described


def describe_external(held: Mapping[str, Held]) -> dict[str, Any]:
    """Return the AUROC on the external windows, by method."""
    described = {}
    for name, each in held.items():
        values = [auroc(each.labels, row) for row in each.scores]
        described[name] = {"title": each.title, "auroc": mean(values), "auroc_sd": spread(values), "seeds": values}
    first = next(iter(held.values()))
    counts = {"windows": len(first.labels), "good": int(first.labels.sum()), "subjects": len(np.unique(first.subjects))}
    return {**counts, "methods": described}


def protocol(study: Study) -> dict[str, Any]:
    """Return what was done, on which data."""
    labels, subjects = np.asarray(study.windows.labels), np.asarray(study.windows.subjects)
    names = np.unique(subjects).tolist()
    return {
        "windows": {"count": len(labels), "good": int(labels.sum()), "file": study.data.windows.name},
        "subjects": {name: int((subjects == name).sum()) for name in names},
        "good_by_subject": {name: int(labels[subjects == name].sum()) for name in names},
        "folds": [list(fold.test) for fold in study.folds],
        "seeds": study.seeds,
        "self_supervision": "unlabelled windows" if study.data.unlabelled else "the labelled windows, without labels,",
        "digests": study.digests,
    }
