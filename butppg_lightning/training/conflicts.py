"""Callbacks and numbers of processes that a run cannot have: what they do would be undone, or undo the run's record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Callback, Trainer

_OWNER = "the learning rate must have one owner, its schedule"
ANYWHERE: dict[type[Callback], str] = {
    LearningRateFinder: f"what it finds would not be used: {_OWNER}; set --model.lr, or search it with butppg sweep",
    BatchSizeFinder: "neither the record nor a resumed run would know what it finds; set --data.batch_size",
    GradientAccumulationScheduler: "the schedule counts steps of equal size; set --trainer.accumulate_grad_batches",
    StochasticWeightAveraging: f"{_OWNER}; drop it (fit has --average.decay)",
    WeightAveraging: "checkpoints and resumed runs would hold other weights than were validated; drop it (fit has "
    "--average.decay)",
    OnExceptionCheckpoint: "later runs would go on from its file unasked; use --save_every_n_steps and --resume auto",
}
STAGED: dict[type[Callback], str] = {
    **ANYWHERE,
    EarlyStopping: "it would end the run in its first stage; use --stages.patience",
    BaseFinetuning: "it freezes and unfreezes as well; drop it",
}


def refuse_conflicts(trainer: Trainer, conflicts: Mapping[type[Callback], str]) -> None:
    """Refuse, with a UserError, a trainer's callback that is one of those, or derived from one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, reason in conflicts.items():
            if isinstance(callback, kind):
                where = "does not go with stages" if conflicts is STAGED else "cannot be used"
                raise UserError(f"the callback {type(callback).__name__} {where}: {reason}")


def refuse_other_launch(trainer: Trainer) -> None:
    """Refuse a run of other processes than torchrun or SLURM started: each would train by itself, or wait for ever.

    Raises:
        UserError: If their number differs.
        ValueError: If they are divided among machines in another way.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment | TorchElasticEnvironment):
        return
    started, devices, nodes = environment.world_size(), trainer.num_devices, trainer.num_nodes
    if started != devices * nodes:
        launcher = "SLURM" if isinstance(environment, SLURMEnvironment) else "torchrun"
        raise UserError(
            f"{launcher} started {started} processes, but --trainer.devices {devices} on --trainer.num_nodes {nodes} "
            f"are {devices * nodes}; with {started} on one machine: --trainer.devices {started} --trainer.strategy ddp"
        )
    environment.validate_settings(devices, nodes)
