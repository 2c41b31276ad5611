"""Splits by subject that keep the class balance: nobody is in two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.window import WindowSet

Array = np.ndarray[Any, np.dtype[Any]]
_TRIALS = 2000  # random assignments tried; the best is kept


def split_by_subject(windows: WindowSet, shares: Mapping[str, float], seed: int = 0) -> dict[str, list[str]]:
    """Assign whole subjects to splits so that sizes and class balance come close to what is asked.

    Args:
        windows: Labelled windows with subjects.
        shares: Split name to share of the windows; the shares sum to 1.
        seed: Seed of the search.

    Returns:
        Split name to sorted subject names.

    Raises:
        UserError: If subjects are unknown or fewer than the splits.
    """
    names, counts = _counts_per_subject(windows)
    wanted = {split: share for split, share in shares.items() if share > 0}
    if len(names) < len(wanted):
        raise UserError(f"{len(names)} subjects cannot be split into {len(wanted)} parts without sharing one")
    targets = np.array(list(wanted.values()))[:, None] * counts.sum(axis=0)
    generator = np.random.default_rng(seed)
    best, best_cost = np.zeros(len(names), dtype=np.int64), np.inf
    for _ in range(_TRIALS):
        assigned = generator.choice(len(wanted), len(names), p=np.array(list(wanted.values())) / sum(wanted.values()))
        if len(np.unique(assigned)) < len(wanted):
            assigned[generator.permutation(len(names))[: len(wanted)]] = np.arange(len(wanted))
        cost = _cost(assigned, counts, targets)
        if cost < best_cost:
            best, best_cost = assigned, cost
    return {split: [str(name) for name in names[best == row]] for row, split in enumerate(wanted)}


def folds_by_subject(windows: WindowSet, folds: int, seed: int = 0) -> list[list[str]]:
    """Deal subjects out to ``folds`` test sets of similar size and class balance.

    Args:
        windows: Labelled windows with subjects.
        folds: Number of folds; as many as subjects is leave-one-subject-out.
        seed: Seed of the search.

    Returns:
        The test subjects of each fold.

    Raises:
        UserError: If there are fewer than two folds or fewer subjects than folds.
    """
    if folds < 2:
        raise UserError(f"--folds is {folds}; expected at least 2")
    return list(split_by_subject(windows, {str(fold): 1 / folds for fold in range(folds)}, seed).values())


def subjects_named(windows: WindowSet, subjects: Sequence[str]) -> Array:
    """Return the mask of windows of the named subjects.

    Raises:
        UserError: If one is not there.
    """
    known = set(_subjects(windows).tolist())
    for name in subjects:
        if name not in known:
            raise UserError(f"subject {name} is not in the file; it has {', '.join(sorted(known)[:20])}")
    return np.isin(_subjects(windows), list(subjects))


def _cost(assigned: Array, counts: Array, targets: Array) -> float:
    reached = np.stack([counts[assigned == row].sum(axis=0) for row in range(len(targets))])
    # relative to each target, so that a small validation split counts as much as a large training one
    return float((((reached - targets) / np.maximum(targets, 1)) ** 2).sum())


def _counts_per_subject(windows: WindowSet) -> tuple[Array, Array]:
    names, inverse = np.unique(_subjects(windows), return_inverse=True)
    if windows.labels is None:
        raise UserError("the windows have no labels to balance the splits by")
    counts = np.stack([np.bincount(inverse[windows.labels == label], minlength=len(names)) for label in (0, 1)], axis=1)
    return names, counts


def _subjects(windows: WindowSet) -> Array:
    if windows.subjects is None:
        raise UserError("the windows have no 'subjects', so they cannot be split by subject; save who they come from")
    return windows.subjects
