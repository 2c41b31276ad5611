"""Who is recorded and with what: traits that all windows of one subject share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

Layout = Literal["but_ppg", "vitaldb"]
TIME = np.arange(WINDOW_SAMPLES) / SAMPLING_RATE  # [1250] time of every sample of a window (s)
DURATION = WINDOW_SAMPLES / SAMPLING_RATE  # length of a window (s)


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
