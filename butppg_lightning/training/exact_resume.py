"""Checkpoints from which a run continues bit for bit: whole or not there, and with what Lightning leaves out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from butppg_lightning.data.module import WindowLoader
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write
from butppg_lightning.models.checkpoints import read_checkpoint

if TYPE_CHECKING:
    from torch import nn


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a sibling temporary file that then takes the name; reads tensors and plain types only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, the old or the new one after a crash; a UserError says that it cannot be written."""
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU, never executing anything from it; a UserError says that it cannot be read."""
        return read_checkpoint(Path(path))


class ExactResume(Callback):
    """Stores, for every rank, the random generators' states, the epoch's totals (``train_metrics``) and place in it."""

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._stored: list[dict[str, Any]] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the trainer: a callback's state is asked for without it."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every rank; all ranks must ask for it together."""
        if self._trainer is None:
            return {}
        metrics = getattr(self._trainer.lightning_module, "train_metrics", None)
        loader = self._trainer.train_dataloader
        own = {
            "random": _random_state(),
            "means": None if metrics is None else _metric_states(metrics),
            "loader": loader.state_dict() if isinstance(loader, WindowLoader) else None,
        }
        shares: list[Any] = [own]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shares = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, own)
        return {"ranks": shares}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the stored states until the training starts."""
        self._stored = state_dict.get("ranks")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's state: after everything of the start that draws random numbers."""
        loader = trainer.train_dataloader
        if isinstance(loader, WindowLoader):
            loader.epoch_batches = int(trainer.num_training_batches)
        if self._stored is None:
            return
        if len(self._stored) != trainer.world_size:
            raise UserError(
                f"the checkpoint was written by {len(self._stored)} processes, this run has {trainer.world_size}; "
                "its random streams cannot be continued exactly: use as many processes, or start afresh from it with "
                "--model.pretrained"
            )
        state, self._stored = self._stored[trainer.global_rank], None
        _set_random_state(state["random"])
        if state["loader"] is not None and isinstance(loader, WindowLoader):
            # Lightning does so only if nothing asked for the loader before its loops were restored, which a schedule
            # that depends on the length of the run does
            loader.load_state_dict(state["loader"])
        for name, values in (state["means"] or {}).items():
            metric = cast("Any", pl_module).train_metrics[name]
            for key, value in values.items():
                setattr(metric, key, value.to(metric.device))


def _metric_states(metrics: nn.ModuleDict) -> dict[str, dict[str, Any]]:
    states = {name: cast("Any", metric).metric_state for name, metric in metrics.items()}
    return {name: {key: value.cpu().clone() for key, value in state.items()} for name, state in states.items()}


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        # as a tensor: an array would need pickle to be read back
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
