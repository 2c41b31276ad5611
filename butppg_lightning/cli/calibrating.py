"""What `butppg calibrate` and `butppg fit` share: fitting a calibration and putting it into a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.evaluation.calibration_figures import fit_temperature, roc_points
from butppg_lightning.files import atomic_write
from butppg_lightning.models.calibration import CHECKPOINT_KEY, OPERATING_POINTS, Calibration
from butppg_lightning.models.checkpoints.torch_file import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

FEWEST_WINDOWS, FEWEST_OF_A_CLASS = 50, 10
"""With fewer windows `fit` leaves the model uncalibrated, and `calibrate` warns."""


def fit_calibration(
    labels: Array,
    logits: Array,
    source: str,
    *,
    bias: bool = True,
    precision: float = 0.95,
    sensitivity: float = 0.9,
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


def write_calibration(source: Path, target: Path, calibration: Calibration) -> None:
    """Write the checkpoint ``source`` with a calibration inside to ``target``, atomically; the two may be one.

    Raises:
        UserError: If the one cannot be read or the other not written.
    """
    content: dict[str, Any] = read_checkpoint(source)
    content[CHECKPOINT_KEY] = calibration.state()
    with atomic_write(target) as file:
        torch.save(content, file)


def told(calibration: Calibration) -> str:
    """Return a calibration in one line."""
    cuts = ", ".join(f"{name} {calibration.point(name).threshold:.3f}" for name in OPERATING_POINTS)
    return f"temperature {calibration.temperature:.3g}, bias {calibration.bias:+.3g}; thresholds: {cuts}"
