"""Indices of how steadily a PPG window beats: short-time spectra, single beats, and the analytic signal."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from butppg_lightning.models.indices.spectra import squared_modulus
from butppg_lightning.models.indices.waveform import FEWEST_BEATS, find_beats, segments
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

_SEGMENT, _HOP = 3 * SAMPLING_RATE, SAMPLING_RATE // 2
_STARTS = range(0, WINDOW_SAMPLES - _SEGMENT + 1, _HOP)
_WIDTH = 1 / 3  # Hz: what three seconds resolve
_LOW, _HIGH, _STEP = 0.5, 8.0, 0.05  # Hz
_SLOW, _FAST = 0.6, 4.0  # Hz: the pulse, for the analytic signal
_ALIKE = 0.9  # correlation of a beat with the average from which on it counts as alike
_TINY = 1e-12


class Rhythm(nn.Module):
    """Compute the indices of the group ``rhythm`` (see :mod:`butppg_lightning.models.indices.signal_indices`).

    Attributes:
        frequency: ``[F]`` grid of the short-time spectra in Hz, 0.5 to 8 in steps of 0.05.
    """

    frequency: Tensor
    segment: Tensor
    analytic: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, matrix in _matrices().items():
            # derived from constants, so it need not swell every checkpoint
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, ppg: Tensor) -> list[Tensor]:
        """Compute the indices of ``[B, 1250]``, band-passed and brought to a root mean square of 1."""
        return [*self._short_time(ppg), *_beats(ppg), *self._analytic(ppg)]

    def _short_time(self, ppg: Tensor) -> list[Tensor]:
        cut = torch.stack([ppg[:, start : start + _SEGMENT] for start in _STARTS], dim=1)
        power = squared_modulus(cut @ self.segment)
        shares = power / power.sum(-1, keepdim=True).clamp(min=_TINY)
        peak = self.frequency[shares.argmax(-1)]
        at_peak = (shares * self._near(peak)).sum(-1)
        entropy = -(shares * shares.clamp(min=_TINY).log()).sum(-1)
        centroid = shares @ self.frequency
        doubled = at_peak + (shares * self._near(2 * peak)).sum(-1)
        return [
            *_spread_out(at_peak),
            *_spread_out(entropy),
            doubled.mean(-1),
            (peak[:, 1:] - peak[:, :-1]).abs().mean(-1),
            peak.std(-1),
            centroid.mean(-1),
            centroid.std(-1),
        ]

    def _near(self, centre: Tensor) -> Tensor:
        return ((self.frequency - centre.unsqueeze(-1)).abs() < _WIDTH).float()

    def _analytic(self, ppg: Tensor) -> list[Tensor]:
        real, imaginary = (ppg @ self.analytic).chunk(2, dim=-1)
        power = (real.square() + imaginary.square()).clamp(min=_TINY)
        # the derivative of the phase, without the phase: nothing has to be unwrapped
        turn = real[:, :-1] * imaginary[:, 1:] - real[:, 1:] * imaginary[:, :-1]
        along = real[:, :-1] * real[:, 1:] + imaginary[:, :-1] * imaginary[:, 1:]
        rate = turn / torch.maximum(along.abs(), power[:, :-1] * 0.1) * SAMPLING_RATE / (2 * torch.pi)
        envelope = power.sqrt()
        return [
            envelope.std(-1) / envelope.mean(-1).clamp(min=1e-6),
            rate.clamp(-10, 10).std(-1),
        ]


def _spread_out(values: Tensor) -> list[Tensor]:
    """Return mean, 20th and 80th percentile (nearest) of ``[B, S]`` over the segments."""
    ordered = values.sort(-1).values
    last = len(_STARTS) - 1  # not the tensor's size, which is no number while it is exported
    return [values.mean(-1), ordered[:, round(0.2 * last)], ordered[:, round(0.8 * last)]]


def _beats(ppg: Tensor) -> list[Tensor]:
    beats = find_beats(ppg)
    count = beats.there.sum(-1)
    enough = (count >= FEWEST_BEATS).float()
    alike = ((beats.match > _ALIKE) * beats.there).sum(-1) / count.clamp(min=1)
    # unused places sort to the end, where the differences between them are 0 and do not count
    last = torch.where(beats.there > 0, beats.position.float(), 2.0 * WINDOW_SAMPLES).sort(-1).values
    interval = last[:, 1:] - last[:, :-1]
    inside = (last[:, 1:] < WINDOW_SAMPLES).float()
    mean = (interval * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    deviation = ((interval - mean.unsqueeze(-1)).abs() * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    loud = segments(ppg).abs().amax(-1)
    return [
        alike * enough,
        torch.where(enough > 0, deviation / mean.clamp(min=1), 1.0),
        (loud.amax(-1) / loud.mean(-1).clamp(min=1e-6)).clamp(min=1).log10(),
    ]


@functools.cache  # every model of a process shares the matrices
def _matrices() -> dict[str, Tensor]:
    time = torch.arange(_SEGMENT, dtype=torch.float64) / SAMPLING_RATE
    grid = torch.arange(round(_LOW / _STEP), round(_HIGH / _STEP) + 1, dtype=torch.float64) * _STEP
    angle = 2 * torch.pi * time.unsqueeze(1) * grid
    waves = torch.hann_window(_SEGMENT, dtype=torch.float64).unsqueeze(1) * torch.cat([angle.cos(), angle.sin()], 1)
    whole = torch.fft.fftfreq(WINDOW_SAMPLES, 1 / SAMPLING_RATE, dtype=torch.float64)
    kept = ((whole >= _SLOW) & (whole <= _FAST)).to(torch.complex128) * 2
    analytic = torch.fft.ifft(torch.fft.fft(torch.eye(WINDOW_SAMPLES, dtype=torch.complex128), dim=1) * kept, dim=1)
    return {
        "frequency": grid.float(),
        "segment": (waves - waves.mean(0)).float(),  # each segment's own mean is removed
        "analytic": torch.cat([analytic.real, analytic.imag], dim=1).float(),
    }
