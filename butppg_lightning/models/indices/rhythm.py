"""What the signal indices are made of: spectra and autocorrelations, beats, short-time spectra, the analytic signal.

All are products of ten-second windows with fixed matrices, sums and sorts, which ONNX takes as they are.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from butppg_lightning.models.rates import highest_around
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

_STEP = 0.05  # Hz: twice as fine as ten seconds resolve, so that a peak lies near a bin
_LOWEST, _HIGHEST = 0.5, 8.0  # Hz: the pulse and its harmonics
_SLOWEST, _FASTEST = 0.75, 3.5  # Hz: 45 to 210 beats a minute
_WELCH_SEGMENT, _WELCH_HOP = 4 * SAMPLING_RATE, SAMPLING_RATE  # samples: 4 s, the least that holds two slow beats
_SHORTEST, _LONGEST = 0.3, 1.5  # s: lags of 200 and 40 beats a minute
_NEARLY = 0.85  # of the highest peak: two periods correlate as well as one, and the shorter lag is the pulse's
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


class Spectra(nn.Module):
    """Hann-tapered power spectra over 0.5-8 Hz and autocorrelations at lags of 0.3-1.5 s."""

    frequency: Tensor  # [F] grid of power() in Hz, 0.5 to 8 in steps of 0.05
    coarse_frequency: Tensor  # [G] grid of segment_powers() in Hz, 0.5 to 8 in steps of 0.25
    segment: Tensor
    tapered: Tensor
    plain: Tensor
    lagged: Tensor
    lags: Tensor

    def __init__(self) -> None:
        super().__init__()
        step = SAMPLING_RATE / _WELCH_SEGMENT
        # where coarse_frequency lies in 0.75 to 3.5 Hz
        self.pulse_band = slice(round((_SLOWEST - _LOWEST) / step), round((_FASTEST - _LOWEST) / step) + 1)
        for name, matrix in _spectra_matrices().items():
            # derived from constants, so it need not swell every checkpoint
            self.register_buffer(name, matrix, persistent=False)

    def power(self, signals: Tensor) -> Tensor:
        """Return the power ``[..., F]`` of ``[..., 1250]`` at each ``frequency``, in arbitrary units."""
        return squared_modulus(signals @ self.tapered)

    def segment_powers(self, signals: Tensor) -> Tensor:
        """Return the power ``[B, 7, G]`` of ``[B, 1250]`` at each ``coarse_frequency`` in 4-s segments, one a second.

        Their mean is Welch's spectrum (1967). Unlike in :meth:`power`, no part of the window counts less than
        another, but for its very edges.
        """
        starts = range(0, WINDOW_SAMPLES - _WELCH_SEGMENT + 1, _WELCH_HOP)
        segments = torch.stack([signals[:, start : start + _WELCH_SEGMENT] for start in starts], dim=1)
        return squared_modulus(segments @ self.segment)

    def within(self, low: float, high: float) -> Tensor:
        """Return ``[F]`` float: 1 where ``frequency`` lies in ``low`` to ``high`` Hz, both included."""
        return ((self.frequency >= low - _STEP / 4) & (self.frequency <= high + _STEP / 4)).float()

    def peak(self, power: Tensor, highest: float) -> Tensor:
        """Return the frequency (Hz) ``[...]`` of the largest power between 0.5 and ``highest`` Hz."""
        return self.frequency[(power * self.within(_LOWEST, highest)).argmax(-1)]

    def near(self, centre: Tensor, width: float = 0.15) -> Tensor:
        """Return ``[..., F]`` float: 1 within ``width`` Hz of ``centre`` ``[...]`` (Hz)."""
        return ((self.frequency - centre.unsqueeze(-1)).abs() <= width + _STEP / 4).float()

    def pulse(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        """Find the pulse in the autocorrelation of ``[B, 1250]`` without offset; only 0.5-8 Hz counts.

        Returns:
            The height of the highest peak at lags of 0.3-1.5 s, ``[B]`` in -1..1 (estimated without bias, hence
            not lower at longer lags), and the pulse period (s) ``[B]``: the shortest lag whose peak nearly reaches it.
            Both are 0 where there is no peak.
        """
        power = squared_modulus(signals @ self.plain)
        correlation = (power @ self.lagged) / power.sum(-1, keepdim=True).clamp(min=_TINY)
        middle = correlation[:, 1:-1]
        peaks = (middle > correlation[:, :-2]) & (middle >= correlation[:, 2:])
        height = torch.where(peaks, middle, -1.0).amax(-1, keepdim=True)
        high = peaks & (middle >= height - (1 - _NEARLY) * height.abs())
        period = torch.where(high, self.lags, 2 * _LONGEST).amin(-1)
        found = peaks.any(-1)
        return (height.squeeze(-1).clamp(-1, 1) * found), period * found


def squared_modulus(products: Tensor) -> Tensor:
    """Return ``[..., F]`` from ``[..., 2 F]``, products with F cosines and then F sines."""
    cosines, sines = products.square().chunk(2, dim=-1)
    return cosines + sines


def segment_waves(length: int, frequency: Tensor) -> Tensor:
    """Return ``[length, 2 F]`` float64: Hann-tapered cosines and sines that leave out each segment's own mean."""
    taper = torch.hann_window(length, dtype=torch.float64).unsqueeze(1)
    waves = taper * _waves(torch.arange(length, dtype=torch.float64) / SAMPLING_RATE, frequency)
    return waves - waves.mean(0)


def frequency_grid(step: float = _STEP) -> Tensor:
    """Return 0.5 to 8 Hz in steps of ``step``, float64."""
    return torch.arange(round(_LOWEST / step), round(_HIGHEST / step) + 1, dtype=torch.float64) * step


@functools.cache  # every model of a process shares the matrices
def _spectra_matrices() -> dict[str, Tensor]:
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64) / SAMPLING_RATE
    grid, coarse = frequency_grid(), frequency_grid(SAMPLING_RATE / _WELCH_SEGMENT)
    taper = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64).unsqueeze(1)
    # half a sample: at 150 beats a minute a whole one would be 3 beats
    lags = torch.arange(_SHORTEST * SAMPLING_RATE - 0.5, _LONGEST * SAMPLING_RATE + 1, 0.5, dtype=torch.float64)
    lags = lags / SAMPLING_RATE
    # a grid of 0.05 Hz means zero-padding to 20 s, so that the correlation is linear, not circular
    bias = WINDOW_SAMPLES / SAMPLING_RATE / (WINDOW_SAMPLES / SAMPLING_RATE - lags)
    return {
        "frequency": grid.float(),
        "coarse_frequency": coarse.float(),
        "segment": segment_waves(_WELCH_SEGMENT, coarse).float(),
        "tapered": (taper * _waves(time, grid)).float(),
        "plain": _waves(time, grid).float(),
        "lagged": (torch.cos(2 * torch.pi * grid.unsqueeze(1) * lags) * bias).float(),
        "lags": lags[1:-1].float(),
    }


def _waves(time: Tensor, frequency: Tensor) -> Tensor:
    angle = 2 * torch.pi * time.unsqueeze(1) * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def shape_indices(raw: Tensor, ppg: Tensor, beats: Beats) -> list[Tensor]:
    """Return clipped share, skewness, log kurtosis, zero crossings, spread variation, largest segment, template match.

    From ``raw [B, 1250]`` of any gain and offset, ``ppg``, the same band-passed and of a root mean square of 1, and its
    beats.
    """
    highest, lowest = raw.amax(-1, keepdim=True), raw.amin(-1, keepdim=True)
    near = _AT_EXTREME * (highest - lowest)
    clipped = (raw >= highest - near) | (raw <= lowest + near)
    spreads = _deviation(segments(ppg)).clamp(min=_LEAST_SPREAD).sort(-1).values
    median = spreads[:, _SEGMENTS // 2 - 1 : _SEGMENTS // 2 + 1].mean(-1)
    count = beats.there.sum(-1)
    return [
        clipped.float().mean(-1),
        ppg.pow(3).mean(-1).clamp(-5, 5),
        ppg.square().square().mean(-1).clamp(1, 1000).log10(),
        (ppg[:, 1:] * ppg[:, :-1] < 0).float().sum(-1) * SAMPLING_RATE / WINDOW_SAMPLES,
        _deviation(spreads) / spreads.mean(-1),
        (spreads[:, -1] / median).log10(),
        beats.match.sum(-1) / count.clamp(min=1) * (count >= _FEWEST_BEATS),
    ]


def _deviation(values: Tensor) -> Tensor:
    """Return the standard deviation along the last axis; torch.std takes several times as long on CPUs."""
    centred = values - values.mean(-1, keepdim=True)
    return (centred.square().sum(-1) / (values.shape[-1] - 1)).sqrt()


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
    highest = highest_around(ppg, _APART)
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
    to_lines: Tensor
    from_lines: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, matrix in _rhythm_matrices().items():
            # derived from constants, so it need not swell every checkpoint
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, ppg: Tensor, beats: Beats) -> list[Tensor]:
        """Compute the indices of ``[B, 1250]``, band-passed and of a root mean square of 1, and of its beats."""
        return [*self._short_time(ppg), *_beats(ppg, beats), *self._analytic(ppg)]

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
            _deviation(peak),
            centroid.mean(-1),
            _deviation(centroid),
        ]

    def _near(self, centre: Tensor) -> Tensor:
        return ((self.frequency - centre.unsqueeze(-1)).abs() < _WIDTH).float()

    def _analytic(self, ppg: Tensor) -> list[Tensor]:
        real, imaginary = (ppg @ self.to_lines @ self.from_lines).chunk(2, dim=-1)
        power = (real.square() + imaginary.square()).clamp(min=_TINY)
        # the derivative of the phase, without the phase: nothing has to be unwrapped
        turn = real[:, :-1] * imaginary[:, 1:] - real[:, 1:] * imaginary[:, :-1]
        along = real[:, :-1] * real[:, 1:] + imaginary[:, :-1] * imaginary[:, 1:]
        rate = turn / torch.maximum(along.abs(), power[:, :-1] * 0.1) * SAMPLING_RATE / (2 * torch.pi)
        envelope = power.sqrt()
        return [_deviation(envelope) / envelope.mean(-1).clamp(min=1e-6), _deviation(rate.clamp(-10, 10))]


def _spread_out(values: Tensor) -> list[Tensor]:
    """Return mean, 20th and 80th percentile (nearest) of ``[B, S]`` over the segments."""
    ordered = values.sort(-1).values
    last = len(_STARTS) - 1  # not the tensor's size, which is no number while it is exported
    return [values.mean(-1), ordered[:, round(0.2 * last)], ordered[:, round(0.8 * last)]]


def _beats(ppg: Tensor, beats: Beats) -> list[Tensor]:
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
def _rhythm_matrices() -> dict[str, Tensor]:
    # the analytic signal has few lines in its spectrum: there and back again is a twelfth of one large product
    lines = torch.arange(WINDOW_SAMPLES, dtype=torch.float64) * SAMPLING_RATE / WINDOW_SAMPLES
    lines = lines[(lines >= _SLOW) & (lines <= _FAST)]
    waves = _waves(torch.arange(WINDOW_SAMPLES, dtype=torch.float64) / SAMPLING_RATE, lines)
    cosines, sines = waves.T.chunk(2)
    back = torch.cat([torch.cat([cosines, sines], dim=1), torch.cat([sines, -cosines], dim=1)]) * 2 / WINDOW_SAMPLES
    return {
        "frequency": frequency_grid().float(),
        "segment": segment_waves(_SEGMENT, frequency_grid()).float(),
        "to_lines": waves.float(),
        "from_lines": back.float(),
    }
