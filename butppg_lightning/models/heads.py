"""Classification heads: tokens of the encoder in, one logit for "good quality" out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.models.rates import RATE_STEP, RATES, READERS, agreement
from butppg_lightning.models.side_inputs import MonotoneInputs, RunningStandardise, SideInputs

if TYPE_CHECKING:
    from collections.abc import Sequence

HeadName = Literal["linear", "mlp", "attention", "probe", "rate", "monotone"]
_LEAST = 2e-3  # probability of either verdict that the rate head always leaves open
_TARGET_SPREAD = 1.5  # bpm, of the distribution that stands for a reference rate


class LinearHead(nn.Module):
    """Mean of the tokens, then one linear layer.

    Args:
        width: Token width.
        dropout: Dropout share before the linear layer.
        side_inputs: Names of the K side inputs; none for a head without.
    """

    reads_tokens = True
    """Whether the tokens have a say; if not, nobody needs to compute them."""
    pools_without_parameters = True
    """Whether :meth:`pool` is fixed, so that its result can stand for the tokens while only the head trains."""

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1)
        self.side = SideInputs(len(side_inputs)) if side_inputs else None
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
        return logits.float() + cast("Tensor", self.side(_required(side)))

    def forward(self, tokens: Tensor, side: Tensor | None = None) -> Tensor:
        """Map tokens ``[B, P, W]`` and side inputs ``[B, K]`` to logits ``[B]``."""
        return self.classify(self.pool(tokens), side)


class MLPHead(LinearHead):
    """Mean of the tokens, then a hidden layer of the same width, with dropout before each layer."""

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
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

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
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

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
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


class RateHead(LinearHead):
    """Good means that most readers find the heart's rate; the tokens of candidate rates say what that can be.

    The tokens give a distribution over the candidates. The probability that at least two of three readers (spectrum,
    autocorrelation, peaks) lie within 5 bpm of a rate drawn from it follows in closed form, so nothing has to be
    learned of what agreement is. Which side of the pulse the third one reads, top or foot, is weighed by the window.

    Args:
        width: Token width.
        dropout: Dropout share before the layer that weighs tops and feet.
        side_inputs: Names of the side inputs; the first four are those of :data:`READERS`, others add to the logit.
    """

    pools_without_parameters = False

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
        super().__init__(width, dropout, side_inputs[len(READERS) :])
        self.score = nn.Linear(width, 1)
        self.attend = nn.Linear(width, 2)
        self.weigh = nn.Linear(4 * width, 1)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)
        self.register_buffer("rates", RATES, persistent=False)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce tokens ``[B, 91, W]`` to ``[B, 91 + 4 W]``: log probabilities of rates, and what weighs readers."""
        logits = cast("Tensor", self.score(tokens)).squeeze(-1)
        shares = cast("Tensor", self.attend(tokens)).softmax(1).transpose(1, 2)  # [B, 2, 91]
        pooled = [logits.log_softmax(-1), tokens.mean(1), tokens.amax(1), (shares @ tokens).flatten(1)]
        return torch.cat(pooled, dim=1)

    def classify(self, pooled: Tensor, side: Tensor | None = None) -> Tensor:
        """Map pooled features and side inputs ``[B, K]``, of which four are rates in bpm, to logits ``[B]``."""
        side = _required(side)
        rates = side[:, : len(READERS)].nan_to_num(0.0)
        behind = F.pad(pooled[:, : len(RATES)].exp().cumsum(-1), (1, 0))  # at the candidates' edges, 35, 37 ... 217
        tops = agreement(behind, rates[:, [0, 1, 2]])
        feet = agreement(behind, rates[:, [0, 1, 3]])
        share = cast("Tensor", self.weigh(self.drop(pooled[:, len(RATES) :]))).sigmoid().squeeze(-1)
        good = _LEAST + (1 - 2 * _LEAST) * (share * tops + (1 - share) * feet).clamp(0.0, 1.0)
        logits = good.logit()
        return logits if self.side is None else logits + cast("Tensor", self.side(side[:, len(READERS) :]))

    def rate_loss(self, pooled: Tensor, reference: Tensor) -> Tensor:
        """Return the mean cross-entropy of the rates with reference rates ``[B]`` (bpm); NaN ones do not count."""
        known = (reference > RATES[0] - RATE_STEP) & (reference < RATES[-1] + RATE_STEP)
        distance = (cast("Tensor", self.rates) - reference.nan_to_num(0.0).unsqueeze(1)) / _TARGET_SPREAD
        target = (-0.5 * distance.square()).softmax(-1)
        losses = -(target * pooled[:, : len(RATES)]).sum(-1)
        return (losses * known).sum() / len(losses)


class MonotoneHead(LinearHead):
    """Signal indices alone, each of which can only raise the logit or only lower it; the tokens have no say.

    For devices and people that training never saw: what it can learn is how much each of a few properties of a pulse
    counts. See :class:`~butppg_lightning.models.side_inputs.MonotoneInputs`.
    """

    reads_tokens = False

    def __init__(self, width: int, dropout: float = 0.0, side_inputs: Sequence[str] = ()) -> None:
        super().__init__(width, dropout)
        del self.score  # of the tokens
        self.side = MonotoneInputs(side_inputs)
        self.bias = nn.Parameter(torch.zeros(1))

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce whatever comes, ``[B, *, *]``, to nothing, ``[B, 0]``."""
        return tokens[:, 0, :0]

    def classify(self, pooled: Tensor, side: Tensor | None = None) -> Tensor:
        """Map side inputs ``[B, K]`` to logits ``[B]``."""
        return self.bias + cast("Tensor", cast("MonotoneInputs", self.side)(_required(side)))


def _required(side: Tensor | None) -> Tensor:
    if side is None:
        raise ValueError("this head wants side inputs; give what QualityNetwork.side_inputs returns")
    return side


HEADS: dict[HeadName, type[LinearHead]] = {
    "linear": LinearHead,
    "mlp": MLPHead,
    "attention": AttentionHead,
    "probe": ProbeHead,
    "rate": RateHead,
    "monotone": MonotoneHead,
}
