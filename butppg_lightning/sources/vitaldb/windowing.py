"""From a case's waveforms to windows worth learning from: their beats, and how alike those are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.models.usable_channels import channel_faults
from butppg_lightning.sources import UnusableError
from butppg_lightning.sources.resampling import Gaps, band_pass, resample, runs
from butppg_lightning.sources.vitaldb.recording import read_case
from butppg_lightning.window import PRETRAIN_CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.vitaldb.recording import Track

REASONS = ("gap", "flat", "few cycles", "PPG quality", "ECG quality", "over the limit")
"""Why a window is left out, in the order in which it is asked; flat: flat or railed by the model's own rule."""

_GAP_SHARE = 0.05  # of a window that may be bridged altogether
_ECG_BAND = (0.5, 40.0)  # Hz


@dataclass(frozen=True)
class Gate:
    """Which windows pass.

    Args:
        min_sqi: Least mean correlation of a PPG's beats with their template (Orphanidou 2015: 0.86); -1 switches it
            off.
        min_ecg_sqi: The same for the ECG (Orphanidou 2015: 0.66).
        min_cycles: Least number of whole cardiac cycles of a window, in both channels.
        max_gap: Longest gap, in seconds, bridged by a straight line (at most 5 % of a window altogether).
        max_windows_per_case: Most windows of a case, spread evenly over those that pass; 0 for all.
    """

    min_sqi: float = 0.86
    min_ecg_sqi: float = 0.66
    min_cycles: int = 3
    max_gap: float = 0.2
    max_windows_per_case: int = 200

    def __post_init__(self) -> None:
        for name in ("min_sqi", "min_ecg_sqi"):
            if not -1 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name):g}; it is a correlation, so from -1 (off) to 1")
        for name in ("min_cycles", "max_gap", "max_windows_per_case"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} is {getattr(self, name):g}; it must be 0 or more")


@dataclass(frozen=True)
class CaseWindows:
    """Windows of one case."""

    signals: Array  # [N, 2, 1250] float32, PPG and ECG, neither filtered nor scaled
    left_out: dict[str, int]  # number of windows left out, by reason
    unusable: str = ""  # why the case gives no windows at all


def case_windows(where: Path | int | str, gate: Gate) -> CaseWindows:
    """Read a case (a `.vital` file, a number on the server, or why there is neither), or say why it has no windows."""
    try:
        if isinstance(where, str):
            raise UnusableError(where)
        return select_windows(read_case(where), gate)
    except UnusableError as error:
        return CaseWindows(np.empty((0, len(PRETRAIN_CHANNELS), WINDOW_SAMPLES), dtype=np.float32), {}, str(error))


def select_windows(tracks: dict[str, Track], gate: Gate) -> CaseWindows:
    """Make consecutive windows of PPG and ECG, begun at the same instant, and keep those that pass, in order of time.

    Windows begin where both channels begin to be there, and anew behind each gap that is too long to be bridged.
    """
    waveforms = [_waveform(tracks[name], gate.max_gap) for name in PRETRAIN_CHANNELS]
    length = min(waveform.samples.size for waveform in waveforms)
    there = np.all([waveform.there[:length] for waveform in waveforms], axis=0)
    places = [np.arange(start, stop - WINDOW_SAMPLES + 1, WINDOW_SAMPLES) for start, stop in runs(there)]
    starts = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    rows = starts[:, None] + np.arange(WINDOW_SAMPLES)
    signals = np.stack([waveform.samples[rows] for waveform in waveforms], axis=1)
    reasons = _reasons(waveforms, starts, signals, gate)
    kept = np.flatnonzero(reasons == "")
    left_out = {reason: int((reasons == reason).sum()) for reason in REASONS}
    left_out["gap"] += length // WINDOW_SAMPLES - starts.size
    if gate.max_windows_per_case and len(kept) > gate.max_windows_per_case:
        left_out["over the limit"] = len(kept) - gate.max_windows_per_case
        kept = kept[np.linspace(0, len(kept) - 1, gate.max_windows_per_case).round().astype(int)]
    return CaseWindows(signals[kept], left_out)


class _Waveform(NamedTuple):
    """A channel at 125 Hz: samples (gaps filled), where they can be used, and the gaps at the track's own rate."""

    samples: Array
    there: Array
    gaps: Gaps
    rate: float


def _waveform(track: Track, max_gap: float) -> _Waveform:
    if np.isnan(track.samples).all():
        raise UnusableError("has a track without samples")
    gaps, size = Gaps(track.samples), track.samples.size
    # long gaps are filled too, so that nothing rings from their edges into what lies beside them
    samples = resample(gaps.bridged(0, size), track.rate)
    there = np.ones(samples.size, dtype=bool)
    long = (gaps.stops - gaps.starts > max_gap * track.rate) | (gaps.starts == 0) | (gaps.stops == size)
    scale = SAMPLING_RATE / track.rate
    for start, stop in zip(gaps.starts[long], gaps.stops[long], strict=True):
        there[max(0, math.ceil((start - 1) * scale)) : math.ceil(stop * scale)] = False
    return _Waveform(samples, there, gaps, track.rate)


def _reasons(waveforms: list[_Waveform], starts: Array, signals: Array, gate: Gate) -> Array:
    """Return why each window is left out, ``[N]``; empty where it passes."""
    import torch

    ppg, ecg = (waveform.samples for waveform in waveforms)
    pulse, complexes, filtered = band_pass(ppg, *PULSE.band), band_pass(ecg, *QRS.band), band_pass(ecg, *_ECG_BAND)
    gappy = np.any([each.gaps.missing_shares(starts, each.rate) > _GAP_SHARE for each in waveforms], axis=0)
    unusable = (channel_faults(torch.from_numpy(signals), PRETRAIN_CHANNELS) != 0).any(1).numpy()
    reasons = np.where(gappy, "gap", np.where(unusable, "flat", "")).astype(object)
    for row in np.flatnonzero(reasons == ""):
        part = slice(starts[row], starts[row] + WINDOW_SAMPLES)
        beats, peaks = PULSE.beats(np.maximum(pulse[part], 0)), QRS.beats(complexes[part])
        if min(beats.size, peaks.size) <= gate.min_cycles:
            reasons[row] = "few cycles"
        elif template_correlation(pulse[part], beats) < gate.min_sqi:
            reasons[row] = "PPG quality"
        elif template_correlation(filtered[part], peaks) < gate.min_ecg_sqi:
            reasons[row] = "ECG quality"
    return reasons


class BeatFinder(NamedTuple):
    """Elgendi's detector: two moving averages of the squared signal, one of a peak's width and one of a beat's."""

    band: tuple[float, float]  # Hz
    peak_seconds: float  # width of the shorter average
    beat_seconds: float  # width of the longer average
    offset: float  # share of the mean power added to the longer average

    def beats(self, filtered: Array) -> Array:
        """Return the sample numbers of the peaks, increasing, of one window ``[T]`` at 125 Hz filtered to ``band``.

        Both sides of 0 count, as a QRS complex may point either way; for a pulse, which points up, set what lies below
        to 0.
        """
        from scipy.ndimage import uniform_filter1d

        power = filtered**2
        peak_width, beat_width = (round(seconds * SAMPLING_RATE) for seconds in (self.peak_seconds, self.beat_seconds))
        threshold = uniform_filter1d(power, beat_width) + self.offset * power.mean()
        blocks = runs(uniform_filter1d(power, peak_width) > threshold)
        # a block narrower than a peak is noise
        found = [start + np.argmax(power[start:stop]) for start, stop in blocks if stop - start >= peak_width]
        return np.array(found, dtype=np.int64)


PULSE = BeatFinder((0.5, 8.0), 0.111, 0.667, 0.02)
"""Systolic peaks of a PPG (Elgendi et al. 2013, doi:10.1371/journal.pone.0076585)."""
QRS = BeatFinder((8.0, 20.0), 0.097, 0.611, 0.08)
"""QRS complexes of an ECG (Elgendi 2013, doi:10.1371/journal.pone.0073557)."""


def template_correlation(signal: Array, beats: Array) -> float:
    """Return how alike the beats of a window ``[T]`` are (Orphanidou et al. 2015, doi:10.1109/JBHI.2014.2338351).

    Every beat, centred on its peak and as long as the median interval, is correlated with the mean of all; the mean of
    that is in -1 to 1, 0 with fewer than two whole beats. The paper accepts a PPG from 0.86 on, an ECG from 0.66 on.

    Examples:
        >>> time = np.arange(1250) / 125
        >>> round(template_correlation(np.sin(2 * np.pi * time), np.arange(31, 1250, 125)), 3)
        1.0
    """
    if beats.size < 3:
        return 0.0
    half = int(np.median(np.diff(beats))) // 2
    whole = beats[(beats >= half) & (beats + half < signal.size)]
    if half < 1 or whole.size < 2:
        return 0.0
    shapes = signal[whole[:, None] + np.arange(-half, half + 1)]
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    template = shapes.mean(axis=0)
    norms = np.linalg.norm(shapes, axis=1) * np.linalg.norm(template)
    return float(np.mean(shapes @ template / np.maximum(norms, np.finfo(float).tiny)))
