"""Ensembles of methods whose scores have different units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, np.dtype[Any]]


def rank_mean(scores: Sequence[Array]) -> Array:
    """Return the mean over methods of each window's rank within the scored set, as a fraction.

    Args:
        scores: One array ``[N]`` per method over the same windows, higher for better quality.

    Returns:
        ``[N]`` float64 in 0..1: 0 where every method puts the window last, 1 where every method puts it first. Tied
        windows share the average of their ranks; a single window gets 0.5.

    Raises:
        UserError: Without a method, with different lengths, or with NaN.

    Examples:
        >>> rank_mean([np.array([0.1, 0.9, 0.1]), np.array([-5.0, 7.0, 0.0])]).tolist()
        [0.125, 1.0, 0.375]
    """
    tables = [np.asarray(values, dtype=np.float64) for values in scores]
    if not tables or any(values.shape != (len(tables[0]),) for values in tables):
        shapes = [list(values.shape) for values in tables]
        raise UserError(f"a rank mean needs scores of the same windows from at least one method; got shapes {shapes}")
    if any(np.isnan(values).any() for values in tables):
        raise UserError("a rank mean cannot rank NaN; give windows that cannot be scored the lowest score")
    return np.asarray(np.mean([_fractional_ranks(values) for values in tables], axis=0))


def _fractional_ranks(values: Array) -> Array:
    if len(values) < 2:
        return np.full(len(values), 0.5)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray(average[inverse] / (len(values) - 1))
