"""What is kept of a run beside its epochs' figures: each stage's time, where it failed, and logs of its steps."""

from __future__ import annotations

import csv
import io
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from butppg_lightning.console import print_table, say
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write
from butppg_lightning.training.schedules import StagedLR
from butppg_lightning.training.stage_plan import STAGE_COLUMNS, stage_rows
from butppg_lightning.training.staged_unfreezing import stage_name, staging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer

LOGS = "logs"
"""Name of the folder in a run's folder that holds what loggers write."""

_FILES = ("metrics.csv", "hparams.yaml", "events.out.tfevents.*")


def learning_rate(trainer: Trainer) -> float | None:
    """Return the learning rate in force, as ``--model.lr`` means it (before the multipliers of groups)."""
    if not trainer.optimizers:
        return None
    asked = getattr(trainer.lightning_module.hparams, "lr", None)
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if isinstance(schedule, StagedLR) and asked is not None and schedule.base_lrs[0]:
            return float(asked * schedule.get_last_lr()[0] / schedule.base_lrs[0])
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def step_loss(outputs: Any, trainer: Trainer) -> float | None:
    """Return the loss of a training step's batch; None where the step returned none."""
    loss = _loss(outputs)
    # Lightning divides what it hands on by the batches that make a step
    return None if loss is None else float(loss) * trainer.accumulate_grad_batches


class StageRecord(Callback):
    """Measures every epoch and warns once when the loss is no longer a number."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # that each epoch took, validation included; in the checkpoint
        self.note = ""  # said when the fit begins: by then nothing has been refused
        self.place = ""  # where the run was when an exception ended it, in words
        self._start: float | None = None
        self._before = 0.0
        self._steps = 0
        self._lost: Any = 0
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """Return the times so far."""
        return {"seconds": list(self.seconds), "elapsed": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the stored times."""
        self.seconds, self._before = list(state_dict["seconds"]), state_dict["elapsed"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what there is to note about the run."""
        if self.note:
            say(self.note)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock: a run resumed mid-epoch never reaches ``on_train_epoch_start``."""
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock and count."""
        self._start, self._before = time.monotonic(), 0.0
        self._steps, self._lost = 0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batches whose loss is no number, without making a device wait."""
        self._steps += 1
        if (loss := _loss(outputs)) is not None:
            self._lost = self._lost + ~torch.isfinite(loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch's time, and say so if it diverged; comes before the run folder's checkpoint."""
        self.seconds.append(self._elapsed())
        self._start, self._before = None, 0.0
        if not self._warned and (lost := int(self._lost)):
            self._warned = True
            rate = learning_rate(trainer)
            now = "" if rate is None else f" (now {rate:g})"
            clip = "" if trainer.gradient_clip_val else ", set --trainer.gradient_clip_val 1.0"
            half = ", use --trainer.precision 32-true" if str(trainer.precision).startswith("16") else ""
            say(
                f"warning: the loss was NaN or infinite in {lost} of {self._steps} batches of epoch "
                f"{trainer.current_epoch + 1}: the training diverges; lower --model.lr{now}{clip}{half} and start "
                "again with --overwrite; best_model.pt stays the best epoch so far"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note where the run was."""
        doing = str(trainer.state.stage.value if trainer.state.stage else trainer.state.fn)
        if trainer.state.fn != "fit":
            self.place = doing
            return
        stage = stage_name(trainer)
        self.place = f"epoch {trainer.current_epoch + 1}{f' of {stage}' if stage else ''} ({doing})"

    def print_summary(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Print one row per stage of a run's history, as in training_history.json."""
        if history.get("stage"):
            print_table("Stages of this run", STAGE_COLUMNS, stage_rows(history, self.seconds))

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)


class StepLog(Callback):
    """Gives loggers the learning rate, the stage's number (from 1) and the step's loss, and every epoch's end too.

    The logs of an earlier run in the ``folder`` go if this one begins anew (``fresh``).
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self.folder, self.fresh = folder, fresh
        self._step = -1
        self._rate: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove an earlier run's logs."""
        if stage == "fit" and self.fresh and trainer.is_global_zero:
            for pattern in _FILES:
                for path in self.folder.glob(pattern):
                    path.unlink()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the rate of the step: at its end the schedule has moved on."""
        self._rate = learning_rate(trainer) if trainer.loggers else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every ``trainer.log_every_n_steps``, and at the epoch's last batch."""
        last = batch_idx + 1 >= trainer.num_training_batches
        step = trainer.global_step - 1  # counted from 0, as Lightning's own rows are
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = step != self._step and every and trainer.global_step % every == 0
        if not trainer.loggers or not (last or due):
            return
        self._step = step
        number = None if (staged := staging(trainer)) is None else staged.number
        figures = {"lr": self._rate, "stage": number, "train_loss_step": step_loss(outputs, trainer)}
        known = {name: float(value) for name, value in figures.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics({**known, "epoch": trainer.current_epoch}, step=step)


class RunCSVLogger(CSVLogger):
    """Writes ``logs/metrics.csv`` in the run's folder; a resumed run continues the file.

    It does so behind step ``after`` (-1 for a new run): rows of later steps are those of a lost end.
    """

    def __init__(self, folder: Path, after: int = -1) -> None:
        super().__init__(folder, name=LOGS, version="")
        self._after = after

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer."""
        if self._experiment is None:
            self._experiment = _ContinuedWriter(self.log_dir, self._after)
        return self._experiment  # type: ignore[return-value]


def build_loggers(names: Sequence[str], folder: Path, step: int | None) -> list[Logger]:
    """Build the loggers that ``--loggers`` names; those of a run resumed at a ``step`` continue theirs."""
    found: list[Logger] = []
    for name in dict.fromkeys(names):
        if name == "csv":
            found.append(RunCSVLogger(folder, (step or 0) - 1))
            continue
        if find_spec("tensorboard") is None:
            raise UserError("--loggers tensorboard needs tensorboard: pip install 'butppg-lightning[loggers]'")
        from lightning.pytorch.loggers import TensorBoardLogger

        # what an interrupted run logged after its last checkpoint is hidden by what is logged in its place
        found.append(TensorBoardLogger(folder, name=LOGS, version="", default_hp_metric=False, purge_step=step))
    return found


class _ContinuedWriter(ExperimentWriter):
    def __init__(self, log_dir: str, after: int) -> None:
        self._after = after
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        # Lightning deletes the file here; what is still true of it is kept instead
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            keys = list(reader.fieldnames or [])
            rows = [row for row in reader if (row.get("step") or "").isdigit() and None not in row]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=keys, restval="")
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= self._after)
        with atomic_write(path) as target:
            target.write(text.getvalue().encode())
        self.metrics_keys = keys


def _loss(outputs: Any) -> torch.Tensor | None:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if isinstance(loss, torch.Tensor) else None
