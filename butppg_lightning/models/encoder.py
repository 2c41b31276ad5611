"""The encoder: a pre-norm transformer on patches of a multichannel signal."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.window import PRETRAIN_CHANNELS, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence


class Encoder(Protocol):
    """What a class needs to stand in for :class:`PatchTransformer` (it is an ``nn.Module`` besides).

    Its ``embedding`` has a ``weight`` of shape ``[width, channels, patch]``, one filter bank per channel: that is
    what inflation works on. A forward pass keeps nothing of its batch in the module: on CPUs several batches are scored
    at once.

    Masked pretraining leaves hidden patches of the signal out. An encoder whose blocks mix tokens by their places, or
    whose tokens are no patches of the signal, has a module ``patches`` in place of that: it maps ``signals`` and
    ``present`` to the ``[B, C, count, size]`` that are hidden and predicted, and ``embed`` takes ``hidden [B, count]``.
    """

    channels: tuple[str, ...]
    width: int
    embedding: nn.Module
    blocks: nn.ModuleList
    norm: nn.Module

    def embed(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Map ``[B, C, T]`` signals to ``[B, P, width]`` tokens with positions."""

    def __call__(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        """Encode signals, or continue from the tokens that enter block ``start``."""


class PatchEmbedding(nn.Module):
    """Project each patch of all C channels to one token of width W: a filter bank per channel, summed.

    An absent channel adds nothing but its own learned vector, which starts at zero.
    """

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, patch_size))
        self.bias = nn.Parameter(torch.zeros(width))
        self.absent = nn.Parameter(torch.zeros(channels, width))
        nn.init.xavier_uniform_(self.weight.view(width, -1))

    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Return tokens ``[B, T // patch, W]`` of signals ``[B, C, T]``; ``present`` is ``[B, C]`` bool."""
        batch, channels, _ = signals.shape
        width, _, size = self.weight.shape
        if present is not None:
            signals = signals * present.unsqueeze(-1)
        count = signals.shape[2] // size  # named, because a rank's last batch may be empty
        patches = signals.reshape(batch, channels, count, size).transpose(1, 2).reshape(batch, count, channels * size)
        return self.with_absent(F.linear(patches, self.weight.view(width, -1), self.bias), present)

    def with_absent(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        """Add to tokens ``[B, P, W]`` the vectors of the channels that are not ``present [B, C]``."""
        if present is None:
            return tokens
        missing = (~present).to(self.absent.dtype) @ self.absent
        return tokens + missing.unsqueeze(1).to(tokens.dtype)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); all arguments ``[B, heads, P, D]``."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    # on a CPU the fused kernel's backward pass takes several times as long as plain products (50 or 250 tokens)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    mixed: Tensor = scores.softmax(-1) @ value
    return mixed


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual connection (Vaswani 2017; pre-norm: Xiong 2020).

    Arguments as in :class:`PatchTransformer`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, P, W]`` to tokens of the same shape."""
        batch, count, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attention(query, key, value)
        tokens = tokens + self.drop(self.proj(mixed.transpose(1, 2).reshape(batch, count, width)))
        added: Tensor = self.drop(self.fc2(F.gelu(self.fc1(self.norm2(tokens)))))
        return tokens + added


class BlockEncoder(nn.Module):
    """Runs ``embed``, ``blocks`` and ``norm``, which a subclass has, one after the other."""

    blocks: nn.ModuleList
    norm: nn.Module

    @abstractmethod
    def embed(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Map preprocessed windows ``[B, C, T]`` to tokens ``[B, P, width]``."""

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        """Encode windows ``[B, C, T]`` of which the channels ``present [B, C]`` count, or continue half-way.

        With ``start``, ``inputs`` are the tokens ``[B, P, width]`` that enter block ``start`` (0 is the first block,
        ``len(blocks)`` the final norm).

        Returns:
            Tokens ``[B, P, width]`` after the final norm.
        """
        tokens = self.embed(inputs, present) if start is None else inputs
        for block in self.blocks[start or 0 :]:
            tokens = block(tokens)
        return cast("Tensor", self.norm(tokens))


class PatchTransformer(BlockEncoder):
    """Transformer encoder over 1-D patches of named channels.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        patch_size: Samples per patch; must divide 1250 (25 samples are 0.2 s).
        width: Token width; must be even and divisible by ``heads``.
        depth: Number of transformer blocks.
        heads: Attention heads per block.
        mlp_ratio: Hidden width of each block's MLP as a multiple of ``width``.
        dropout: Dropout share inside the blocks.

    Raises:
        UserError: If the sizes do not fit together.
    """

    positions: Tensor

    def __init__(
        self,
        channels: Sequence[str] = PRETRAIN_CHANNELS,
        *,
        patch_size: int = 25,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if patch_size < 1 or WINDOW_SAMPLES % patch_size:
            raise UserError(f"encoder patch_size is {patch_size}; it must divide {WINDOW_SAMPLES}")
        check_sizes("encoder", width, heads, depth)
        if not 0 <= dropout < 1:
            raise UserError(f"encoder dropout is {dropout}; expected 0 to below 1")
        self.channels = channel_names(channels)
        self.width = width
        self.patch_size = patch_size
        self.embedding = PatchEmbedding(len(self.channels), width, patch_size)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", sine_positions(WINDOW_SAMPLES // patch_size, width), persistent=False)
        initialise(self.blocks)

    def embed(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Project patches of preprocessed windows ``[B, C, T]`` (T at most 1250) and add their positions.

        Returns:
            Tokens ``[B, T // patch_size, width]``.
        """
        tokens: Tensor = self.embedding(signals, present)
        positions: Tensor = self.positions[: tokens.shape[1]].to(tokens.dtype)
        return tokens + positions


def check_sizes(part: str, width: int, heads: int, depth: int) -> None:
    """Refuse sizes of a transformer that do not fit together."""
    if depth < 1 or heads < 1 or width < 2 or width % heads or width % 2:
        raise UserError(
            f"{part} width {width}, heads {heads}, depth {depth}: width must be even and divisible by heads"
        )


def initialise(part: nn.Module) -> None:
    """Start all linear layers of a transformer's part: weights as Glorot & Bengio 2010, biases at zero."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def sine_positions(count: int, width: int) -> Tensor:
    """Return fixed sine-cosine position vectors ``[count, width]`` (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table = torch.zeros(count, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


def init_args_of(encoder: PatchTransformer) -> dict[str, Any]:
    """Return the constructor arguments of a :class:`PatchTransformer` as plain types."""
    block = cast("TransformerBlock", encoder.blocks[0])
    return {
        "channels": list(encoder.channels),
        "patch_size": encoder.patch_size,
        "width": encoder.width,
        "depth": len(encoder.blocks),
        "heads": block.heads,
        "mlp_ratio": block.fc1.out_features / encoder.width,
        "dropout": block.drop.p,
    }
