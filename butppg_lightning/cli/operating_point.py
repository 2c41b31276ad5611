"""From which probability on `score` and `evaluate` call a window good: the options they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from butppg_lightning.models.calibration import Calibration


def check_threshold(operating_point: str | None, prior: float | None, threshold: float | None) -> None:
    """Refuse options that are impossible or contradict each other with a UserError."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--threshold is {threshold:g}; expected 0 to 1")
    if threshold is not None and operating_point is not None:
        raise UserError("--threshold and --operating_point both say where to cut; give one")
    if prior is not None and not 0 < prior < 1:
        raise UserError(f"--prior is {prior:g}; expected the share of good windows, between 0 and 1")


def decide_threshold(
    calibration: Calibration, operating_point: str | None, prior: float | None, threshold: float | None
) -> tuple[float, str, str]:
    """Decide from which probability on a window is good: the user's, else the checkpoint's, else the default.

    Returns it, in words where it is from, and what its operating point cannot keep (else empty); refuses a prior or
    an operating point where the checkpoint is not calibrated.
    """
    point = None
    if operating_point is not None or prior is not None or calibration.curve is not None:
        point = calibration.point(operating_point or "balanced", prior)
    if threshold is not None:
        return threshold, "--threshold", ""
    if point is None:
        return calibration.threshold(), "default: the checkpoint is not calibrated", ""
    return point.threshold, f"operating point '{point.name}' of the checkpoint", point.remark
