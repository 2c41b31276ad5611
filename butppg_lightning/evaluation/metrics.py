"""The metrics of binary quality classification, as one collection of torchmetrics and as plain numbers.

torchmetrics leaves four things open that matter here, and this module settles them:

- a probability outside 0..1 makes it take the whole batch for logits: such values are refused instead;
- it calls a window good above the threshold: here it is good *at* or above it, as everywhere in the package;
- AUROC and average precision of a single class are 0 there, MCC of a constant answer is now 1, now nearly 0: here the
  former are undefined (NaN), the latter is 0 (Chicco and Jurman 2020);
- its calibration error has bins of equal width. Most windows crowd near a few probabilities, so that most such bins
  hold next to nothing; ours hold equally many windows (Nixon et al. 2019), which is why ``ece`` is a class of our own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    BinaryStatScores,
)

from butppg_lightning.evaluation.bootstrap import auroc as auroc
from butppg_lightning.evaluation.reliability import (
    calibration_slope,
    debiased_calibration_error,
    expected_calibration_error,
    expected_ece,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from butppg_lightning.npz import Array

METRICS = (
    "loss", "accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "auroc", "auprc", "f1", "mcc", "ece",
    "ece_debiased", "ece_if_calibrated", "balanced_accuracy", "macro_f1", "brier", "calibration_slope",
    "calibration_intercept",
)  # fmt: skip
"""Every metric, in the order in which they are written: the guide's first."""
_PERCENT = ("accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "balanced_accuracy")
_AVERAGES = ("loss", "brier", "ece", "ece_debiased", "ece_if_calibrated")  # defined for any windows
_DECIMALS = 6  # what torchmetrics' float32 holds; beyond, equal rankings would seem to differ
_LEAST = 1e-12


def quality_metrics(threshold: float = 0.5) -> MetricCollection:
    """Return the metrics of probabilities ``[N]`` of good and labels ``[N]`` in {0 poor, 1 good}.

    ``update(probabilities, labels)`` takes the windows of all ranks, each once, from any device: nothing is
    synchronised here, and the collection stays on the CPU, wherever the module goes that holds it (MPS has no float64).
    ``compute()`` returns a float64 scalar for each of :data:`METRICS`, NaN where it is undefined: ``accuracy``,
    ``class_0_acc``, ``class_1_acc``, ``majority_accuracy`` and ``balanced_accuracy`` in percent; ``loss`` (mean
    negative log likelihood, nats); ``auroc``, ``auprc``, ``f1``, ``mcc``, ``macro_f1``, ``brier``, ``ece`` (ten bins
    of equal mass), ``ece_debiased`` and ``ece_if_calibrated`` (the plain ECE that a perfectly calibrated model would
    show with as many windows) as fractions; ``calibration_slope`` and ``calibration_intercept``.

    Args:
        threshold: At or above it a window is called good.
    """
    options: dict[str, Any] = {"sync_on_compute": False, "validate_args": False}
    called = {**options, "threshold": threshold}
    metrics: dict[str, Metric] = {
        "auroc": _AUROC(**options),
        "auprc": _AveragePrecision(**options),
        "f1": _F1(**called, zero_division=math.nan),
        "mcc": _MatthewsCorrelation(**called),
        "brier": _BrierScore(sync_on_compute=False),
        **{name: _Counted(function, **called) for name, function in _OF_COUNTS.items()},
        **{name: _Computed(function, sync_on_compute=False) for name, function in _OF_PROBABILITIES.items()},
    }
    collection = _StaysPut(metrics, compute_groups=False)  # type: ignore[arg-type]
    collection.set_dtype(torch.float64)
    return collection


def compute_metrics(labels: Array, probabilities: Array, threshold: float = 0.5) -> dict[str, float | None]:
    """Return the metrics of :func:`quality_metrics` as numbers, in the order of :data:`METRICS`.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}.
        probabilities: ``[N]`` probability of good.
        threshold: At or above it a window is called good.

    Returns:
        Name to value; None where a single class, or classes that are told apart without error, leave it undefined.
        Probabilities of NaN leave a ``loss`` and the like of NaN.

    Raises:
        ValueError: If a probability lies outside 0..1.
    """
    collection = quality_metrics(threshold)
    collection.update(torch.as_tensor(np.asarray(probabilities)), torch.as_tensor(np.asarray(labels)))
    found = {name: float(value) for name, value in collection.compute().items()}
    return {name: None if math.isnan(found[name]) and name not in _AVERAGES else found[name] for name in METRICS}


def metric_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows of a table of metrics: name, value, and the 95 % interval ``<name>_ci95`` where there is one."""
    rows = []
    for name, value in metrics.items():
        if not name.endswith("_ci95"):
            shown = "undefined" if value is None or math.isnan(value) else f"{value:.4f}"
            interval, digits = metrics.get(f"{name}_ci95"), 3
            if name in _PERCENT:
                shown, digits = shown if shown == "undefined" else f"{value:.2f} %", 1
            rows.append((name, shown, f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else ""))
    return rows


class _StaysPut(MetricCollection):
    def _apply(self, *args: Any, **options: Any) -> _StaysPut:
        return self


class _Verdict(Metric):
    """Before a metric of verdicts: a window is called good at or above the threshold."""

    threshold: float

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update((_checked(preds) >= self.threshold).long(), target.long().cpu())  # type: ignore[safe-super]


class _F1(_Verdict, BinaryF1Score):
    pass


class _MatthewsCorrelation(_Verdict, BinaryMatthewsCorrCoef):
    def compute(self) -> Tensor:
        if not self.confmat.sum(0).all() or not self.confmat.sum(1).all():
            return torch.zeros((), dtype=torch.float64)
        return super().compute().double().round(decimals=_DECIMALS)


class _Counted(_Verdict, BinaryStatScores):
    """A function of good and poor windows called good, and of poor and good ones called poor.

    The counts are float64: 0 / 0 is NaN here, where torchmetrics has 0.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def compute(self) -> Tensor:
        return self.function(*super().compute()[:4])


class _Kept(Metric):
    """Before a metric of probabilities, which are kept as they are: no sigmoid, no rounding."""

    preds: list[Tensor]
    target: list[Tensor]

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(_checked(preds))
        self.target.append(target.long().cpu())

    def kept(self) -> tuple[Array, Array]:
        """Return labels and probabilities, ``[N]`` each."""
        return torch.cat(list(self.target)).numpy(), torch.cat(list(self.preds)).numpy()


class _Ranked(_Kept):
    """A metric that is NaN with a single class, or if a probability is NaN."""

    def compute(self) -> Tensor:
        labels, probabilities = self.kept()
        if len(np.unique(labels)) < 2 or np.isnan(probabilities).any():
            return _scalar(None)
        return super().compute().double().round(decimals=_DECIMALS)  # type: ignore[safe-super, no-any-return]


class _AUROC(_Ranked, BinaryAUROC):  # type: ignore[misc]
    pass


class _AveragePrecision(_Ranked, BinaryAveragePrecision):  # type: ignore[misc]
    pass


class _BrierScore(MeanSquaredError):
    """Mean squared difference of probability and label (Brier 1950)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(_checked(preds), target.double().cpu())


class _Computed(_Kept):
    """A metric that torchmetrics lacks, a function of labels and probabilities; None where it is undefined."""

    full_state_update = False

    def __init__(self, function: Callable[[Array, Array], float | None], **options: Any) -> None:
        super().__init__(**options)
        self.function = function
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        return _scalar(self.function(*self.kept()))


def _negative_log_likelihood(labels: Array, probabilities: Array) -> float:
    inside = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return float(-np.where(labels == 1, np.log(inside), np.log1p(-inside)).mean())


_OF_COUNTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "accuracy": lambda hits, alarms, rest, misses: 100 * (hits + rest) / (hits + alarms + rest + misses),
    "class_0_acc": lambda hits, alarms, rest, misses: 100 * rest / (rest + alarms),
    "class_1_acc": lambda hits, alarms, rest, misses: 100 * hits / (hits + misses),
    "majority_accuracy": lambda hits, alarms, rest, misses: (
        100 * torch.maximum(hits + misses, rest + alarms) / (hits + alarms + rest + misses)
    ),
    "balanced_accuracy": lambda hits, alarms, rest, misses: 50 * (hits / (hits + misses) + rest / (rest + alarms)),
    "macro_f1": lambda hits, alarms, rest, misses: (
        hits / (2 * hits + alarms + misses) + rest / (2 * rest + alarms + misses)
    ),
}
_OF_PROBABILITIES: dict[str, Callable[[Array, Array], float | None]] = {
    "loss": _negative_log_likelihood,
    "ece": expected_calibration_error,
    "ece_debiased": debiased_calibration_error,
    "ece_if_calibrated": lambda _, probabilities: expected_ece(probabilities),
    "calibration_slope": lambda labels, probabilities: calibration_slope(labels, probabilities)[0],
    "calibration_intercept": lambda labels, probabilities: calibration_slope(labels, probabilities)[1],
}


def _checked(probabilities: Tensor) -> Tensor:
    found = probabilities.detach().cpu().double()
    if bool(((found < 0) | (found > 1)).any()):
        raise ValueError("metrics take probabilities, 0 to 1; logits go through the calibration first")
    return found


def _scalar(value: float | None) -> Tensor:
    return torch.tensor(math.nan if value is None else value, dtype=torch.float64)
