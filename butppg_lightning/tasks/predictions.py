"""Predictions collected over a pass through a split, and gathered from all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]


class PredictionStore:
    """Keeps row numbers, labels and scores (logits) of a pass."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def clear(self) -> None:
        """Forget everything."""
        self._parts = []

    def add(self, rows: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Keep a batch: ``rows [B]``, ``labels [B]`` and ``scores [B]``."""
        self._parts.append((rows, labels, scores.float()))

    def gather(self) -> tuple[Array, Array, Array]:
        """Return labels, scores and row numbers of all processes, each window once, in row order."""
        columns = [torch.cat(column).cpu().numpy() for column in zip(*self._parts, strict=True)] if self._parts else []
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            shares: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, columns)
            columns = [np.concatenate(column) for column in zip(*(share for share in shares if share), strict=True)]
        if not columns:
            return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        rows, first = np.unique(columns[0], return_index=True)
        return columns[1][first], columns[2][first], rows
