"""Learning rates with one owner: lr(step) = base lr × schedule(step) × factor of the stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from torch.optim.lr_scheduler import LRScheduler

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]
SCHEDULES: tuple[ScheduleName, ...] = ("constant", "linear", "cosine", "one_cycle")
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000  # Smith & Topin 2019, as in torch's OneCycleLR


def schedule_factor(name: ScheduleName, step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step as a share of the peak.

    Args:
        name: ``constant``, ``linear`` (decay to 0), ``cosine`` (decay to 0; Loshchilov & Hutter 2017), each after a
            linear warm-up, or ``one_cycle`` (cosine up, cosine down; Smith & Topin 2019; its warm-up is the way up).
        step: Optimizer steps taken so far, from 0.
        total_steps: Optimizer steps of the whole run.
        warmup_steps: Steps of the warm-up.

    Returns:
        A factor in 0..1.

    Examples:
        >>> [schedule_factor("cosine", step, 12, 2) for step in (0, 1, 2, 7)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if name == "one_cycle":
        rise = max(1, warmup_steps or round(0.3 * total_steps))
        if step <= rise:
            return _cosine_between(_ONE_CYCLE_START, 1.0, step / rise)
        return _cosine_between(1.0, _ONE_CYCLE_END, min(1.0, (step - rise) / max(1, total_steps - 1 - rise)))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if name == "linear" else 1.0


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Return the warm-up in steps: ``warmup`` below 1 is a share of the run, else a number of steps.

    Raises:
        UserError: If it is negative.
    """
    if warmup < 0:
        raise UserError(f"warmup is {warmup}; expected a share of the run (below 1) or a number of steps")
    return round(warmup * total_steps) if warmup < 1 else round(warmup)


class StagedLR(LRScheduler):
    """The only writer of the learning rate: each group's base × schedule(step) × the stage's factor.

    Dividing the rate in a callback is undone by the next scheduler step; here the stage's factor is part of the
    closed form, and setting it takes effect at once.

    Args:
        optimizer: Its groups' ``lr`` at this moment are the base rates.
        name: The schedule.
        total_steps: Optimizer steps of the whole run.
        warmup: Warm-up as a share of the run (below 1) or in steps.

    Raises:
        UserError: On an unknown schedule.
    """

    def __init__(self, optimizer: Optimizer, name: ScheduleName, total_steps: int, warmup: float = 0.0) -> None:
        if name not in SCHEDULES:
            reason = "; it needs the validation loss, which a resumed or staged run would count differently"
            hint = reason if "plateau" in name.lower() else ""
            raise UserError(f"lr schedule is '{name}'; choose {', '.join(SCHEDULES)}{hint}")
        self.name = name
        self.total_steps = total_steps
        self.warmup = warmup_steps(warmup, total_steps)
        self.stage_factor = 1.0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Return each group's learning rate at the current step."""
        factor = schedule_factor(self.name, self.last_epoch, self.total_steps, self.warmup) * self.stage_factor
        return [base * factor for base in self.base_lrs]

    def set_stage_factor(self, factor: float) -> None:
        """Multiply every rate by ``factor`` from now on (not on top of an earlier stage's factor)."""
        self.stage_factor = factor
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
