"""What both DataModules share: which windows come in which batch, and loaders that resume in the middle of an epoch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, DistributedSampler

from butppg_lightning.data.dataset import Batch, WindowDataset
from butppg_lightning.errors import UserError
from butppg_lightning.window import channel_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from torch import Tensor

    from butppg_lightning.window import WindowSet


class EpochBatches(DistributedSampler[Any]):
    """Batches of row numbers, a function of (seed, epoch, rank) and of nothing else.

    A global batch holds ``batch_size`` rows for each rank; rank r takes every world-size-th row from r on, so that
    the global batches are the same for any number of processes. While training the last one is filled up from the
    epoch's beginning, so that no rank waits for another; otherwise nothing is repeated.

    It is a DistributedSampler because Lightning leaves those alone and tells them the epoch.

    Only the length of ``rows`` counts; ``batch_size`` is per rank. The next pass begins at batch ``start``: above 0
    when an epoch is resumed.
    """

    def __init__(
        self, rows: Sized, batch_size: int, *, seed: int, shuffle: bool, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.count, self.batch_size, self.start = len(rows), batch_size, 0

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return -(-self.count // (self.batch_size * self.num_replicas))

    def order(self, epoch: int) -> Tensor:
        """Return the rows of all ranks in the order of an epoch."""
        if not self.shuffle:
            return torch.arange(self.count)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.count, generator=generator)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield row numbers, one tensor a batch."""
        order = self.order(self.epoch)
        if self.shuffle:
            missing = -self.count % self.num_replicas
            order = torch.cat([order, order[:missing]]) if missing <= self.count else order
        size = self.batch_size * self.num_replicas
        for start in range(self.start * size, self.count, size):
            yield order[start : start + size][self.rank :: self.num_replicas]


class WindowLoader(DataLoader[Batch]):
    """A loader that can be resumed in the middle of an epoch, whatever its number of workers."""

    epoch_batches: int | None = None  # that count as an epoch; fewer than there are where the trainer limits them
    _start = 0
    _consumed = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield an epoch's batches, beginning where the loaded state ended."""
        # a generator: nothing is fetched before the trainer has set the sampler's epoch
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
    """Loads splits and serves batches; the arguments are those of the two DataModules."""

    needs_validation = True
    """Whether a fit chooses its best epoch; else it does without validation windows where there are none."""

    def __init__(
        self,
        root: str,
        batch_size: int,
        num_workers: int,
        seed: int | None,
        use_channels: list[str] | None,
        allow_overlap: bool,
    ) -> None:
        super().__init__()
        for key, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise UserError(f"data.{key} is {value}; expected at least {least}")
        self.root, self.batch_size, self.num_workers = Path(root), batch_size, num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.use_channels = None if use_channels is None else channel_names(use_channels)
        self.allow_overlap = allow_overlap
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

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches of the training windows."""
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return batches of the validation windows, in order; none where there are none."""
        return self.loader("val", shuffle=False) if "val" in self.splits else []

    def loader(self, split: str, *, shuffle: bool) -> DataLoader[Batch]:
        """Return the loader of a split: whole batches per fetch, no collation."""
        dataset, trainer = self.splits[split], self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        options: Any = {"seed": self.seed, "shuffle": shuffle, "num_replicas": world, "rank": rank}
        return WindowLoader(
            dataset,
            batch_size=None,
            sampler=EpochBatches(dataset, self.batch_size, **options),
            num_workers=self.num_workers,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            # its own, so that drawing the workers' seeds leaves the global stream alone
            generator=torch.Generator().manual_seed(self.seed),
        )
