"""How a run went, stage by stage: how long it took, whether it diverged, and where it was when it failed."""

from __future__ import annotations

import math
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from butppg_lightning.console import print_table, say
from butppg_lightning.training.progress import learning_rate
from butppg_lightning.training.staged_unfreezing import stage_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch import LightningModule, Trainer

_COLUMNS = ("stage", "epochs", "best val AUROC", "in epoch", "train loss", "val loss", "time")


class StageRecord(Callback):
    """Measures every epoch and warns once when the loss is no longer a number.

    Attributes:
        seconds: What each epoch of the run took, validation included; it is in the checkpoint.
        place: Where the run was when an exception ended it, in words.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.place = ""
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
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._steps += 1
        if isinstance(loss, torch.Tensor):
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
        """Print one row per stage.

        Args:
            history: The run's, as in training_history.json.
        """
        if history.get("stage"):
            print_table("Stages of this run", _COLUMNS, stage_rows(history, self.seconds))

    def _elapsed(self) -> float:
        return self._before + (0.0 if self._start is None else time.monotonic() - self._start)


def stage_rows(history: Mapping[str, Sequence[Any]], seconds: Sequence[float]) -> list[tuple[str, ...]]:
    """Return the summary's cells: stage, epochs run, best val AUROC and its epoch, last losses, time.

    Args:
        history: One value per epoch under each key; None where a figure is undefined.
        seconds: What each epoch took; fewer where an earlier version of the package ran the first ones.
    """
    rows = []
    unknown = len(history["stage"]) - len(seconds)
    times = [math.nan] * unknown + list(seconds)
    for name, numbers in groupby(range(len(history["stage"])), key=lambda number: history["stage"][number]):
        epochs = list(numbers)
        scores = [(history["val_auroc"][epoch], -epoch) for epoch in epochs if history["val_auroc"][epoch] is not None]
        best, at = max(scores, default=(None, 0))
        took = sum(times[epoch] for epoch in epochs)
        rows.append(
            (
                str(name),
                str(len(epochs)),
                _figure(best),
                "" if best is None else str(1 - at),
                *(_figure(history[key][epochs[-1]]) for key in ("train_loss", "val_loss")),
                "unknown" if math.isnan(took) else f"{took:.1f} s" if took < 600 else f"{took / 60:.0f} min",
            )
        )
    return rows


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
