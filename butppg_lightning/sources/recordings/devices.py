"""The tables that known devices write, recognised by their own lines: what each column is, its unit, rate and clock.

Sources of the formats: Empatica E4 ``info.txt`` (rows 1 and 2 are start and rate; acceleration in 1/64 g), Empatica's
script that makes CSV of EmbracePlus files (``unix_timestamp`` in µs; counts of 1/2048 g, or g), the Polar SDK (sensor
time in ns since 2000), Shimmer Consensys exports (``..._CAL`` names, units below), GENEActiv exports (100 lines in
front, no names, g), and Axivity exports (no names, time and axes in g).
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.sources.recordings.names import TIME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from butppg_lightning.sources.recordings.table_layout import TableLayout

_ROWS = 64  # first rows that a device is recognised by
_AXES = {"ACC_X": 0, "ACC_Y": 1, "ACC_Z": 2}
_TIME_AND_AXES = {TIME: 0, "ACC_X": 1, "ACC_Y": 2, "ACC_Z": 3}
_POLAR_EPOCH = datetime(2000, 1, 1)  # of the sensor's own clock, which the phone sets to its local time
_CLOCK_OFF = 2 * 86_400.0  # s between the phone's and the sensor's clock, beyond which the latter was never set
_OTHER_SENSOR = re.compile(r"(?:gyro|magn|_mag\b|^mag\b)", re.IGNORECASE)


def recognise(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout:
    """Return the layout with what is known of the device that wrote the table; as it is if none is recognised."""
    for device, known in DEVICES.items():
        found = known(path, layout, rows[:_ROWS])
        if found is not None:
            return replace(found, device=device)
    if _OTHER_SENSOR.search(path.stem):  # its x, y, z are no acceleration
        return replace(layout, names=tuple(f"{path.stem} {name}" for name in layout.names))
    return layout


def _empatica_e4(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    numbers = _numbers(rows[:2])
    if numbers is None or numbers.shape[0] != 2 or numbers.shape[1] not in (1, 3) or (numbers != numbers[:, :1]).any():
        return None
    begin, rate = numbers[:, 0]
    if not (1.1e9 <= begin <= 4.1e9 and 0 < rate <= 1000):
        return None
    three = numbers.shape[1] == 3
    kind = "ACC" if three else re.sub(r"[^a-z]", "", path.name.split(".")[0].lower())
    bvp = not three and (kind.endswith(("bvp", "ppg")) or (rate == 64 and not kind.endswith(("eda", "temp", "hr"))))
    names = ("ACC x", "ACC y", "ACC z") if three else ("BVP" if bvp else path.stem,)
    return replace(
        layout,
        names=names,
        units=tuple("1/64 g" if three else "" for _ in names),
        skipped=layout.skipped + 2,
        named=True,
        rate=float(rate),
        start=datetime.fromtimestamp(float(begin), timezone.utc),
        channels=_AXES if three else {"PPG": 0} if bvp else {},
        scale=1 / 64 if three else 1.0,
    )


def _embrace_plus(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    names = [name.lower() for name in layout.names]
    if (
        names[:1] != ["unix_timestamp"]
        or names[1:] not in (["bvp"], ["x", "y", "z"])
        or _OTHER_SENSOR.search(path.stem)
    ):
        return None
    units = ("us", *layout.units[1:])
    if names[1:] == ["bvp"]:
        return replace(layout, units=units, channels={TIME: 0, "PPG": 1})
    numbers = _numbers([row[1:4] for row in rows])
    size = 1.0 if numbers is None else float(np.median(np.linalg.norm(numbers, axis=1)))
    unit, scale = ("1/2048 g", 1 / 2048) if size > 100 else ("g", 1.0)
    return replace(layout, units=("us", unit, unit, unit), channels=_TIME_AND_AXES, scale=scale)


def _polar(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    plain = [re.sub(r"\s+", " ", name.lower()) for name in layout.names]
    if "phone timestamp" not in plain or "sensor timestamp [ns]" not in plain:
        return None
    phone, sensor = plain.index("phone timestamp"), plain.index("sensor timestamp [ns]")
    channels = {TIME: sensor}
    if "channel 0" in plain:
        channels["PPG"] = plain.index("channel 0")
    if "ecg [uv]" in plain:
        channels["ECG"] = plain.index("ecg [uv]")
    if [f"{axis} [mg]" in plain for axis in "xyz"] == [True] * 3:
        channels |= {f"ACC_{axis.upper()}": plain.index(f"{axis} [mg]") for axis in "xyz"}
    known = set(channels.values())
    # X, Y, Z of the other sensors are in dps and G (gauss)
    names = tuple(
        name if column in known else f"{name} (other)" if plain[column][:1] in "xyz" else name
        for column, name in enumerate(layout.names)
    )
    epoch: datetime | None = _POLAR_EPOCH
    try:
        began = datetime.fromisoformat(rows[0][phone])
        if abs((began.replace(tzinfo=None) - _POLAR_EPOCH).total_seconds() - float(rows[0][sensor]) / 1e9) > _CLOCK_OFF:
            epoch = None  # the sensor's clock was never set
    except (ValueError, IndexError):
        began = None
    return replace(layout, names=names, channels=channels, epoch=epoch, start=None if epoch else began)


def _shimmer(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    plain = [re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in layout.names]
    if not any(re.search(r"shimmer.*_cal$|accel_(?:ln|wr)_x|timestamp_(?:unix_)?cal", name) for name in plain):
        return None
    wanted = {
        TIME: (r"timestamp_unix_cal$", r"timestamp_cal$", r"timestamp"),
        "PPG": (r"ppg(?!to|_?hr|_?ibi)\w*_cal$", r"ppg(?!to|_?hr|_?ibi)\w*$"),
        "ECG": (r"ecg_ll_ra\w*_cal$", r"ecg_ll_la\w*_cal$"),
        **{f"ACC_{axis.upper()}": (rf"accel_ln_{axis}_cal$", rf"accel_wr_{axis}_cal$") for axis in "xyz"},
    }
    channels = {}
    for channel, patterns in wanted.items():
        for pattern in patterns:
            columns = [column for column, name in enumerate(plain) if re.search(pattern, name)]
            if columns:
                channels[channel] = columns[0]
                break
    return replace(layout, channels=channels)


def _geneactiv(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    if not any(re.match(r"device type\W+geneactiv", line, re.IGNORECASE) for line in layout.preamble):
        return None
    width = len(layout.names)
    if layout.named:
        named = zip(layout.names, layout.units, strict=True)
        return replace(layout, units=tuple(unit or ("g" if name in "xyz" else "") for name, unit in named))
    names = ("time", "x", "y", "z", "light", "button", "temperature")[:width]
    return replace(
        layout,
        names=names + layout.names[len(names) :],
        units=("", "g", "g", "g", *[""] * (width - 4)),
        named=True,
        channels=_TIME_AND_AXES,
    )


def _axivity(path: Path, layout: TableLayout, rows: Sequence[list[str]]) -> TableLayout | None:
    numbers = _numbers([row[1:4] for row in rows]) if not layout.named and len(layout.names) >= 4 else None
    if numbers is None or not all(re.match(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", row[0]) for row in rows):
        return None
    if not 0.5 <= float(np.median(np.linalg.norm(numbers, axis=1))) <= 2:  # g
        return None
    names = ("time", "x", "y", "z", *layout.names[4:])
    units = ("", "g", "g", "g", *layout.units[4:])
    return replace(layout, names=names, units=units, named=True, channels=_TIME_AND_AXES)


def _numbers(rows: Sequence[list[str]]) -> np.ndarray | None:
    """Return rows of numbers as an array, or None if they are not."""
    try:
        return np.array([[float(cell) for cell in row] for row in rows], dtype=np.float64) if rows else None
    except ValueError:
        return None


DEVICES: dict[str, Callable[[Path, TableLayout, Sequence[list[str]]], TableLayout | None]] = {
    "Empatica E4": _empatica_e4,
    "Empatica EmbracePlus": _embrace_plus,
    "Polar Sensor Logger": _polar,
    "Shimmer": _shimmer,
    "GENEActiv": _geneactiv,
    "Axivity": _axivity,
}
"""Known devices; the first whose function recognises a table says what its columns are (None: it is another's)."""
