"""The light decoder of masked pretraining; thrown away afterwards."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import TransformerBlock, sine_positions
from butppg_lightning.window import WINDOW_SAMPLES


class MaskedDecoder(nn.Module):
    """Light transformer that predicts every patch from the encoded visible ones.

    Args:
        encoder_width: Width of the encoder's tokens.
        channels: Number of channels C.
        patch_size: Samples per patch.
        width: Token width; must be even and divisible by ``heads``.
        depth: Number of transformer blocks.
        heads: Attention heads per block.

    Raises:
        UserError: If the sizes do not fit together.
    """

    positions: Tensor

    def __init__(
        self, encoder_width: int, channels: int, patch_size: int, *, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        if depth < 1 or heads < 1 or width < 2 or width % heads or width % 2:
            raise UserError(
                f"decoder width {width}, heads {heads}, depth {depth}: width must be even and divisible by heads"
            )
        self.channels = channels
        self.patch_size = patch_size
        self.project = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 4.0, 0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, channels * patch_size)
        self.register_buffer("positions", sine_positions(WINDOW_SAMPLES // patch_size, width), persistent=False)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, latent: Tensor, visible: Tensor, patches: int) -> Tensor:
        """Predict the whole signal.

        Args:
            latent: Encoded visible patches ``[B, V, encoder_width]``.
            visible: Their places ``[B, V]``, int64.
            patches: Number of patches P of the window.

        Returns:
            ``[B, C, P · patch_size]`` float32.
        """
        known = self.project(latent)
        tokens = self.mask_token.to(known.dtype).expand(len(known), patches, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand_as(known), known)
        tokens = tokens.float() + self.positions[:patches]
        for block in self.blocks:
            tokens = block(tokens)
        values = self.predict(self.norm(tokens)).float()
        return cast("Tensor", values.unflatten(-1, (self.channels, -1)).transpose(1, 2).flatten(2))
