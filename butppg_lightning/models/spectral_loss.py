"""Multi-resolution spectral loss: how far two signals' log magnitudes are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


class SpectralLoss(nn.Module):
    """Mean absolute difference of log magnitudes over short-time Fourier transforms of several lengths.

    After the multi-resolution STFT loss of Yamamoto et al. (Parallel WaveGAN, ICASSP 2020), log-magnitude part.
    Short transforms see when something happens, long ones at which rate.

    Args:
        resolutions: Transform lengths in samples (64 to 512 are 0.5 to 4.1 s at 125 Hz); each hops by a quarter.
        floor: Magnitude below which differences fade, relative to a bin of white noise of unit variance. Filtered
            signals have next to nothing in most bins; without a floor the logarithm of that nothing is the loss.

    Raises:
        UserError: If an option is impossible.
    """

    def __init__(self, resolutions: Sequence[int] = (64, 128, 256, 512), floor: float = 0.1) -> None:
        super().__init__()
        if not resolutions or min(resolutions) < 4 or floor <= 0:
            raise UserError("spectral loss: resolutions must be at least 4 samples and the floor above 0")
        self.resolutions = tuple(resolutions)
        self.floor = floor
        for length in self.resolutions:
            window = torch.hann_window(length)
            # of unit energy: white noise of unit variance then has power 1 in every bin
            self.register_buffer(f"window_{length}", window / window.norm(), persistent=False)

    def forward(self, signals: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        """Compare signals in float32, whatever autocast says.

        Args:
            signals: ``[B, C, T]``, about unit variance.
            target: ``[B, C, T]``.
            counted: ``[B, C]`` bool, the channels that count; None for all.

        Returns:
            A scalar; 0 for equal signals.

        Raises:
            ValueError: If T is shorter than every resolution.
        """
        usable = [length for length in self.resolutions if length <= target.shape[-1]]
        if not usable:
            raise ValueError(f"signals of {target.shape[-1]} samples are shorter than {min(self.resolutions)}")
        weights = torch.ones(target.shape[:2], device=target.device) if counted is None else counted.float()
        weights = weights.flatten() / weights.sum().clamp(min=1)
        total = torch.zeros((), device=target.device)
        # a logarithm of small numbers, which half precision does not have
        with torch.autocast(target.device.type, enabled=False):
            for length in usable:
                difference = self._log_magnitude(signals, length) - self._log_magnitude(target, length)
                total = total + (difference.abs().mean((1, 2)) * weights).sum()
        return total / len(usable)

    def _log_magnitude(self, signals: Tensor, length: int) -> Tensor:
        window = cast("Tensor", getattr(self, f"window_{length}"))
        flat = signals.float().flatten(0, 1)
        spectrum = torch.stft(flat, length, length // 4, window=window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        # the floor is added in power: smooth, and no root of zero to differentiate
        return 0.5 * torch.log(power + self.floor**2)
