"""Staged unfreezing: head only; last N blocks; everything at a lower rate; or any other list of stages."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from butppg_lightning.console import print_table, say
from butppg_lightning.errors import UserError
from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.models.freezing import set_trainable, trainable_parts
from butppg_lightning.training.conflicts import STAGED, refuse_conflicts
from butppg_lightning.training.schedules import StagedLR
from butppg_lightning.training.selection import QUALITY, EpochFigures, Selection
from butppg_lightning.training.stage_plan import (
    GUIDE_NAMES,
    Stage,
    check_plan,
    complete_plan,
    follows,
    guide_plan,
    stage_ends,
    stage_index,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class StagedUnfreezing(EpochFigures):
    """Sets what trains, and at which share of the learning rate.

    The stage is a function of the epoch, the plan and the stages that ended early so far; all of it is in the
    checkpoint. Works on any LightningModule that has ``encoder`` (with ``blocks`` and ``norm``) and ``head``, itself
    or in ``network``. One optimizer holds all parameters from the start; frozen ones have no gradient.

    Args:
        head_only_epochs: Epochs of stage 1, where only the head trains.
        unfreeze_last_n: Encoder blocks that train in stage 2, with the final norm and the head.
        full_finetune_epochs: Last epochs of the run, where everything trains (stage 3); 0 for none.
        lr_divisor: Stage 3 divides the learning rate by this.
        patience: A stage hands over to the next after this many epochs without a better val_auroc (val_loss where
            that is undefined), the last stage ends the run; null for never.
        restore_best: Begin each further stage from the best weights so far instead of the last ones; all moments of
            the optimizer then start afresh.
        plan: The general form: a list of stages (trainable: head, all or a number of blocks; epochs; lr_divisor;
            patience; name). Replaces the options above.

    Raises:
        UserError: In ``setup``, if the plan or the strategy is impossible; on resuming, if the plan differs from the
            checkpoint's.
    """

    def __init__(
        self,
        head_only_epochs: int = 5,
        unfreeze_last_n: int = 2,
        full_finetune_epochs: int = 0,
        lr_divisor: float = 10.0,
        patience: int | None = None,
        restore_best: bool = False,
        plan: list[Stage] | None = None,
    ) -> None:
        self.head_only_epochs, self.unfreeze_last_n = head_only_epochs, unfreeze_last_n
        self.full_finetune_epochs, self.lr_divisor = full_finetune_epochs, lr_divisor
        self.patience, self.restore_best, self.plan = patience, restore_best, plan
        self.stages: list[Stage] = []
        self.boundaries: list[int] = []
        self._network: nn.Module | None = None
        self._depth = self._current = self._begun_with = 0
        self._resumed = 0  # the epoch of the checkpoint
        self._best = Selection(QUALITY)
        self._waited = 0
        self._finished = False

    @property
    def stage(self) -> Stage:
        """The stage in force."""
        return self.stages[self._current]

    @property
    def number(self) -> int:
        """The number of the stage in force, from 1."""
        return self._current + 1

    @property
    def later_stages(self) -> list[Stage]:
        """The stages after the one in force."""
        return self.stages[self._current + 1 :]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolve the plan and apply its first stage, before any strategy wraps the module."""
        if stage != "fit":
            return
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise UserError(
                f"{type(trainer.strategy).__name__} shards frozen and trainable parameters together, so a stage could "
                "not be changed; use --trainer.strategy ddp"
            )
        refuse_conflicts(trainer, STAGED)
        pl_module.configure_model()  # Lightning does so after this hook, but before the module is wrapped
        self._network = _network_of(pl_module)
        trainable_parts(self._network, "head")
        self._depth = len(self._network.encoder.blocks)  # type: ignore[union-attr, arg-type]
        self.stages = self._resolve(trainer.max_epochs or 0, self._depth)
        self._begun_with = _epochs(self.stages)
        self.boundaries, self._current, self._finished = [], 0, False
        self._best, self._waited, self._validated = Selection(QUALITY), 0, False
        set_trainable(self._network, self.stages[0].trainable)

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and where in it the run is, in plain types."""
        return {
            "plan": [asdict(stage) for stage in self.stages],
            "begun_with": self._begun_with,
            "stage": self._current,
            "boundaries": list(self.boundaries),
            "best": self._best.state_dict(),
            "waited": self._waited,
            "finished": self._finished,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note which epoch the checkpoint is of: what is behind must be of one plan with what is to come."""
        self._resumed = int(checkpoint["epoch"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the stored stage, before any strategy wraps the module; the plan must be the same or a longer one."""
        if self._network is None:  # validate, test, predict: nothing to freeze
            return
        stored = [Stage(**stage) for stage in state_dict["plan"]]
        self.boundaries = list(state_dict["boundaries"])
        if stored != self.stages:
            self.stages = self._lengthened(stored, state_dict.get("begun_with", _epochs(stored)))
        self._current = state_dict["stage"]
        self._best.load_state_dict(state_dict["best"])
        self._waited = state_dict["waited"]
        stalled = len(self.boundaries) == len(self.stages)
        self._finished = state_dict["finished"] and (stalled or stored == self.stages)
        if stalled and stored != self.stages:
            say(f"{self.stage.name} ended the run early (patience {self.stage.patience}): more epochs change nothing")
        set_trainable(self._network, self.stage.trainable)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the plan; a run that had decided to stop stays stopped."""
        if trainer.is_global_zero:
            columns = ("stage", "epochs", "trains", "trainable parameters", "learning rate")
            print_table("Stage plan", columns, self._rows(pl_module))
        trainer.should_stop = trainer.should_stop or self._finished

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the stage of the epoch; a run resumed mid-epoch never reaches ``on_train_epoch_start``."""
        index = stage_index(self.stages, trainer.current_epoch, self.boundaries)
        if index != self._current:
            self._best, self._waited = Selection(QUALITY), 0
            if self.restore_best:
                _load_best(trainer, pl_module)
        self._current = index
        changed = set_trainable(_network_of(pl_module), self.stage.trainable)
        if changed and isinstance(trainer.strategy, DDPStrategy):
            # DDP registers its gradient hooks when it wraps: what is unfrozen later would silently not be averaged
            trainer.strategy.model = trainer.strategy._setup_model(pl_module)
            trainer.strategy._register_ddp_hooks()
        self._set_rates(trainer)

    on_train_epoch_start = on_train_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a stage that no longer improves hand over; end the run with its last stage."""
        epoch = trainer.current_epoch
        stalled = False
        if self.stage.patience is not None and self._validated:
            better = self._best.update(self.take_figures(trainer), epoch)
            self._waited = 0 if better else self._waited + 1
            stalled = self._waited >= self.stage.patience
        self._validated = False
        if stalled:
            say(f"{self.stage.name} ends early, after epoch {epoch + 1}: no better figure")
            self.boundaries = [*stage_ends(self.stages, self.boundaries)[: self._current], epoch + 1]
        if epoch + 1 >= stage_ends(self.stages, self.boundaries)[-1]:
            self._finished = trainer.should_stop = True

    def _resolve(self, epochs: int, depth: int) -> list[Stage]:
        if self.plan is not None:
            check_plan(self.plan, depth)
            return complete_plan(self.plan, epochs)
        # stage 2 is checked even where this run is too short to reach it: a longer one would fail half-way
        check_plan([Stage(self.unfreeze_last_n, lr_divisor=self.lr_divisor, name=GUIDE_NAMES[1])], depth)
        options = (self.head_only_epochs, self.unfreeze_last_n, self.full_finetune_epochs, self.lr_divisor)
        stages = guide_plan(epochs, *options, self.patience)
        check_plan(stages, depth)  # and the patience
        return stages

    def _lengthened(self, stored: list[Stage], begun_with: int) -> list[Stage]:
        """Return the plan of a run that goes on for more epochs than the stored plan has, or refuse another plan.

        ``begun_with`` is the number of epochs that the stored plan's options were given, before it was lengthened.
        """
        before, now = _epochs(stored), _epochs(self.stages)
        try:
            same = _with_epochs(self._resolve(begun_with, self._depth), before) == stored
        except UserError:
            same = False
        if not same or now < before:
            raise UserError(
                f"the checkpoint was trained with the stages {_in_words(stored)}, this run asks for "
                f"{_in_words(self.stages)}; resume with the same plan (or a larger trainer.max_epochs), or start "
                "afresh with --model.pretrained"
            )
        if now > before and follows(self.stages, stored, self._resumed + 1, self.boundaries):
            return self.stages
        self._begun_with = begun_with
        plan = _with_epochs(stored, now)
        if now > before:
            say(
                f"{plan[-1].name} goes on for {now - before} more epochs, to {plan[-1].epochs}; a run begun with "
                f"trainer.max_epochs {now} would have had the stages {_in_words(self.stages)}"
            )
        return plan

    def _set_rates(self, trainer: Trainer) -> None:
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        staged = [schedule for schedule in schedules if isinstance(schedule, StagedLR)]
        if len(staged) < len(trainer.optimizers) and any(stage.lr_divisor != 1 for stage in self.stages):
            raise UserError(
                "a stage divides the learning rate, but the module's schedule would overwrite that: "
                "return a butppg_lightning.training.schedules.StagedLR from configure_optimizers"
            )
        for schedule in staged:
            schedule.set_stage_factor(1 / self.stage.lr_divisor)

    def _rows(self, pl_module: LightningModule) -> list[tuple[str, ...]]:
        network = _network_of(pl_module)
        rate = getattr(pl_module.hparams, "lr", None)
        first = 1
        rows: list[tuple[str, ...]] = []
        for stage, end in zip(self.stages, stage_ends(self.stages, self.boundaries), strict=True):
            parts = trainable_parts(network, stage.trainable)
            count = sum(parameter.numel() for part in parts for parameter in part.parameters())
            trains = str(stage.trainable)
            if isinstance(stage.trainable, int):
                trains = f"last {trains} blocks, norm, head"
            shown = f"{rate / stage.lr_divisor:g}" if rate is not None else f"/ {stage.lr_divisor:g}"
            rows.append((str(stage.name), f"{first}-{end}", trains, f"{count:,}", shown))
            first = end + 1
        return rows


def staging(trainer: Trainer) -> StagedUnfreezing | None:
    """Return the stages of a run, once they are resolved; None for a run without."""
    found = (callback for callback in trainer.callbacks if isinstance(callback, StagedUnfreezing))  # type: ignore[attr-defined]
    return next((callback for callback in found if callback.stages), None)


def stage_name(trainer: Trainer) -> str | None:
    """Return the name of the stage in force; None for a run without stages."""
    staged = staging(trainer)
    return None if staged is None else staged.stage.name


def _network_of(pl_module: LightningModule) -> nn.Module:
    network = getattr(pl_module, "network", pl_module)
    return network if isinstance(network, nn.Module) else pl_module


def _load_best(trainer: Trainer, pl_module: LightningModule) -> None:
    paths = [callback.best_path for callback in trainer.checkpoint_callbacks if hasattr(callback, "best_path")]
    if not paths:
        raise UserError("stages.restore_best needs a callback that keeps the best model (RunFolder)")
    state: Any = read_checkpoint(paths[0])["state_dict"] if trainer.is_global_zero else None
    pl_module.load_state_dict(trainer.strategy.broadcast(state))
    for optimizer in trainer.optimizers:
        optimizer.state.clear()


def _epochs(plan: list[Stage]) -> int:
    return sum(stage.epochs or 0 for stage in plan)


def _with_epochs(plan: list[Stage], epochs: int) -> list[Stage]:
    """Return a plan whose last stage is so long that it has so many epochs."""
    return [*plan[:-1], replace(plan[-1], epochs=epochs - _epochs(plan[:-1]))]


def _in_words(plan: list[Stage]) -> str:
    return ", ".join(f"{stage.name} ({stage.epochs} epochs, lr / {stage.lr_divisor:g})" for stage in plan)
