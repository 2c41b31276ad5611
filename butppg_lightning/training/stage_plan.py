"""The stage plan: which part trains in which epoch, and at which share of the learning rate. Plain functions."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Trainable = Literal["head", "all"] | int
STAGE_COLUMNS = ("stage", "epochs", "best val AUROC", "in epoch", "train loss", "val loss", "time")
"""Headings of :func:`stage_rows`."""
GUIDE_NAMES = ("stage1_head_only", "stage2_partial", "stage3_full")


@dataclass
class Stage:
    """One stage of a plan.

    Args:
        trainable: ``head``; a number N for the last N blocks, the final norm and the head; or ``all``.
        epochs: How long it lasts; None, in the last stage or in one alone, for whatever the run leaves.
        lr_divisor: The learning rate is divided by this.
        patience: The stage ends early after this many epochs without a better validation figure; None for never.
        name: As it appears in the history; None for ``stage<k>_<trainable>``.
    """

    trainable: Trainable
    epochs: int | None = None
    lr_divisor: float = 1.0
    patience: int | None = None
    name: str | None = None


def guide_plan(
    max_epochs: int,
    head_only_epochs: int = 5,
    unfreeze_last_n: int = 2,
    full_finetune_epochs: int = 0,
    lr_divisor: float = 10.0,
    patience: int | None = None,
) -> list[Stage]:
    """Return the guide's plan: head only; last N blocks; everything at lr / 10.

    The options are those of ``StagedUnfreezing``. The stages' epochs sum to ``max_epochs``; empty stages are left out.
    Without a stage 3 a shorter run simply ends inside stage 1.

    Raises:
        UserError: If a number is negative, or stages 1 and 3 together are longer than the run.

    Examples:
        >>> [(stage.name, stage.epochs) for stage in guide_plan(30)]
        [('stage1_head_only', 5), ('stage2_partial', 25)]
    """
    if max_epochs < 1:
        raise UserError(f"trainer.max_epochs is {max_epochs}; a staged run needs a number of epochs of at least 1")
    for key, value in (("head_only_epochs", head_only_epochs), ("full_finetune_epochs", full_finetune_epochs)):
        if value < 0:
            raise UserError(f"stages.{key} is {value}; expected at least 0")
    if full_finetune_epochs and head_only_epochs + full_finetune_epochs > max_epochs:
        raise UserError(
            f"stages.head_only_epochs {head_only_epochs} and stages.full_finetune_epochs {full_finetune_epochs} "
            f"together exceed trainer.max_epochs {max_epochs}; raise it or shorten them"
        )
    stages = [
        Stage("head", head_only_epochs, patience=patience, name=GUIDE_NAMES[0]),
        Stage(unfreeze_last_n, patience=patience, name=GUIDE_NAMES[1]),
        Stage("all", full_finetune_epochs, lr_divisor, patience, GUIDE_NAMES[2]),
    ]
    return complete_plan(stages, max_epochs)


def complete_plan(stages: Sequence[Stage], max_epochs: int) -> list[Stage]:
    """Return a user's plan with every length and name filled in.

    At most one stage may leave its epochs open. They sum to ``max_epochs``; a longer plan is cut there, a shorter one
    refused.
    """
    if not stages:
        raise UserError("stages.plan is empty; give at least one stage, for example [{trainable: all}]")
    open_ended = [index for index, stage in enumerate(stages) if stage.epochs is None]
    if len(open_ended) > 1:
        raise UserError(f"stages.plan leaves the epochs of {len(open_ended)} stages open; at most one may be")
    fixed = sum(stage.epochs or 0 for stage in stages)
    if not open_ended and fixed < max_epochs:
        raise UserError(
            f"stages.plan covers {fixed} epochs, but trainer.max_epochs is {max_epochs}; "
            "leave the last stage's epochs out"
        )
    plan, left = [], max_epochs
    for number, stage in enumerate(stages, start=1):
        epochs = min(max(0, max_epochs - fixed) if stage.epochs is None else stage.epochs, left)
        left -= epochs
        part = {"head": "head_only", "all": "full"}.get(str(stage.trainable), f"last_{stage.trainable}")
        if epochs:
            plan.append(replace(stage, epochs=epochs, name=stage.name or f"stage{number}_{part}"))
    return plan


def check_plan(plan: Sequence[Stage], depth: int) -> None:
    """Refuse, with a UserError, a plan that an encoder of ``depth`` blocks cannot follow."""
    for number, stage in enumerate(plan):
        part, name = stage.trainable, stage.name or f"{number + 1} of stages.plan"
        if isinstance(part, bool) or not (isinstance(part, int) or part in ("head", "all")):
            raise UserError(f"stage {name}: trainable is {part!r}; choose head, all or a number of blocks")
        if isinstance(part, int) and not 1 <= part <= depth:
            key = "stages.unfreeze_last_n" if stage.name == GUIDE_NAMES[1] else "its trainable"
            raise UserError(
                f"stage {name} unfreezes the last {part} blocks, but the encoder has {depth}; set {key} to 1 to {depth}"
            )
        if stage.epochs is not None and stage.epochs < 0:
            raise UserError(f"stage {name}: epochs is {stage.epochs}; expected at least 0")
        if stage.patience is not None and stage.patience < 1:
            raise UserError(f"stage {name}: patience is {stage.patience}; expected at least 1, or null for never")
        if stage.lr_divisor <= 0:
            raise UserError(f"stage {name}: lr_divisor is {stage.lr_divisor}; expected above 0")


def stage_ends(plan: Sequence[Stage], boundaries: Sequence[int] = ()) -> list[int]:
    """Return the epoch at which each stage ends (the first one not in it).

    ``boundaries`` are the ends of the first stages that handed over early, as recorded so far. Later stages keep their
    length, so that they begin and end earlier.

    Examples:
        >>> stage_ends(guide_plan(30)), stage_ends(guide_plan(30), [3])
        ([5, 30], [3, 28])
    """
    ends = list(boundaries)
    for stage in plan[len(ends) :]:
        ends.append((ends[-1] if ends else 0) + (stage.epochs or 0))
    return ends


def stage_index(plan: Sequence[Stage], epoch: int, boundaries: Sequence[int] = ()) -> int:
    """Return which stage an epoch (from 0) belongs to; epochs beyond the plan belong to the last one.

    Examples:
        >>> [stage_index(guide_plan(7, head_only_epochs=5), epoch) for epoch in (0, 4, 5, 6, 99)]
        [0, 0, 1, 1, 1]
    """
    return min(bisect_right(stage_ends(plan, boundaries), epoch), len(plan) - 1)


def follows(plan: Sequence[Stage], earlier: Sequence[Stage], epochs: int, boundaries: Sequence[int] = ()) -> bool:
    """Return whether the first epochs of a plan are as in an earlier one, stage by stage.

    Examples:
        >>> follows(guide_plan(9, 5), guide_plan(7, 5), 7), follows(guide_plan(9, 5, 2, 2), guide_plan(7, 5, 2, 2), 7)
        (True, False)
    """
    for epoch in range(epochs):
        one, other = (stage_index(stages, epoch, boundaries) for stages in (plan, earlier))
        if one != other or replace(plan[one], epochs=0) != replace(earlier[one], epochs=0):
            return False
    return True


def stage_rows(history: Mapping[str, Sequence[Any]], seconds: Sequence[float]) -> list[tuple[str, ...]]:
    """Return the summary's cells: stage, epochs run, best val AUROC and its epoch, last losses, time.

    A figure of ``history`` is None where undefined; ``seconds`` are fewer where an earlier version ran the first ones.
    """
    rows: list[tuple[str, ...]] = []
    count = len(history["stage"])
    times = [math.nan] * (count - len(seconds)) + list(seconds)
    for name, numbers in groupby(range(count), key=lambda number: history["stage"][number]):
        epochs = list(numbers)
        scores = [(history["val_auroc"][epoch], -epoch) for epoch in epochs if history["val_auroc"][epoch] is not None]
        best, at = max(scores, default=(None, 0))
        losses = (_figure(history[key][epochs[-1]]) for key in ("train_loss", "val_loss"))
        took = sum(times[epoch] for epoch in epochs)
        spent = "unknown" if math.isnan(took) else f"{took:.1f} s" if took < 600 else f"{took / 60:.0f} min"
        rows.append((str(name), str(len(epochs)), _figure(best), "" if best is None else str(1 - at), *losses, spent))
    return rows


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
