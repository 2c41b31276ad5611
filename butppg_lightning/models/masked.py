"""Masked autoencoder for multichannel signals: hide patches, encode the rest, predict what was hidden.

After He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022. A token is one patch of all channels
(0.2 s at the default patch size), so a hidden patch is hidden in every channel: the model cannot copy the ECG's beat
into the PPG, it has to know how the signals go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import TransformerBlock, check_sizes, initialise, sine_positions
from butppg_lightning.window import WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.models.augmentation import Augment
    from butppg_lightning.models.encoder import Encoder
    from butppg_lightning.models.preprocess import Preprocess

Masking = Literal["random", "block"]

_FLAT = 0.02  # standard deviation of a preprocessed channel, in its scale: below lies rounding noise, not a signal
_SCALE_FLOOR = 0.1  # least divisor of a target: a nearly flat channel's noise is not blown up to full size


@dataclass
class Reconstruction:
    """What the autoencoder made of a batch."""

    prediction: Tensor  # [B, C, T] float32, in the unit of target; meaningful in hidden patches only
    target: Tensor  # [B, C, T] float32, unit variance per window and channel
    masked: Tensor  # [B, P] bool, True where a patch was hidden
    counted: Tensor  # [B, C] bool, True where a channel was recorded and is not flat

    def squared_error(self) -> tuple[Tensor, Tensor]:
        """Sum the squared error of hidden patches per channel; return sums and numbers of samples, ``[C]`` each."""
        patch = self.target.shape[-1] // self.masked.shape[-1]
        squares = (self.prediction - self.target).square()
        errors = squares.view(*squares.shape[:2], -1, patch).sum(-1)
        weights = self.counted.unsqueeze(-1) & self.masked.unsqueeze(1)
        return (errors * weights).sum((0, 2)), weights.sum((0, 2)) * patch

    def masked_mse(self) -> Tensor:
        """Return the mean squared error over hidden patches; 1 is what predicting the mean scores."""
        errors, counts = self.squared_error()
        return errors.sum() / counts.sum().clamp(min=1)

    def completed(self) -> Tensor:
        """Return the visible signal with its hidden patches filled in by the prediction, ``[B, C, T]``."""
        patch = self.target.shape[-1] // self.masked.shape[-1]
        hidden = self.masked.repeat_interleave(patch, dim=1).unsqueeze(1)
        return torch.where(hidden, self.prediction, self.target)


class MaskedDecoder(nn.Module):
    """Light transformer that predicts every patch from the encoded visible ones; thrown away after pretraining.

    ``width`` of its tokens must be even and divisible by ``heads``.
    """

    positions: Tensor

    def __init__(
        self, encoder_width: int, channels: int, patches: int, patch_size: int, *, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        check_sizes("decoder", width, heads, depth)
        self.channels = channels
        self.patch_size = patch_size
        self.project = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, 4.0, 0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, channels * patch_size)
        self.register_buffer("positions", sine_positions(patches, width), persistent=False)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        initialise(self)

    def forward(self, latent: Tensor, visible: Tensor, patches: int) -> Tensor:
        """Predict all P ``patches``, ``[B, C, P · patch_size]`` float32, of the encoded visible ones.

        Those are ``latent [B, V, encoder_width]``, at the places ``visible [B, V]`` int64.
        """
        known = self.project(latent)
        tokens = self.mask_token.to(known.dtype).expand(len(known), patches, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(-1).expand_as(known), known)
        tokens = tokens.float() + self.positions[:patches]
        for block in self.blocks:
            tokens = block(tokens)
        values = self.predict(self.norm(tokens)).float()
        return cast("Tensor", values.unflatten(-1, (self.channels, -1)).transpose(1, 2).flatten(2))


class MaskedAutoencoder(nn.Module):
    """Preprocessing, encoder and decoder (of ``decoder_width``, ``_depth`` and ``_heads``) of masked pretraining.

    Args:
        preprocess: Filters and scales raw windows.
        encoder: Encodes tokens (see :class:`butppg_lightning.models.encoder.Encoder`).
        decoder_width: Token width of the decoder.
        decoder_depth: Transformer blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        mask_ratio: Share of the patches hidden; exactly ``round(mask_ratio · P)`` of them, at least 1 and at most
            P - 1.
        masking: ``random`` patches, or ``block``: runs of ``block_patches`` neighbours.
        block_patches: Patches per run; the default is one second, about a heart beat.

    Raises:
        UserError: If an option is impossible.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        encoder: nn.Module,
        *,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        mask_ratio: float = 0.4,
        masking: Masking = "random",
        block_patches: int = 5,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio is {mask_ratio}; expected a share between 0 and 1")
        if masking not in ("random", "block"):
            raise UserError(f"masking is '{masking}'; choose random or block")
        if block_patches < 1:
            raise UserError(f"block_patches is {block_patches}; expected at least 1")
        self.preprocess = preprocess
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.run = block_patches if masking == "block" else 1
        filters = cast("Encoder", encoder).embedding.weight
        width, channels, patch_size = cast("Tensor", filters).shape
        patches = WINDOW_SAMPLES // patch_size
        # an encoder that makes patches of its own (of a spectrum, of another sampling rate) hides and predicts those
        self._own: Any = getattr(encoder, "patches", None)
        if self._own is not None:
            patches, patch_size = self._own.count, self._own.size
        sizes = {"width": decoder_width, "depth": decoder_depth, "heads": decoder_heads}
        self.decoder = MaskedDecoder(width, channels, patches, patch_size, **sizes)

    def forward(
        self,
        signals: Tensor,
        present: Tensor | None = None,
        *,
        augment: Augment | None = None,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Hide patches of raw windows ``[B, C, 1250]`` with ``present [B, C]``, and predict them.

        ``augment`` varies the preprocessed windows; ``generator`` draws masks and variation (None: torch's global one).
        """
        scaled, faults = self.preprocess.prepare(signals, present)
        usable = seen = faults == 0
        if augment is not None:
            scaled, seen = augment(scaled, usable, generator)
        shown = scaled if self._own is None else self._own(scaled, usable).flatten(2)
        target, counted = standardise(shown, usable)
        latent, visible, masked = self.encode_visible(scaled * seen.unsqueeze(-1), seen, generator)
        prediction = self.decoder(latent, visible, masked.shape[1])
        return Reconstruction(prediction, target, masked, counted)

    def encode_visible(
        self, scaled: Tensor, seen: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hide patches of preprocessed windows ``[B, C, T]`` and encode the rest of the channels ``seen [B, C]``.

        Returns the encoded visible patches ``[B, V, W]``, their places ``[B, V]`` and a mask ``[B, P]`` (True: hidden).
        """
        encoder = cast("Encoder", self.encoder)
        batch = len(scaled)
        patches = self._own.count if self._own is not None else scaled.shape[-1] // self.decoder.patch_size
        hidden = min(max(round(self.mask_ratio * patches), 1), patches - 1)
        order = mask_order(batch, patches, self.run, generator, scaled.device)
        masked = torch.zeros(batch, patches, dtype=torch.bool, device=scaled.device)
        masked.scatter_(1, order[:, :hidden], True)
        if self._own is not None:  # its blocks mix tokens by their places, so that none may be missing
            places = torch.arange(patches, device=scaled.device).expand(batch, patches)
            tokens = cast("Any", encoder).embed(scaled, seen, hidden=masked)
            return encoder(tokens.float(), start=0), places, masked
        tokens = encoder.embed(scaled, seen)
        visible, width = order[:, hidden:], tokens.shape[-1]
        tokens = tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, width))
        # in half precision the sum over twelve blocks would lose what each of them adds
        return encoder(tokens.float(), start=0), visible, masked


def mask_order(batch: int, patches: int, run: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw, per window, the order in which patches are hidden: a permutation of 0..P-1, ``[B, P]`` int64.

    In it, ``run`` neighbours follow each other; where the runs begin is random. Hiding its first K hides exactly K
    patches: whole runs, and the beginning of one more (runs at the window's edges are cut by the edge).
    """
    # drawn where the generator lives, so that a seed means the same masks on every device
    source = device if generator is None else generator.device
    runs = (patches + run - 1) // run + (run > 1)
    score = torch.rand(batch, runs, generator=generator, device=source)
    if run > 1:
        offset = torch.randint(run, (batch, 1), generator=generator, device=source)
        score = score.gather(1, (torch.arange(patches, device=source) + offset) // run)
    return score.argsort(dim=1, stable=True).to(device)


def standardise(scaled: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Bring each channel of each window ``[B, C, T]`` to mean 0 and variance 1, so that all weigh the same in the loss.

    Returns them, and ``[B, C]`` bool: present and not flat.
    """
    scaled = scaled.float()
    centred = scaled - scaled.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True).sqrt()
    return centred / spread.clamp(min=_SCALE_FLOOR), present & (spread.squeeze(-1) > _FLAT)
