"""A made recording of PPG and acceleration, and files of it as known devices and programs write them."""

from __future__ import annotations

import datetime as dt
import gzip
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START = dt.datetime(2024, 2, 29, 23, 58, 0, tzinfo=dt.timezone.utc)
SECONDS = 60


class Made(NamedTuple):
    """What a device measured: PPG around 1,000 counts, acceleration in g."""

    ppg: np.ndarray
    acc: np.ndarray  # [T, 3]
    ppg_rate: float
    acc_rate: float

    def stamps(self, rate: float) -> np.ndarray:
        return np.arange(round(SECONDS * rate)) / rate


def made(ppg_rate: float, acc_rate: float, seed: int = 0) -> Made:
    """Sixty seconds: three windows of a clean pulse at rest, three of motion."""
    generator = np.random.default_rng(seed)
    fine = np.arange(SECONDS * 1000) / 1000
    moving = fine >= SECONDS / 2
    sway = np.sin(2 * np.pi * 1.7 * fine) * moving
    ppg = 1000 + 40 * np.sin(2 * np.pi * 1.2 * fine) + 12 * np.sin(2 * np.pi * 2.4 * fine + 1)
    ppg += 150 * sway + moving * np.cumsum(generator.normal(0, 0.6, len(fine)))
    acc = np.stack([0.4 * sway, 0.6 + 0.2 * sway, 0.8 - 0.3 * sway], axis=1) + generator.normal(0, 0.02, (len(fine), 3))
    rows = [np.rint(np.arange(round(SECONDS * rate)) / rate * 1000).astype(int) for rate in (ppg_rate, acc_rate)]
    return Made(np.round(ppg[rows[0]]), np.round(acc[rows[1]], 3), ppg_rate, acc_rate)


def reference(folder: Path, data: Made) -> Path:
    """The same as npz, which says all that a table may leave open."""
    path = folder / "reference.npz"
    np.savez(path, PPG=data.ppg, acc=data.acc, fs_PPG=data.ppg_rate, fs_acc=data.acc_rate)
    return path


def _moments(stamps: np.ndarray, form: str = "%Y-%m-%d %H:%M:%S.%f") -> list[str]:
    return [(START + dt.timedelta(seconds=float(stamp))).strftime(form)[:23] for stamp in stamps]


def empatica_e4(folder: Path, data: Made) -> Path:
    begin = f"{START.timestamp():.6f}"
    (folder / "BVP.csv").write_text("\n".join([begin, f"{data.ppg_rate:.6f}", *(f"{v:.2f}" for v in data.ppg)]))
    counts = np.rint(data.acc * 64).astype(int)
    rows = [", ".join([begin] * 3), ", ".join([f"{data.acc_rate:.6f}"] * 3), *(", ".join(map(str, r)) for r in counts)]
    (folder / "ACC.csv").write_text("\n".join(rows))
    (folder / "EDA.csv").write_text("\n".join([begin, "4.000000", *["0.25"] * (4 * SECONDS)]))
    (folder / "IBI.csv").write_text(f"{begin}, IBI\n12.1,0.85\n13.0,0.83\n")
    (folder / "tags.csv").write_text(f"{begin}\n")
    (folder / "info.txt").write_text(".csv files in this archive are in the following format:\n")
    return folder


def embrace_plus(folder: Path, data: Made) -> Path:
    micro = [round((START.timestamp() + stamp) * 1e6) for stamp in data.stamps(data.ppg_rate)]
    (folder / "bvp.csv").write_text("\n".join(["unix_timestamp,bvp", *map("{},{}".format, micro, data.ppg)]))
    micro = [round((START.timestamp() + stamp) * 1e6) for stamp in data.stamps(data.acc_rate)]
    counts = np.rint(data.acc * 2048).astype(int)
    rows = [f"{stamp},{x},{y},{z}" for stamp, (x, y, z) in zip(micro, counts, strict=True)]
    (folder / "accelerometer.csv").write_text("\n".join(["unix_timestamp,x,y,z", *rows]))
    (folder / "gyroscope.csv").write_text("\n".join(["unix_timestamp,x,y,z", *rows]))
    return folder


def polar(folder: Path, data: Made) -> Path:
    for kind, rate in (("PPG", data.ppg_rate), ("ACC", data.acc_rate), ("MAGN", data.acc_rate)):
        stamps = data.stamps(rate)
        since = (START - dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc)).total_seconds()
        sensor = [round((since + stamp) * 1e9) for stamp in stamps]
        phone = [moment.replace(" ", "T") for moment in _moments(np.floor(stamps) + 0.2)]  # when a packet came
        if kind == "PPG":
            names = "Phone timestamp;sensor timestamp [ns];channel 0;channel 1;channel 2;ambient"
            cells = [f"{v:.0f};{v + 5:.0f};{v - 5:.0f};-90000" for v in data.ppg]
        else:
            unit = "mg" if kind == "ACC" else "G"
            names = f"Phone timestamp;sensor timestamp [ns];X [{unit}];Y [{unit}];Z [{unit}]"
            cells = [";".join(f"{axis * 1000:.0f}" for axis in row) for row in data.acc]
        rows = [f"{p};{s};{c}" for p, s, c in zip(phone, sensor, cells, strict=True)]
        (folder / f"Polar_Sense_1234_20240229_{kind}.txt").write_text("\n".join([names, *rows]))
    return folder


def shimmer(folder: Path, data: Made) -> Path:
    path = folder / "Session1_Shimmer_9C4E_Calibrated_SD.csv"
    names = [
        "Timestamp_Unix_CAL",
        "Accel_LN_X_CAL",
        "Accel_LN_Y_CAL",
        "Accel_LN_Z_CAL",
        "Accel_WR_X_CAL",
        "PPG_A13_CAL",
    ]
    units = ["ms", "m/(s^2)", "m/(s^2)", "m/(s^2)", "m/(s^2)", "mV"]
    stamps = data.stamps(data.ppg_rate)
    rows = [
        "\t".join(
            [f"{(START.timestamp() + stamp) * 1e3:.3f}", *(f"{axis * 9.80665:.5f}" for axis in acc), "9.9", f"{v}"]
        )
        for stamp, acc, v in zip(stamps, data.acc, data.ppg, strict=True)
    ]
    head = ['"sep=\t"', "\t".join(f"Shimmer_9C4E_{name}" for name in names) + "\t", "\t".join(units) + "\t"]
    path.write_text("\n".join([*head, *(row + "\t" for row in rows)]))
    return path


def _ppg_table(folder: Path, data: Made) -> Path:
    path = folder / "ppg.csv"
    rows = map("{},{}".format, _moments(data.stamps(data.ppg_rate)), data.ppg)
    path.write_text("\n".join(["time,PPG", *rows]))
    return path


def geneactiv(folder: Path, data: Made) -> Path:
    head = ["Device Type,GENEActiv", "Device Model,1.2", *[f"Field {row},value {row}" for row in range(2, 49)]]
    head += [f"Measurement Frequency,{data.acc_rate:.1f} Hz", *[""] * 50]
    rows = [
        f"{moment[:19]}:{moment[20:]},{x:.4f},{y:.4f},{z:.4f},12,0,23.4"
        for moment, (x, y, z) in zip(_moments(data.stamps(data.acc_rate)), data.acc, strict=True)
    ]
    (folder / "acc_genea.csv").write_text("\n".join([*head, *rows]))
    _ppg_table(folder, data)
    return folder


def axivity(folder: Path, data: Made) -> Path:
    rows = [
        f"{moment},{x:.6f},{y:.6f},{z:.6f}"
        for moment, (x, y, z) in zip(_moments(data.stamps(data.acc_rate)), data.acc, strict=True)
    ]
    (folder / "axivity.csv").write_text("\n".join(rows))
    _ppg_table(folder, data)
    return folder


def _table(
    data: Made, separator: str = ",", point: str = ".", head: str = "time [s],PPG,acc_x [g],acc_y [g],acc_z [g]"
) -> str:
    rows = (
        f"{stamp:.4f}|{value:.1f}|" + "|".join(f"{axis:.3f}" for axis in acc)
        for stamp, value, acc in zip(data.stamps(data.ppg_rate), data.ppg, data.acc, strict=True)
    )
    return "\n".join(
        [head.replace(",", separator), *(row.replace(".", point).replace("|", separator) for row in rows), ""]
    )


def plain_csv(folder: Path, data: Made) -> Path:
    path = folder / "night.csv"
    path.write_text(_table(data))
    return path


def excel_csv(folder: Path, data: Made) -> Path:
    path = folder / "night.csv"
    path.write_text("sep=;\n" + _table(data, ";", ","), encoding="cp1252")
    return path


def zipped_csv(folder: Path, data: Made) -> Path:
    path = folder / "night.csv.gz"
    path.write_bytes(gzip.compress(_table(data).encode()))
    return path


def utf16_csv(folder: Path, data: Made) -> Path:
    path = folder / "night.txt"
    path.write_text(_table(data, "\t", ","), encoding="utf-16")
    return path


def parquet(folder: Path, data: Made) -> Path:
    import pandas as pd

    path = folder / "night.parquet"
    moments = pd.Timestamp(START) + pd.to_timedelta(data.stamps(data.ppg_rate), unit="s")
    axes = {f"acc_{axis} (mg)": data.acc[:, row] * 1000 for row, axis in enumerate("xyz")}
    pd.DataFrame({"timestamp": moments, "PPG": data.ppg, **axes}).to_parquet(path)
    return path


FORMATS: dict[str, tuple[Callable[[Path, Made], Path], float, float]] = {
    "Empatica E4": (empatica_e4, 64, 32),
    "Empatica EmbracePlus": (embrace_plus, 64, 64),
    "Polar Sensor Logger": (polar, 55, 52),
    "Shimmer": (shimmer, 128, 128),
    "GENEActiv": (geneactiv, 64, 100),
    "Axivity": (axivity, 64, 100),
    "csv": (plain_csv, 50, 50),
    "csv of a German Excel": (excel_csv, 50, 50),
    "csv.gz": (zipped_csv, 50, 50),
    "csv in UTF-16": (utf16_csv, 50, 50),
    "parquet": (parquet, 100, 100),
}
"""By name: what writes it, and the usual rates of PPG and acceleration (Hz)."""
