"""The metrics of binary quality classification, as one collection of torchmetrics and as plain numbers.

torchmetrics leaves four things open that matter here, and this module settles them:

- a probability outside 0..1 makes it take the whole batch for logits: such values are refused instead;
- it calls a window good above the threshold: here it is good *at* or above it, as everywhere in the package;
- AUROC and average precision of a single class are 0 there, MCC of a constant answer is now 1, now nearly 0: here the
  former are undefined (NaN), the latter is 0 (Chicco and Jurman 2020);
- its calibration error has bins of equal width. Most windows crowd near a few probabilities, so that most such bins
  hold next to nothing; ours hold equally many windows (Nixon et al. 2019), which is why ``ece`` is our own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_matthews_corrcoef,
    binary_stat_scores,
)

from butppg_lightning.evaluation.bootstrap import auroc as auroc
from butppg_lightning.evaluation.reliability import (
    calibration_slope,
    debiased_calibration_error,
    expected_calibration_error,
    expected_ece,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """Return the metrics of probabilities ``[N]`` (good from ``threshold`` on) and labels ``[N]`` in {0 poor, 1 good}.

    ``update(probabilities, labels)`` takes the windows of all ranks, each once, from any device: nothing is
    synchronised here, and the collection stays on the CPU, wherever the module goes that holds it (MPS has no float64).
    ``compute()`` returns a float64 scalar for each of :data:`METRICS`, NaN where it is undefined: ``accuracy``,
    ``class_0_acc``, ``class_1_acc``, ``majority_accuracy`` and ``balanced_accuracy`` in percent; ``loss`` (mean
    negative log likelihood, nats); ``auroc``, ``auprc``, ``f1``, ``mcc``, ``macro_f1``, ``brier``, ``ece`` (ten bins
    of equal mass), ``ece_debiased`` and ``ece_if_calibrated`` (the plain ECE that a perfectly calibrated model would
    show with as many windows) as fractions; ``calibration_slope`` and ``calibration_intercept``.
    """

    def counted(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> _Function:
        def of_verdicts(probabilities: Tensor, labels: Tensor) -> Tensor:
            called = (probabilities >= threshold).long()
            hits, alarms, rest, misses, _ = binary_stat_scores(called, labels, validate_args=False).double()
            return function(hits, alarms, rest, misses)  # 0 / 0 is NaN in float64

        return of_verdicts

    functions = {name: counted(function) for name, function in _OF_COUNTS.items()} | _OF_PROBABILITIES
    functions["mcc"] = lambda probabilities, labels: _correlation((probabilities >= threshold).long(), labels)
    metrics: dict[str, Any] = {name: _Kept(functions[name]) for name in METRICS}
    return _StaysPut(metrics, compute_groups=[list(METRICS)])


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


class _Kept(Metric):
    """A function of all probabilities and labels, which are kept as they are; None where it is undefined."""

    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, function: _Function) -> None:
        super().__init__(sync_on_compute=False)
        self.function = function
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        probabilities = preds.detach().cpu().double()
        if bool(((probabilities < 0) | (probabilities > 1)).any()):
            raise ValueError("metrics take probabilities, 0 to 1; logits go through the calibration first")
        self.preds.append(probabilities)
        self.target.append(target.long().cpu())

    def compute(self) -> Tensor:
        found = self.function(torch.cat(list(self.preds)), torch.cat(list(self.target)))
        return torch.as_tensor(math.nan if found is None else found, dtype=torch.float64)


def _correlation(called: Tensor, labels: Tensor) -> Tensor:
    constant = bool(called.min() == called.max()) or bool(labels.min() == labels.max())
    return torch.zeros(()) if constant else _rounded(binary_matthews_corrcoef(called, labels, validate_args=False))


def _ranked(function: Callable[..., Tensor]) -> _Function:
    def of_ranking(probabilities: Tensor, labels: Tensor) -> Tensor | None:
        undefined = bool(labels.min() == labels.max()) or bool(probabilities.isnan().any())
        return None if undefined else _rounded(function(probabilities, labels, validate_args=False))

    return of_ranking


def _rounded(value: Tensor) -> Tensor:
    return value.double().round(decimals=_DECIMALS)


def _negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> Tensor:
    inside = probabilities.clip(_LEAST, 1 - _LEAST)
    return -torch.where(labels == 1, inside.log(), (-inside).log1p()).mean()


@functools.lru_cache(maxsize=1)  # two metrics are of one fit
def _line(probabilities: bytes, labels: bytes) -> tuple[float | None, float | None]:
    return calibration_slope(np.frombuffer(labels, np.int64), np.frombuffer(probabilities, np.float64))


_Function = Callable[[Tensor, Tensor], "Tensor | float | None"]
_OF_COUNTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "accuracy": lambda hits, alarms, rest, misses: 100 * ((hits + rest) / (hits + alarms + rest + misses)),
    "class_0_acc": lambda hits, alarms, rest, misses: 100 * rest / (rest + alarms),
    "class_1_acc": lambda hits, alarms, rest, misses: 100 * (hits / (hits + misses)),
    "majority_accuracy": lambda hits, alarms, rest, misses: (
        100 * torch.maximum(hits + misses, rest + alarms) / (hits + alarms + rest + misses)
    ),
    "f1": lambda hits, alarms, rest, misses: 2 * hits / (2 * hits + alarms + misses),
    "balanced_accuracy": lambda hits, alarms, rest, misses: 50 * (hits / (hits + misses) + rest / (rest + alarms)),
    "macro_f1": lambda hits, alarms, rest, misses: (
        hits / (2 * hits + alarms + misses) + rest / (2 * rest + alarms + misses)
    ),
}
_OF_PROBABILITIES: dict[str, _Function] = {
    "loss": _negative_log_likelihood,
    "auroc": _ranked(binary_auroc),
    "auprc": _ranked(binary_average_precision),
    "brier": lambda probabilities, labels: mean_squared_error(probabilities, labels.double()),
    "ece": lambda probabilities, labels: expected_calibration_error(labels.numpy(), probabilities.numpy()),
    "ece_debiased": lambda probabilities, labels: debiased_calibration_error(labels.numpy(), probabilities.numpy()),
    "ece_if_calibrated": lambda probabilities, _: expected_ece(probabilities.numpy()),
    "calibration_slope": lambda *windows: _line(*(part.numpy().tobytes() for part in windows))[0],
    "calibration_intercept": lambda *windows: _line(*(part.numpy().tobytes() for part in windows))[1],
}
