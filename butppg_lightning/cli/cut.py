"""Where `score` and `evaluate` cut probabilities: the options they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from butppg_lightning.models.calibration import Calibration


def check_cut(options: Any) -> None:
    """Check ``threshold``, ``operating_point``, ``prior`` and ``batch_size``.

    Raises:
        UserError: If one is impossible, or two contradict each other.
    """
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is {options.threshold:g}; expected 0 to 1")
    if options.threshold is not None and options.operating_point is not None:
        raise UserError("--threshold and --operating_point both say where to cut; give one")
    if options.prior is not None and not 0 < options.prior < 1:
        raise UserError(f"--prior is {options.prior:g}; expected the share of good windows, between 0 and 1")
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}; expected 1 or more")


def threshold(options: Any, calibration: Calibration, notes: list[str]) -> tuple[float, str]:
    """Decide from which probability on a window is good: the user's, else the checkpoint's, else the default.

    Args:
        options: The parsed options ``threshold``, ``operating_point`` and ``prior``.
        calibration: The checkpoint's.
        notes: What the operating point cannot keep is appended.

    Returns:
        The threshold, and in words where it is from.

    Raises:
        UserError: If the checkpoint is not calibrated, but a prior or an operating point is asked for.
    """
    asked = options.operating_point is not None or options.prior is not None
    point = None
    if asked or calibration.curve is not None:
        point = calibration.point(options.operating_point or "balanced", options.prior)
    if options.threshold is not None:
        return options.threshold, "--threshold"
    if point is None:
        return calibration.threshold(), "default: the checkpoint is not calibrated"
    if point.remark:
        notes.append(point.remark)
    return point.threshold, f"operating point '{point.name}' of the checkpoint"
