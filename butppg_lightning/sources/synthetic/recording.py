"""From a pulse to what a sensor stores: light level, clipping, quantisation and resampling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import resample_poly

from butppg_lightning.sources.synthetic.noise import DURATION, TIME, band_noise, bursts
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.corruption import Corruption
    from butppg_lightning.sources.synthetic.motion import Motion
    from butppg_lightning.sources.synthetic.subjects import Subject


def record_ppg(rng: np.random.Generator, subject: Subject, pulse: Array, corruption: Corruption) -> Array:
    """Record a corrupted pulse ``[1250]`` with the subject's device.

    The result ``[1250]`` is in the device's unit: quantised and clipped at the native rate, then resampled to 125 Hz.
    A device with a native rate below that has its median subtracted before (and stays without it), because the steady
    part would otherwise leak through the polyphase filter as a tone at the native rate.
    """
    device = subject.device
    share = np.clip(subject.pulsatile_share * rng.lognormal(0, 0.25), *device.pulsatile_share)
    height = share * subject.level
    light = corruption.gain * pulse + corruption.added
    level = subject.level - height * float(np.median(light))
    if corruption.railed_share:
        level = device.full_scale - height * float(np.quantile(light, 1 - corruption.railed_share))
    reading = level + height * light
    count = round(DURATION * device.native_rate)
    if count != WINDOW_SAMPLES:
        # a camera integrates over its exposure: average before sampling
        exposed = np.convolve(reading, np.full(3, 1 / 3), mode="same") if device.native_rate < 50 else reading
        exposed[[0, -1]] = reading[[0, -1]]
        reading = np.interp(np.arange(count) / device.native_rate, TIME, exposed)
    reading = np.clip(np.round(reading / device.step) * device.step, 0, device.full_scale)
    if count == WINDOW_SAMPLES:
        return np.asarray(reading)
    reading = reading - np.median(reading)
    common = math.gcd(SAMPLING_RATE, device.native_rate)
    up, down = SAMPLING_RATE // common, device.native_rate // common
    return np.asarray(resample_poly(reading, up, down, padtype="line"))  # a step at the ends would ring


def record_ecg(rng: np.random.Generator, ecg: Array, motion: Motion) -> Array:
    """Add to a clean ECG ``[1250]`` (mV) drift, mains hum, muscle noise and, now and then, a loose electrode.

    The motion moves the electrodes and tenses muscles.
    """
    moving = motion.envelope if motion.movement.any() else np.zeros(WINDOW_SAMPLES)
    drift = rng.lognormal(-2.3, 0.7) * band_noise(rng, 0.05, 0.5, 2)
    hum = rng.lognormal(-4.6, 0.8) * np.sin(2 * np.pi * (50 * TIME + rng.random()))
    muscle = band_noise(rng, 8, 60) * (rng.lognormal(-4.2, 0.5) + rng.lognormal(-3.2, 0.6) * moving)
    stretch = rng.lognormal(-2.6, 0.8) * moving * band_noise(rng, 0.4, 4, 1)
    loose = np.zeros(WINDOW_SAMPLES)
    if rng.random() < 0.06:
        loose = bursts(rng, 1, 0.5, 2) * rng.uniform(0.5, 2) * band_noise(rng, 0.2, 20, 1.5)
    return ecg + drift + hum + muscle + stretch + loose + rng.normal(0, 0.2)
