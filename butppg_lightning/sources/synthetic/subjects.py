"""Who is recorded and with what: traits that all windows of one subject share, and what their device stores.

A device adds its light level, clips, quantises and samples at its own rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.signal import resample_poly

from butppg_lightning.sources.synthetic.motion import DURATION, TIME, band_noise, bursts
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.corruption import Corruption
    from butppg_lightning.sources.synthetic.motion import Motion

Layout = Literal["but_ppg", "vitaldb"]


@dataclass(frozen=True)
class Device:
    """A PPG sensor; tuples are ranges, and levels are in its own unit."""

    name: str  # what the file calls it
    native_rate: int  # its sampling rate (Hz)
    lag: tuple[float, float]  # from the R peak to the steepest upstroke (s): pulse transit plus the device's own
    level: tuple[float, float]  # steady part of a reading
    pulsatile_share: tuple[float, float]  # the pulse's height as a share of the steady part
    step: float  # of the quantisation
    full_scale: float  # largest reading; higher ones are clipped


PHONE_CAMERA = Device("phone_camera", 30, (0.40, 0.60), (130.0, 225.0), (0.012, 0.05), 1.0, 255.0)
"""Finger on a lens: mean intensity of a frame in 8 bits, so that a pulse is only a few steps high."""
WRIST_BAND = Device("wrist_band", 125, (0.20, 0.45), (4e4, 1.6e5), (0.002, 0.02), 1.0, 2.0**18)
"""Reflective sensor at the wrist: counts of an 18-bit converter."""
FINGER_CLIP = Device("finger_clip", 125, (0.15, 0.35), (1.0, 2.5), (0.05, 0.5), 1 / 1024, 5.0)
"""Transmissive sensor at the finger: volts of a 12-bit converter."""
BEDSIDE_MONITOR = Device("bedside_monitor", 100, (0.35, 0.60), (30.0, 45.0), (0.4, 1.4), 0.2, 100.0)
"""Operating-room monitor: a plethysmogram already scaled to 0..100, as VitalDB's SNUADC/PLETH."""

_DEVICES: dict[Layout, tuple[tuple[Device, ...], tuple[float, ...]]] = {
    "but_ppg": ((PHONE_CAMERA, WRIST_BAND, FINGER_CLIP), (0.5, 0.3, 0.2)),
    "vitaldb": ((BEDSIDE_MONITOR,), (1.0,)),
}


@dataclass(frozen=True)
class Subject:
    """One person with one device; widths and delays of a pulse are those at 75 bpm."""

    name: str  # as saved in the files
    device: Device
    resting_rate: float  # heart rate at rest (bpm)
    respiration_rate: float  # Hz
    variability: float  # scale of the heart rate variability (1: typical)
    fibrillation_share: float  # of windows, in atrial fibrillation
    ectopy_share: float  # of windows, with ectopic beats
    lag: float  # R peak to steepest PPG upstroke (s)
    upstroke: float  # width of the systolic upstroke (s, standard deviation of a Gaussian)
    decay: float  # width of the systolic decay (s)
    dicrotic: float  # height of the dicrotic wave relative to the systolic one; near 0 in stiff arteries
    dicrotic_delay: float  # of the dicrotic wave behind the systolic peak (s)
    level: float  # steady part of the PPG, in the device's unit
    pulsatile_share: float  # height of a pulse as a share of the steady part
    ecg_heights: tuple[float, ...]  # P, Q, R, S and T waves (mV)
    gravity: tuple[float, ...]  # unit vector in the accelerometer's axes


def draw_subject(rng: np.random.Generator, name: str, layout: Layout) -> Subject:
    """Draw a subject and their device, one of those of the layout; ``rng`` is this subject's alone."""
    devices, weights = _DEVICES[layout]
    device = devices[rng.choice(len(devices), p=weights)]
    direction = rng.standard_normal(3)
    heights = ((0.06, 0.2), (-0.2, -0.02), (0.6, 1.8), (-0.5, -0.05), (0.12, 0.45))  # mV
    return Subject(
        name=name,
        device=device,
        resting_rate=float(np.clip(rng.normal(72, 13), 48, 110)),
        respiration_rate=rng.uniform(0.15, 0.4),
        variability=rng.lognormal(0, 0.4),
        fibrillation_share=0.9 if rng.random() < 0.1 else 0.04,
        ectopy_share=rng.beta(1, 6),
        lag=rng.uniform(*device.lag),
        upstroke=rng.uniform(0.055, 0.09),
        decay=rng.uniform(0.11, 0.17),
        dicrotic=rng.uniform(0.02, 0.45),
        dicrotic_delay=rng.uniform(0.26, 0.36),
        level=rng.uniform(*device.level),
        pulsatile_share=float(np.exp(rng.uniform(*np.log(device.pulsatile_share)))),
        ecg_heights=tuple(rng.uniform(*limits) for limits in heights),
        gravity=tuple((direction / np.linalg.norm(direction)).tolist()),
    )


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
    """Record a clean ECG ``[1250]`` (mV) with drift, hum, muscle noise, and electrodes loosened by motion or chance."""
    moving = motion.envelope if motion.movement.any() else np.zeros(WINDOW_SAMPLES)
    drift = rng.lognormal(-2.3, 0.7) * band_noise(rng, 0.05, 0.5, 2)
    hum = rng.lognormal(-4.6, 0.8) * np.sin(2 * np.pi * (50 * TIME + rng.random()))
    muscle = band_noise(rng, 8, 60) * (rng.lognormal(-4.2, 0.5) + rng.lognormal(-3.2, 0.6) * moving)
    stretch = rng.lognormal(-2.6, 0.8) * moving * band_noise(rng, 0.4, 4, 1)
    loose = np.zeros(WINDOW_SAMPLES)
    if rng.random() < 0.06:
        loose = bursts(rng, 1, 0.5, 2) * rng.uniform(0.5, 2) * band_noise(rng, 0.2, 20, 1.5)
    return ecg + drift + hum + muscle + stretch + loose + rng.normal(0, 0.2)
