"""Fitting a calibration: temperature, bias and operating points, on predictions of windows that were not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write
from butppg_lightning.models.calibration import CHECKPOINT_KEY, OPERATING_POINTS, Calibration
from butppg_lightning.models.checkpoints import (
    LICENCE,
    ORIGIN_KEYS,
    network_from,
    read_checkpoint,
    read_portable,
    write_portable,
)
from butppg_lightning.shipped import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

FEWEST_WINDOWS, FEWEST_OF_A_CLASS = 50, 10
"""With fewer windows `fit` leaves the model uncalibrated, and `calibrate` warns."""
_STEPS = 100  # Newton needs about ten


def fit_calibration(
    labels: Array, logits: Array, source: str, *, bias: bool = True, precision: float = 0.95, sensitivity: float = 0.9
) -> Calibration:
    """Fit temperature, bias and operating points on predictions of windows that were not trained on.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}, both present.
        logits: ``[N]`` of the uncalibrated network.
        source: What the predictions are, for the record.
        bias: Whether to fit a bias beside the temperature.
        precision: What the operating point ``precision`` asks for, 0..1 exclusive.
        sensitivity: What the operating point ``sensitivity`` asks for, 0..1 exclusive.

    Raises:
        UserError: If the predictions cannot be calibrated; see :func:`fit_temperature`.
    """
    temperature, offset = fit_temperature(labels, logits, bias=bias)
    cuts, kept, alarms = roc_points(labels, logits)
    thresholds = np.exp(-np.logaddexp(0, -(cuts / temperature + offset)))
    curve = {"threshold": thresholds.tolist(), "sensitivity": kept.tolist(), "false_positive_rate": alarms.tolist()}
    return Calibration(temperature, offset, float(np.mean(labels)), curve, source, precision, sensitivity)


def too_few(labels: Array) -> str:
    """Return in words why labels are too few to calibrate on, or nothing if they are not."""
    good = int(np.sum(labels))
    poor = len(labels) - good
    if len(labels) >= FEWEST_WINDOWS and min(good, poor) >= FEWEST_OF_A_CLASS:
        return ""
    return f"{len(labels)} windows ({good} good, {poor} poor); {FEWEST_WINDOWS} with {FEWEST_OF_A_CLASS} of each needed"


def counted(labels: Array) -> str:
    """Return in words how many windows there are, and how many of them are good."""
    return f"{len(labels)} windows ({int(np.sum(labels))} good)"


def write_calibration(source: Path, target: Path, calibration: Calibration) -> None:
    """Write ``source`` with a calibration inside to ``target``, atomically; the two may be one.

    Both are checkpoints, or both exported models, of which the JSON stands beside the weights.
    """
    if source.suffix == SUFFIX:
        content = read_portable(source)
        network, options = network_from(source, content)
        network.calibration = calibration
        # metrics on test windows are those of the earlier thresholds
        record = {key: content[key] for key in ORIGIN_KEYS if key in content and key != "test_metrics"}
        licence = str(content.get("licence", LICENCE))
        write_portable(target, target.with_suffix(".json"), network, options, licence=licence, record=record)
        return
    content = read_checkpoint(source)
    content[CHECKPOINT_KEY] = calibration.state()
    with atomic_write(target) as file:
        torch.save(content, file)


def describe(calibration: Calibration) -> str:
    """Return a calibration in one line."""
    cuts = ", ".join(f"{name} {calibration.point(name).threshold:.3f}" for name in OPERATING_POINTS)
    return f"temperature {calibration.temperature:.3g}, bias {calibration.bias:+.3g}; thresholds: {cuts}"


def fit_temperature(labels: Array, logits: Array, *, bias: bool = True) -> tuple[float, float]:
    """Fit ``sigmoid(logit / temperature + bias)`` by maximum likelihood.

    With a bias this is Platt's scaling (Platt 1999, in the robust form of Lin, Lin and Weng 2007), without one the
    temperature scaling of Guo et al. 2017. The targets are Platt's, ``(n1 + 1) / (n1 + 2)`` and ``1 / (n0 + 2)``
    rather than 1 and 0, so that predictions which separate the classes do not drive the temperature to 0.

    ``labels [N]`` are 0 poor or 1 good. Returns temperature (above 0) and bias (0 if none was asked for); a UserError
    says if a class is missing, the logits ``[N]`` are all the same or not finite, or good windows rank below poor ones.
    """
    labels, logits = np.asarray(labels).astype(np.int64), np.asarray(logits, dtype=np.float64)
    good = int(labels.sum())
    poor = len(labels) - good
    if not good or not poor:
        raise UserError(f"a calibration needs windows of both classes; there are {good} good and {poor} poor")
    if not np.isfinite(logits).all() or np.ptp(logits) == 0:
        raise UserError("the model's logits are all the same, or not finite: there is nothing to calibrate")
    targets = np.where(labels == 1, (good + 1) / (good + 2), 1 / (poor + 2))
    columns = np.stack([logits, np.ones_like(logits)], axis=1)[:, : 2 if bias else 1]
    slope, *offset = fit_logistic(columns, targets)
    if slope <= 0:
        raise UserError(
            "the model ranks good windows below poor ones here, which no temperature mends; check labels and channels"
        )
    return float(1 / slope), float(offset[0]) if offset else 0.0


def roc_points(labels: Array, logits: Array, most: int = 200) -> tuple[Array, Array, Array]:
    """Return the points of a ROC curve that are worth choosing from.

    Only its upper left corners are kept (no other point has both fewer false alarms and more hits), and the end at
    which everything is called good. Thresholds lie half-way between neighbouring logits, so that rounding elsewhere
    does not move a window across.

    Returns thresholds on the logit (falling, the last one is -inf), sensitivities and false-positive rates (rising), of
    ``labels [N]`` in {0, 1}, both present; more points than ``most`` are thinned evenly along the curve.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    values, inverse = np.unique(-logits, return_inverse=True)
    hits = np.bincount(inverse, weights=labels)
    alarms = np.bincount(inverse, weights=1 - labels)
    thresholds = np.r_[-(values[:-1] + values[1:]) / 2, -np.inf]
    corner = (hits > 0) & np.r_[alarms[1:] > 0, True]
    corner[-1] = True
    sensitivity, rate = np.cumsum(hits)[corner] / hits.sum(), np.cumsum(alarms)[corner] / alarms.sum()
    thresholds = thresholds[corner]
    if len(thresholds) > most:
        along = sensitivity + rate
        rows = np.unique(np.searchsorted(along, np.linspace(along[0], along[-1], most)).clip(0, len(along) - 1))
        return thresholds[rows], sensitivity[rows], rate[rows]
    return thresholds, sensitivity, rate


def fit_logistic(columns: Array, targets: Array, offset: Array | float = 0.0) -> Array:
    """Return the weights of a logistic regression: Newton's steps, halved until the likelihood grows."""
    scale = np.abs(columns).max(axis=0)
    scaled = columns / scale
    weights: Array = np.zeros(columns.shape[1])

    def loss(tried: Array) -> float:
        return float((np.logaddexp(0, scaled @ tried + offset) - targets * (scaled @ tried + offset)).sum())

    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(scaled @ weights + offset, -700, 700)))
        gradient = scaled.T @ (chances - targets)
        curvature = (scaled * (chances * (1 - chances))[:, None]).T @ scaled
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(weights)), gradient)
        size, before = 1.0, loss(weights)
        # the loss is known to some digits only: near its minimum it cannot tell whether a step is one too many
        near = float(gradient @ step) < 1e-13 * (1 + before)
        while not near and size > 1e-10 and loss(weights - size * step) > before:
            size /= 2
        weights = weights - size * step
        if near or size <= 1e-10:
            break
    found: Array = weights / scale
    return found
