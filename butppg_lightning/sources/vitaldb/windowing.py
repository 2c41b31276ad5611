"""From a case's waveforms to windows worth learning from."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.vitaldb.quality import (
    PULSE,
    QRS,
    band_pass,
    runs,
    stuck,
    template_correlation,
)
from butppg_lightning.sources.vitaldb.recording import UnusableError, read_case
from butppg_lightning.window import PRETRAIN_CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.vitaldb.recording import Track

REASONS = ("gap", "flat", "few cycles", "PPG quality", "ECG quality", "over the limit")
"""Why a window is left out, in the order in which it is asked."""

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

    Raises:
        UserError: If a limit is impossible.
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
    """Windows of one case.

    Attributes:
        signals: ``[N, 2, 1250]`` float32, PPG and ECG, neither filtered nor scaled.
        left_out: Number of windows left out, by reason.
        unusable: Why the case gives no windows at all, or empty.
    """

    signals: Array
    left_out: dict[str, int]
    unusable: str = ""


def case_windows(where: Path | int | str, gate: Gate) -> CaseWindows:
    """Read a case and cut it; what is wrong with an unusable one is told in the result.

    Args:
        where: A `.vital` file, the number of a case on the server, or in words why there is neither.
        gate: Which windows pass.

    Returns:
        The windows.

    Raises:
        UserError: If the vitaldb package is missing or the server cannot be reached.
    """
    try:
        if isinstance(where, str):
            raise UnusableError(where)
        return cut_windows(read_case(where), gate)
    except UnusableError as error:
        return CaseWindows(np.empty((0, len(PRETRAIN_CHANNELS), WINDOW_SAMPLES), dtype=np.float32), {}, str(error))


def cut_windows(tracks: dict[str, Track], gate: Gate) -> CaseWindows:
    """Cut a case into consecutive windows of both channels and keep those that pass.

    Windows begin where both channels begin to be there, and anew behind each gap that is too long to be bridged.

    Args:
        tracks: PPG and ECG, begun at the same instant.
        gate: Which windows pass.

    Returns:
        The windows, in order of time.

    Raises:
        UnusableError: If a channel has no sample.
    """
    ppg, ecg = (_at_window_rate(tracks[name], gate.max_gap) for name in PRETRAIN_CHANNELS)
    samples = min(ppg.samples.size, ecg.samples.size)
    starts = _starts(~(ppg.missing[:samples] | ecg.missing[:samples]))
    left_out = dict.fromkeys(REASONS, 0)
    left_out["gap"] = samples // WINDOW_SAMPLES - starts.size
    filtered = _Filtered(
        band_pass(ppg.samples, PULSE.band), band_pass(ecg.samples, QRS.band), band_pass(ecg.samples, _ECG_BAND)
    )
    kept = []
    for start in starts:
        part = slice(start, start + WINDOW_SAMPLES)
        reason = _refusal(ppg.part(part), ecg.part(part), _Filtered(*(signal[part] for signal in filtered)), gate)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(start)
    if gate.max_windows_per_case and len(kept) > gate.max_windows_per_case:
        left_out["over the limit"] = len(kept) - gate.max_windows_per_case
        kept = [kept[row] for row in np.linspace(0, len(kept) - 1, gate.max_windows_per_case).round().astype(int)]
    signals = np.empty((len(kept), len(PRETRAIN_CHANNELS), WINDOW_SAMPLES), dtype=np.float32)
    for row, start in enumerate(kept):
        part = slice(start, start + WINDOW_SAMPLES)
        signals[row] = ppg.samples[part], ecg.samples[part]
    return CaseWindows(signals, left_out)


class _Waveform(NamedTuple):
    """A channel at 125 Hz: samples (gaps filled), where a gap is too long, where one was filled, where it is stuck."""

    samples: Array
    missing: Array
    bridged: Array
    stuck: Array

    def part(self, part: slice) -> _Waveform:
        return _Waveform(*(values[part] for values in self))


class _Filtered(NamedTuple):
    pulse: Array
    complexes: Array
    ecg: Array


def _refusal(ppg: _Waveform, ecg: _Waveform, filtered: _Filtered, gate: Gate) -> str | None:
    if max(ppg.bridged.mean(), ecg.bridged.mean()) > _GAP_SHARE:
        return "gap"
    if ppg.stuck.any() or ecg.stuck.any():
        return "flat"
    beats, peaks = PULSE.beats(np.maximum(filtered.pulse, 0)), QRS.beats(filtered.complexes)
    if min(beats.size, peaks.size) <= gate.min_cycles:
        return "few cycles"
    if template_correlation(filtered.pulse, beats) < gate.min_sqi:
        return "PPG quality"
    if template_correlation(filtered.ecg, peaks) < gate.min_ecg_sqi:
        return "ECG quality"
    return None


def _at_window_rate(track: Track, max_gap: float) -> _Waveform:
    from scipy.signal import resample_poly

    known = np.isfinite(track.samples)
    if not known.any():
        raise UnusableError("has a track without samples")
    # without its offset, which the filter's phases would turn into a tone
    median = np.float32(np.median(track.samples[known]))
    # long gaps are filled too, so that nothing rings from their edges into what lies beside them
    filled = _bridge(track.samples - median, known)
    ratio = Fraction(SAMPLING_RATE) / Fraction(track.rate).limit_denominator(1000)
    resampled = resample_poly(filled, ratio.numerator, ratio.denominator, padtype="edge") + median
    long = _long_gaps(known, max_gap * track.rate)
    before = np.minimum((np.arange(resampled.size) * track.rate / SAMPLING_RATE).astype(np.int64), known.size - 1)
    after = np.minimum(before + 1, known.size - 1)
    return _Waveform(resampled, long[before] | long[after], ~known[before], stuck(track.samples, track.rate)[before])


def _bridge(samples: Array, known: Array) -> Array:
    """Fill every gap by a straight line between its neighbours, or with the only one it has."""
    gaps = runs(~known)
    edges = np.unique(np.concatenate([gaps[:, 0] - 1, gaps[:, 1]]))
    edges = edges[(edges >= 0) & (edges < samples.size)]
    missing = np.flatnonzero(~known)
    if missing.size:
        samples[missing] = np.interp(missing, edges, samples[edges])
    return samples


def _long_gaps(known: Array, longest: float) -> Array:
    """Mark the samples of gaps longer than ``longest``, and everything before the first and behind the last."""
    marked = np.zeros(known.size, dtype=bool)
    for start, stop in runs(~known):
        if stop - start > longest or start == 0 or stop == known.size:
            marked[start:stop] = True
    return marked


def _starts(there: Array) -> Array:
    found = [np.arange(start, stop - WINDOW_SAMPLES + 1, WINDOW_SAMPLES) for start, stop in runs(there)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])
