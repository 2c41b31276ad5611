"""Running sums of an epoch: they survive a checkpoint in its middle, which Lightning's own means do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from torch import Tensor


class EpochTotals:
    """Sums of figures over the windows of this process's epoch, in float64.

    Args:
        names: The figures.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.sums = torch.zeros(len(names) + 1, dtype=torch.float64)

    def clear(self) -> None:
        """Start an epoch."""
        self.sums.zero_()

    def add(self, windows: int, **means: Tensor) -> None:
        """Add a batch of ``windows`` by the means of its figures."""
        figures = torch.stack([means[name].detach().double() for name in self.names])
        if figures.device.type == "cuda":
            self.sums = self.sums.to(figures.device)  # no step waits for the device
        self.sums[:-1] += (figures * windows).to(self.sums)
        self.sums[-1] += windows

    def means(self, trainer: Trainer) -> dict[str, float]:
        """Return the means over the windows of all processes."""
        sums = self.sums
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
        *values, windows = sums.tolist()
        return {name: value / max(windows, 1) for name, value in zip(self.names, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {"sums": self.sums.cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums of an interrupted epoch."""
        self.sums.copy_(state["sums"])
