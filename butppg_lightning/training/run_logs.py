"""What loggers get of a run besides its epochs' figures, and a CSV log that a resumed run continues."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch import Tensor

from butppg_lightning.files import atomic_write
from butppg_lightning.training.progress import learning_rate
from butppg_lightning.training.staged_unfreezing import staging

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

LOGS = "logs"
"""Name of the folder in a run's folder that holds what loggers write."""

_FILES = ("metrics.csv", "hparams.yaml", "events.out.tfevents.*")


class StepLog(Callback):
    """Gives loggers the learning rate, the stage's number (from 1) and the step's loss, and every epoch's end too.

    Args:
        folder: The run's log folder.
        fresh: Whether the run begins anew: then the logs of an earlier one go.
    """

    def __init__(self, folder: Path, fresh: bool) -> None:
        self.folder = folder
        self.fresh = fresh
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
        due = step != self._step and trainer.global_step % every == 0
        if not trainer.loggers or not (last or due):
            return
        self._step = step
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        staged = staging(trainer)
        figures = {"lr": self._rate, "stage": None if staged is None else staged.number}
        if isinstance(loss, Tensor):
            figures["train_loss_step"] = float(loss) * trainer.accumulate_grad_batches
        known = {name: float(value) for name, value in figures.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics({**known, "epoch": trainer.current_epoch}, step=step)


class RunCSVLogger(CSVLogger):
    """Writes ``logs/metrics.csv`` in the run's folder; a resumed run continues the file.

    Args:
        folder: The run's folder.
        after: The step from which the run continues: rows of later steps are those of a lost end. -1 for a new run.
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
