"""Classification heads: tokens of the encoder in, one logit for "good quality" out."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

HeadName = Literal["linear", "mlp", "attention"]


class LinearHead(nn.Module):
    """Mean of the tokens, then one linear layer.

    Args:
        width: Token width.
        dropout: Dropout share before the linear layer.
    """

    pools_without_parameters = True
    """Whether :meth:`pool` is fixed, so that its result can stand for the tokens while only the head trains."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1)
        _start_undecided(self.score)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce tokens ``[B, P, W]`` to ``[B, W]``."""
        return tokens.mean(dim=1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Map pooled features ``[B, W]`` to logits ``[B]``."""
        return cast("Tensor", self.score(self.drop(pooled))).squeeze(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, P, W]`` to logits ``[B]``."""
        return self.classify(self.pool(tokens))


class MLPHead(LinearHead):
    """Mean of the tokens, then a hidden layer of the same width.

    Args:
        width: Token width.
        dropout: Dropout share before each linear layer.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__(width, dropout)
        self.hidden = nn.Linear(width, width)

    def classify(self, pooled: Tensor) -> Tensor:
        """Map pooled features ``[B, W]`` to logits ``[B]``."""
        return super().classify(nn.functional.gelu(self.hidden(self.drop(pooled))))


class AttentionHead(LinearHead):
    """Weighted mean of the tokens, then one linear layer (attention pooling, Ilse et al. 2018).

    A burst of motion spoils part of a window; the learned weights let the head look for it instead of averaging
    it away.

    Args:
        width: Token width.
        dropout: Dropout share before the linear layer.
    """

    pools_without_parameters = False

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__(width, dropout)
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


HEADS: dict[HeadName, type[LinearHead]] = {"linear": LinearHead, "mlp": MLPHead, "attention": AttentionHead}


def _start_undecided(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
