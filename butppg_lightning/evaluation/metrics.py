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
    BinaryAccuracy,
    BinaryAUROC,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    BinaryRecall,
    BinaryStatScores,
)

from butppg_lightning.evaluation.ranking import auprc as auprc
from butppg_lightning.evaluation.ranking import auroc as auroc
from butppg_lightning.evaluation.reliability import (
    calibration_slope,
    debiased_calibration_error,
    expected_calibration_error,
    expected_ece,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from butppg_lightning.npz import Array

PERCENT = ("accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "balanced_accuracy")
"""Metrics in percent, as the guide has them; the others are fractions, nats (``loss``) or numbers about 1 and 0."""
METRICS = (
    "loss", "accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "auroc", "auprc", "f1", "mcc", "ece",
    "ece_debiased", "ece_if_calibrated", "balanced_accuracy", "macro_f1", "brier", "calibration_slope",
    "calibration_intercept",
)  # fmt: skip
"""Every metric, in the order in which they are written: the guide's first."""
_AVERAGES = ("loss", "brier", "ece", "ece_debiased", "ece_if_calibrated")  # defined for any windows
_DECIMALS = 6  # what torchmetrics' float32 holds; beyond, equal rankings would seem to differ
_LEAST = 1e-12
_GROUPS = [
    ["brier"],
    ["mcc"],
    ["accuracy", "class_0_acc", "class_1_acc", "majority_accuracy", "f1", "balanced_accuracy", "macro_f1"],
    [
        "auroc", "auprc", "loss", "ece", "ece_debiased", "ece_if_calibrated", "calibration_slope",
        "calibration_intercept",
    ],
]  # fmt: skip
"""Metrics that share what they count or keep."""


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
    plain = {"sync_on_compute": False}
    metrics: dict[str, Metric] = {
        "loss": Computed(negative_log_likelihood, **plain),
        "accuracy": Accuracy(**called),
        "class_0_acc": Counted(_poor_accuracy, **called),
        "class_1_acc": GoodAccuracy(**called, zero_division=math.nan),
        "majority_accuracy": Counted(_majority_accuracy, **called),
        "auroc": AUROC(**options),
        "auprc": AveragePrecision(**options),
        "f1": F1(**called, zero_division=math.nan),
        "mcc": MatthewsCorrelation(**called),
        "ece": Computed(expected_calibration_error, **plain),
        "ece_debiased": Computed(debiased_calibration_error, **plain),
        "ece_if_calibrated": Computed(_error_if_calibrated, **plain),
        "balanced_accuracy": Counted(_balanced_accuracy, **called),
        "macro_f1": Counted(_macro_f1, **called),
        "brier": BrierScore(**plain),
        "calibration_slope": Computed(_slope, **plain),
        "calibration_intercept": Computed(_intercept, **plain),
    }
    collection = _StaysPut(metrics, compute_groups=_GROUPS)  # type: ignore[arg-type]
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
            if name in PERCENT:
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
        """Count verdicts of probabilities and labels, ``[N]`` each."""
        super().update((_checked(preds) >= self.threshold).long(), target.long().cpu())  # type: ignore[safe-super]


class _Percent(_Verdict):
    def compute(self) -> Tensor:
        """Return the share in percent."""
        return 100 * super().compute()  # type: ignore[safe-super, no-any-return]


class Accuracy(_Percent, BinaryAccuracy):
    """Windows called right, in percent."""


class GoodAccuracy(_Percent, BinaryRecall):
    """Good windows called good, in percent."""


class F1(_Verdict, BinaryF1Score):
    """F1 of the good windows."""


class MatthewsCorrelation(_Verdict, BinaryMatthewsCorrCoef):
    """Matthews' correlation of verdicts and labels; 0 where either of them is constant."""

    def compute(self) -> Tensor:
        """Return the correlation."""
        if not self.confmat.sum(0).all() or not self.confmat.sum(1).all():
            return torch.zeros((), dtype=torch.float64)
        return super().compute().double().round(decimals=_DECIMALS)


class Counted(_Verdict, BinaryStatScores):
    """A function of good and poor windows called good, and of poor and good ones called poor.

    Args:
        function: Of the four counts, float64; 0 / 0 is NaN here, where torchmetrics has 0.
        options: Of BinaryStatScores.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def compute(self) -> Tensor:
        """Return the metric."""
        hits, alarms, rest, misses, _ = super().compute()
        return self.function(hits, alarms, rest, misses)


class _Kept(Metric):
    """Before a metric of probabilities, which are kept as they are: no sigmoid, no rounding."""

    preds: list[Tensor]
    target: list[Tensor]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Keep probabilities and labels, ``[N]`` each."""
        self.preds.append(_checked(preds))
        self.target.append(target.long().cpu())

    def kept(self) -> tuple[Array, Array]:
        """Return labels and probabilities, ``[N]`` each."""
        return torch.cat(list(self.target)).numpy(), torch.cat(list(self.preds)).numpy()


class _Ranked(_Kept):
    def compute(self) -> Tensor:
        """Return the area; NaN with a single class, or if a probability is NaN."""
        labels, probabilities = self.kept()
        if len(np.unique(labels)) < 2 or np.isnan(probabilities).any():
            return _undefined()
        return super().compute().double().round(decimals=_DECIMALS)  # type: ignore[safe-super, no-any-return]


class AUROC(_Ranked, BinaryAUROC):  # type: ignore[misc]
    """Area under the ROC curve, ties counted half."""


class AveragePrecision(_Ranked, BinaryAveragePrecision):  # type: ignore[misc]
    """Step-wise area under the precision-recall curve."""


class BrierScore(MeanSquaredError):
    """Mean squared difference of probability and label (Brier 1950)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add probabilities and labels, ``[N]`` each."""
        super().update(_checked(preds), target.double().cpu())


class Computed(_Kept):
    """A metric that torchmetrics lacks, from all labels and probabilities.

    Args:
        function: Of labels and probabilities, ``[N]`` each; None where it is undefined.
        options: Of Metric.
    """

    full_state_update = False

    def __init__(self, function: Callable[[Array, Array], float | None], **options: Any) -> None:
        super().__init__(**options)
        self.function = function
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """Return the metric."""
        found = self.function(*self.kept())
        return _undefined() if found is None else torch.tensor(found, dtype=torch.float64)


def negative_log_likelihood(labels: Array, probabilities: Array) -> float:
    """Return the mean negative log likelihood of the labels, in nats."""
    inside = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return float(-np.where(labels == 1, np.log(inside), np.log1p(-inside)).mean())


def _poor_accuracy(hits: Tensor, alarms: Tensor, rest: Tensor, misses: Tensor) -> Tensor:
    return 100 * rest / (rest + alarms)


def _balanced_accuracy(hits: Tensor, alarms: Tensor, rest: Tensor, misses: Tensor) -> Tensor:
    return 50 * (hits / (hits + misses) + rest / (rest + alarms))


def _majority_accuracy(hits: Tensor, alarms: Tensor, rest: Tensor, misses: Tensor) -> Tensor:
    return 100 * torch.maximum(hits + misses, rest + alarms) / (hits + misses + rest + alarms)


def _macro_f1(hits: Tensor, alarms: Tensor, rest: Tensor, misses: Tensor) -> Tensor:
    return hits / (2 * hits + alarms + misses) + rest / (2 * rest + alarms + misses)


def _error_if_calibrated(labels: Array, probabilities: Array) -> float:
    return expected_ece(probabilities)


def _slope(labels: Array, probabilities: Array) -> float | None:
    return calibration_slope(labels, probabilities)[0]


def _intercept(labels: Array, probabilities: Array) -> float | None:
    return calibration_slope(labels, probabilities)[1]


def _checked(probabilities: Tensor) -> Tensor:
    found = probabilities.detach().cpu().double()
    if bool(((found < 0) | (found > 1)).any()):
        raise ValueError("metrics take probabilities, 0 to 1; logits go through the calibration first")
    return found


def _undefined() -> Tensor:
    return torch.full((), math.nan, dtype=torch.float64)
