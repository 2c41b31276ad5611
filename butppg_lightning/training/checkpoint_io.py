"""Checkpoints written so that a crash leaves the old or the new one, and read so that nothing is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from butppg_lightning.files import atomic_write
from butppg_lightning.models.checkpoints import read_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a sibling temporary file that then takes the name; reads tensors and plain types only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            UserError: If the file cannot be written.
        """
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU, never executing anything from it.

        Raises:
            UserError: If it cannot be read or holds more than tensors and plain types.
        """
        return read_checkpoint(Path(path))
