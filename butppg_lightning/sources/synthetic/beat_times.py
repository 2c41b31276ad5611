"""When the heart beats: one series of beats, from which both the ECG and the PPG are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.sources.synthetic.noise import DURATION

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.subjects import Subject

SLOWEST_RATE = 45.0
"""Lowest heart rate drawn (bpm)."""
FASTEST_RATE = 190.0
"""Highest heart rate drawn (bpm)."""

_LEAD_IN = 3.0  # beats start before the window: pulses arrive late and ring into it
_FASTEST_FIBRILLATION = 135.0  # above it many beats no longer reach the finger, and ECG and pulse rate part
_FASTEST_ECTOPY = 120.0  # above this rate the premature beat would fall into the refractory period


@dataclass(frozen=True)
class Beats:
    """Heart beats around one window.

    Attributes:
        times: ``[K]`` time of each R peak (s); 0 is the window's start, the series begins before and ends after it.
        intervals: ``[K]`` RR interval before each beat (s).
        ectopic: ``[K]`` True for premature ventricular beats.
        rhythm: ``sinus``, ``ectopy`` or ``fibrillation``.
        respiration: Phase of breathing at time 0 and its rate, (rad, Hz): it modulates all channels.
    """

    times: Array
    intervals: Array
    ectopic: Array
    rhythm: str
    respiration: tuple[float, float]

    @property
    def inside(self) -> Array:
        """``[K]`` True for the beats whose R peak lies in the window."""
        return np.asarray((self.times >= 0) & (self.times < DURATION))

    @property
    def mean_rate(self) -> float:
        """Mean heart rate over the window (bpm), from the first R peak in it to the last."""
        times = self.times[self.inside]
        return float(60 * (times.size - 1) / (times[-1] - times[0]))

    def breathing(self, times: Array) -> Array:
        """The breathing waveform in -1..1 at ``times`` (s)."""
        phase, rate = self.respiration
        return np.sin(phase + 2 * np.pi * rate * times)


def draw_beats(rng: np.random.Generator, subject: Subject, *, calm: bool = False) -> Beats:
    """Draw the beats around one window.

    Sinus rhythm has respiratory sinus arrhythmia, a slow (0.1 Hz) oscillation, a trend and white jitter, the parts
    of the spectrum that McSharry et al. (2003, doi:10.1109/TBME.2003.808805) model. Fibrillation has independent
    log-normal intervals. An ectopic beat comes early and is followed by a compensatory pause.

    Args:
        rng: Source of randomness.
        subject: Who is recorded.
        calm: Whether the subject rests, as in an operating room; otherwise half the windows follow exertion.

    Returns:
        Beats from 3 s before the window to past its end, 45 to 190 bpm on average.
    """
    exertion = 1.0 if calm or rng.random() < 0.5 else rng.uniform(1.0, 2.3)
    rate = float(np.clip(subject.resting_rate * exertion * rng.lognormal(0, 0.08), SLOWEST_RATE + 3, FASTEST_RATE - 10))
    respiration = (rng.uniform(0, 2 * np.pi), subject.respiration_rate * (0.6 + 0.4 * exertion))
    count = int((DURATION + _LEAD_IN + 3) * rate / 60 * 1.4) + 6
    nominal = np.arange(count) * 60 / rate - _LEAD_IN
    ectopic = np.zeros(count, dtype=bool)
    kind = rng.random()
    if kind < subject.fibrillation_share:
        rhythm = "fibrillation"
        rate = min(rate, _FASTEST_FIBRILLATION)
        relative = np.maximum(rng.lognormal(0, rng.uniform(0.12, 0.22), count), 0.55)
        relative /= relative.mean()
    else:
        rhythm = "sinus"
        relative = _sinus_intervals(rng, subject, rate, respiration, nominal)
        if kind < subject.fibrillation_share + subject.ectopy_share and rate < _FASTEST_ECTOPY:
            rhythm = "ectopy"
            ectopic = _insert_ectopy(rng, relative)
    intervals = relative * 60 / rate
    times = np.cumsum(intervals) - _LEAD_IN
    return Beats(times, intervals, ectopic, rhythm, respiration)


def _sinus_intervals(
    rng: np.random.Generator, subject: Subject, rate: float, respiration: tuple[float, float], nominal: Array
) -> Array:
    calm = subject.variability * np.clip(90 / rate, 0.4, 1.6)  # variability shrinks as the heart speeds up
    phase, breath = respiration
    slow = np.sin(2 * np.pi * (0.1 * nominal + rng.random()))
    trend = rng.normal(0, 0.03) * (nominal - DURATION / 2) / DURATION
    arrhythmia = 0.03 * calm * np.sin(phase + 2 * np.pi * breath * nominal)
    relative = 1 + arrhythmia + 0.015 * calm * slow + trend + 0.008 * calm * rng.standard_normal(nominal.size)
    return np.asarray(np.clip(relative, 0.7, 1.4))


def _insert_ectopy(rng: np.random.Generator, relative: Array) -> Array:
    """Move some beats forward in place and lengthen the pauses after them; return which."""
    ectopic = np.zeros(relative.size, dtype=bool)
    ectopic[2:-2] = rng.random(relative.size - 4) < rng.uniform(0.06, 0.2)
    ectopic[1:] &= ~ectopic[:-1]  # no couplets: the pause belongs to one beat
    early = rng.uniform(0.22, 0.35, relative.size) * ectopic
    relative -= early
    relative[1:] += early[:-1]
    return ectopic
