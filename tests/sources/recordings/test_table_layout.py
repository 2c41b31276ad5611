"""Where a table begins and what parts its cells, whatever stands above it and however it is encoded."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Selection, read_recording
from butppg_lightning.sources.recordings.table_layout import find_layout
from butppg_lightning.sources.recordings.text_file import TextFile

COUNT = 300
PPG = np.round(100 + 20 * np.sin(np.arange(COUNT) / 4), 2)
PREAMBLES = [
    [],
    ["# made by a logger", "# serial 7, firmware 1.2"],
    ["Subject,7", "Gain,2", "Offset,5"],
    ["Name;Value", "Device;X200", "", ""],
    ["Recording of 2024-01-31", "", "Channels: PPG and acceleration"],
    [*(f"Field {row},value {row}" for row in range(60)), *[""] * 40],
    ["1", "2", "3"],
]


@settings(max_examples=70, deadline=None)
@given(
    preamble=st.sampled_from(PREAMBLES),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    units=st.sampled_from(["none", "brackets", "row"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    zipped=st.booleans(),
    trailing=st.booleans(),
    gaps=st.booleans(),
)
def test_a_table_is_found_below_anything(
    preamble: list[str], separator: str, decimal: str, units: str, encoding: str, newline: str,
    zipped: bool, trailing: bool, gaps: bool,
) -> None:  # fmt: skip
    names, spelt = ["time", "PPG", "acc_x", "acc_y", "acc_z"], ["µs", "mV", "m/(s²)", "m/(s²)", "m/(s²)"]
    head = [f"{name} ({unit})" for name, unit in zip(names, spelt, strict=True)] if units == "brackets" else names
    lines = [*preamble, separator.join(head), *([separator.join(spelt)] if units == "row" else [])]
    decimal = "." if separator == "," else decimal
    for row, value in enumerate(PPG):
        acc = ["", "", ""] if gaps and row % 2 else ["0.5", "0", "9.80665"]
        cells = [str(row * 20_000 if units != "none" else row / 50), str(value), *acc]
        lines.append(separator.join(cell.replace(".", decimal) for cell in cells) + separator * trailing)
    content = newline.join([*lines, ""]).encode(encoding)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "night.csv"
        path.write_bytes(gzip.compress(content) if zipped else content)
        recording = read_recording(path, Selection(acc_unit="m/s2" if units == "none" else None))
    channel = recording.channels["PPG"]
    assert channel.rate == pytest.approx(50)
    np.testing.assert_array_equal(channel.samples, PPG.astype(np.float32))
    assert recording.channels["ACC_Z"].rate == pytest.approx(25 if gaps else 50)
    assert np.nanmax(recording.channels["ACC_Z"].samples) == pytest.approx(1)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_that_names_the_separator(tmp_path: Path, first: str) -> None:
    path = tmp_path / "night.csv"
    path.write_text("\n".join([first, "time;PPG, raw", *(f"{row / 50};{value}" for row, value in enumerate(PPG))]))
    assert read_recording(path, Selection({"PPG": "PPG, raw"})).channels["PPG"].rate == pytest.approx(50)


def test_what_numpy_writes(tmp_path: Path) -> None:
    values = np.stack([np.arange(COUNT) / 50, PPG], axis=1)
    for name, separator, names in (("a.txt", " ", "time PPG"), ("b.csv", ",", "time,PPG")):
        np.savetxt(tmp_path / name, values, delimiter=separator, header=names)
        np.testing.assert_allclose(read_recording(tmp_path / name).channels["PPG"].samples, PPG, rtol=1e-6)
    np.savetxt(tmp_path / "c.csv", values, delimiter=",")
    with pytest.raises(UserError, match="no column names; say which of its 2 columns is what: --channels TIME=1,PPG=2"):
        read_recording(tmp_path / "c.csv")
    channel = read_recording(tmp_path / "c.csv", Selection({"TIME": "1", "PPG": "2"})).channels["PPG"]
    np.testing.assert_allclose(channel.samples, PPG, rtol=1e-6)
    assert read_recording(tmp_path / "c.csv", Selection({"PPG": "2"}, {"": 50.0})).channels["PPG"].rate == 50


def test_a_rate_above_the_table_is_used(tmp_path: Path) -> None:
    for line in ("Sampling Rate: 50 Hz", "# fs = 50", "Measurement Frequency,50.0 Hz", "sample_rate_hz;50"):
        path = tmp_path / "night.csv"
        path.write_text("\n".join([line, "PPG,x", *(f"{value},1" for value in PPG)]))
        recording = read_recording(path, Selection({"ACC_X": "none"}))
        assert recording.channels["PPG"].rate == 50
        assert "sampled at 50 Hz, as its names or the lines above them say" in recording.notes
        assert read_recording(path, Selection({"ACC_X": "none"}, {"": 25.0})).channels["PPG"].rate == 25


@pytest.mark.parametrize(("name", "column"), [("ppg_50Hz.csv", "PPG"), ("a.csv", "PPG (50 Hz)")])
def test_a_rate_in_a_name_is_used(tmp_path: Path, name: str, column: str) -> None:
    path = tmp_path / name
    path.write_text("\n".join([column, *map(str, PPG)]))
    assert read_recording(path).channels["PPG"].rate == 50


def test_a_stated_rate_that_the_times_contradict_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{row / 50},{value}" for row, value in enumerate(PPG)]
    path.write_text("\n".join(["Sampling rate: 64 Hz", "time [s],PPG", *rows]))
    recording = read_recording(path)
    assert recording.channels["PPG"].rate == pytest.approx(50)
    assert "64 Hz is stated, but its times make 50 Hz, which is used" in recording.notes


@pytest.mark.parametrize("row", [0, 1, 5, 150, 298])
@pytest.mark.parametrize("cell", ["abc", "12,5", "9 9x"])
def test_a_spoiled_row_is_named_and_hides_no_other(tmp_path: Path, row: int, cell: str) -> None:
    """The table does not begin behind it."""
    lines = [f"{number / 50:.2f};{value}" for number, value in enumerate(PPG)]
    lines[row] = f"{row / 50:.2f};{cell}"
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time [s];PPG", *lines]))
    other = r"line \d+: '(PPG|time \[s\])' holds .*decimal"  # 12,5 makes the comma the decimal sign
    with pytest.raises(UserError, match=rf"line {row + 2}: 'PPG' holds '{cell}'|{other}"):
        read_recording(path)


def test_the_layout_says_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "night.csv"
    path.write_text("Device,7\nfs: 50 Hz\n\ntime,PPG,\ns,mV,\n" + "".join(f"{row},{row},\n" for row in range(9)))
    layout = find_layout(path, TextFile(path).lines)
    assert (layout.names, layout.units[:2], layout.skipped, layout.rate) == (("time", "PPG"), ("s", "mV"), 5, 50)


def test_signals_that_look_like_channels_are_not_left_out_silently(tmp_path: Path) -> None:
    path = tmp_path / "night.csv"
    path.write_text(
        "\n".join(["time [s],PPG,wrist acc a,my ecg", *(f"{row / 50},{v},1,2" for row, v in enumerate(PPG))])
    )
    notes = " ".join(read_recording(path).notes)
    assert "wrist acc a: not taken for ACC, unless named (--channels 'ACC_X=wrist acc a')" in notes
    assert "my ecg: not taken for ECG" in notes
    assert not read_recording(path, Selection({"ACC_X": "none", "ECG": "none"})).notes


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time [s],PPG,PPG", *(f"{row / 50},{v},{v + 1000}" for row, v in enumerate(PPG))]))
    with pytest.raises(UserError, match="PPG could be any of PPG#1, PPG#2; say which: --channels 'PPG=PPG#1'"):
        read_recording(path)
    assert read_recording(path, Selection({"PPG": "PPG#2"})).channels["PPG"].samples.min() > 1000
    with pytest.raises(UserError, match="has no signal 'PPG#3'"):
        read_recording(path, Selection({"PPG": "PPG#3"}))
