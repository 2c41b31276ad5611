"""Indices of a PPG window's shape and of how steadily it beats: single beats, short-time spectra, analytic signal."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from butppg_lightning.models.indices.spectra import frequency_grid, segment_waves, squared_modulus
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

_SEGMENTS = 10  # of one second
_AT_EXTREME = 1e-3  # of the range from lowest to highest: the ripple that resampling leaves on a plateau
_LEAST_SPREAD = 1e-3  # of the window's
_APART = 37  # samples: beats are at least 0.3 s apart, 200 a minute
_BEFORE, _AFTER = 50, 75  # samples: a beat is what lies from 0.4 s before its peak to 0.6 s after it
_FEWEST_BEATS = 3  # from which on a comparison of beats means something
_MOST_BEATS = WINDOW_SAMPLES // _APART
_SEGMENT, _HOP = 3 * SAMPLING_RATE, SAMPLING_RATE // 2
_STARTS = range(0, WINDOW_SAMPLES - _SEGMENT + 1, _HOP)
_WIDTH = 1 / 3  # Hz: what three seconds resolve
_SLOW, _FAST = 0.6, 4.0  # Hz: the pulse, for the analytic signal
_ALIKE = 0.9  # correlation of a beat with the average from which on it counts as alike
_TINY = 1e-12


def shape_indices(raw: Tensor, ppg: Tensor) -> list[Tensor]:
    """Return clipped share, skewness, log kurtosis, zero crossings, spread variation, largest segment, template match.

    From ``raw [B, 1250]`` of any gain and offset, and ``ppg``, the same band-passed and of a root mean square of 1.
    """
    highest, lowest = raw.amax(-1, keepdim=True), raw.amin(-1, keepdim=True)
    near = _AT_EXTREME * (highest - lowest)
    clipped = (raw >= highest - near) | (raw <= lowest + near)
    spreads = segments(ppg).std(-1).clamp(min=_LEAST_SPREAD).sort(-1).values
    median = spreads[:, _SEGMENTS // 2 - 1 : _SEGMENTS // 2 + 1].mean(-1)
    beats = find_beats(ppg)
    count = beats.there.sum(-1)
    return [
        clipped.float().mean(-1),
        ppg.pow(3).mean(-1).clamp(-5, 5),
        ppg.pow(4).mean(-1).clamp(1, 1000).log10(),
        (ppg[:, 1:] * ppg[:, :-1] < 0).float().sum(-1) * SAMPLING_RATE / WINDOW_SAMPLES,
        spreads.std(-1) / spreads.mean(-1),
        (spreads[:, -1] / median).log10(),
        beats.match.sum(-1) / count.clamp(min=1) * (count >= _FEWEST_BEATS),
    ]


def segments(signals: Tensor) -> Tensor:
    """Cut ``[..., T]`` into ten segments of one second, ``[..., 10, T / 10]``."""
    return signals.reshape(*signals.shape[:-1], _SEGMENTS, -1)


class Beats(NamedTuple):
    """The beats of a window, in P places, as many as there can be: ``[B, P]`` each.

    ``there`` is 1 where a place holds a beat, ``position`` the sample its cut-out begins with, and ``match`` its
    correlation with the average of the window's beats, 0 where there is none.
    """

    there: Tensor
    position: Tensor
    match: Tensor


def find_beats(ppg: Tensor) -> Beats:
    """Find the beats of ``[B, 1250]`` band-passed PPG and compare each with their average (Orphanidou et al. 2015).

    A beat's peak is positive and the highest sample within 0.3 s to either side; beats cut by the window's edges are
    left out.
    """
    highest = torch.nn.functional.max_pool1d(ppg.unsqueeze(1), 2 * _APART + 1, stride=1, padding=_APART).squeeze(1)
    inner = slice(_BEFORE, WINDOW_SAMPLES - _AFTER)
    peaks = (ppg[:, inner] == highest[:, inner]) & (ppg[:, inner] > 0)
    # as many places as there can be beats; those without a beat have the weight 0
    there, position = peaks.float().topk(_MOST_BEATS, dim=-1)
    around = torch.arange(_BEFORE + _AFTER, device=ppg.device)
    samples = (position.unsqueeze(-1) + around).flatten(1)
    beats = ppg.gather(1, samples).reshape(-1, _MOST_BEATS, _BEFORE + _AFTER)
    beats = _unit_length(beats - beats.mean(-1, keepdim=True)) * there.unsqueeze(-1)
    template = _unit_length(beats.sum(1))
    return Beats(there, position, (beats * template.unsqueeze(1)).sum(-1))


def _unit_length(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt().clamp(min=_TINY)


class Rhythm(nn.Module):
    """Compute the indices of the group ``rhythm`` (see :mod:`butppg_lightning.models.indices.signal_indices`)."""

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
    enough = (count >= _FEWEST_BEATS).float()
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
    whole = torch.fft.fftfreq(WINDOW_SAMPLES, 1 / SAMPLING_RATE, dtype=torch.float64)
    kept = ((whole >= _SLOW) & (whole <= _FAST)).to(torch.complex128) * 2
    analytic = torch.fft.ifft(torch.fft.fft(torch.eye(WINDOW_SAMPLES, dtype=torch.complex128), dim=1) * kept, dim=1)
    return {
        "frequency": frequency_grid().float(),
        "segment": segment_waves(_SEGMENT, frequency_grid()).float(),
        "analytic": torch.cat([analytic.real, analytic.imag], dim=1).float(),
    }
