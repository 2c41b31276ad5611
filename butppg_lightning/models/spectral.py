"""The spectral encoder: what speaks for each candidate pulse rate in every channel, and convolutions along the rates.

A transformer on patches of the waveform has to learn what a rate is, and that a step's rhythm at the same rate is
another thing than a pulse. Here tokens are the rates themselves: 36 to 216 bpm in steps of 2. A token holds, channel by
channel, how much power stands at that rate, its half, its double and its triple, over the window and in segments of
four seconds. Power knows neither polarity nor offset; each channel's is relative to its largest, so gain does not
matter either, and the axes of acceleration are added, so that it does not matter how the sensor is mounted.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.errors import UserError
from butppg_lightning.models.encoder import BlockEncoder, PatchEmbedding
from butppg_lightning.models.rates import RATES, fourier
from butppg_lightning.window import PRETRAIN_CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES, channel_names

if TYPE_CHECKING:
    from collections.abc import Sequence

_HARMONICS = (0.5, 1.0, 2.0, 3.0)  # of a candidate, over the whole window
_SEGMENT, _HOP = 4 * SAMPLING_RATE, SAMPLING_RATE  # samples
_STARTS = tuple(range(0, WINDOW_SAMPLES - _SEGMENT + 1, _HOP))
FEATURES = len(_HARMONICS) + 2 * len(_STARTS)  # of a channel at a candidate
_FLOORS = (1e-4, 1e-3)  # of the largest power, over the window and in segments: below it lies leakage
_CENTRE, _SPREAD = -1.4, 0.9  # of the logarithms, roughly: they enter the network about standardised
_TINY = 1e-9


class SpectralPatches(nn.Module):
    """What each channel says of each candidate rate, from windows that are filtered and scaled.

    ``[B, C, 91, 18]``: log power at 1/2, 1, 2 and 3 times the candidate over the window, at the candidate in seven
    segments of four seconds, and those segments' energy (the same at all candidates). ACC's axes are added up.
    """

    window: Tensor
    segment: Tensor
    count, size = len(RATES), FEATURES

    def __init__(self, channels: Sequence[str]) -> None:
        super().__init__()
        window, segment = _matrices()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("segment", segment, persistent=False)
        sensors = [name[:3] for name in channels]
        together = torch.tensor([[float(one == other) for other in sensors] for one in sensors])
        self.register_buffer("together", together, persistent=False)
        self.register_buffer("sized", torch.tensor([name.startswith("ACC") for name in channels]), persistent=False)

    @torch.no_grad()
    def forward(self, signals: Tensor, present: Tensor | None = None) -> Tensor:
        """Map preprocessed windows ``[B, C, 1250]`` with ``present [B, C]``; absent channels are 0.

        A channel that no window of the batch has costs nothing (but in an exported graph, which serves any batch).
        """
        there = torch.arange(signals.shape[1], device=signals.device)
        if present is None or torch.compiler.is_compiling() or present.any(0).all():
            return self._patches(signals, present, there)
        there = there[present.any(0)]
        found = torch.zeros(*signals.shape[:2], self.count, self.size, device=signals.device)
        found[:, there] = self._patches(signals[:, there], present[:, there], there)
        return found

    def _patches(self, signals: Tensor, present: Tensor | None, rows: Tensor) -> Tensor:
        with torch.autocast(signals.device.type, enabled=False):
            signals = F.pad(signals.float(), (0, WINDOW_SAMPLES - signals.shape[-1]))  # a cut one is silent at its end
            if present is not None:
                signals = signals * present.unsqueeze(-1)
            together = cast("Tensor", self.together)[rows][:, rows]
            whole = self._power(signals @ self.window, len(_HARMONICS))  # [B, C, 4, 91]
            whole = torch.einsum("cd,bdhf->bchf", together, whole)
            parts = torch.stack([signals[..., begin : begin + _SEGMENT] for begin in _STARTS], dim=2)
            local = self._power(parts @ self.segment, 1).squeeze(3)  # [B, C, 7, 91]
            local = torch.einsum("cd,bdsf->bcsf", together, local)
            energy = torch.einsum("cd,bds->bcs", together, parts.square().mean(-1))
            largest = whole[:, :, 1].amax(-1)[..., None, None]
            typical = local.amax(-1).mean(-1)[..., None, None]
            # the size of motion is information; that of a pulse is the device's gain
            own = energy.mean(-1, keepdim=True).clamp(min=_TINY)
            scale = torch.where(cast("Tensor", self.sized)[rows, None], 1.0, own)
            loudness = _logarithm(energy / scale, _FLOORS[1])
            found = [
                _logarithm(whole / largest.clamp(min=_TINY), _FLOORS[0]),
                _logarithm(local / typical.clamp(min=_TINY), _FLOORS[1]),
                loudness.unsqueeze(-1).expand(*loudness.shape, len(RATES)),
            ]
            patches = torch.cat(found, dim=2).transpose(2, 3)
            return patches if present is None else patches * present[..., None, None]

    @staticmethod
    def _power(products: Tensor, harmonics: int) -> Tensor:
        waves = products.view(*products.shape[:-1], harmonics, 2, len(RATES))
        return waves.square().sum(-2)


class RateEmbedding(PatchEmbedding):
    """Project what all channels say of a candidate and its neighbours to one token: a filter bank per channel, summed.

    ``weight`` is ``[width, channels, kernel * features]``.
    """

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__(channels, width, kernel * FEATURES)
        self.kernel = kernel

    def forward(self, patches: Tensor, present: Tensor | None = None) -> Tensor:
        """Return tokens ``[B, 91, W]`` of patches ``[B, C, 91, 18]``; ``present`` is ``[B, C]`` bool."""
        width, channels, _ = self.weight.shape
        stacked = patches.transpose(2, 3).flatten(1, 2)  # [B, C * 18, 91]
        filters = self.weight.view(width, channels, self.kernel, FEATURES).transpose(2, 3).flatten(1, 2)
        tokens = F.conv1d(stacked, filters, self.bias, padding=self.kernel // 2).transpose(1, 2)
        return self.with_absent(tokens, present)


class RateBlock(nn.Module):
    """Convolution along the candidate rates, then a pointwise layer, with a residual connection; begins as identity."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout1d(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[B, 91, W]`` to tokens of the same shape."""
        mixed = self.mix(self.norm(tokens).transpose(1, 2)).transpose(1, 2)
        added = self.out(F.gelu(mixed)).transpose(1, 2)
        return tokens + cast("Tensor", self.drop(added)).transpose(1, 2)


class SpectralEncoder(BlockEncoder):
    """Convolutional encoder over candidate pulse rates of named channels.

    Args:
        channels: Channel names, in the order of the windows' second axis.
        width: Token width.
        depth: Number of blocks; block k looks 2^k candidates far.
        kernel: Candidates that a convolution sees; odd.
        dropout: Share of features dropped in the blocks.
        input_dropout: Share of each channel's 18 features dropped as a whole while it trains.

    Raises:
        UserError: If a size is impossible.
    """

    def __init__(
        self,
        channels: Sequence[str] = PRETRAIN_CHANNELS,
        *,
        width: int = 32,
        depth: int = 3,
        kernel: int = 5,
        dropout: float = 0.2,
        input_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width < 2 or depth < 1 or kernel < 1 or kernel % 2 == 0:
            raise UserError(
                f"encoder width {width}, depth {depth}, kernel {kernel}: expected at least 2, 1 and an odd number"
            )
        for name, share in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise UserError(f"encoder {name} is {share}; expected 0 to below 1")
        self.channels = channel_names(channels)
        self.width, self.input_dropout = width, input_dropout
        self.rates = RATES  # what its tokens stand for
        self.patches = SpectralPatches(self.channels)
        self.embedding = RateEmbedding(len(self.channels), width, kernel)
        self.positions = nn.Parameter(torch.randn(len(RATES), width) * 0.02)
        self.blocks = nn.ModuleList(RateBlock(width, kernel, 2**number, dropout) for number in range(depth))
        self.norm = nn.LayerNorm(width)

    def embed(self, signals: Tensor, present: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Return a token for every candidate rate, ``[B, 91, width]``, of preprocessed windows ``[B, C, 1250]``.

        What the channels say of the candidates ``hidden [B, 91]`` (bool) is withheld; masked pretraining asks for it.
        """
        patches: Tensor = self.patches(signals, present)
        if hidden is not None:
            patches = patches * ~hidden[:, None, :, None]
        if self.training and self.input_dropout:
            kept = torch.rand(*patches.shape[:2], 1, patches.shape[3], device=patches.device) >= self.input_dropout
            patches = patches * kept / (1 - self.input_dropout)
        return cast("Tensor", self.embedding(patches, present)) + self.positions


def _logarithm(power: Tensor, floor: float) -> Tensor:
    return (torch.log10(power + floor) - _CENTRE) / _SPREAD


@functools.cache
def _matrices() -> tuple[Tensor, Tensor]:
    whole = [fourier(harmonic * RATES / 60, WINDOW_SAMPLES) for harmonic in _HARMONICS]
    return torch.cat(whole, 1), fourier(RATES / 60, _SEGMENT)
