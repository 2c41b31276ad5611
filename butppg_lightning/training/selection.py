"""Which epoch is the best so far: one rule for a whole run (best_model.pt) and within a stage (early hand-over)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import LightningModule, Trainer

Monitor = tuple[str, str]
"""A metric and ``max`` or ``min``."""

QUALITY: tuple[Monitor, ...] = (("val_auroc", "max"), ("val_loss", "min"), ("train_loss", "min"))
"""What classifiers are chosen by."""
RECONSTRUCTION: tuple[Monitor, ...] = (("val_loss", "min"), ("train_loss", "min"))
"""What pretrainings are chosen by."""


@dataclass
class Selection:
    """The best epoch so far, by the first of ``monitors`` that is a number when the first figures come."""

    monitors: tuple[Monitor, ...]
    monitor: Monitor | None = None  # the one that counts; None as long as there were no figures
    score: float = math.nan  # its best value; NaN as long as there was none
    epoch: int = -1  # the best epoch, from 0; -1 as long as there is none

    def update(self, figures: Mapping[str, float | None], epoch: int) -> bool:
        """Take in an epoch's figures (None where undefined); return whether it is the best so far.

        The first epoch is, whatever its figures: a finished run has a best model.
        """
        if self.monitor is None:
            usable = (pair for pair in self.monitors if figures.get(pair[0]) is not None)
            self.monitor = next(usable, self.monitors[0])
        name, direction = self.monitor
        value = figures.get(name)
        sign = 1 if direction == "max" else -1
        better = self.epoch < 0
        if value is not None and (math.isnan(self.score) or sign * value > sign * self.score):
            self.score, better = value, True
        if better:
            self.epoch = epoch
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the state in plain types."""
        return {"monitor": list(self.monitor) if self.monitor else None, "score": self.score, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a stored state."""
        self.monitor = tuple(state["monitor"]) if state["monitor"] else None
        self.score, self.epoch = state["score"], state["epoch"]


class EpochFigures(Callback):
    """Base of callbacks that judge epochs: Lightning keeps the figures of an earlier validation, which do not count."""

    _validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the validation figures are this epoch's (the check before training does not count)."""
        self._validated = not trainer.sanity_checking

    def take_figures(self, trainer: Trainer) -> dict[str, float | None]:
        """Return the figures of the epoch that ends: None where undefined, or of an earlier epoch's validation."""
        figures: dict[str, float | None] = {}
        for name, value in trainer.callback_metrics.items():
            fresh = self._validated or not name.startswith("val_")
            figures[name] = float(value) if fresh and math.isfinite(float(value)) else None
        return figures
