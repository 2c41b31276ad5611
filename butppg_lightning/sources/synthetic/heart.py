"""The heart: one series of beats, and the ECG and the PPG that are both drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.sources.synthetic.subjects import DURATION
from butppg_lightning.window import SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.subjects import Subject

SLOWEST_RATE, FASTEST_RATE = 45.0, 190.0  # range of the heart rates drawn (bpm)

_LEAD_IN = 3.0  # beats start before the window: pulses arrive late and ring into it
_FASTEST_FIBRILLATION = 135.0  # above it many beats no longer reach the finger, and ECG and pulse rate part
_FASTEST_ECTOPY = 120.0  # above this rate the premature beat would fall into the refractory period
_REFERENCE_INTERVAL = 0.8  # s; the rate (75 bpm) the subject's widths are given for
_ECG_CENTRES = np.array([-0.17, -0.026, 0.0, 0.028, 0.27])  # P Q R S T behind the R peak, s
_ECG_WIDTHS = np.array([0.022, 0.009, 0.010, 0.010, 0.045])  # s


@dataclass(frozen=True)
class Beats:
    """Heart beats around one window."""

    times: Array  # [K] of each R peak (s); 0 is the window's start, the series begins before and ends after it
    intervals: Array  # [K] RR interval before each beat (s)
    ectopic: Array  # [K] True for premature ventricular beats
    rhythm: str  # sinus, ectopy or fibrillation
    respiration: tuple[float, float]  # phase of breathing at time 0 and its rate (rad, Hz): it modulates all channels

    @property
    def mean_rate(self) -> float:
        """Mean heart rate over the window (bpm), from the first R peak in it to the last."""
        times = self.times[(self.times >= 0) & (self.times < DURATION)]
        return float(60 * (times.size - 1) / (times[-1] - times[0]))

    def breathing(self, times: Array) -> Array:
        """The breathing waveform in -1..1 at ``times`` (s)."""
        phase, rate = self.respiration
        return np.sin(phase + 2 * np.pi * rate * times)


def draw_beats(rng: np.random.Generator, subject: Subject, *, calm: bool = False) -> Beats:
    """Draw the beats from 3 s before one window to past its end, 45 to 190 bpm on average.

    Sinus rhythm has respiratory sinus arrhythmia, a slow (0.1 Hz) oscillation, a trend and white jitter, the parts
    of the spectrum that McSharry et al. (2003, doi:10.1109/TBME.2003.808805) model. Fibrillation has independent
    log-normal intervals. An ectopic beat comes early and is followed by a compensatory pause. A subject who is not
    ``calm``, as in an operating room, has exerted themselves before half of the windows.
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


def draw_ecg(subject: Subject, beats: Beats) -> Array:
    """Draw the clean ECG ``[1250]`` in mV.

    Every beat is a sum of Gaussians for P, Q, R, S and T (McSharry et al. 2003, doi:10.1109/TBME.2003.808805),
    placed in time rather than in phase because the QRS complex keeps its width when the heart speeds up; P and T
    move with the square root of the RR interval (Bazett). Premature ventricular beats are wide, without P and with
    an inverted T; fibrillation has no P waves.
    """
    stretch = np.sqrt(np.clip(beats.intervals, 0.3, 1.5) / _REFERENCE_INTERVAL)
    scale = np.stack([stretch, np.ones_like(stretch), np.ones_like(stretch), np.ones_like(stretch), stretch])
    heights = np.outer(subject.ecg_heights, np.ones(beats.times.size))
    widths = _ECG_WIDTHS[:, None] * scale
    centres = _ECG_CENTRES[:, None] * scale
    if beats.rhythm == "fibrillation":
        heights[0] = 0
    wide = beats.ectopic
    heights[:, wide] *= np.array([0, 0, 1.2, 2.0, -1.8])[:, None]
    widths[:4, wide] *= 3
    centres[1:4, wide] *= 3
    total = np.zeros(WINDOW_SAMPLES)
    for height, centre, width in zip(heights, centres, widths, strict=True):
        total += _sum_of_gaussians(beats.times + centre, height, width, width)
    return total


def draw_pulse(rng: np.random.Generator, subject: Subject, beats: Beats) -> Array:
    """Draw the clean PPG pulse train ``[1250]``, systole up, an ordinary pulse being about 1 high.

    Every pulse is a systolic and a dicrotic wave, the two-Gaussian form of Tang et al. (2020,
    doi:10.1038/s41598-020-69076-x), here with an upstroke steeper than the decay; how high the dicrotic wave is
    runs through the classes of Dawber et al. (1973), from a separate wave to none. A pulse after a short interval
    is lower because the ventricle has filled less; breathing modulates the height (Charlton et al. 2018,
    doi:10.1109/RBME.2017.2763681). Transit time and height vary from beat to beat.
    """
    stretch = np.sqrt(np.clip(beats.intervals, 0.3, 1.2) / _REFERENCE_INTERVAL)
    upstroke, decay = subject.upstroke * stretch, subject.decay * stretch
    # a Gaussian is steepest one width before its peak: the lag is measured there
    peaks = beats.times + subject.lag + upstroke + rng.normal(0, 0.004, beats.times.size)
    filling = np.sqrt(np.clip(beats.intervals / np.median(beats.intervals), 0.45, 1.5))
    breathing = 1 + rng.uniform(0.02, 0.12) * beats.breathing(beats.times)
    heights = filling * breathing * rng.normal(1, 0.03, beats.times.size)
    heights[beats.ectopic] *= 0.85
    systolic = _sum_of_gaussians(peaks, heights, upstroke, decay)
    delay, width = subject.dicrotic_delay * stretch, 0.085 * stretch
    return systolic + _sum_of_gaussians(peaks + delay, subject.dicrotic * heights, width, 1.3 * width)


def _sum_of_gaussians(centres: Array, heights: Array, rise: Array, fall: Array) -> Array:
    """Sum two-sided Gaussians (widths ``rise`` before and ``fall`` after the centre, s) over one window."""
    reach = int(4 * max(rise.max(), fall.max()) * SAMPLING_RATE) + 1
    nearest = np.round(centres * SAMPLING_RATE).astype(int)
    samples = nearest[:, None] + np.arange(-reach, reach + 1)
    offset = samples / SAMPLING_RATE - centres[:, None]
    width = np.where(offset < 0, rise[:, None], fall[:, None])
    values = heights[:, None] * np.exp(-0.5 * (offset / width) ** 2)
    inside = (samples >= 0) & (samples < WINDOW_SAMPLES)
    return np.bincount(samples[inside], weights=values[inside], minlength=WINDOW_SAMPLES)
