"""Random waveforms and the time base all parts of a synthetic recording share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

TIME = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE
"""``[1250]`` time of every sample of a window (s)."""
DURATION = WINDOW_SAMPLES / SAMPLING_RATE
"""Length of a window (s)."""

_SPECTRUM_SAMPLES = 1536  # longer than a window, so that the part taken from the periodic waveform is not periodic
_FREQUENCIES = np.fft.rfftfreq(_SPECTRUM_SAMPLES, 1 / SAMPLING_RATE)


def band_noise(rng: np.random.Generator, low: float, high: float, slope: float = 0.0) -> Array:
    """Return Gaussian noise ``[1250]`` of root mean square 1 between ``low`` and ``high`` (Hz, 0.05 to 62.5).

    Its power falls with frequency as 1/f^slope: 0 is white, 1 pink, 2 a random walk.
    """
    start, stop = np.searchsorted(_FREQUENCIES, (low, high))
    stop = max(stop, start + 2)
    spectrum = np.zeros(_FREQUENCIES.size, dtype=complex)
    normal = rng.standard_normal((2, stop - start))
    spectrum[start:stop] = (normal[0] + 1j * normal[1]) * _FREQUENCIES[start:stop] ** (-slope / 2)
    return unit_rms(np.fft.irfft(spectrum, _SPECTRUM_SAMPLES)[:WINDOW_SAMPLES])


def wandering_tone(rng: np.random.Generator, frequency: float, jitter: float, harmonics: tuple[float, ...]) -> Array:
    """Return a periodic waveform ``[1250]`` of root mean square 1 whose frequency wanders, such as steps or flicker.

    ``jitter`` is the relative deviation of the instantaneous ``frequency`` (Hz; 0.02 is steady, 0.1 loose),
    ``harmonics`` are the amplitudes of the fundamental, the second harmonic and so on.
    """
    instantaneous = frequency * (1 + jitter * band_noise(rng, 0.1, 1.0))
    phase = 2 * np.pi * (np.cumsum(instantaneous) / SAMPLING_RATE + rng.random())
    wave = np.zeros(WINDOW_SAMPLES)
    for order, amplitude in enumerate(harmonics, start=1):
        wave += amplitude * np.sin(order * phase + 2 * np.pi * rng.random())
    return unit_rms(wave)


def bursts(rng: np.random.Generator, count: int, shortest: float, longest: float) -> Array:
    """Return an envelope ``[1250]`` of ``count`` smooth bursts at random places, ``shortest`` to ``longest`` s long.

    It is 1 inside a burst and 0 outside, with raised-cosine edges of 0.2 s.
    """
    envelope = np.zeros(WINDOW_SAMPLES)
    for length, centre in zip(rng.uniform(shortest, longest, count), rng.uniform(0, DURATION, count), strict=True):
        inside = (length / 2 - np.abs(TIME - centre)) / 0.2
        envelope = np.maximum(envelope, 0.5 - 0.5 * np.cos(np.pi * np.clip(inside, 0, 1)))
    return envelope


def unit_rms(wave: Array) -> Array:
    """Scale a waveform to a root mean square of 1; an all-zero one stays as it is."""
    rms = float(np.sqrt(np.mean(wave**2)))
    return wave / rms if rms > 0 else wave
