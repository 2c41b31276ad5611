"""How the subject moves, by an accelerometer (g, with gravity), and the random waveforms of which channels are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.sources.synthetic.subjects import DURATION, TIME
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.heart import Beats
    from butppg_lightning.sources.synthetic.subjects import Subject

MOTIONS = ("rest", "walking", "gesture", "tremor", "tap", "posture")  # kinds of motion a window can have

_MOTION_SHARES = (0.42, 0.2, 0.14, 0.07, 0.08, 0.09)
_SPECTRUM_SAMPLES = 1536  # longer than a window, so that the part taken from the periodic waveform is not periodic
_FREQUENCIES = np.fft.rfftfreq(_SPECTRUM_SAMPLES, 1 / SAMPLING_RATE)
_APART = 12.0  # bpm; a cadence closer to the heart rate would make the readers right by luck
_SENSOR_NOISE = 0.004  # g


@dataclass(frozen=True)
class Motion:
    """Movement during one window."""

    kind: str  # one of MOTIONS
    acceleration: Array  # [3, 1250] accelerometer reading (g), gravity included
    movement: Array  # [3, 1250] the part of it that moves tissue against the sensor (g), without gravity and noise
    envelope: Array  # [1250] in 0..1, how much is going on


def draw_motion(rng: np.random.Generator, subject: Subject, beats: Beats, *, calm: bool = False) -> Motion:
    """Draw the motion of one window, always rest if ``calm``: then the magnitude of the acceleration is 1 g."""
    kind = "rest" if calm else str(rng.choice(MOTIONS, p=_MOTION_SHARES))
    strength = float(np.clip(rng.lognormal(np.log(0.11), 0.8), 0.015, 1.5))  # g
    envelope = np.ones(WINDOW_SAMPLES)
    tilt = np.zeros(WINDOW_SAMPLES)  # rad
    if kind == "rest":
        movement = np.zeros((3, WINDOW_SAMPLES))
        if rng.random() < 0.5:  # nobody keeps quite still
            fidget = bursts(rng, int(rng.integers(1, 4)), 0.8, 3) * band_noise(rng, 0.5, 6, 1)
            movement = 0.1 * strength * _mix_axes(rng, fidget)
    elif kind == "walking":
        envelope, cadence = _bout(rng), cadence_apart(rng, beats.mean_rate, 65, 165)
        steps = wandering_tone(rng, cadence, 0.02, (1, rng.uniform(0.1, 0.5), rng.uniform(0, 0.25)))
        # left and right differ: the stride, at half the cadence
        steps = unit_rms(steps + rng.uniform(0, 0.4) * wandering_tone(rng, cadence / 2, 0.02, (1,)))
        movement = _mix_axes(rng, envelope * steps) * strength
    elif kind == "gesture":
        envelope = bursts(rng, int(rng.integers(3, 6)), 1.2, 4)
        movement = np.stack([envelope * band_noise(rng, 0.4, 5, 1.5) for _ in range(3)]) * strength
    elif kind == "tremor":
        envelope = _bout(rng)
        movement = _mix_axes(rng, envelope * wandering_tone(rng, rng.uniform(3, 6), 0.04, (1, 0.2))) * strength
    elif kind == "tap":
        movement, envelope = _taps(rng, cadence_apart(rng, beats.mean_rate, 50, 170))
        movement *= strength
    else:
        movement, envelope, tilt = _posture(rng)
        movement *= strength
    acceleration = movement + _gravity(rng, subject, tilt + 0.004 * beats.breathing(TIME))
    acceleration += _SENSOR_NOISE * rng.standard_normal((3, WINDOW_SAMPLES))
    return Motion(kind, acceleration, movement, envelope)


def cadence_apart(rng: np.random.Generator, heart_rate: float, slowest: float, fastest: float) -> float:
    """Draw a frequency (Hz), half of the time near the heart rate but never the same; all arguments are per minute."""
    if rng.random() < 0.5:
        rate = heart_rate + rng.choice((-1, 1)) * rng.uniform(_APART, 35)
    else:
        rate = rng.uniform(slowest, fastest)
    if abs(rate - heart_rate) < _APART or not slowest <= rate <= fastest:
        rate = slowest if heart_rate - slowest > fastest - heart_rate else fastest
        rate += np.sign(heart_rate - rate) * rng.uniform(0, abs(heart_rate - rate) - _APART)
    return float(np.clip(rate, slowest, fastest)) / 60


def _bout(rng: np.random.Generator) -> Array:
    """Motion through the whole window, or with a start or an end inside it."""
    envelope = np.ones(WINDOW_SAMPLES)
    if rng.random() < 0.4:
        edge = 1 / (1 + np.exp((TIME - rng.uniform(3, 7)) / 0.15))
        envelope = edge if rng.random() < 0.5 else 1 - edge
    return envelope


def _taps(rng: np.random.Generator, cadence: float) -> tuple[Array, Array]:
    """Short blows that ring, evenly or at random."""
    if rng.random() < 0.5:
        times = np.arange(rng.random() / cadence, DURATION, 1 / cadence)
        times = times + rng.normal(0, 0.03, times.size) / cadence
    else:
        times = rng.uniform(0, DURATION, int(rng.integers(3, 12)))
    ringing, damping = rng.uniform(5, 9), rng.uniform(0.06, 0.15)
    since = TIME - times[:, None]
    decay = np.exp(-np.abs(since) / damping) * (since >= 0)
    heights = rng.lognormal(0, 0.25, times.size)[:, None]
    blows = unit_rms((heights * decay * np.sin(2 * np.pi * ringing * since)).sum(axis=0))
    return _mix_axes(rng, blows), np.minimum(decay.sum(axis=0), 1)


def _posture(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """One or two turns of the sensor (rad), with the jolt each of them is."""
    tilt, envelope = np.zeros(WINDOW_SAMPLES), np.zeros(WINDOW_SAMPLES)
    for centre in rng.uniform(1.5, 8.5, int(rng.integers(1, 3))):
        width = rng.uniform(0.3, 0.9)
        turn = 1 / (1 + np.exp(-(TIME - centre) / width))
        tilt += rng.choice((-1, 1)) * rng.uniform(0.3, 1.4) * turn
        envelope = np.maximum(envelope, 4 * turn * (1 - turn))
    jolt = np.stack([envelope * band_noise(rng, 0.4, 5, 1.5) for _ in range(3)])
    return jolt, envelope, tilt


def _mix_axes(rng: np.random.Generator, wave: Array) -> Array:
    """Let one waveform show on all three axes, delayed a little from axis to axis."""
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    delays = rng.integers(0, SAMPLING_RATE // 10, 3)
    delayed = np.maximum(np.arange(WINDOW_SAMPLES) - delays[:, None], 0)
    return np.asarray(direction[:, None] * wave[delayed])


def _gravity(rng: np.random.Generator, subject: Subject, tilt: Array) -> Array:
    """Gravity (g) in the axes of a sensor that turns by ``tilt`` about a random axis."""
    down = np.array(subject.gravity) + 0.15 * rng.standard_normal(3)
    down /= np.linalg.norm(down)
    sideways = np.cross(down, rng.standard_normal(3))
    sideways /= np.linalg.norm(sideways)
    return np.asarray(np.outer(down, np.cos(tilt)) + np.outer(sideways, np.sin(tilt)))


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
