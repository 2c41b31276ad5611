"""What spoils a PPG (motion of the tissue under the sensor, and faults that need none), and what devices then store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter, resample_poly

from butppg_lightning.sources.synthetic.motion import band_noise, bursts, cadence_apart, unit_rms, wandering_tone
from butppg_lightning.sources.synthetic.subjects import DURATION, TIME
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.heart import Beats
    from butppg_lightning.sources.synthetic.motion import Motion
    from butppg_lightning.sources.synthetic.subjects import Subject

FAULTS = ("none", "contact_loss", "flicker", "low_perfusion", "pressure", "saturation")
"""What can be wrong with a PPG without any motion."""

_BADLY_SEATED = {"at_rest": 0.55, "moving": 0.62, "vitaldb": 0.12}  # share of windows in which the sensor sits badly
_FAULT_SHARES = {
    "at_rest": (0.34, 0.14, 0.17, 0.13, 0.13, 0.09),
    "moving": (0.76, 0.05, 0.05, 0.05, 0.05, 0.04),
    "vitaldb": (0.72, 0.07, 0.02, 0.07, 0.08, 0.04),
}


@dataclass(frozen=True)
class Corruption:
    """What is done to one pulse train, in units of the height of a pulse."""

    fault: str  # one of FAULTS
    gain: Array  # [1250] factor of the pulse: 0 where contact is lost, below 1 where motion presses blood away
    added: Array  # [1250] what is added to the pulse
    railed_share: float  # of the samples, that a saturated converter clips


def draw_corruption(
    rng: np.random.Generator, beats: Beats, motion: Motion, pulse: Array, *, monitored: bool = False
) -> Corruption:
    """Draw everything that stands between a pulse ``[1250]`` and its recording.

    Severities are drawn in dB of the artefact over the pulse, from two broad normal distributions: a sensor that
    sits well passes little of a motion on (so there are good windows with motion), one that sits badly turns it
    into more than the pulse. How strongly a motion shows in the PPG depends only weakly on its acceleration.
    Periodic artefacts keep away from the heart rate. A ``monitored`` sensor is kept in place by staff.
    """
    situation = "vitaldb" if monitored else "at_rest" if motion.kind == "rest" else "moving"
    fault = str(rng.choice(FAULTS, p=_FAULT_SHARES[situation]))
    height = float(np.std(pulse))
    # baseline wander below the pulse band: breathing and vasomotion; a monitor removes part of it
    wander = rng.uniform(0.1, 0.8) * beats.breathing(TIME) + rng.lognormal(-0.3, 0.7) * band_noise(rng, 0.05, 0.35, 2)
    wander *= 0.5 if monitored else 1.0
    gain = 1 - rng.uniform(0, 0.4) * motion.envelope * (motion.kind != "rest")
    added = height * (10 ** (rng.normal(-24, 4) / 20) * band_noise(rng, 0.3, 12, 1) + wander)
    if motion.movement.any():
        strength = 20 * np.log10(np.sqrt(np.mean(motion.movement**2)) / 0.05)
        level = _severity(rng, _BADLY_SEATED[situation]) + 0.35 * strength
        added += height * 10 ** (level / 20) * _motion_artefact(rng, motion)
    severity = _severity(rng, _BADLY_SEATED[situation])
    lost, artefact, railed_share = _draw_fault(rng, fault, severity, beats)
    return Corruption(fault, gain * (1 - lost), added + height * artefact, railed_share)


def _severity(rng: np.random.Generator, badly_seated: float) -> float:
    """Artefact over pulse (dB): a sensor that sits badly, or one that sits well."""
    return float(rng.normal(12, 4) if rng.random() < badly_seated else rng.normal(-15, 4))


def _motion_artefact(rng: np.random.Generator, motion: Motion) -> Array:
    """Artefact of root mean square 1 that follows the motion.

    One direction of the movement displaces tissue and blood, which follow with a time constant of some 100 ms;
    part of the response is rectified, as pressing and releasing differ. A turn of the sensor shifts the baseline.
    """
    direction = rng.standard_normal(3)
    drive = direction @ motion.movement
    drive = drive + rng.uniform(0, 0.8) * np.abs(drive)
    if motion.kind == "tremor":  # the skin slips and sticks: what reaches the PPG is slower than the tremor
        drive = 0.4 * unit_rms(drive) + motion.envelope * band_noise(rng, 0.7, 4, 0.5)
    keep = np.exp(-1 / (rng.uniform(0.04, 0.15) * SAMPLING_RATE))
    response, _ = lfilter([1 - keep], [1, -keep], drive, zi=[keep * drive[0]])
    response = response - response.mean()
    if motion.kind == "posture":
        shift = np.cumsum(motion.envelope) / motion.envelope.sum()
        response = unit_rms(response) + rng.normal(0, 1.5) * (shift - shift.mean())
    return unit_rms(np.asarray(response))


def _draw_fault(rng: np.random.Generator, fault: str, severity: float, beats: Beats) -> tuple[Array, Array, float]:
    """Draw a fault: share of the pulse that is lost ``[1250]``, what is added ``[1250]``, share of clipped samples."""
    lost, artefact, railed_share = np.zeros(WINDOW_SAMPLES), np.zeros(WINDOW_SAMPLES), 0.0
    level = 10 ** (severity / 20)
    if fault == "contact_loss":  # the sensor lifts off: ambient light comes in, and touching down leaves a transient
        longest = float(np.clip(2.5 + 0.3 * severity, 0.3, 8))
        lost = bursts(rng, int(rng.integers(1, 4)), longest / 2, longest)
        keep = np.exp(-1 / (rng.uniform(0.1, 0.4) * SAMPLING_RATE))
        transients = np.asarray(lfilter([1.0], [1, -keep], np.diff(lost, prepend=lost[0]))) * rng.choice((-1, 1))
        ambient = lost * band_noise(rng, 0.2, 5, 1.2)
        artefact = level * unit_rms(0.6 * unit_rms(transients) + unit_rms(ambient))
    elif fault == "flicker":  # light modulated by mains or a screen, aliased into the pulse band
        frequency = cadence_apart(rng, beats.mean_rate, 45, 200)
        artefact = level * wandering_tone(rng, frequency, 0.01, (1, rng.uniform(0, 0.4), rng.uniform(0, 0.2)))
    elif fault == "low_perfusion":  # cold or squeezed: sensor noise comes up to the pulse
        artefact = level * band_noise(rng, 0.4, 10, rng.uniform(0.3, 1.2))
    elif fault == "pressure":  # an unsteady finger: slow changes of pressure, partly in the pulse band
        artefact = level * band_noise(rng, 0.6, 3.5, rng.uniform(0.5, 1.3)) * (0.4 + bursts(rng, 3, 1, 5))
    elif fault == "saturation":  # too much light: large excursions hit the rail and the pulse vanishes
        artefact = rng.uniform(1.5, 5) * band_noise(rng, 0.05, 0.4, 1)
        railed_share = float(np.clip(0.45 + 0.03 * severity + rng.normal(0, 0.05), 0.02, 0.95))
    return lost, artefact, railed_share


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
