"""From which probability on `score` and `evaluate` call a window good: the options they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from butppg_lightning.models.calibration import Calibration


@dataclass(frozen=True)
class Decision:
    """Where probabilities are cut.

    Args:
        operating_point: Which of a calibrated checkpoint's thresholds decides (default balanced; 0.5 if it is not
            calibrated).
        prior: Share of good windows to expect, 0 to 1: shifts a calibrated model's probabilities.
        threshold: From this probability on a window is good, in place of an operating point.

    Raises:
        UserError: If one is impossible, or two contradict each other.
    """

    operating_point: Literal["balanced", "precision", "sensitivity"] | None = None
    prior: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"--threshold is {self.threshold:g}; expected 0 to 1")
        if self.threshold is not None and self.operating_point is not None:
            raise UserError("--threshold and --operating_point both say where to cut; give one")
        if self.prior is not None and not 0 < self.prior < 1:
            raise UserError(f"--prior is {self.prior:g}; expected the share of good windows, between 0 and 1")

    def made_with(self, calibration: Calibration) -> tuple[float, str, str]:
        """Decide from which probability on a window is good: the user's, else the checkpoint's, else the default.

        Returns it, in words where it is from, and what its operating point cannot keep (else empty); refuses a prior
        or an operating point where the checkpoint is not calibrated.
        """
        point = None
        if self.operating_point is not None or self.prior is not None or calibration.curve is not None:
            point = calibration.point(self.operating_point or "balanced", self.prior)
        if self.threshold is not None:
            return self.threshold, "--threshold", ""
        if point is None:
            return calibration.threshold(), "default: the checkpoint is not calibrated", ""
        return point.threshold, f"operating point '{point.name}' of the checkpoint", point.remark
