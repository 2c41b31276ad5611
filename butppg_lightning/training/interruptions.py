"""What ends a run before its plan does: a limit, or a scheduler that puts the job in line again."""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from butppg_lightning.models.checkpoints import read_checkpoint
from butppg_lightning.training.stage_plan import stage_ends
from butppg_lightning.training.staged_unfreezing import staging

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning.pytorch import Trainer

LAST = "last.ckpt"
_REQUEUE_FILES = "hpc_ckpt_*.ckpt"  # Lightning's; earlier versions left them
_SEARCH_FILES = (".lr_find_*.ckpt", ".scale_batch_size_*.ckpt")  # Lightning's, of a killed search


class Requeue:
    """Lets SLURM's signal wait for the end of a step, and go on from ``last.ckpt`` as every other interruption does.

    Lightning saves wherever the signal finds the run, also in the middle of a step, to a file of its own in the run's
    folder, from which any later fit there goes on unasked.
    """

    def __init__(self) -> None:
        self._waiting: Callable[[], object] | None = None

    @property
    def due(self) -> bool:
        """Whether the signal has come."""
        return self._waiting is not None

    def defer(self, trainer: Trainer) -> None:
        """Take the place of Lightning's handler, which puts the old one back when the fit ends."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            number = environment.requeue_signal or signal.SIGUSR1
            handler = signal.getsignal(number)
            if callable(handler):
                signal.signal(number, lambda *_: setattr(self, "_waiting", partial(handler, number, None)))

    def now(self) -> None:
        """Do what the signal asked for, if it has come; the state must be one that can be continued."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()


class LastCheckpoint(_CheckpointConnector):
    """Lightning's connector, which saves a requeued job to ``last.ckpt`` and finds nothing unasked."""

    _hpc_resume_path = None

    @staticmethod
    def hpc_save_path(folderpath: str | Path) -> str:
        """Return where a job that is put in line again is saved."""
        return f"{folderpath}/{LAST}"


def newest_state(folder: Path) -> Path | None:
    """Return the checkpoint in ``folder`` that a run goes on from: the one that is furthest; None if there is none."""
    found = [path for path in (folder / LAST, *folder.glob(_REQUEUE_FILES)) if path.is_file()]
    if len(found) < 2:
        return found[0] if found else None
    return max(found, key=lambda path: int(read_checkpoint(path).get("global_step", 0)))


def remove_foreign_states(folder: Path) -> None:
    """Remove the state files that Lightning leaves beside ``last.ckpt``."""
    for pattern in (_REQUEUE_FILES, *_SEARCH_FILES):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def cut_off(trainer: Trainer, done: int) -> str:
    """Return where in its plan a fit that has returned after so many epochs was ended, and by what; else nothing."""
    staged = staging(trainer)
    planned = stage_ends(staged.stages, staged.boundaries)[-1] if staged else trainer.max_epochs or 0
    if done >= planned:
        return ""
    timers = [one for one in trainer.callbacks if isinstance(one, Timer)]  # type: ignore[attr-defined]
    if 0 <= trainer.max_steps <= trainer.global_step:
        limit = f"trainer.max_steps {trainer.max_steps}"
    elif any((left := timer.time_remaining()) is not None and left <= 0 for timer in timers):
        limit = "trainer.max_time"
    else:
        limit = "a callback"
    within = trainer.fit_loop.epoch_loop.batch_progress.current.completed % max(1, trainer.num_training_batches)
    place = f"in epoch {done + 1}" if within else f"after epoch {done}"
    return f"{place} of {planned} by {limit}"
