"""Stored features of windows: what a dataset serves in place of signals while the part that made them is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]


class Features:
    """Features by row number of a dataset.

    Args:
        views: For each view of the windows, features ``[rows, ...]``.
        depth: Where in the network they go on.
        rows: ``[rows]`` sorted row numbers that are there; None when it is all of them.

    Attributes:
        view: Which of the views is served.
    """

    def __init__(self, views: Sequence[Tensor], depth: Any, rows: Array | None) -> None:
        self.views = tuple(views)
        self.depth = depth
        self.rows = rows
        self.view = 0

    def batch(self, index: Array) -> dict[str, Any]:
        """Return ``features [B, ...]`` of the rows ``index [B]``, and their ``depth``.

        Raises:
            IndexError: If a row is not there.
        """
        place = index
        if self.rows is not None:
            place = np.searchsorted(self.rows, index)
            if (place >= len(self.rows)).any() or (self.rows[np.minimum(place, len(self.rows) - 1)] != index).any():
                raise IndexError("a window was asked for whose features were not stored")
        return {"features": self.views[self.view][torch.from_numpy(place)], "depth": self.depth}
