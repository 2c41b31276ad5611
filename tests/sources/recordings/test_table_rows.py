"""Rows that are none, or not of one signal: lines between rows, several sensors or tables in a file, marked gaps."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording
from butppg_lightning.sources.recordings.names import parse_channels, parse_rates
from butppg_lightning.sources.recordings.recording import Channel, assemble

if TYPE_CHECKING:
    from pathlib import Path

RATE = 50
PPG = np.round(1000 + 40 * np.sin(np.arange(1500) / 8)).astype(int)
ROWS = [f"{row / RATE:.2f},{value}" for row, value in enumerate(PPG)]
AXES = "acc_x [g],acc_y [g],acc_z [g]"


def table(folder: Path, *lines: str, name: str = "it's $a.csv") -> Path:
    path = folder / name
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def read(path: Path, channels: str = "", fs: str | None = None, **rest: str) -> Recording:
    return read_recording(path, Selection(parse_channels([channels] if channels else []), parse_rates(fs), **rest))


def is_whole(recording: Recording) -> None:
    channel = recording.channels["PPG"]
    assert channel.rate == pytest.approx(RATE)
    np.testing.assert_array_equal(channel.samples, PPG.astype(np.float32))


def follow(path: Path, told: str, begin: str) -> None:
    subprocess.run(["bash", "-ec", told[told.index(begin) :]], cwd=path.parent, check=True)


@pytest.mark.parametrize(
    "line", ["time [s],PPG", "\ufefftime [s],PPG", "# battery 34%", "# a,b,c,d,e", "Paused", "-- gap --"]
)
@pytest.mark.parametrize("place", [700, 1500])
def test_lines_between_the_rows_are_passed_over_and_told(tmp_path: Path, line: str, place: int) -> None:
    recording = read(table(tmp_path, "time [s],PPG", *ROWS[:place], line, *ROWS[place:]))
    is_whole(recording)
    assert any(f"in line {place + 2}" in note for note in recording.notes)


@pytest.mark.parametrize("line", ["PPG", "# battery 34%"])
def test_without_a_time_only_names_and_comments_are_no_rows(tmp_path: Path, line: str) -> None:
    values = [str(value) for value in PPG]
    is_whole(read(table(tmp_path, "PPG", *values[:700], line, *values[700:]), fs="50"))
    gap = read(table(tmp_path, "PPG", *values[:700], "ERR", *values[700:]), fs="50").channels["PPG"].samples
    assert np.flatnonzero(np.isnan(gap)).tolist() == [700]
    with pytest.raises(UserError, match="line 702: 'PPG' holds 'moved'"):
        read(table(tmp_path, "PPG", *values[:700], "moved", *values[700:]), fs="50")


def test_a_restart_with_names_is_parted_by_the_command(tmp_path: Path) -> None:
    path = table(tmp_path, "time [s],PPG", *ROWS[:700], "time [s],PPG", *ROWS[:800])
    with pytest.raises(UserError, match=r"line 703.*goes backwards by 13.98") as refusal:
        read(path)
    follow(path, str(refusal.value), "head -n")
    for part, count in ((1, 700), (2, 800)):
        assert len(read(tmp_path / f"it's $a_part{part}.csv").channels["PPG"].samples) == count


@pytest.mark.parametrize("place", [300, 1500])
@pytest.mark.parametrize("count", [16, 70_000])
def test_zero_bytes_of_a_loss_of_power_are_passed_over(tmp_path: Path, place: int, count: int) -> None:
    path = table(tmp_path, "time [s],PPG", *ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: place + 1]) + b"\0" * count + b"".join(lines[place + 1 :]))
    recording = read(path)
    is_whole(recording)
    assert "zero bytes" in recording.notes[0]


def test_a_last_line_that_is_cut_off_is_no_row(tmp_path: Path) -> None:
    path = table(tmp_path, "time [s],PPG", *ROWS)
    path.write_text(path.read_text() + "29.")
    recording = read(path)
    is_whole(recording)
    assert recording.notes == ["line 1502, the last one, is cut off and has been passed over"]
    path.write_text(path.read_text().removesuffix("\n29."))
    is_whole(read(path))


@pytest.mark.parametrize("kinds", [("red", "ir"), ("1", "2"), ("PPG", "ACC")])
@pytest.mark.parametrize("name", ["led", "sensor", "Type", "channel id"])
@pytest.mark.parametrize("form", ["csv", "quoted.csv", "parquet"])
def test_rows_of_several_sensors_are_not_one_signal(
    tmp_path: Path, kinds: tuple[str, str], name: str, form: str
) -> None:
    rows = [f'{row.split(",")[0]},"{kind}",{value}' for row, value in zip(ROWS, PPG, strict=True) for kind in kinds]
    path = table(tmp_path, f"time [s],{name},PPG", *(row if "quoted" in form else row.replace('"', "") for row in rows))
    if form == "parquet":
        pandas = pytest.importorskip("pandas")
        pandas.read_csv(path).to_parquet(tmp_path / "night.parquet")
        path = tmp_path / "night.parquet"
    with pytest.raises(UserError, match=f"several sensors in turn \\({kinds[0]}, {kinds[1]} in '{name}'\\)") as refusal:
        read(path)
    if form != "parquet":
        follow(path, str(refusal.value), "awk")
        is_whole(read(tmp_path / "it's $a_part.csv"))


def test_a_column_of_activities_changes_seldom_and_is_no_sensor(tmp_path: Path) -> None:
    rows = [f"{row},{'rest' if number < 700 else 'walk'}" for number, row in enumerate(ROWS)]
    is_whole(read(table(tmp_path, "time [s],PPG,type", *rows)))


def test_two_tables_in_a_file_are_parted(tmp_path: Path) -> None:
    below = [f"{row / 25:.2f},0.01,0.02,0.98" for row in range(750)]
    path = table(tmp_path, "time [s],PPG", *ROWS, "", f"time [s],{AXES}", *below)
    with pytest.raises(UserError, match="two tables") as refusal:
        read(path)
    follow(path, str(refusal.value), "head -n")
    is_whole(read(tmp_path / "it's $a_1.csv"))
    assert read(tmp_path / "it's $a_2.csv").channels["ACC_Z"].rate == pytest.approx(25)
    with pytest.raises(UserError, match="line 1502: another table begins there"):
        read(table(tmp_path, "time [s],PPG", *ROWS, "time [s],HR", *(f"{row},72" for row in range(30, 60))))


@pytest.mark.parametrize("names", [("time [s]", "time [s]"), ("ppg_time [s]", "acc_time [s]")])
def test_signals_with_a_time_of_their_own_do_not_go_by_another(tmp_path: Path, names: tuple[str, str]) -> None:
    other = [f"{row / 25:.2f},0.01,0.02,0.98" if row < 750 else ",,," for row in range(1500)]
    rows = [f"{one},{two}" for one, two in zip(ROWS, other, strict=True)]
    path = table(tmp_path, f"{names[0]},PPG,{names[1]},{AXES}", *rows)
    choice = f"TIME={names[0]}" + "#1" * (names[0] == names[1])
    with pytest.raises(UserError, match=r"ACC_X, ACC_Y, ACC_Z have a time of their own") as refusal:
        read(path, choice)
    told = re.search(r"--channels '([^']+)'", str(refusal.value))
    assert told is not None
    is_whole(read(path, told[1]))


def test_a_quote_without_an_end_does_not_swallow_rows(tmp_path: Path) -> None:
    rows = [f"{row}," for row in ROWS]
    for number in (400, 600):
        rows[number] += '"moved'
    with pytest.raises(UserError, match="line 402: a quote opens there and does not end"):
        read(table(tmp_path, "time [s],PPG,event", *rows))
    rows[400], rows[600] = f'{ROWS[400]},"walk,\nslow"', f"{ROWS[600]},"
    is_whole(read(table(tmp_path, "time [s],PPG,event", *rows)))


@pytest.mark.parametrize("every", [1, 50])
def test_rows_written_twice_count_once(tmp_path: Path, every: int) -> None:
    rows = [row for number, row in enumerate(ROWS) for _ in range(1 + (number % every == 0))]
    recording = read(table(tmp_path, "time [s],PPG", *rows))
    is_whole(recording)
    assert "rows repeat the time and the sample of 'PPG'" in recording.notes[0]


@pytest.mark.parametrize("names", ["date,time", "Date,Time"])
@pytest.mark.parametrize("day", ["2024-01-{:02d}", "{:02d}.01.2024", "2024/01/{:02d}"])
def test_the_dates_of_times_of_day_are_used(tmp_path: Path, names: str, day: str) -> None:
    """A whole day between two rows is a gap, which times of day alone do not show."""
    rows = [
        f"{day.format(30 + row // 750)},22:15:{row // 50:02d}.{row % 50 * 20:03d},{PPG[row]}" for row in range(1500)
    ]
    recording = read(table(tmp_path, f"{names},PPG", *rows))
    assert str(recording.start_time) == "2024-01-30 22:15:00"
    assert recording.duration == pytest.approx(86_400 + 30, abs=0.1)


@settings(max_examples=60, deadline=None)
@given(
    marker=st.sampled_from([-9999.0, 65535.0, 99999.0, -999.25, 4294967295.0, -32768.0, -1.0]),
    level=st.sampled_from([500, 1000, 20_000]),
    rows=st.lists(st.integers(0, 1499), min_size=1, max_size=200, unique=True),
)
def test_a_marker_of_missing_samples_is_none(marker: float, level: int, rows: list[int]) -> None:
    samples = (level + PPG - 1000).astype(np.float32)
    samples[rows] = marker
    recording = assemble(None, {"PPG": Channel("PPG", "ppg", 50, 0, samples)}, None, ("ppg",))  # type: ignore[arg-type]
    assert sorted(np.flatnonzero(np.isnan(recording.channels["PPG"].samples))) == sorted(rows)
    assert "taken as missing samples" in recording.guesses[0]


@pytest.mark.parametrize("top", [32767.0, 65535.0, 9999.0])
def test_a_signal_that_is_railed_holds_no_marker(top: float) -> None:
    samples = np.minimum(top + 500 * np.sin(np.arange(1500) / 8), top).astype(np.float32)
    recording = assemble(None, {"PPG": Channel("PPG", "ppg", 50, 0, samples)}, None, ("ppg",))  # type: ignore[arg-type]
    assert not np.isnan(recording.channels["PPG"].samples).any()


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        (["Sampling interval: 20 ms"], 50),
        (["Interval=\t0.02 s"], 50),
        (["# sampling period = 20000 us"], 50),
        (["sample rate: 20 ms"], None),
        (["sampling rate: 3000 samples/min"], None),
        (["Sampling rate: 0.05 kHz"], 50),
    ],
)
def test_an_interval_is_a_rate_and_a_rate_has_the_right_unit(
    tmp_path: Path, lines: list[str], rate: int | None
) -> None:
    path = table(tmp_path, *lines, "PPG", *map(str, PPG))
    if rate is None:
        with pytest.raises(UserError, match="--fs"):
            read(path)
    else:
        assert read(path).channels["PPG"].rate == pytest.approx(rate)


@pytest.mark.parametrize("name", ["ppg_lowpass_8Hz.csv", "ppg filtered 8 Hz.csv"])
def test_the_frequency_of_a_filter_is_no_rate(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--fs"):
        read(table(tmp_path, "PPG", *map(str, PPG), name=name))


def test_names_that_r_writes_one_short(tmp_path: Path) -> None:
    rows = ['"{}" {}'.format(number, row.replace(",", " ")) for number, row in enumerate(ROWS, 1)]
    is_whole(read(table(tmp_path, '"time" "PPG"', *rows, name="r.txt")))


@pytest.mark.parametrize("unit", ["dps", "deg/s", "rad/s", "uT", "px"])
def test_axes_in_the_unit_of_another_sensor_are_no_acceleration(tmp_path: Path, unit: str) -> None:
    rows = [f"{row},0.1,0.2,0.9" for row in ROWS]
    recording = read(table(tmp_path, f"time [s],PPG,x [{unit}],y [{unit}],z [{unit}]", *rows))
    assert list(recording.channels) == ["PPG"]


@pytest.mark.parametrize(("size", "unit"), [(9.8, "m/s2"), (980, "mg or cm/s2"), (1e6, "ug"), (16_384, None)])
def test_only_units_that_fit_are_suggested(tmp_path: Path, size: float, unit: str | None) -> None:
    path = table(tmp_path, "time [s],PPG,acc_x,acc_y,acc_z", *(f"{row},0,0,{size}" for row in ROWS))
    with pytest.raises(UserError, match="no known unit" if unit is None else f"give --acc-unit {unit} ") as refusal:
        read(path)
    for one in unit.split(" or ") if unit else ():
        assert read(path, acc_unit=one).channels["ACC_Z"].samples[0] == pytest.approx(1, rel=0.03)
    left_out = str(refusal.value).split("--channels ")[1]
    is_whole(read(path, left_out))


def test_a_folder_with_brackets_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from butppg_lightning.cli.score_list import find_recordings

    for name in ("[x]", "x"):
        (tmp_path / name).mkdir()
        table(tmp_path / name, "time [s],PPG", *ROWS, name="n.csv")
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in find_recordings(["[x]/*.csv"])] == ["[x]/n.csv"]
    assert [str(path) for path in find_recordings([str(tmp_path / "[x]" / "n*")])] == [str(tmp_path / "[x]" / "n.csv")]
    assert [str(path) for path in find_recordings(["*/n.csv"])] == ["[x]/n.csv", "x/n.csv"]
