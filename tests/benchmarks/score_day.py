"""How long, and with how much memory, `butppg score` takes over a day of five channels.

Writes a synthetic recording of 24 hours (ACC 50 Hz, PPG 64 Hz, ECG 250 Hz; rest, motion, a sensor that is off, gaps
where the format knows them) as npz and EDF, makes a checkpoint of the default encoder with random weights, runs the
whole command for each, in the fastest precision of the machine (``--precision auto``), and prints time, peak resident
memory (with mapped files) and peak anonymous memory. Then it compares the probabilities with those of fp32.

Run: python tests/benchmarks/score_day.py (needs the extra `recordings`; about two minutes on 2 cores).
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATES = {"ACC_X": 50, "ACC_Y": 50, "ACC_Z": 50, "PPG": 64, "ECG": 250}
_POLLING = 0.02  # s


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


def write_checkpoint(path: Path) -> None:
    """Write a classifier of the default encoder with random weights, as `butppg fit` would."""
    import lightning
    import torch

    from butppg_lightning import PPGQualityClassifier

    torch.manual_seed(0)
    model = PPGQualityClassifier()
    torch.nn.init.normal_(model.network.head.score.weight, std=0.3)  # else every probability is 0.5
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 0, "global_step": 0}
    torch.save({**content, "pytorch-lightning_version": lightning.__version__}, path)


def measure(words: list[str]) -> tuple[float, float, float, float]:
    """Run a command; return its seconds, seconds of CPU, peak resident and peak anonymous memory (MB)."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    resident = anonymous = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:  # it has just ended, or this is not Linux
            status = ""
        found = {key: int(value) / 1024 for key, value in re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", status)}
        resident, anonymous = max(resident, found.get("VmHWM", 0)), max(anonymous, found.get("RssAnon", 0))
        time.sleep(_POLLING)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with code {process.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begin, busy, resident, anonymous


def compare_precision(checkpoint: Path, recording: Path, scores: Path, most: int = 2000) -> str:
    """Score the first windows again in fp32 and tell how far the command's probabilities lie from that."""
    import csv

    from butppg_lightning.models.checkpoints import restore_network
    from butppg_lightning.models.prediction import predict_windows
    from butppg_lightning.sources.recordings import read_recording
    from butppg_lightning.sources.recordings.windowing import Windows

    network, _ = restore_network(checkpoint)
    exact: list[float] = []
    for chunk in Windows(read_recording(recording), network.preprocess.channels):
        found = predict_windows(network, **chunk)
        exact += np.where(found.judged, found.probabilities, np.nan).tolist()
        if len(exact) >= most:
            break
    with scores.open() as file:
        rows = [row["probability"] for row, _ in zip(csv.DictReader(file), exact, strict=False)]
    told = np.array([float(value) if value else np.nan for value in rows])
    apart = np.abs(told - np.array(exact))
    flipped = int(((told >= 0.5) != (np.array(exact) >= 0.5))[~np.isnan(told)].sum())
    spread = f"{np.nanmin(exact):.3f} to {np.nanmax(exact):.3f}"
    count = np.count_nonzero(~np.isnan(told))
    return (
        f"against fp32, {count} windows of probability {spread}: mean difference {np.nanmean(apart):.5f}, "
        f"largest {np.nanmax(apart):.5f}, verdicts changed {flipped}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--checkpoint", type=Path, help="use this one in place of random weights")
    parser.add_argument("--keep", type=Path, help="keep recordings and results in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        channels = draw_recording(options.hours)
        recordings = {"npz": folder / "day.npz", "edf": folder / "day.edf"}
        write_npz(recordings["npz"], channels)
        write_edf(recordings["edf"], channels)
        del channels
        checkpoint = options.checkpoint or folder / "random.pt"
        if options.checkpoint is None:
            write_checkpoint(checkpoint)
        for kind, recording in recordings.items():
            output = folder / f"scores_{kind}"
            command = [sys.executable, "-m", "butppg_lightning", "score", "--checkpoint", str(checkpoint)]
            command += ["--input", str(recording), "--output-dir", str(output), "--overwrite", "--precision", "auto"]
            seconds, busy, resident, anonymous = measure(command)
            size = recording.stat().st_size / 1e6
            print(f"{kind}: {options.hours:g} h of five channels, {size:.0f} MB on disk: {seconds:.1f} s")
            print(f"  {busy:.0f} s of CPU; peak memory {resident:.0f} MB, {anonymous:.0f} MB of it anonymous")
        print(compare_precision(checkpoint, recordings["npz"], folder / "scores_npz" / "scores.csv"))


if __name__ == "__main__":
    main()
