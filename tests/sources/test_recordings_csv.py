"""Tables of text as recordings: every kind of time stamp, gaps, units, and tables that are none."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording

RATE, COUNT = 64.0, 64 * 30
VALUES = np.round(100 + 10 * np.sin(2 * np.pi * 1.2 * np.arange(COUNT) / RATE), 3)


def write(folder: Path, text: str | bytes, name: str = "night.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def table(stamps: list[str] | list[float], header: str = "time,PPG", values: np.ndarray = VALUES) -> str:
    rows = [f"{stamp},{value}" for stamp, value in zip(stamps, values, strict=True)]
    return "\n".join([header, *rows, ""])


def read(folder: Path, text: str | bytes, **selection: object) -> Recording:
    return read_recording(write(folder, text), Selection(**selection))  # type: ignore[arg-type]


def times(step: float = 1.0, start: float = 0.0, count: int = COUNT) -> list[float]:
    return (start + np.arange(count) / RATE * step).tolist()


@pytest.mark.parametrize(
    ("header", "stamps", "start"),
    [
        ("time,PPG", times(), None),
        ("Time [s],Pleth", times(start=12.5), None),
        ("t_ms,bvp", [round(stamp) for stamp in times(1000)], None),
        ("timestamp,PPG", [round(stamp) for stamp in times(1000)], None),  # steps of 15 and 16 can only be ms
        ("timestamp,PPG", [round(stamp) for stamp in times(1e6)], None),
        ("time (ns),PPG", [round(stamp) for stamp in times(1e9)], None),
        ("timestamp,PPG", [f"{stamp:.6f}" for stamp in times(1, 1.7e9)], "2023-11-14T22:13:20+00:00"),
        ("timestamp,PPG", [round(stamp) for stamp in times(1e3, 1.7e12)], "2023-11-14T22:13:20+00:00"),
        ("timestamp,PPG", [round(stamp) for stamp in times(1e9, 1.7e18)], "2023-11-14T22:13:20+00:00"),
    ],
)
def test_plain_numbers_as_time(tmp_path: Path, header: str, stamps: list[float], start: str | None) -> None:
    recording = read(tmp_path, table(stamps, header))
    channel = recording.channels["PPG"]
    assert channel.rate == pytest.approx(RATE, rel=1e-4)
    assert channel.start == 0
    np.testing.assert_allclose(channel.samples, VALUES, rtol=1e-6)
    assert (recording.start_time is None) == (start is None)
    stated = any(unit in header for unit in ("[s]", "_ms", "(ns)"))
    assert [guess.split(" states ")[0] for guess in recording.guesses] == (
        [] if stated else [f"'{header.split(',')[0]}'"]
    )
    if start is not None:
        assert abs(recording.start_time - dt.datetime.fromisoformat(start)) < dt.timedelta(milliseconds=1)


@pytest.mark.parametrize("form", ["2024-03-31T01:59:50", "2024-03-31 01:59:50", "2024-03-31T01:59:50+02:00"])
def test_iso_time_stamps(tmp_path: Path, form: str) -> None:
    begin = dt.datetime.fromisoformat(form)
    stamps = [(begin + dt.timedelta(seconds=stamp)).isoformat(sep=form[10]) for stamp in times()]
    recording = read(tmp_path, table(stamps))
    assert recording.channels["PPG"].rate == pytest.approx(RATE, rel=1e-5)
    assert recording.start_time == begin
    assert recording.start_time.tzinfo == begin.tzinfo


def test_time_stamps_of_whole_seconds_are_spread(tmp_path: Path) -> None:
    begin = dt.datetime(2024, 1, 1, 10, 0, 0, 600_000)
    stamps = [(begin + dt.timedelta(seconds=stamp)).replace(microsecond=0).isoformat() for stamp in times()]
    recording = read(tmp_path, table(stamps))
    assert recording.channels["PPG"].rate == pytest.approx(RATE, rel=0.01)
    np.testing.assert_allclose(recording.channels["PPG"].samples, VALUES, rtol=1e-6)
    assert abs((recording.start_time - begin).total_seconds()) < 0.05


def test_jitter_neither_moves_nor_changes_samples(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    stamps = np.array(times()) + generator.uniform(-0.3, 0.3, COUNT) / RATE
    channel = read(tmp_path, table(stamps.tolist())).channels["PPG"]
    np.testing.assert_allclose(channel.samples, VALUES, rtol=1e-6)


@pytest.mark.parametrize("lost", [1, 7, 400])
def test_missing_rows_are_gaps(tmp_path: Path, lost: int) -> None:
    kept = np.ones(COUNT, dtype=bool)
    kept[700 : 700 + lost] = False
    stamps = [f"{stamp:.4f}" for stamp in times()]
    text = table([stamp for stamp, keep in zip(stamps, kept, strict=True) if keep], values=VALUES[kept])
    samples = read(tmp_path, text).channels["PPG"].samples
    assert len(samples) == COUNT
    np.testing.assert_array_equal(np.isnan(samples), ~kept)
    np.testing.assert_allclose(samples[kept], VALUES[kept], rtol=1e-6)


def test_a_clock_that_drifts_is_followed(tmp_path: Path) -> None:
    """A sensor at 64.0 and then 64.05 Hz: samples stay within 30 ms of their stamps for ten minutes."""
    steps = np.where(np.arange(64 * 600) < 64 * 300, 1 / 64.0, 1 / 64.05)
    stamps = np.cumsum(steps)
    spikes = np.zeros(len(stamps))
    spikes[::640] = 1 + np.arange(len(spikes[::640]))
    recording = read(tmp_path, table([f"{stamp:.5f}" for stamp in stamps], values=spikes))
    channel = recording.channels["PPG"]
    found = np.flatnonzero(np.nan_to_num(channel.samples))
    at = stamps[0] + found / channel.rate
    np.testing.assert_allclose(at, stamps[::640][: len(at)], atol=0.03)
    assert len(at) >= len(spikes[::640]) - 2


def test_channels_of_different_rates_share_a_table(tmp_path: Path) -> None:
    rows = ["Time,PPG,ECG (mV),Acc X [mg],acc_y [mg],AccZ [mg]"]
    for row in range(0, 250 * 20):
        stamp = row / 250
        cells = [
            f"{row % 7}" if row % 5 == 0 else "",
            f"{row % 11}",
            f"{1000 * (row % 3)}" if row % 10 == 0 and stamp >= 2 else "",
            "0" if row % 10 == 0 else "NaN",
            "1" if row % 10 == 0 else "",
        ]
        rows.append(f"{stamp:.3f}," + ",".join(cells))
    recording = read(tmp_path, "\n".join(rows))
    rates = {name: round(channel.rate, 3) for name, channel in recording.channels.items()}
    assert rates == {"ACC_X": 25, "ACC_Y": 25, "ACC_Z": 25, "PPG": 50, "ECG": 250}
    assert recording.channels["ACC_X"].start == pytest.approx(2.0)
    assert recording.channels["ACC_X"].samples.max() == pytest.approx(2.0)  # mg to g
    assert not any(np.isnan(channel.samples).any() for channel in recording.channels.values())


def spelt(row: str) -> str:
    return "\n".join(row.format(stamp=f"{stamp:.4f}", number=number) for number, stamp in enumerate(times()))


@pytest.mark.parametrize(
    "text",
    [
        "\ufefftime;PPG\r\n" + spelt("{stamp};{number},5").replace(".", ",").replace("\n", "\r\n"),
        "# made by hand\n\ntime\tPPG\n" + spelt("{stamp}\t{number}.5") + "\n\n\n",
        "'Elapsed time','PLETH'\n'seconds','NU'\n" + spelt("{stamp},{number}.5"),
        'time, "PPG", note\n' + spelt('{stamp}, {number}.5, "a; b"'),
        "time,PPG,\n" + spelt("{stamp},{number}.5,"),
    ],
)
def test_the_spellings_of_tables(tmp_path: Path, text: str) -> None:
    channel = read(tmp_path, text).channels["PPG"]
    assert channel.rate == pytest.approx(RATE, rel=1e-4)
    np.testing.assert_array_equal(channel.samples, np.arange(COUNT, dtype=np.float32) + 0.5)


def test_a_rate_stands_for_the_time_column(tmp_path: Path) -> None:
    text = "PPG,x\n" + "\n".join(f"{row if row % 100 else ''},1" for row in range(COUNT))
    channel = read(tmp_path, text, rates={"": 50.0}, channels={"ACC_X": "none"}).channels["PPG"]
    assert channel.rate == 50
    assert len(channel.samples) == COUNT
    assert np.isnan(channel.samples).sum() == -(-COUNT // 100)


def test_a_large_table_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = table([f"{stamp:.4f}" for stamp in times()])
    whole = read(tmp_path, text).channels["PPG"].samples
    monkeypatch.setattr("butppg_lightning.sources.recordings.text_file._BLOCK_BYTES", 1000)
    np.testing.assert_array_equal(read(tmp_path, text).channels["PPG"].samples, whole)
    broken = text.replace(f"\n{times()[999]:.4f},", "\nlater,")
    with pytest.raises(UserError, match="line 1001: 'time' holds 'later', which is no number"):
        read(tmp_path, broken)


GOOD = table([f"{stamp:.4f}" for stamp in times()])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n# nothing\n", "is empty"),
        ("time,PPG\n", "no rows of numbers"),
        ("0.0,1\n0.1,2\n", r"no column names; say which of its 2 columns is what: --channels TIME=1,PPG=2"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not a text table"),
        (GOOD.replace("100.0", "abc", 1), "line 2: 'PPG' holds 'abc', which is no number"),
        (GOOD.replace("\n1.0000,", "\nsoon,", 1), "line 66: 'time' holds 'soon', which is no number"),
        (GOOD.replace("\n1.0000,", "\n0.5000,", 1), "line 66: the time in 'time' goes backwards"),
        (GOOD.replace("\n1.0000,", "\n,", 1), "line 66: 'time' holds no time"),
        (GOOD.replace("\n1.0000,", "\n1.0000,1,", 1), r"line 66: the row has more cells than there are columns \(2\)"),
        (GOOD.replace("time,", "when,"), "no time column among when, PPG; name it"),
        (
            GOOD.replace("PPG", "voltage"),
            "no signal is known by its name; it has time, voltage; .*--channels PPG=voltage",
        ),
        (table(times(), values=np.full(COUNT, np.nan)), "PPG hold no numbers at all"),
        (table([5] * COUNT), "1 different time stamps"),
        (table([0.0, 1e12, 2e12], values=np.ones(3)), "at .* Hz"),
        (table([0, 0.01, 0.02, 0.03, 0.04, 1e9], values=np.ones(6)), "leaps by 31 days or more"),
        (table([row / 2 for row in range(60)], values=np.ones(60)), "its rows would come at 2 Hz"),
        (table(["2024-13-45"] * COUNT), "neither a number nor an ISO time stamp"),
        ("time,ppg_red,ppg_green\n0,1,2\n0.01,1,2\n", "PPG could be any of ppg_red, ppg_green; say which"),
        ('time,PPG\n0,1\n0.01,"2\n0.02,3\n', "not a table of text|no number"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        read(tmp_path, text)
    assert "\n" not in str(refusal.value)
    assert "night.csv" in str(refusal.value)


def test_uneven_time_stamps_are_refused(tmp_path: Path) -> None:
    steps = np.where(np.arange(6000) < 3500, 1 / 50, 1 / 60)
    with pytest.raises(UserError, match=r"has 60 Hz by its times.* part the file where the rate changes"):
        read(tmp_path, table(np.cumsum(steps).tolist(), values=np.ones(6000)), rates={"": 50.0})


CELLS = st.one_of(
    st.floats(-1e6, 1e6).map(lambda value: f"{value:.4g}"),
    st.integers(-3, 10**20).map(str),
    st.sampled_from(["", "nan", "inf", "-", "1e999", "True", "0x10", "2024-01-31T10:00:00", "2024-01-31T10:00:00.5Z"]),
    st.sampled_from(['"', "'", '"a', "now", "NaT", "9999-12-31", "1,5", "\x00", "é", "\ud7ff", "#", " ", "\uff11"]),
    st.text(max_size=6),
)
HEADERS = st.sampled_from(
    ["time,PPG", "time;PPG", "PPG", "t\tppg\tECG", "time,PPG,PPG", "timestamp,acc_x,ppg", "a,b", "time [ms],PPG,ii"]
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Tables that begin well and are then spoiled."""
    header = draw(HEADERS)
    separator = max(",;\t", key=header.count)
    columns = header.count(separator) + 1
    step = draw(st.sampled_from([0.02, 0.02, 20, 1e-9, 1e9]))
    rest = ["1.5"] * (columns - 1)
    lines = [separator.join([f"{row * step:.9g}", *rest]) for row in range(draw(st.integers(0, 30)))]
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 4]))):
        line = separator.join(draw(st.lists(CELLS, min_size=columns - 1, max_size=columns)))
        lines.insert(draw(st.integers(0, len(lines))), line)
    text = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])).join([header, *lines])
    encoded = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(encoded)))
        encoded = encoded[:place] + draw(st.binary(max_size=4)) + encoded[place:]
    return encoded


def end_cleanly(text: bytes, rates: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            recording = read(Path(folder), text, rates=rates)
        except UserError as error:
            told = str(error)
        else:
            told = None
    if told is not None:
        assert "\n" not in told
        assert "night.csv" in told
        return
    assert recording.duration > 0
    for channel in recording.channels.values():
        assert channel.samples.dtype == np.float32
        assert not np.isinf(channel.samples).any()
        assert 5 <= channel.rate <= 100_000


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([{}, {"": 64.0}]))
@example(b"time,PPG\n1e308,1\n-1e308,2\n", {})
@example(b"time,PPG\n0,1\n0.01,2\n0.02,3\n1e15,4\n", {})
def test_any_table_ends_in_a_recording_or_one_line(text: bytes, rates: dict[str, float]) -> None:
    end_cleanly(text, rates)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(st.one_of(tables(), st.binary(max_size=400)), st.sampled_from([{}, {"": 64.0}]))
def test_ten_thousand_tables_end_in_a_recording_or_one_line(text: bytes, rates: dict[str, float]) -> None:
    end_cleanly(text, rates)
