"""What several commands check before they begin, and from which probability on they call a window good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from butppg_lightning.console import say
from butppg_lightning.errors import UserError
from butppg_lightning.shipped import SHIPPED, locate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from butppg_lightning.models.calibration import Calibration
    from butppg_lightning.models.network import QualityNetwork

DEFAULT_CHECKPOINT = Path(SHIPPED)
"""What commands take that are not given one."""


def require_checkpoint(path: Path) -> Path:
    """Return the file that a checkpoint's name stands for; refuse one that is not there with a UserError."""
    found = locate(path)
    if not found.is_file():
        raise UserError(f"checkpoint {path} not found; give the best_model.pt that `butppg fit` wrote, or {SHIPPED}")
    return found


def restored(checkpoint: Path) -> tuple[QualityNetwork, dict[str, Any], dict[str, str] | None]:
    """Return a checkpoint's network, its hyperparameters, and which model it is, which is said too, if it says so."""
    from butppg_lightning.models.about import identity, in_words
    from butppg_lightning.models.checkpoints import network_from, read_stored

    content = read_stored(checkpoint)
    network, trained = network_from(checkpoint, content)
    if known := identity(content):
        say(in_words(known))
    return network, trained, known


def require_at_least(least: int, **values: int) -> None:
    """Refuse numbers that are too small with a UserError that names the option."""
    for name, value in values.items():
        if value < least:
            raise UserError(f"--{name} is {value}; it must be {least} or more")


def refuse_earlier_results(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder that holds a command's results with a UserError, unless the user asked to replace them."""
    existing = next((name for name in names if (folder / name).exists()), None)
    if existing and not overwrite:
        raise UserError(f"{folder} already holds {existing}; choose another --output_dir or add --overwrite")


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

    def assumed(self, calibration: Calibration) -> float | None:
        """Return the share of good windows that probabilities are for: the user's, else the checkpoint's."""
        return calibration.prior if self.prior is None else self.prior

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
