"""Which of two methods ranks better within unseen people, said with no more certainty than their number allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.evaluation.ranking import FEWEST_SUBJECTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.npz import Array

_EXACT = 20  # subjects up to which all sign flips (a million) are tried
_DRAWS = 100_000


def paired_differences(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float]:
    """Return, per subject that has both figures, that of ``one`` less that of ``other``."""
    differences = {}
    for name, value in one.items():
        rival = other.get(name)
        if value is not None and rival is not None:
            differences[name] = value - rival
    return differences


@dataclass(frozen=True)
class SignFlip:
    """What per-subject differences say.

    Attributes:
        mean: Mean difference.
        above: Subjects whose difference is above 0.
        below: Subjects whose difference is below 0.
        subjects: Number of subjects.
        p_value: Two-sided; among 6 subjects never below 2/64 = 0.031.
        exact: Whether all sign flips were tried, rather than a random sample of them.
        verdict: ``better``, ``worse`` or ``not shown``.
    """

    mean: float
    above: int
    below: int
    subjects: int
    p_value: float
    exact: bool
    verdict: str


def sign_flip_test(differences: Sequence[float] | Array, seed: int = 0) -> SignFlip:
    """Compare two methods by their per-subject differences (Fisher 1935).

    If there were no difference, each subject's could as well have the other sign: the p-value is the share of all 2^n
    sign flips whose mean is at least as far from 0. Beyond 20 subjects 100,000 random flips stand for all of them, the
    observed one among them (Phipson and Smyth 2010).

    The verdict is a rule fixed beforehand: ``better`` if at least five sixths of the subjects (5 of 6, rounded up) and
    the mean are above 0, ``worse`` if they are below, else ``not shown``; also with fewer than 5 subjects.

    Args:
        differences: ``[n]``, one per subject, finite.
        seed: Seed of the random flips.

    Raises:
        ValueError: If there is no difference, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("differences must be a list of at least one finite number")
    count, mean = len(values), float(values.mean())
    exact = count <= _EXACT
    if exact:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    else:
        signs = np.random.default_rng(seed).integers(0, 2, (_DRAWS, count), dtype=np.int8) * 2 - 1
        sums = np.append(signs @ values, values.sum())
    # sums in another order differ in the last bits, which must not decide whether they are as far
    reach = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    above, below = int((values > 0).sum()), int((values < 0).sum())
    needed = math.ceil(5 * count / 6)
    verdict = "not shown"
    if count >= FEWEST_SUBJECTS and above >= needed and mean > 0:
        verdict = "better"
    elif count >= FEWEST_SUBJECTS and below >= needed and mean < 0:
        verdict = "worse"
    return SignFlip(mean, above, below, count, float((np.abs(sums) >= reach).mean()), exact, verdict)
