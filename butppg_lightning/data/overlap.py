"""What two splits may not share: subjects, or windows."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.window import WindowSet

_READ = 4096  # windows read together; bounds the memory


def refuse_shared_subjects(subjects: Mapping[str, Array | Sequence[str]], place: str, insist: str) -> None:
    """Refuse splits of which two hold the same person: every figure would look better than it is.

    ``subjects`` are those of each split, by its name; ``place`` and ``insist`` (the option that accepts it) go into
    the UserError.
    """
    for first, second in combinations(subjects, 2):
        both = np.intersect1d(np.asarray(subjects[first]), np.asarray(subjects[second]))
        if both.size:
            raise UserError(
                f"{place}: subjects in both {first} and {second}: {both.size}, first {both[0]}; "
                f"split by subject (butppg prepare splits --source W.npz --output DIR), or insist with {insist}"
            )


def refuse_shared_windows(digests: Mapping[str, Array], place: str, insist: str) -> None:
    """Refuse, as :func:`refuse_shared_subjects`, splits that share a window, by their :func:`window_digests`."""
    for first, second in combinations(digests, 2):
        one, other = digests[first], digests[second]
        same = np.flatnonzero(np.isin(one, other) & (one != 0))
        if same.size:
            twin = np.flatnonzero(other == one[same[0]])[0]
            raise UserError(
                f"{place}: {same.size} windows of {first} are in {second} too, first number {same[0]} there and "
                f"{twin} here; remove the copies, or insist with {insist}"
            )


def window_digests(windows: WindowSet) -> Array:
    """Return a number for each window ``[N]`` uint64, equal for equal samples; 0 for windows without any variation.

    A dead sensor's windows are all alike without being copies of each other.
    """
    found = np.zeros(len(windows), dtype=np.uint64)
    for start in range(0, len(windows), _READ):
        chunk = np.ascontiguousarray(windows.signals[start : start + _READ], dtype=np.float32)
        alive = (chunk != chunk[..., :1]).any(axis=(1, 2))
        for row in np.flatnonzero(alive):
            digest = hashlib.blake2b(chunk[row].data, digest_size=8).digest()
            found[start + row] = int.from_bytes(digest, "little") or 1
    return found
