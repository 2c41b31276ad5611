"""Classification heads: tokens of the encoder in, one logit for "good quality" out."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

HeadName = Literal["linear", "mlp", "attention", "probe"]
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
        return cast("Tensor", self.score(scaled.clamp(-_LARGEST_INDEX, _LARGEST_INDEX))).squeeze(-1)


class LinearHead(nn.Module):
    """Mean of the tokens, then one linear layer.

    Args:
        width: Token width.
        dropout: Dropout share before the linear layer.
        side_inputs: Number of side inputs K; 0 for none.
    """

    pools_without_parameters = True
    """Whether :meth:`pool` is fixed, so that its result can stand for the tokens while only the head trains."""

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: int = 0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1)
        self.side = SideInputs(side_inputs) if side_inputs else None
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce tokens ``[B, P, W]`` to ``[B, W]``."""
        return tokens.mean(dim=1)

    def transform(self, pooled: Tensor) -> Tensor:
        """Map pooled features to what enters the last linear layer."""
        return pooled

    def classify(self, pooled: Tensor, side: Tensor | None = None) -> Tensor:
        """Map pooled features ``[B, W]``, and side inputs ``[B, K]`` of a head that has some, to logits ``[B]``."""
        logits = cast("Tensor", self.score(self.drop(self.transform(pooled)))).squeeze(-1)
        if self.side is None:
            return logits
        if side is None:
            raise ValueError("this head wants side inputs; give what QualityNetwork.side_inputs returns")
        return logits.float() + cast("Tensor", self.side(side))

    def forward(self, tokens: Tensor, side: Tensor | None = None) -> Tensor:
        """Map tokens ``[B, P, W]`` and side inputs ``[B, K]`` to logits ``[B]``."""
        return self.classify(self.pool(tokens), side)


class MLPHead(LinearHead):
    """Mean of the tokens, then a hidden layer of the same width, with dropout before each layer."""

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: int = 0) -> None:
        super().__init__(width, dropout, side_inputs)
        self.hidden = nn.Linear(width, width)

    def transform(self, pooled: Tensor) -> Tensor:
        """Map pooled features ``[B, W]`` to the hidden layer's ``[B, W]``."""
        return nn.functional.gelu(self.hidden(self.drop(pooled)))


class ProbeHead(LinearHead):
    """Mean, spread and step of the tokens over time, each standardised, then one linear layer.

    Quality is as much about change as about level. Statistics pooling: Snyder et al. 2018; standardising before a
    linear layer: He et al. 2022, appendix A. The step is the mean distance of neighbouring tokens, feature by feature.
    """

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: int = 0) -> None:
        super().__init__(3 * width, dropout, side_inputs)
        self.standardise = RunningStandardise(3 * width)
        nn.init.trunc_normal_(self.score.weight, std=1e-3)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce tokens ``[B, P, W]`` to ``[B, 3 W]``."""
        tokens = tokens.float()
        step = (tokens[:, 1:] - tokens[:, :-1]).abs().mean(dim=1)
        centred = tokens - tokens.mean(dim=1, keepdim=True)
        # the root's slope is infinite at 0, where the tokens of a flat signal are
        spread = (centred.square().mean(dim=1) + 1e-8).sqrt()
        return torch.cat([tokens.mean(dim=1), spread, step], dim=1)

    def transform(self, pooled: Tensor) -> Tensor:
        """Standardise pooled features ``[B, 3 W]``."""
        return cast("Tensor", self.standardise(pooled))


class AttentionHead(LinearHead):
    """Weighted mean of the tokens, then one linear layer (attention pooling, Ilse et al. 2018).

    A burst of motion spoils part of a window; the learned weights let the head look for it instead of averaging
    it away.
    """

    pools_without_parameters = False

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: int = 0) -> None:
        super().__init__(width, dropout, side_inputs)
        self.hidden = nn.Linear(width, width // 2)
        self.attend = nn.Linear(width // 2, 1)
        nn.init.zeros_(self.attend.weight)  # begins as the plain mean
        nn.init.zeros_(self.attend.bias)

    def weights(self, tokens: Tensor) -> Tensor:
        """Return the share of each token, ``[B, P]``, summing to 1."""
        score = cast("Tensor", self.attend(torch.tanh(self.hidden(tokens)))).squeeze(-1)
        return score.float().softmax(dim=1)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce tokens ``[B, P, W]`` to their weighted mean ``[B, W]``."""
        shares = self.weights(tokens).to(tokens.dtype)
        return (shares.unsqueeze(-1) * tokens).sum(dim=1)


HEADS: dict[HeadName, type[LinearHead]] = {
    "linear": LinearHead,
    "mlp": MLPHead,
    "attention": AttentionHead,
    "probe": ProbeHead,
}
