"""Synthetic motion and synthetic devices: what makes a clean pulse a wrist's, and how much of it is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.sources.synthetic.motion import band_noise, bursts, unit_rms, wandering_tone
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES
from gate.recorded import wide_band

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.npz import Array

_TIME = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE
_SEGMENT, _HOP = 2 * SAMPLING_RATE, SAMPLING_RATE // 2


class Spoilt(NamedTuple):
    """A window after it was spoilt: ``ppg [1250]``, and the share of it whose pulse is left, 0..1."""

    ppg: Array
    left: float


def other_device(rng: np.random.Generator, ppg: Array) -> Array:
    """Return a clean pulse as another sensor at another site would show it, with a root mean square of 1.

    A low-pass of first or second order at 0.7-8 Hz rounds it, its amplitude wanders, and it has noise at -34 to -12 dB.
    """
    if rng.random() < 0.7:
        edge = _log_uniform(rng, 0.7, 8)
        gain = 1 / (1 + 1j * np.fft.rfftfreq(WINDOW_SAMPLES, 1 / SAMPLING_RATE) / edge) ** rng.choice([1, 2])
        ppg = np.fft.irfft(np.fft.rfft(ppg) * gain, WINDOW_SAMPLES)
    ppg = wide_band(ppg) * np.exp(_slow(rng, rng.uniform(1.5, 5), rng.uniform(0, 0.25)))
    return wide_band(ppg + 10 ** (rng.uniform(-34, -12) / 20) * wide_band(_noise(rng)))


def spoil(rng: np.random.Generator, pulse: Array) -> Spoilt:
    """Add motion of 0.15-8 times the pulse's root mean square to most windows ``[1250]`` of :func:`other_device`."""
    ppg, moved = pulse, rng.random() < 0.72
    if moved:
        kind = rng.choice(len(_KINDS) + 1, p=[0.42, 0.2, 0.16, 0.07, 0.15])
        whole = rng.random() < 0.45
        where = np.ones(WINDOW_SAMPLES) if whole else bursts(rng, int(rng.integers(1, 4)), 0.8, 8)
        motion, strength = wide_band(_motion(rng, kind)) * where, _log_uniform(rng, 0.15, 8)
        if kind == len(_KINDS):  # contact is lost
            lost = where * (1 - _log_uniform(rng, 0.02, 0.5))
            ppg = pulse * (1 - lost) + where * wide_band(_noise(rng)) * rng.uniform(0.05, 0.5)
            strength *= 0.3 * (rng.random() < 0.4)
        ppg = ppg + strength * motion
    if rng.random() < 0.12:
        ppg = np.clip(ppg, *np.quantile(ppg, [rng.uniform(0, 0.15), 1 - rng.uniform(0, 0.15)]))
    return Spoilt(ppg, _left(pulse, wide_band(ppg)) if moved else 1.0)


def _left(pulse: Array, mixed: Array) -> float:
    """Return the share of 2-s segments in which the pulse is more than 3 dB above what was added to it.

    The ratio follows from their correlation, so that a change of gain counts for nothing; its edge is soft (2 dB), and
    so is that of one half, from which on a window is good.
    """
    starts = range(0, WINDOW_SAMPLES - _SEGMENT + 1, _HOP)
    clean, noisy = (np.stack([wave[start : start + _SEGMENT] for start in starts]) for wave in (pulse, mixed))
    clean, noisy = (part - part.mean(1, keepdims=True) for part in (clean, noisy))
    size = np.sqrt((clean**2).sum(1) * (noisy**2).sum(1)) + 1e-9
    common = np.maximum((clean * noisy).sum(1) / size, 0) ** 2
    ratio = 10 * np.log10((common + 1e-6) / (1 - common + 1e-6))
    return float(_sigmoid((_sigmoid((ratio - 3) / 2).mean() - 0.5) / 0.1))


def _motion(rng: np.random.Generator, kind: int) -> Array:
    makers = (*_KINDS, _periodic)
    motion = makers[kind](rng)
    if kind < 3 and rng.random() < 0.3:  # two at a time
        motion = wide_band(motion) + rng.uniform(0.3, 1) * wide_band(_KINDS[rng.integers(3)](rng))
    return motion


def _periodic(rng: np.random.Generator) -> Array:
    """Return steps, strokes, a shaking hand: 0.9-3.2 Hz with overtones, sometimes every second one stronger."""
    rate = _log_uniform(rng, 0.9, 3.2)
    heights = rng.uniform(0, 1, rng.integers(1, 5)) ** 1.5
    heights[1:] /= rng.uniform(1, 3, len(heights) - 1)
    if rng.random() < 0.4:  # of half the rate, the given ones are the even harmonics
        halved = np.zeros(2 * len(heights))
        halved[0], halved[1::2] = rng.uniform(0.2, 1), heights
        rate, heights = rate / 2, halved
    tone = wandering_tone(rng, rate, rng.uniform(0, 0.1), tuple(heights))
    return tone * np.exp(_slow(rng, rng.uniform(0.4, 3), rng.uniform(0, 0.7)))


def _noise(rng: np.random.Generator) -> Array:
    low = rng.uniform(0.3, 1.5)
    noise = band_noise(rng, low, low + rng.uniform(0.7, 4))
    return noise * np.exp(_slow(rng, rng.uniform(0.3, 3), rng.uniform(0, 1)))


def _swings(rng: np.random.Generator) -> Array:
    """Return single movements, out or out and back, a few of them large."""
    waves = np.zeros(WINDOW_SAMPLES)
    for _ in range(rng.integers(2, 14)):
        place = (_TIME - rng.uniform(0, 10)) / _log_uniform(rng, 0.08, 0.7)
        waves += rng.standard_t(2.5) * np.exp(-(place**2) / 2) * (1 if rng.random() < 0.5 else -place)
    return waves


def _wander(rng: np.random.Generator) -> Array:
    return band_noise(rng, 0.05, 8, 2.5)


_KINDS: tuple[Callable[[np.random.Generator], Array], ...] = (_periodic, _noise, _swings, _wander)


def _slow(rng: np.random.Generator, seconds: float, spread: float) -> Array:
    """Return a random path of this standard deviation that keeps its value for about so long."""
    return spread * unit_rms(band_noise(rng, 0.05, max(1 / seconds, 0.25)))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sigmoid(value: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-value)))
