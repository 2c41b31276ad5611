"""Pulse rates that a PPG shows to three readers, none of which the way the sensor faces or its gain can move.

A heart rate monitor reads a PPG in one of three ways: its strongest frequency, the lag at which it resembles itself,
the median interval of its peaks. BUT PPG calls a window good when most of such readers find the rate of the ECG. What
they find is known without an ECG; whether it is the heart's rate is what a quality network has to judge.
"""

from __future__ import annotations

import functools
import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from butppg_lightning.models.preprocess import band_pass_matrix, steep_side
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

RATES = torch.arange(36.0, 217.0, 2.0)
"""Candidate pulse rates (bpm)."""
RATE_STEP = 2.0  # bpm between them
TOLERANCE = 5.0  # bpm within which two rates agree (BUT PPG)
READERS = ("rate_spectrum", "rate_autocorrelation", "rate_peaks", "rate_peaks_below")
"""What :class:`RateReaders` finds, in bpm; 0 where it finds none."""
INTERVALS = (
    "interval_spread",
    "interval_spread_below",
    "interval_spread_wide",
    "interval_spread_wide_below",
    "spectrum_to_peaks",
    "spectrum_to_peaks_below",
    "peaks_to_peaks_below",
)
"""What :meth:`RateReaders.intervals` computes: how far the readers' intervals scatter, and their rates lie apart."""

_BAND = (0.6, 4.0)  # Hz
_SHAPE_BAND = (0.5, 8.0)  # Hz: the flanks of a pulse need its overtones
_ORDER = 3  # of the Butterworth filter, forwards and backwards
_SLOWEST, _FASTEST, _STEP = 39.0, 210.0, 0.5  # bpm, of the spectrum's grid
_LAGS = (41, 196)  # samples: 183 to 38 bpm
_LEAST_DISTANCE = 34  # samples between peaks: 220 bpm
_LEAST_PROMINENCE = 0.5  # standard deviations
_MOST_PEAKS = -(-WINDOW_SAMPLES // _LEAST_DISTANCE)
_STRIDES = tuple(2**power for power in range(11))  # samples; together they span a window
_ROUNDS = 4  # of striking out the neighbours of the highest peaks; three were always enough
_SPREAD = (0.1, 0.9)  # quantiles of the intervals
_NO_SPREAD = 2.0  # of fewer than two intervals, and the most that counts
_LEAST_RATE, _MOST_APART = 20.0, 0.8  # bpm in place of no rate; the logarithm of a factor of 2.2
_NOWHERE = 5000.0  # a place behind every window's end
_TINY = 1e-9


class RateReaders(nn.Module):
    """Read the pulse rates of band-passed PPG, from matrix products, sorts and pooling, which ONNX takes as they are.

    The polarity is made canonical first: a pulse rises more steeply than it falls, so the slopes' third moment is made
    positive. Peaks are read on both sides, as the foot of a pulse is often sharper than its top.
    """

    band: Tensor
    shape: Tensor
    spectrum: Tensor
    autocorrelation: Tensor
    lags: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, matrix in _matrices().items():
            self.register_buffer(name, matrix, persistent=False)
        self.register_buffer("shape", band_pass_matrix("ppg_band", _SHAPE_BAND), persistent=False)

    @torch.no_grad()
    def forward(self, ppg: Tensor, wide: Tensor | None = None) -> Tensor:
        """Return the rates ``[B, 4]`` (bpm, 0 where none is found) of PPG ``[B, 1250]`` of any gain and offset.

        ``wide [B, 1250]`` is the same in 0.5-8 Hz, of any gain, where it is known already.
        """
        pulse, _, there = self._pulses(ppg, wide)
        peaks = [_median_rate(*found) for found in _of_sides(pulse)]
        found = [self._by_spectrum(pulse), self._by_lag(pulse), *peaks]
        return torch.stack(found, dim=1) * there  # a spectrum of nothing has its largest somewhere too

    @torch.no_grad()
    def intervals(self, ppg: Tensor, wide: Tensor | None = None) -> Tensor:
        """Return :data:`INTERVALS` ``[B, 7]`` of what :meth:`forward` takes.

        Four spreads, from the 10th to the 90th percentile of the intervals between peaks over their median, 0..2: of
        the peaks and of the feet, in 0.6-4 Hz and in 0.5-8 Hz. Then the absolute logarithms of the ratios of rates,
        0..0.8. A pulse that motion drowns is irregular in one band or on one side first, whatever its rate.
        """
        pulse, wide, _ = self._pulses(ppg, wide)
        narrow = _of_sides(pulse)
        spreads = [_spread(*found) for found in (*narrow, *_of_sides(wide))]
        rates = (self._by_spectrum(pulse), *(_median_rate(*found) for found in narrow))
        logs = [rate.clamp(min=_LEAST_RATE).log() for rate in rates]
        apart = [(one - other).abs().clamp(max=_MOST_APART) for one, other in combinations(logs, 2)]
        return torch.stack([*spreads, *apart], dim=1)

    def _pulses(self, ppg: Tensor, wide: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the upright pulse ``[B, 1250]`` in 0.6-4 and in 0.5-8 Hz, and whether there is any, ``[B, 1]``."""
        centred = ppg - ppg.mean(-1, keepdim=True)
        largest = centred.abs().amax(-1, keepdim=True)
        centred = centred / largest.clamp(min=_TINY)
        pulse = centred @ self.band
        wide = centred @ self.shape if wide is None else wide
        pulse = pulse / pulse.square().mean(-1, keepdim=True).sqrt().clamp(min=_TINY)
        upright = steep_side(wide)
        return pulse * upright, wide * upright, largest > 0

    def _by_spectrum(self, pulse: Tensor) -> Tensor:
        cosine, sine = (pulse @ self.spectrum).chunk(2, -1)
        return _SLOWEST + _STEP * (cosine.square() + sine.square()).argmax(-1).to(pulse.dtype)

    def _by_lag(self, pulse: Tensor) -> Tensor:
        cosine, sine = (pulse @ self.autocorrelation).chunk(2, -1)
        found = (cosine.square() + sine.square()) @ self.lags
        inner = found[:, 1:-1]
        peak = (inner > found[:, :-2]) & (inner >= found[:, 2:])
        height, place = torch.where(peak, inner, -torch.inf).max(-1)
        rate = 60 * SAMPLING_RATE / (place.to(pulse.dtype) + _LAGS[0])
        return torch.where(height > -torch.inf, rate, torch.zeros_like(rate))


def _of_sides(pulse: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return :func:`peak_intervals` of the peaks and of the feet of a pulse ``[B, T]``."""
    found = peak_intervals(torch.stack([pulse, -pulse]).flatten(0, 1))
    # not chunk(2), whose rows a graph of an unknown number of windows cannot count; not -1, as a batch may be empty
    intervals, count = (one.reshape(2, pulse.shape[0], one.shape[-1]).unbind() for one in found)
    return list(zip(intervals, count, strict=True))


def peak_rate(pulse: Tensor) -> Tensor:
    """Return the rate (bpm) of the median interval between the peaks of ``[B, T]``; 0 under three peaks."""
    return _median_rate(*peak_intervals(pulse))


def peak_intervals(pulse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the intervals (samples) between the peaks of ``[B, T]``, ascending ``[B, 36]``, and how many, ``[B, 1]``.

    Peaks as scipy.signal.find_peaks finds them with a least distance and a least prominence (held to it by a test).
    """
    rises = pulse[:, 1:] > pulse[:, :-1]
    tops = F.pad(rises[:, :-1] & ~rises[:, 1:], (1, 1))
    # the highest first: who is highest among the undecided within the distance stays, and strikes out its neighbours
    left, kept = torch.where(tops, pulse, -1e9), torch.zeros_like(tops)
    for _ in range(_ROUNDS):
        new = (left == highest_around(left, _LEAST_DISTANCE - 1)) & (left > -1e8)
        kept = kept | new
        left = torch.where(highest_around(new.to(pulse.dtype), _LEAST_DISTANCE - 1) > 0, -1e9, left)
    place, height = _places(kept, pulse)
    places = torch.where((place < _NOWHERE) & _prominent(pulse, place, height), place, _NOWHERE).sort(-1).values
    intervals, there = places[:, 1:] - places[:, :-1], places[:, 1:] < _NOWHERE
    count = there.sum(-1, keepdim=True)
    return torch.where(there, intervals, 2 * _NOWHERE).sort(-1).values, count


def _median_rate(ordered: Tensor, count: Tensor) -> Tensor:
    return torch.where(count[:, 0] >= 2, 60 * SAMPLING_RATE / _at_share(ordered, count, 0.5), 0.0)


def _spread(ordered: Tensor, count: Tensor) -> Tensor:
    low, high = (_at_share(ordered, count, share) for share in _SPREAD)
    spread = ((high - low) / _at_share(ordered, count, 0.5)).clamp(max=_NO_SPREAD)
    return torch.where(count[:, 0] >= 2, spread, _NO_SPREAD)


def _at_share(ordered: Tensor, count: Tensor, share: float) -> Tensor:
    """Return the quantile ``[B]`` of the first ``count`` of ascending values, interpolated as numpy does."""
    place = share * (count - 1).clamp(min=0).to(ordered.dtype)
    below = place.floor()
    low, high = (ordered.gather(1, index.long())[:, 0] for index in (below, place.ceil()))
    return torch.lerp(low, high, (place - below)[:, 0])


def _prominent(pulse: Tensor, place: Tensor, height: Tensor) -> Tensor:
    """Return ``[B, 37]``: which peaks fall deep enough on both sides before anything higher comes."""
    spread = (pulse - pulse.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    deep = height - _LEAST_PROMINENCE * spread
    last = pulse.shape[1] - 1
    return _falls(pulse, place, height, deep) & _falls(pulse.flip(-1), last - place, height, deep)


def _falls(pulse: Tensor, place: Tensor, height: Tensor, deep: Tensor) -> Tensor:
    """Return whether ``pulse`` falls to ``deep`` behind each ``place`` before it is above ``height``.

    By strides of 1024, 512 ... samples as long as nothing higher lies within: their extremes are those of two halves.
    """
    highest, lowest = [pulse], [pulse]
    for stride in _STRIDES[:-1]:
        highest.append(torch.maximum(highest[-1][:, :-stride], highest[-1][:, stride:]))
        lowest.append(torch.minimum(lowest[-1][:, :-stride], lowest[-1][:, stride:]))
    start, low = place.long() + 1, torch.full_like(height, torch.inf)
    for stride, high, least in zip(_STRIDES[::-1], highest[::-1], lowest[::-1], strict=True):
        last = pulse.shape[1] - stride
        index = start.clamp(0, last)
        goes = (start <= last) & (high.gather(1, index) <= height)
        low = torch.where(goes, torch.minimum(low, least.gather(1, index)), low)
        start = start + stride * goes
    return low <= deep


def _places(mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first places ``[B, 37]`` where ``mask`` is True, ascending, and the values there."""
    places = torch.arange(values.shape[1], device=values.device, dtype=values.dtype)
    found = torch.where(mask, places, _NOWHERE).topk(_MOST_PEAKS, -1, largest=False, sorted=True).values
    return found, values.gather(1, found.clamp(max=values.shape[1] - 1).long())


def highest_around(values: Tensor, reach: int) -> Tensor:
    """Return the largest value ``[..., T]`` within ``reach`` samples to either side, as max pooling does, but faster.

    The maximum over 64 samples is that of two over 32: seven looks at each sample in place of 67.
    """
    size, span = 2 * reach + 1, 1
    values = F.pad(values, (reach, reach), value=-torch.inf)
    while span < size:
        step = min(span, size - span)
        values = torch.maximum(values[..., step:], values[..., :-step])
        span += step
    return values


def agreement(behind: Tensor, rates: Tensor) -> Tensor:
    """Return the probability ``[B]`` that at least two of three rates ``[B, 3]`` lie within 5 bpm of the heart's.

    ``behind [B, 92]`` is that rate's distribution function at the edges of the candidates.
    """
    low, high = rates - TOLERANCE, rates + TOLERANCE
    both = [
        _between(behind, torch.maximum(low[:, one], low[:, two]), torch.minimum(high[:, one], high[:, two]))
        for one, two in combinations(range(3), 2)
    ]
    return sum(both[1:], both[0]) - 2 * _between(behind, low.amax(1), high.amin(1))


def _between(behind: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _below(behind, torch.maximum(low, high)) - _below(behind, low)


def _below(behind: Tensor, rate: Tensor) -> Tensor:
    place = ((rate - (RATES[0].item() - RATE_STEP / 2)) / RATE_STEP).clamp(0.0, len(RATES) - 1e-3)
    whole = place.floor()
    start = behind.gather(1, whole.long().unsqueeze(1)).squeeze(1)
    end = behind.gather(1, whole.long().unsqueeze(1) + 1).squeeze(1)
    return start + (place - whole) * (end - start)


def fourier(frequencies: Tensor, samples: int, tapered: bool = True) -> Tensor:
    """Return a matrix ``[samples, 2 F]``: cosines, then sines, of frequencies ``[F]`` (Hz), under a Hann window."""
    time = torch.arange(samples, dtype=torch.float64) / SAMPLING_RATE
    angle = 2 * math.pi * time.unsqueeze(1) * frequencies.double()
    waves = torch.cat([angle.cos(), angle.sin()], 1)
    if tapered:
        waves = waves * torch.hann_window(samples, periodic=False, dtype=torch.float64).unsqueeze(1)
    return (waves - waves.mean(0)).float()


@functools.cache
def _matrices() -> dict[str, Tensor]:
    from scipy.signal import butter, sosfiltfilt

    sections = butter(_ORDER, _BAND, "band", fs=SAMPLING_RATE, output="sos")
    unit = torch.eye(WINDOW_SAMPLES, dtype=torch.float64) - 1 / WINDOW_SAMPLES
    band = torch.from_numpy(sosfiltfilt(sections, unit.numpy(), axis=1).copy()).float()
    rates = torch.arange(_SLOWEST, _FASTEST + _STEP / 2, _STEP)
    # nothing is left above 12 Hz; half a bin apart, so that the autocorrelation does not wrap around
    places = torch.arange(240, dtype=torch.float64)
    fine = places * SAMPLING_RATE / (2 * WINDOW_SAMPLES)
    lags = torch.arange(_LAGS[0] - 1, _LAGS[1] + 2, dtype=torch.float64)
    return {
        "band": band,
        "spectrum": fourier(rates / 60, WINDOW_SAMPLES),
        "autocorrelation": fourier(fine, WINDOW_SAMPLES, tapered=False),
        # the autocorrelation from the power at twice the window's frequencies, at the lags that are wanted
        "lags": (math.pi / WINDOW_SAMPLES * places.unsqueeze(1) * lags).cos().float(),
    }
