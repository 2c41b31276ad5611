"""An encoder of a user's own, complete: what README.md shows, and what the tests run through every command."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from butppg_lightning.models.encoder import PatchEmbedding


class ConvBlock(nn.Module):
    """Depthwise convolution over time, then a small MLP, each with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mix(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.mlp(tokens)


class ConvEncoder(nn.Module):
    """Convolutions over patches. ``channels`` is given by the package, the rest by ``init_args``."""

    def __init__(self, channels: Sequence[str], width: int = 32, depth: int = 2, patch_size: int = 50) -> None:
        super().__init__()
        self.channels, self.width = tuple(channels), width
        self.embedding = PatchEmbedding(len(channels), width, patch_size)  # a filter bank per channel: inflation's part
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(depth))  # what stages freeze and unfreeze
        self.norm = nn.LayerNorm(width)

    def embed(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        return self.embedding(signals, present)

    def forward(self, inputs: Tensor, present: Tensor | None = None, *, start: int | None = None) -> Tensor:
        tokens = self.embed(inputs, present) if start is None else inputs
        for block in self.blocks[start or 0 :]:
            tokens = block(tokens)
        return self.norm(tokens)
