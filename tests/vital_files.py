"""Recordings of a beating heart, written as VitalDB's own `.vital` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import vitaldb

PLETH, ECG_II = "SNUADC/PLETH", "SNUADC/ECG_II"
BEGIN = 4.1e9  # VitalDB moves all recordings into the far future


def heart(seconds: float, seed: int = 0, rate: float = 70.0) -> dict[str, np.ndarray]:
    """Make PLETH at 100 Hz (0 to 100) and ECG_II at 500 Hz (mV) of the same beats, a PPG's slope 0.25 s behind."""
    generator = np.random.default_rng(seed)
    intervals = 60 / rate * (1 + 0.03 * generator.normal(size=int(seconds * rate / 60) + 5))
    beats = np.cumsum(intervals) - 1.0
    pulse = [(0.35, 0.09, 20.0), (0.62, 0.12, 8.0)]
    complexes = [(-0.17, 0.025, 0.12), (-0.03, 0.01, -0.15), (0.0, 0.011, 1.1), (0.03, 0.01, -0.25), (0.25, 0.05, 0.3)]
    signals = {}
    for name, fs, waves, level, noise in (
        (PLETH, 100, pulse, 35.0, 0.1),
        (ECG_II, 500, complexes, 0.0, 0.01),
    ):
        time = np.arange(int(seconds * fs)) / fs
        signal = level + noise * generator.normal(size=time.size)
        for beat in beats:
            near = slice(*np.clip(((beat + np.array([-1.0, 2.0])) * fs).astype(int), 0, time.size))
            for delay, width, height in waves:
                signal[near] += height * np.exp(-0.5 * ((time[near] - beat - delay) / width) ** 2)
        signals[name] = signal.astype(np.float32)
    return signals


def write_vital(
    path: Path,
    signals: dict[str, np.ndarray],
    rates: dict[str, float] | None = None,
    *,
    packed: bool = True,
    begin: float = BEGIN,
    integers: bool = False,
) -> Path:
    """Write signals (NaN where nothing was recorded) in records of a second, as a recorder does.

    Args:
        path: Where to.
        signals: By track name.
        rates: Sampling rate of each track, if not VitalDB's.
        packed: One record for each track, gaps filled with the type's extreme value, as the server has them.
        begin: Unix time of the first sample.
        integers: Store 16-bit integers with a gain, as a converter gives them.
    """
    rates = rates or {PLETH: 100.0, ECG_II: 500.0}
    file = vitaldb.VitalFile()
    file.dtstart, file.dtend = begin, begin + max(len(values) / rates[name] for name, values in signals.items())
    for name, values in signals.items():
        track = file.add_track(name, [{"dt": begin, "val": values}], srate=rates[name])
        if integers:
            track.fmt, track.gain, track.offset = 5, 0.005, 10.0
            values = np.where(np.isnan(values), np.nan, np.round((values - 10) / 0.005))
        second = round(rates[name])
        edges = np.flatnonzero(np.diff(np.isfinite(values).astype(int), prepend=0, append=0)).reshape(-1, 2)
        parts = [(at, min(at + second, stop)) for start, stop in edges for at in range(start, stop, second)]
        kind = np.int16 if integers else np.float32
        track.recs = [
            {"dt": begin + start / rates[name], "val": values[start:stop].astype(kind)} for start, stop in parts
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    assert file.to_vital(str(path), packed=packed)
    return path
