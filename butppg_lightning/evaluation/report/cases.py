"""The windows worth looking at, and which seconds of which channels drove their verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.npz import Array

KINDS = {
    "right_good": "rightly called good",
    "right_poor": "rightly called poor",
    "wrong_good": "wrongly called good",
    "wrong_poor": "wrongly called poor",
    "good": "called good, without a label",
    "poor": "called poor, without a label",
}
"""Why a window is shown."""


def choose_cases(
    labels: Array | None, probabilities: Array, threshold: float, subjects: Array | None, each: int = 2
) -> list[tuple[str, int]]:
    """Choose the surest windows of every kind, of different subjects as far as there are.

    Args:
        labels: ``[N]`` in {0 poor, 1 good}, or None.
        probabilities: ``[N]`` of good.
        threshold: At or above it a window is called good.
        subjects: ``[N]`` or None.
        each: Windows of each kind at most.

    Returns:
        Kind (a key of :data:`KINDS`) and row, the surest first within a kind.
    """
    called = probabilities >= threshold
    kinds = {"good": called, "poor": ~called}
    if labels is not None:
        kinds = {
            "right_good": called & (labels == 1),
            "right_poor": ~called & (labels == 0),
            "wrong_good": called & (labels == 0),
            "wrong_poor": ~called & (labels == 1),
        }
    found = []
    for kind, chosen in kinds.items():
        rows = np.flatnonzero(chosen)
        sign = -1 if kind.endswith("good") else 1
        rows = rows[np.argsort(sign * probabilities[rows], kind="stable")]
        if subjects is not None:
            # the first of each subject before anybody's second
            firsts = np.sort(np.unique(subjects[rows], return_index=True)[1])
            rows = np.r_[rows[firsts], np.delete(rows, firsts)]
        found += [(kind, int(row)) for row in rows[:each]]
    return found


def occlusion(logits: Callable[[Array], Array], window: Array, seconds: int) -> Array:
    """Return how much each second of each channel raises a window's logit (occlusion: Zeiler and Fergus 2014).

    Each piece is replaced by 0, which is what the model sees of an absent channel; what the logit falls by is what the
    piece contributed. Pieces that only matter together do not show.

    Args:
        logits: Maps windows ``[B, C, T]`` to logits ``[B]``.
        window: ``[C, T]`` as the model sees it: filtered and scaled.
        seconds: Pieces per channel; T must be a multiple of it.

    Returns:
        ``[C, seconds]``; above 0 where the piece speaks for good.
    """
    channels, samples = window.shape
    length = samples // seconds
    # the untouched window is in the same batch: a batch of another size may round otherwise
    batch = np.repeat(window[None], channels * seconds + 1, axis=0)
    for piece in range(channels * seconds):
        channel, second = divmod(piece, seconds)
        batch[piece, channel, second * length : (second + 1) * length] = 0
    found = logits(batch)
    return np.asarray(found[-1] - found[:-1], dtype=np.float64).reshape(channels, seconds)
