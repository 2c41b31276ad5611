"""The progress bar of a run: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ProgressBar

from butppg_lightning.training.run_logs import learning_rate, step_loss
from butppg_lightning.training.staged_unfreezing import stage_name

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from rich.progress import Progress

_PAUSE = 0.2  # seconds between looks at the loss: each look makes a GPU finish its queue


class RunProgress(ProgressBar):
    """Shows epoch, stage, loss, validation AUROC, learning rate and the time that the whole run still takes.

    The line lives from an epoch's first batch to its end and then vanishes, so that whatever else is printed between
    epochs stands on lines of its own. The time left is this stage's pace times the epochs left: a later stage that
    trains more is slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._progress: Progress | None = None
        self._auroc = self._val_loss = math.nan
        self._stage: str | None = None
        self._pace: float | None = None
        self._began = (0.0, 0.0)
        self._looked = -math.inf

    def disable(self) -> None:
        """Show nothing from now on."""
        self._enabled = False
        self._stop()

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure; a run resumed in the middle of an epoch has part of it behind."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        self._began = (time.monotonic(), _share(done, trainer.num_training_batches))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the epoch; another stage has another pace."""
        stage = stage_name(trainer)
        if stage != self._stage:
            self._stage, self._pace = stage, None
        self._began = (time.monotonic(), 0.0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on; look at the loss a few times a second."""
        done, total = batch_idx + 1, trainer.num_training_batches
        if not self._enabled or (done < total and time.monotonic() - self._looked < _PAUSE):
            return
        epoch = trainer.current_epoch
        words = f"{epoch + 1}/{trainer.max_epochs} {stage_name(trainer) or 'pretraining'}"
        figures = [f"loss {loss:.3f}"] if (loss := step_loss(outputs, trainer)) is not None else []
        if not math.isnan(self._auroc):
            figures.append(f"val AUROC {self._auroc:.3f}")
        elif not math.isnan(self._val_loss):
            figures.append(f"val loss {self._val_loss:.3f}")
        if (rate := learning_rate(trainer)) is not None:
            figures.append(f"lr {rate:.1e}")
        share, (start, behind) = _share(done, total), self._began
        pace = self._pace if self._pace is not None else (time.monotonic() - start) / max(share - behind, 1e-3)
        left = pace * ((trainer.max_epochs or epoch + 1) - epoch - share)
        self._show(words, done, total, " ".join(figures), _clock(left))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show a validation, test or prediction on its own; within an epoch the epoch's line stays."""
        if trainer.testing:
            self._show("testing", batch_idx + 1, sum(trainer.num_test_batches))
        elif trainer.predicting:
            self._show("predicting", batch_idx + 1, sum(trainer.num_predict_batches))
        elif trainer.state.fn == "validate":
            self._show("validating", batch_idx + 1, sum(trainer.num_val_batches))

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the figures (those of the check before training do not count)."""
        if not trainer.sanity_checking:
            figures = trainer.callback_metrics
            self._auroc = float(figures.get("val_auroc", math.nan))
            self._val_loss = float(figures.get("val_loss", math.nan))
        if trainer.state.fn == "validate":
            self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line before anything is printed, and note how long an epoch takes."""
        self._stop()
        start, behind = self._began
        self._pace = (time.monotonic() - start) / max(1 - behind, 1e-3)

    def on_test_end(self, *_: Any, **__: Any) -> None:
        """Clear the line, also where an error is reported below."""
        self._stop()

    on_predict_end = on_exception = teardown = on_test_end

    def _show(self, words: str, done: int, total: float, figures: str = "", left: str = "") -> None:
        if not self._enabled:
            return
        self._looked = time.monotonic()
        known = total if math.isfinite(total) else None
        if self._progress is None:
            self._progress = _line()
            self._progress.add_task(words, total=known, figures=figures, left=left)
            self._progress.start()
        task = self._progress.task_ids[0]
        self._progress.update(task, description=words, completed=done, total=known, figures=figures, left=left)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._looked = -math.inf


def is_wanted() -> bool:
    """Return whether a progress bar belongs where the messages go: a terminal that may be drawn on."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _share(done: float, total: float) -> float:
    return min(done / total, 1.0) if total and math.isfinite(total) else 0.0


def _clock(seconds: float) -> str:
    """Return a time in words.

    Examples:
        >>> _clock(71.6), _clock(7271)
        ('1:12 left', '2:01:11 left')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def _line() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[figures]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        expand=True,
        refresh_per_second=4,
        # lines printed meanwhile go above the bar, unless they go to a file: there they belong
        redirect_stdout=sys.stdout.isatty(),
        disable=not sys.stderr.isatty(),
    )
