"""Recordings of any length for the rows about scoring: ACC 50 Hz, PPG 64 Hz, ECG 250 Hz, as npz, EDF and CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RATES = {"ACC_X": 50, "ACC_Y": 50, "ACC_Z": 50, "PPG": 64, "ECG": 250}


def draw_recording(hours: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw a recording: a pulse of wandering rate, bouts of motion that drown it, and an hour with the sensor off."""
    generator = np.random.default_rng(seed)
    seconds = round(hours * 3600)
    every = np.arange(seconds + 1)
    wander = np.cumsum(generator.normal(0, 0.004, seconds + 1))
    rate = 1.15 + 0.25 * np.sin(2 * np.pi * every / 7200) + 0.1 * np.tanh(wander)  # beats per second
    phase = np.concatenate([[0], np.cumsum(rate[:-1])])
    bouts = np.zeros(seconds + 1)
    for _ in range(max(2, round(6 * hours))):
        begin = int(generator.integers(seconds))
        bouts[begin : begin + int(generator.integers(30, 400))] = generator.uniform(0.2, 1.5)
    off = (every > 0.55 * seconds) & (every < 0.58 * seconds)
    channels = {}
    for name, fs in RATES.items():
        times = np.arange(seconds * fs) / fs
        beat = np.interp(times, every, phase) % 1
        moving = np.interp(times, every, bouts).astype(np.float32)
        noise = generator.normal(size=len(times)).astype(np.float32)
        if name == "ECG":
            signal = np.exp(-(((beat - 0.3) / 0.02) ** 2)) + 0.2 * np.exp(-(((beat - 0.55) / 0.06) ** 2)) + 0.03 * noise
        elif name == "PPG":
            pulse = np.exp(-(((beat - 0.35) / 0.12) ** 2)) + 0.4 * np.exp(-(((beat - 0.65) / 0.14) ** 2))
            swing = np.interp(times, times[::16], np.cumsum(generator.normal(size=len(times[::16]))) % 7 - 3.5)
            signal = 2000 + 20 * np.sin(times / 90) + 12 * pulse + moving * 25 * swing + 0.3 * noise
            signal[np.interp(times, every, off) > 0.5] = 0.0
        else:
            axis = "XYZ".index(name[-1])
            signal = (0.1, 0.3, 0.94)[axis] + 0.25 * moving * np.sin(2 * np.pi * 1.7 * times + axis) + 0.01 * noise
        channels[name] = signal.astype(np.float32)
    return channels


def write_npz(path: Path, channels: dict[str, np.ndarray]) -> None:
    """Write the form that `butppg score` reads, with a gap of ten minutes in PPG and an hour without ECG."""
    channels = {name: signal.copy() for name, signal in channels.items()}
    for name, begin, share in (("PPG", 0.3, 0.007), ("ECG", 0.8, 0.04)):
        count = len(channels[name])
        channels[name][int(begin * count) : int((begin + share) * count)] = np.nan
    rates = {f"fs_{name}": np.float64(fs) for name, fs in RATES.items()}
    np.savez(path, start_time=np.array("2024-03-01T21:40:00"), **channels, **rates)


def write_edf(path: Path, channels: dict[str, np.ndarray]) -> None:
    """Write an EDF+ file with the names and units of a wearable."""
    from edfio import Edf, EdfSignal

    labels = {"ACC_X": "Accel X", "ACC_Y": "Accel Y", "ACC_Z": "Accel Z", "PPG": "Pleth", "ECG": "ECG II"}
    units = {"PPG": "a.u.", "ECG": "mV"}
    signals = [
        EdfSignal(signal.astype(np.float64), RATES[name], label=labels[name], physical_dimension=units.get(name, "g"))
        for name, signal in channels.items()
    ]
    Edf(signals, data_record_duration=1).write(path)


def write_csv(path: Path, channels: dict[str, np.ndarray], seconds: float) -> None:
    """Write the first seconds of the PPG as a table of times and samples."""
    import pandas as pd

    ppg = channels["PPG"][: round(seconds * RATES["PPG"])]
    table = {"time_s": np.round(np.arange(len(ppg)) / RATES["PPG"], 4), "ppg": np.round(ppg, 3)}
    pd.DataFrame(table).to_csv(path, index=False)
