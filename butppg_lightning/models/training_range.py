"""Whether a window is like those a model was trained on: the range of their signal indices.

The range needs neither encoder nor head, so it is the same for every recipe, and whether a window lies outside can be
put in words: which index, and which way. It says nothing of channels that no training window had.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from butppg_lightning.errors import UserError
from butppg_lightning.models.indices.signal_indices import GROUPS as INDICES
from butppg_lightning.models.indices.signal_indices import SignalIndices, index_names
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from butppg_lightning.npz import Array

RANGE_KEY = "training_range"
"""The key of a checkpoint that holds :meth:`TrainingRange.state`."""
GROUPS = ("ppg", "acc")
"""The indices that are looked at: those that carry over between devices and restate no label."""
INSIDE = 0.99
"""Share of the training windows that are inside."""
_LEAST_SPREAD = 0.02  # the indices are of the order of 1; one that never moved must not make every device foreign
_STRIKING = 0.1  # ten times as many outside as in training: unlikely even where neighbouring windows are alike
_ROWS = 256  # windows at a time: bounds the memory


@dataclass(frozen=True)
class TrainingRange:
    """Mean and spread of each signal index over the poor and over the good training windows.

    A window is compared with the training windows of the verdict it gets: called good though it resembles no good
    window of training is what a gate has to own up to. Its distance is the largest deviation of an index from their
    mean, in standard deviations, divided by the edge that :data:`INSIDE` of them keep within; above 1 is outside.

    Args:
        channels: Names of the channels that any training window had.
        names: Names of the K indices that training windows of both labels had.
        mean: Of the poor, then of the good windows, K values each.
        spread: Their standard deviations, above 0.
        edge: Largest deviation, in standard deviations, that counts as inside, of each label.
    """

    channels: list[str]
    names: list[str]
    mean: list[list[float]]
    spread: list[list[float]]
    edge: list[float]

    def deviations(self, indices: Tensor, names: Sequence[str]) -> Array:
        """Return how far windows are from the poor and from the good ones of training, in edges: ``[B, 2, K]``, signed.

        ``indices [B, K']`` are raw windows' of these ``names``, NaN where one is missing, which is no deviation.
        """
        columns = [names.index(name) for name in self.names]
        mean, spread = torch.tensor(self.mean), torch.tensor(self.spread) * torch.tensor(self.edge).unsqueeze(1)
        found = (indices[:, columns].cpu().unsqueeze(1) - mean) / spread
        return found.nan_to_num(0.0).numpy()

    def state(self) -> dict[str, Any]:
        """Return it in plain types, for a checkpoint."""
        return asdict(self)


def range_indices(
    channels: Sequence[str], known: TrainingRange | None = None, beside: SignalIndices | None = None
) -> SignalIndices:
    """Return what computes the indices of a range from raw windows of these channels.

    Of a ``known`` range, only the groups that it looks at. What a network computes as side inputs, ``beside`` it, is
    computed along with them, if it takes the same polarity: nothing is computed twice.
    """
    looked_at = GROUPS if known is None else [group for group in GROUPS if {*INDICES[group]} & {*known.names}]
    if beside is None or beside.polarity != "canonical":
        return SignalIndices(channels, looked_at)
    return beside if {*looked_at} <= {*beside.groups} else SignalIndices(channels, [*looked_at, *beside.groups])


def fit_range(channels: Sequence[str], signals: Tensor, present: Tensor, labels: Tensor) -> TrainingRange | None:
    """Take the range of training windows.

    Args:
        channels: Names of the C channels.
        signals: Raw windows ``[N, C, 1250]``.
        present: ``[N, C]`` bool, which channels they have.
        labels: ``[N]``, 1 good and 0 poor.

    Returns:
        The range; None if there is no index that usable windows of both labels have.
    """
    indices, parts, usable = range_indices(channels), [], []
    for raw, there in zip(torch.split(signals, _ROWS), torch.split(present, _ROWS), strict=True):
        usable.append(channel_faults(raw, channels, there) == 0)
        parts.append(indices.known(raw, usable[-1]))
    values = torch.cat(parts).double().numpy()
    groups = [values[(labels == label).numpy()] for label in (0, 1)]
    known = np.all([~np.isnan(group).all(0) for group in groups], axis=0)
    if not known.any():
        return None
    means, spreads, edges = [], [], []
    for group in (group[:, known] for group in groups):
        mean, spread = np.nanmean(group, 0), np.nanstd(group, 0).clip(min=_LEAST_SPREAD)
        furthest = np.nan_to_num(np.abs(group - mean) / spread).max(1)
        means.append(mean.tolist())
        spreads.append(spread.tolist())
        edges.append(max(float(np.quantile(furthest, INSIDE, method="higher")), 1.0))
    had = torch.cat(usable).any(0).tolist()
    return TrainingRange(
        [name for name, there in zip(channels, had, strict=True) if there],
        [name for name, there in zip(indices.names, known, strict=True) if there],
        means,
        spreads,
        edges,
    )


def stored_range(content: dict[str, Any], path: object) -> TrainingRange | None:
    """Return the range in a checkpoint's content, None if it has none (it is older than they); refuse a damaged one."""
    state = content.get(RANGE_KEY)
    if state is None:
        return None
    try:
        found = TrainingRange(**state)
        rows = [*found.mean, *found.spread, found.edge]
        fits = [len(row) for row in rows] == [len(found.names)] * 4 + [2] and set(found.channels) <= set(CHANNELS)
        numbers = all(math.isfinite(value) for row in rows for value in row)
        positive = all(value > 0 for row in (*found.spread, found.edge) for value in row)
        if fits and numbers and positive and found.names and set(found.names) <= set(index_names(GROUPS)):
            return found
    except (TypeError, ValueError, OverflowError):  # a stranger's values can be of any type
        pass
    raise UserError(f"{path}: the stored training range is damaged; train or export the model again")


@dataclass(frozen=True, eq=False)
class Outside:
    """Which of N windows are unlike the training windows of their verdict."""

    names: Sequence[str]  # of the K indices
    deviations: Array  # [N, K] in edges, signed
    judged: Array  # [N] bool; the others have no verdict, and are neither inside nor outside

    @property
    def distances(self) -> Array:
        """``[N]``, above 1 outside; NaN where not judged."""
        return np.where(self.judged, np.abs(self.deviations).max(1), np.nan)

    @property
    def share(self) -> float | None:
        """Share of the judged windows that are outside, 0..1; None if none was judged."""
        return float((self.distances[self.judged] > 1).mean()) if self.judged.any() else None

    def reasons(self) -> list[str]:
        """Return for each window the indices beyond their edge and which way, empty inside."""
        beyond = np.where(self.judged[:, None], np.sign(self.deviations) * (np.abs(self.deviations) > 1), 0)
        ways = {1: "high", -1: "low"}
        return [
            "; ".join(f"{name} {ways[way]}" for name, way in zip(self.names, row, strict=True) if way)
            for row in beyond.astype(int).tolist()
        ]

    def figures(self) -> dict[str, Any]:
        """Return the share outside, and of each reason its share of the judged windows, the commonest first."""
        counts = Counter(reason for reasons in self.reasons() for reason in reasons.split("; ") if reason)
        total = max(1, int(self.judged.sum()))
        return {
            "share_outside": self.share,
            "outside_by_index": {reason: count / total for reason, count in counts.most_common()},
        }

    def caution(self) -> str:
        """Return one line if strikingly many windows are outside, else nothing."""
        figures = self.figures()
        share, count = figures["share_outside"], int((self.distances > 1).sum())
        if share is None or share < _STRIKING or count < 2:  # one window is no pattern
            return ""
        why = ", ".join(f"{name} in {part:.0%}" for name, part in list(figures["outside_by_index"].items())[:3])
        return (
            f"{share:.0%} of the windows are unlike those the model was trained on, of which {1 - INSIDE:.0%} are "
            f"({why}): trust its verdicts less, or recalibrate on labelled windows of this kind (butppg calibrate)"
        )
