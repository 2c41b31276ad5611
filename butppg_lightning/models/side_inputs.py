"""Side inputs of a head: signal indices, standardised by the training windows, in one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

_BETTER = "local_share local_share_p20 local_harmonics beats_alike template_match autocorrelation_peak"
_WORSE = (
    "rate_step rate_spread centroid_spread interval_deviation envelope_variation interval_spread interval_spread_below "
    "interval_spread_wide interval_spread_wide_below spectrum_to_peaks spectrum_to_peaks_below peaks_to_peaks_below"
)
DIRECTIONS = {**dict.fromkeys(_BETTER.split(), 1), **dict.fromkeys(_WORSE.split(), -1)}
"""Signal indices that mean the same on every device, and which way: 1 where more is better, -1 where it is worse."""
_LEAST_SHARE = 0.02  # of a new batch in the statistics: they forget after about 50 batches, should the encoder move
_LEAST_VARIANCE = 1e-8
_LARGEST_INDEX = 4.0  # standard deviations: one wild index must not decide a window


class RunningStandardise(nn.Module):
    """Subtract the mean and divide by the standard deviation of the training batches so far, feature by feature.

    Stands where batch normalisation without parameters stands in linear probing (He et al. 2022, appendix A), with
    two differences: a batch is scaled by the running figures and not by its own, so that training and evaluation
    compute the same; and the processes of a run share their figures, so that they stay equal.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("batches", torch.zeros(width, dtype=torch.int64))

    def forward(self, features: Tensor, known: Tensor | None = None) -> Tensor:
        """Standardise features ``[B, width]``; returns float32.

        Where ``known [B, width]`` is False a value is missing: whatever stands there becomes 0 and does not count.
        """
        features = features.float() if known is None else torch.where(known, features.float(), 0.0)
        if self.training:
            self._follow(features.detach(), known)
        scaled = (features - self.mean) / self.variance.clamp(min=_LEAST_VARIANCE).sqrt()
        return scaled if known is None else scaled * known

    @torch.no_grad()
    def _follow(self, features: Tensor, known: Tensor | None) -> None:
        weights = torch.ones_like(features) if known is None else known.to(features.dtype)
        count, total = _over_processes(torch.stack([weights.sum(0), (features * weights).sum(0)]))
        there = count > 0
        count = count.clamp(min=1)
        mean = total / count
        # about the batch's own mean: sums of squares of large numbers would lose what differs
        squares = _over_processes(((features - mean) * weights).square().sum(0))
        # a feature that was missing so far begins with the first batch that has it
        self.batches += there
        share = torch.clamp(1 / self.batches.clamp(min=1), min=_LEAST_SHARE) * there
        shift = mean - self.mean
        # total variance of the two, weighted, groups: within them and between their means
        within = torch.lerp(self.variance, squares / count, share)
        self.variance.copy_(within + share * (1 - share) * shift.square())
        self.mean += share * shift


def _over_processes(sums: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    return sums


class SideInputs(nn.Module):
    """What K side inputs add to a head's logit: each standardised by the training windows, then one linear layer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.standardise = RunningStandardise(count)
        self.score = nn.Linear(count, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map side inputs ``[B, K]``, NaN where one is missing, to what they add to the logits, ``[B]``."""
        known = ~inputs.isnan()
        scaled = self.standardise(inputs, known)
        return self.weigh(scaled.clamp(-_LARGEST_INDEX, _LARGEST_INDEX)).squeeze(-1)

    def weigh(self, scaled: Tensor) -> Tensor:
        """Map standardised side inputs ``[B, K]`` to their weighted sum ``[B, 1]``."""
        return cast("Tensor", self.score(scaled))


class MonotoneInputs(SideInputs):
    """Side inputs of which each may move the logit one way only, as :data:`DIRECTIONS` says; others have no say.

    What motion looks like differs between devices, what a pulse looks like does not: a weight that is bound to its
    sign cannot learn the training set's exceptions.

    Args:
        names: Of the K side inputs.
    """

    direction: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(len(names))
        directions = torch.tensor([float(DIRECTIONS.get(name, 0)) for name in names])
        self.register_buffer("direction", directions, persistent=False)

    def weigh(self, scaled: Tensor) -> Tensor:
        """Map standardised side inputs ``[B, K]`` to their weighted sum ``[B, 1]``, with weights of at least 0."""
        weight = self.score.weight
        if self.training:
            with torch.no_grad():
                weight.clamp_(min=0)  # projected gradient: a weight that a step made negative begins again at 0
        return F.linear(scaled * self.direction, weight.clamp(min=0))
