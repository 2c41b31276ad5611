"""A Lightning callback that times epochs, for any Trainer: ours (``--trainer.callbacks+=clock.EpochClock``) or not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EpochClock(Callback):
    """Writes the seconds of each epoch's parts to a JSON file when the fit ends.

    ``prepare`` lasts from the epoch's start to its first batch (there our cache is built when a stage begins),
    ``train`` from the first batch to the end of the last one, ``validation`` is the validation loop, ``whole`` lasts
    to the next epoch's start (checkpoints and the history are in it). ``steps`` are the batches of ``train``, which
    began at ``first`` on the clock that all processes of a machine share.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.append({"start": time.monotonic()})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.epochs[-1]["first"] = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        epoch = self.epochs[-1]
        epoch["steps"] = batch_idx + 1
        if batch_idx + 1 == trainer.num_training_batches:
            epoch["last"] = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.epochs[-1]["validation"] = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.epochs[-1]["validation_end"] = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end = time.monotonic()
        ends = [*(epoch["start"] for epoch in self.epochs[1:]), end]
        found = [
            {
                "first": epoch["first"],
                "prepare": epoch["first"] - epoch["start"],
                "train": epoch["last"] - epoch["first"],
                "validation": epoch.get("validation_end", 0.0) - epoch.get("validation", 0.0),
                "whole": stop - epoch["start"],
                "steps": epoch["steps"],
            }
            for epoch, stop in zip(self.epochs, ends, strict=True)
        ]
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(found, indent=2))
