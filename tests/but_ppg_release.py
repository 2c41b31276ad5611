"""Writes small releases in both of BUT PPG's forms, with pulses whose rate and direction are known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import wfdb

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10
INFO = (
    "ID,Gender,Age [years],Height [cm],Weight [kg],Ear/finger,Motion,Blood pressure [mmHg],Glycaemia [mmol/l],SpO2 [%]"
)


def pulse(rate: int, bpm: float, offset: float = 0.0) -> np.ndarray:
    """Ten seconds of pulses, systole up: a fast rise and a slow fall."""
    phase = (np.arange(SECONDS * rate) / rate * bpm / 60 + offset) % 1
    return phase / 0.15 * np.exp(1 - phase / 0.15)


def write_signals(folder: Path, name: str, rate: int, signals: dict[str, np.ndarray], unit: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=[unit] * len(signals),
        sig_name=list(signals),
        p_signal=np.stack(list(signals.values()), axis=1),
        fmt=["16"] * len(signals),
        write_dir=str(folder),
    )


def write_second_form(root: Path, record: str, *, bpm: float = 72, ppg_scale: float = -1, acc: bool = True) -> None:
    """A record as from 112001 on: three colours, of which green shows the pulse best; PPG upside down by default."""
    rng = np.random.default_rng(int(record))
    folder = root / record
    wave = pulse(30, bpm, rng.uniform())
    noise = rng.normal(size=(3, wave.size))
    colours = {
        f"PPG_{letter}": level + ppg_scale * wave + spread * draw
        for letter, level, spread, draw in zip("RGB", (180, 90, 60), (0.3, 0.05, 0.6), noise, strict=True)
    }
    write_signals(folder, f"{record}_PPG", 30, colours, "a.u.")
    beats = np.exp(-(((np.arange(10_000) / 1000 * bpm / 60 + 0.5) % 1 - 0.5) ** 2) * 4000)
    write_signals(folder, f"{record}_ECG", 1000, {"ECG": 900 * beats + rng.normal(0, 10, 10_000)}, "uV")
    if acc:
        axes = {f"ACC_{axis}": rng.normal(axis == "Z", 0.02, 1000) for axis in "XYZ"}
        write_signals(folder, f"{record}_ACC", 100, axes, "g")


def write_first_form(root: Path, record: str, *, bpm: float = 72) -> None:
    """A record as up to 111004: one inverted colour, one declared signal for each sample, its value in the gain."""
    for kind, rate, unit, values in (
        ("PPG", 30, "a.u.", -254 + 0.2 * pulse(30, bpm)),
        ("ECG", 250, "uV", -1600 + 40 * np.sin(np.arange(2500) / 250)),  # slower than the release's: quicker to read
    ):
        folder = root / record
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{record}_{kind}"
        lines = [f"{name}.dat 16 {32767 / value:.4f}(-32767)/{unit} 0 0 0 0 0 " for value in values]
        (folder / f"{name}.hea").write_text("\n".join([f"{name} {values.size} {rate} 1", *lines]) + f"\n#{kind}")
        (folder / f"{name}.dat").write_bytes(b"\0\0" * values.size)


def write_tables(
    root: Path, rows: dict[str, tuple[int | str, float | str]], info: dict[str, str] | None = None
) -> None:
    """Both tables, with the byte-order mark: quality and heart rate, and the rest of each line of subject-info.csv."""
    root.mkdir(parents=True, exist_ok=True)
    quality = ["ID,Quality,HR", *(f"{record},{label},{rate}" for record, (label, rate) in rows.items())]
    lines = [f"{record},{(info or {}).get(record, 'F,51,,58,1,0,,,')}" for record in rows]
    (root / "quality-hr-ann.csv").write_bytes(("\ufeff" + "\r\n".join(quality) + "\r\n").encode())
    (root / "subject-info.csv").write_bytes(("\ufeff" + "\r\n".join([INFO, *lines]) + "\r\n").encode())


def write_checksums(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "SHA256SUMS.txt")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root).as_posix()}" for path in files]
    (root / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")


def write_release(root: Path, *, checksums: bool = False) -> dict[str, int]:
    """Five subjects with six records each (112 to 116), three of ear and three of finger, and two of the first form.

    Returns:
        Label by record.
    """
    rows: dict[str, tuple[int | str, float | str]] = {}
    info: dict[str, str] = {}
    for subject in range(112, 117):
        for number in range(1, 7):
            record = f"{subject}{number:03d}"
            bpm = 60 + 3 * number
            write_second_form(root, record, bpm=bpm, ppg_scale=-1 if number <= 3 else 1)
            rows[record] = (int(number != 6), bpm)
            info[record] = f"M,{20 + subject % 100},180,76,{int(number > 3)},{number - 1},137/94,5.8,97"
    for record, motion in (("100001", "0"), ("100002", "2;3")):
        write_first_form(root, record)
        rows[record] = (int(motion == "0"), 72)
        info[record] = f"F,51,,58,1,{motion},,,"
    write_tables(root, rows, info)
    if checksums:
        write_checksums(root)
    return {record: int(label) for record, (label, _) in rows.items()}
