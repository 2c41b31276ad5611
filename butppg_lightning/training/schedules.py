"""Learning rates with one owner: lr(step) = base lr × schedule(step) × factor of the stage."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch.optim import SGD, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from butppg_lightning.errors import UserError
from butppg_lightning.training.optimizers import torch_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

ScheduleName = Literal["constant", "linear", "cosine", "one_cycle"]
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)
_NEEDS_MORE = {
    "ReduceLROnPlateau": "it waits for a validation figure, which a resumed or staged run would count differently",
    "LambdaLR": "a function cannot be written in YAML or stored in a checkpoint",
    "MultiplicativeLR": "a function cannot be written in YAML or stored in a checkpoint",
    "SequentialLR": "it is made of other schedulers; use one_cycle, or warmup with a named schedule",
    "ChainedScheduler": "it is made of other schedulers",
}
_CONFIGURED = ("table", "schedule", "total_steps", "warmup")
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1 / 250_000  # Smith & Topin 2019, as in torch's OneCycleLR


def schedule_factor(name: ScheduleName, step: int, total_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step as a share of the peak.

    ``constant``, ``linear`` (decay to 0) and ``cosine`` (decay to 0; Loshchilov & Hutter 2017) come after a linear
    warm-up; ``one_cycle`` is cosine up, cosine down (Smith & Topin 2019), its warm-up the way up. All numbers are
    optimizer steps, ``step`` from 0; the share is in 0..1.

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
    """Return the warm-up in steps: ``warmup`` below 1 is a share of the run, else a number of steps."""
    if warmup < 0:
        raise UserError(f"warmup is {warmup}; expected a share of the run (below 1) or a number of steps")
    return round(warmup * total_steps) if warmup < 1 else round(warmup)


def schedule_table(spec: Mapping[str, Any], total_steps: int) -> list[float]:
    """Return what a scheduler of torch, ``{class_path, init_args}``, makes of a learning rate of 1, step by step.

    A table is a function of the step alone, which is what resuming anywhere and dividing the rate by stages need; its
    steps are optimizer steps, of which the run has ``total_steps``.
    """
    cls, arguments = torch_class(spec, lr_scheduler, LRScheduler, "model.lr_schedule", _NEEDS_MORE)
    if cls.__name__ == "OneCycleLR":
        arguments = {"max_lr": 1.0, **({} if "epochs" in arguments else {"total_steps": total_steps + 1}), **arguments}
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer makes no steps: there is nothing to optimize
            scheduler = cls(optimizer, **arguments)
            table = [float(optimizer.param_groups[0]["lr"])]
            for _ in range(total_steps):
                scheduler.step()
                table.append(float(optimizer.param_groups[0]["lr"]))
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise UserError(f"model.lr_schedule {cls.__name__} does not take {arguments}: {error}") from None
    if not all(0 <= factor < math.inf for factor in table):
        raise UserError(f"model.lr_schedule {cls.__name__} with {arguments} leads to rates below 0 or not finite")
    return table


class StagedLR(LRScheduler):
    """The only writer of the learning rate: each group's base × schedule(step) × the stage's factor.

    Dividing the rate in a callback is undone by the next scheduler step; here the stage's factor is part of the
    closed form, and setting it takes effect at once.

    Args:
        optimizer: Its groups' ``lr`` at this moment are the base rates.
        schedule: The schedule's name, or the scheduler of torch that is tabulated: ``{class_path, init_args}``.
        total_steps: Optimizer steps of the whole run.
        warmup: Warm-up as a share of the run (below 1) or in steps; of a named schedule.
    """

    def __init__(
        self, optimizer: Optimizer, schedule: ScheduleName | Mapping[str, Any], total_steps: int, warmup: float = 0.0
    ) -> None:
        self.table: list[float] | None = None
        if isinstance(schedule, str):
            check_schedule(schedule)
        else:
            if warmup:
                raise UserError(f"model.warmup is {warmup}, but model.lr_schedule is a scheduler of torch; set it to 0")
            self.table = schedule_table(schedule, total_steps)
        self.schedule, self.total_steps, self.stage_factor = schedule, total_steps, 1.0
        self.warmup = warmup_steps(warmup, total_steps)
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        """Return the schedule's share of the base rate at a step, from 0; it holds its last value after the run."""
        if self.table is not None:
            return self.table[min(step, len(self.table) - 1)]
        name: Any = self.schedule
        return schedule_factor(name, step, self.total_steps, self.warmup)

    def state_dict(self) -> dict[str, Any]:
        """Return where it is; the rest follows from the configuration."""
        return {key: value for key, value in super().state_dict().items() if key not in _CONFIGURED}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a stored place; the length is this run's, which may have become longer than the stored one's."""
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in _CONFIGURED})

    def get_lr(self) -> list[float | Any]:
        """Return each group's learning rate at the current step."""
        factor = self.factor(self.last_epoch) * self.stage_factor
        return [base * factor for base in self.base_lrs]

    def set_stage_factor(self, factor: float) -> None:
        """Multiply every rate by ``factor`` from now on (not on top of an earlier stage's factor)."""
        self.stage_factor = factor
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def check_schedule(name: str) -> None:
    """Refuse, with a UserError, a schedule that is none of :data:`SCHEDULES`."""
    if name not in SCHEDULES:
        hint = f"; {_NEEDS_MORE['ReduceLROnPlateau']}" if "plateau" in name.lower() else ""
        raise UserError(f"model.lr_schedule is '{name}'; choose {', '.join(SCHEDULES)}{hint}")


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
