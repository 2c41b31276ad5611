"""Which windows come in which batch: a function of (seed, epoch, rank) and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DistributedSampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from torch import Tensor


class EpochBatches(DistributedSampler[Any]):
    """Batches of row numbers, shuffled anew each epoch and dealt out to the ranks.

    A global batch holds ``batch_size`` rows for each rank; rank r takes every world-size-th row from r on, so that
    the global batches are the same for any number of processes. While training the last one is filled up from the
    epoch's beginning, so that no rank waits for another; otherwise nothing is repeated.

    It is a DistributedSampler because Lightning leaves those alone and tells them the epoch.

    Args:
        rows: The dataset; only its length counts.
        batch_size: Windows per rank and batch.
        seed: Seed of the shuffle.
        shuffle: Whether to shuffle (training) or keep the order.
        num_replicas: Number of processes.
        rank: This process.

    Attributes:
        start: The next pass begins at this batch of its epoch (a resumed one).
    """

    def __init__(
        self, rows: Sized, batch_size: int, *, seed: int, shuffle: bool, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(rows, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.count = len(rows)
        self.batch_size = batch_size
        self.start = 0

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
