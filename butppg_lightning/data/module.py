"""What the fine-tuning and the pretraining DataModule share: loaders over npz splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from butppg_lightning.data.dataset import Batch, WindowDataset
from butppg_lightning.data.sampler import EpochBatches
from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from butppg_lightning.window import WindowSet


class WindowLoader(DataLoader[Batch]):
    """A loader that can be resumed in the middle of an epoch, whatever its number of workers.

    Attributes:
        epoch_batches: Batches that count as an epoch; fewer than the loader has where the trainer limits them.
    """

    epoch_batches: int | None = None
    _start = 0
    _consumed = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield an epoch's batches, beginning where the loaded state ended.

        A generator: nothing is fetched before the trainer has told the sampler which epoch it is.
        """
        batches = cast("EpochBatches", self.sampler)
        batches.start = self._consumed = self._start
        self._start = 0
        dataset = cast("WindowDataset", self.dataset)
        # stored features lie in memory already: worker processes would only copy them
        stored = (dataset[rows] for rows in batches) if dataset.features is not None else None
        for batch in stored or super().__iter__():
            self._consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the running epoch are behind; 0 at its end."""
        return {"batches": self._consumed % (self.epoch_batches or len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch's pass at the stored batch."""
        self._start = state["batches"]


class WindowDataModule(LightningDataModule):
    """Loads splits and serves batches.

    Args:
        root: Folder of the npz files.
        batch_size: Windows per batch and process.
        num_workers: Loader processes.
        seed: Seed of the shuffle; None for the one of seed_everything.

    Raises:
        UserError: If a number is impossible.
    """

    use_channels: tuple[str, ...] | None = None
    needs_validation = True
    """Whether a fit chooses its best epoch; else it does without validation windows where there are none."""

    def __init__(self, root: str, batch_size: int, num_workers: int, seed: int | None) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; expected at least 1")
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; expected at least 0")
        self.root = Path(root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.splits: dict[str, WindowDataset] = {}

    @property
    def train(self) -> WindowDataset | None:
        """The training windows, once ``setup('fit')`` has read them."""
        return self.splits.get("train")

    def require_root(self, mock: str) -> None:
        """Refuse a root that is no folder, naming the command that makes one."""
        if not self.root.is_dir():
            raise UserError(f"data folder {self.root} does not exist; make synthetic data with: {mock}")

    def serve(self, windows: WindowSet) -> WindowDataset:
        """Wrap windows for the trainer's model: its channels, in its order."""
        if self.trainer is None or not hasattr(self.trainer.lightning_module, "channels"):
            return WindowDataset(windows, windows.channels, self.use_channels)
        wanted = cast("tuple[str, ...]", self.trainer.lightning_module.channels)
        used = windows.channels if self.use_channels is None else self.use_channels
        if not set(wanted) & set(windows.channels) & set(used):
            only = "" if self.use_channels is None else f", of which {', '.join(used)} may be used"
            raise UserError(
                f"{self.root} has the channels {', '.join(windows.channels)}{only}, but the model wants "
                f"{', '.join(wanted)}; none is in common"
            )
        return WindowDataset(windows, wanted, self.use_channels)

    def loader(self, split: str, *, shuffle: bool) -> DataLoader[Batch]:
        """Return the loader of a split: whole batches per fetch, no collation."""
        dataset = self.splits[split]
        trainer = self.trainer
        batches = EpochBatches(
            dataset,
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
        )
        return WindowLoader(
            dataset,
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            # its own, so that drawing the workers' seeds leaves the global stream alone
            generator=torch.Generator().manual_seed(self.seed),
        )
