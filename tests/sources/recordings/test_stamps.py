"""What clocks say: units stated, guessed or refused; epochs; counters that wrap; summer time; rows out of order."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording
from butppg_lightning.sources.recordings.stamps import TIME_UNITS

SECONDS = 30


def table(folder: Path, stamps: list[str], header: str = "time,PPG") -> Path:
    path = folder / "night.csv"
    pulse = np.round(1000 + 40 * np.sin(np.arange(len(stamps)) / 3)).astype(int)
    path.write_text("\n".join([header, *map("{},{}".format, stamps, pulse), ""]))
    return path


def read(path: Path, **options: object) -> Recording:
    return read_recording(path, Selection(**options))  # type: ignore[arg-type]


def read_or_refuse(path: Path, option: str) -> Recording | None:
    """Read; None if it is refused with the option that settles it."""
    try:
        return read(path)
    except UserError as error:
        told = str(error)
    assert option in told
    return None


def seconds(rate: float) -> np.ndarray:
    return np.arange(round(rate * SECONDS)) / rate


@settings(max_examples=70, deadline=None)
@given(
    rate=st.sampled_from([20.0, 25.0, 32.0, 50.0, 64.0, 86.13, 100.0, 125.0, 135.0, 200.0, 256.0]),
    unit=st.sampled_from(sorted(TIME_UNITS)),
    form=st.sampled_from(["time [{}]", "time ({})", "elapsed_{}", "Time, {}", "time"]),
    start=st.sampled_from([0.0, 3.7, 86_400.0, 1.7e9]),
    packet=st.sampled_from([1, 1, 4, 8, 32]),
)
def test_a_stated_unit_is_used_and_another_one_is_guessed_aloud_or_refused(
    rate: float, unit: str, form: str, start: float, packet: int
) -> None:
    times = (start + np.repeat(seconds(rate)[packet - 1 :: packet], packet)) / TIME_UNITS[unit]
    digits = {"d": 10, "h": 9, "min": 7, "s": 4}.get(unit, 0)
    stated = form != "time"
    if unit == "100ns" and not stated:  # a tenth of the rate may be another sensor's: the guess is all there is
        return
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), [f"{value:.{digits}f}" for value in times], f'"{form.format(unit)}",PPG')
        recording = None if stated else read_or_refuse(path, "--time-unit")
        if recording is None and stated:
            recording = read(path)
        if recording is not None:
            assert recording.channels["PPG"].rate == pytest.approx(rate, rel=0.01)
            assert recording.duration == pytest.approx(SECONDS, abs=2 * packet / rate)
            assert stated or any("states no unit of time" in guess for guess in recording.guesses)
        told = read(path, time_unit=unit)
        assert told.channels["PPG"].rate == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "believed"), [(480, False), (1500, False), (763, False), (400, True), (500, True), (1000, True)]
)
def test_a_guess_that_no_sensor_has_is_refused(tmp_path: Path, rate: float, believed: bool) -> None:
    path = table(tmp_path, [f"{stamp:.6f}" for stamp in seconds(rate)])
    if believed:
        assert read(path).channels["PPG"].rate == pytest.approx(rate)
    else:
        with pytest.raises(UserError, match=r"Hz.* give --time-unit \(s, ms"):
            read(path)
    assert read(path, time_unit="s").channels["PPG"].rate == pytest.approx(rate, rel=1e-3)


def test_a_count_of_samples_needs_their_rate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="counts by one and states no unit; give --time-unit ms"):
        read(table(tmp_path, [str(row) for row in range(900)]))
    path = table(tmp_path, [str(row) for row in range(900) if not 300 <= row < 325])
    channel = read(path, time_unit="samples", rates={"": 25.0}).channels["PPG"]
    assert (channel.rate, len(channel.samples), np.isnan(channel.samples).sum()) == (25, 900, 25)
    with pytest.raises(UserError, match="counts samples; give their rate in Hz: --fs RATE"):
        read(path, time_unit="samples")


def test_a_rate_in_the_first_lines_decides_the_unit(tmp_path: Path) -> None:
    head = "Device,7\nSampling rate: 25 Hz\n"
    path = table(tmp_path, [f"{stamp / 60:.8f}" for stamp in seconds(25)], f"{head}time,PPG")
    recording = read(path)
    assert recording.channels["PPG"].rate == pytest.approx(25, rel=1e-3)
    assert "taken as min by the rate of 25 Hz" in recording.guesses[0]


@pytest.mark.parametrize(
    ("first", "year", "told"),
    [
        (762_516_000, None, ""),
        (1_709_200_800, 2024, "as since 1970"),
        (3_791_000_000, None, ""),
        (978_307_200, None, ""),
    ],
)
def test_an_epoch_is_never_stated_as_a_fact(tmp_path: Path, first: int, year: int | None, told: str) -> None:
    """Seconds since 2000 or 1904 are no dates since 1970, and what is taken for one is said."""
    recording = read(table(tmp_path, [f"{first + stamp:.2f}" for stamp in seconds(25)], "time [s],PPG"))
    assert (recording.start_time and recording.start_time.year) == year
    assert any(told in guess for guess in recording.guesses) == bool(told)
    named = read(table(tmp_path, [f"{first + stamp:.2f}" for stamp in seconds(25)], "unix time [s],PPG"))
    assert not named.guesses


@pytest.mark.parametrize("header", ["time since 2000 [s]", "time [s since 2000-01-01]", "time_since_2000 (s)"])
def test_an_epoch_that_the_name_states_is_used(tmp_path: Path, header: str) -> None:
    path = table(tmp_path, [f"{762_516_000 + stamp:.2f}" for stamp in seconds(25)], f"{header},PPG")
    recording = read(path, channels={"TIME": header})
    assert recording.start_time == dt.datetime(2024, 2, 29, 10)
    assert not recording.guesses


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([16, 24, 32]),
    tick=st.sampled_from([(1e-3, "millis"), (1e-6, "micros")]),
    rate=st.sampled_from([25.0, 50.0, 100.0]),
    place=st.floats(0.05, 0.95),
)
def test_a_counter_that_wraps_goes_on(bits: int, tick: tuple[float, str], rate: float, place: float) -> None:
    size, name = tick
    span = SECONDS / size
    if span > 2**bits:  # it would wrap several times
        span = 0.8 * 2**bits
    count = int(span * size * rate)
    if count < 50:
        return
    begin = 2**bits - int(place * span)
    stamps = [(begin + round(row / rate / size)) % 2**bits for row in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        recording = read(table(Path(folder), [str(stamp) for stamp in stamps], f"{name},PPG"))
    assert recording.channels["PPG"].rate == pytest.approx(rate, rel=0.01)
    assert len(recording.channels["PPG"].samples) == pytest.approx(count, abs=1)
    assert any("begins anew" in note for note in recording.notes)


MOMENTS = {
    "iso": lambda moment: moment.isoformat(timespec="milliseconds"),
    "blank": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S.%f"),
    "colon": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S:") + f"{moment.microsecond // 1000:03d}",
    "slashes": lambda moment: moment.strftime("%Y/%m/%d %H:%M:%S.%f"),
    "points": lambda moment: moment.strftime("%d.%m.%Y %H:%M:%S.%f"),
    "UTC": lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S.%f UTC"),
}


@pytest.mark.parametrize("form", MOMENTS)
def test_dates_of_every_clear_spelling(tmp_path: Path, form: str) -> None:
    start = dt.datetime(2024, 3, 4, 23, 59, 50)
    stamps = [MOMENTS[form](start + dt.timedelta(seconds=float(stamp))) for stamp in seconds(25)]
    recording = read(table(tmp_path, stamps))
    assert recording.start_time == start.replace(tzinfo=dt.timezone.utc if form == "UTC" else None)
    assert recording.channels["PPG"].rate == pytest.approx(25, rel=1e-3)
    with pytest.raises(UserError, match="holds dates, no plain numbers; drop --time-unit"):
        read(tmp_path / "night.csv", time_unit="ms")


@pytest.mark.parametrize(
    "form", ["%H:%M:%S.%f", "%I:%M:%S.%f", "%I:%M:%S.%f %p", "%m/%d/%Y %H:%M:%S.%f", "%d/%m/%Y %I:%M:%S.%f %p"]
)
def test_a_day_that_is_not_known_costs_clock_times_only(tmp_path: Path, form: str) -> None:
    stamps = [
        (dt.datetime(2024, 3, 4, 23, 59, 50) + dt.timedelta(seconds=float(stamp))).strftime(form)
        for stamp in seconds(25)
    ]
    recording = read(table(tmp_path, stamps))
    assert recording.start_time is None
    assert recording.duration == pytest.approx(SECONDS, abs=0.01)
    assert any("are not clear" in note for note in recording.notes) == ("%Y" in form)


@pytest.mark.parametrize(
    ("night", "hours"), [("2024-10-27T02:59:45", -1), ("2024-03-31T01:59:45", 1), ("2024-11-03T01:59:45", -1)]
)
@pytest.mark.parametrize("zone", ["", "+02:00"])
def test_local_time_that_is_set_at_night_leaves_no_gap(tmp_path: Path, night: str, hours: int, zone: str) -> None:
    start = dt.datetime.fromisoformat(night)
    moved = [0 if stamp < 15 else hours for stamp in seconds(25)]
    stamps = [
        (start + dt.timedelta(seconds=float(stamp), hours=hour)).isoformat(timespec="milliseconds")
        + (zone and f"{zone[:2]}{2 + hour}:00")
        for stamp, hour in zip(seconds(25), moved, strict=True)
    ]
    recording = read(table(tmp_path, stamps))
    assert recording.duration == pytest.approx(SECONDS, abs=0.01)
    assert any("by an hour in line 377" in guess for guess in recording.guesses) == (not zone)


def test_rows_stored_out_of_order_are_sorted_and_said(tmp_path: Path) -> None:
    order = np.r_[:100, 110:120, 100:110, 120:750]
    stamps, pulse = seconds(25), np.arange(750)
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time [s],PPG", *(f"{stamps[row]:.2f},{pulse[row]}" for row in order)]))
    recording = read(path)
    np.testing.assert_array_equal(recording.channels["PPG"].samples, pulse)
    assert "20 rows were not in the order of 'time [s]'" in recording.notes[0]


@pytest.mark.parametrize("name", ["night.csv", "a night; of $HOME.csv"])
@pytest.mark.parametrize("jump", [-30.0, -3600.0, -1.0])
def test_the_advice_for_a_clock_that_was_set_back_is_right(tmp_path: Path, name: str, jump: float) -> None:
    """Followed in a shell, it gives two recordings with every sample in its place; nothing says to sort."""
    stamps = 4000 + seconds(25)
    stamps[400:] += jump
    path = table(tmp_path, [f"{stamp:.2f}" for stamp in stamps], "# made\ntime [s],PPG")
    path = path.rename(tmp_path / name)
    with pytest.raises(UserError, match="Do not sort the rows; score the parts on their own: head") as refusal:
        read(path)
    command = re.search(r"their own: (.*)$", str(refusal.value))
    assert command is not None
    subprocess.run(["bash", "-euc", command[1]], cwd=tmp_path, check=True, capture_output=True)
    whole = np.round(1000 + 40 * np.sin(np.arange(750) / 3))
    parts = [read(tmp_path / f"{path.stem}_part{part}.csv").channels["PPG"].samples for part in (1, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(parts[0]) == 400


def test_dates_written_as_numbers_are_refused(tmp_path: Path) -> None:
    start = dt.datetime(2024, 3, 4, 23, 59, 50)
    stamps = [(start + dt.timedelta(seconds=float(stamp))).strftime("%Y%m%d%H%M%S.%f") for stamp in seconds(25)]
    with pytest.raises(UserError, match="a date as a number; write ISO time stamps"):
        read(table(tmp_path, stamps))


def test_rows_in_reverse_are_turned(tmp_path: Path) -> None:
    stamps = [f"{1.7e9 + stamp:.2f}" for stamp in seconds(25)]
    forward, turned = read(table(tmp_path, stamps, "unix [s],PPG")), read(table(tmp_path, stamps[::-1], "unix [s],PPG"))
    assert turned.start_time == forward.start_time
    np.testing.assert_array_equal(turned.channels["PPG"].samples, forward.channels["PPG"].samples[::-1])


def test_shuffled_rows_and_a_clock_that_leaps_are_no_one_recording(tmp_path: Path) -> None:
    stamps = np.random.default_rng(0).permutation(seconds(25))
    with pytest.raises(UserError, match=r"goes backwards .* times.*shuffled"):
        read(table(tmp_path, [f"{stamp:.2f}" for stamp in stamps]))
    leap = seconds(25) + np.where(seconds(25) < 12, 0, 1.7e9)
    with pytest.raises(UserError, match=r"line 302.* leaps by 31 days.*head -n 301"):
        read(table(tmp_path, [f"{stamp:.2f}" for stamp in leap], "unix [s],PPG"))


def test_a_rate_that_the_times_contradict_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, [f"{stamp:.2f}" for stamp in seconds(50)], "time [s],PPG")
    with pytest.raises(UserError, match=r"has 50 Hz by its times.*correct --fs"):
        read(path, rates={"": 100.0})
    two = np.append(seconds(50), 300 + seconds(100))
    with pytest.raises(UserError, match="part the file where the rate changes"):
        read(table(tmp_path, [f"{stamp:.2f}" for stamp in two], "time [s],PPG"))


@pytest.mark.parametrize("first", [638_423_133_000_000_000, 133_512_133_000_000_000])
@pytest.mark.parametrize("rate", [25, 50, 100])
def test_ticks_of_100_ns_are_not_taken_for_microseconds(tmp_path: Path, first: int, rate: int) -> None:
    path = table(tmp_path, [str(first + row * (10_000_000 // rate)) for row in range(rate * SECONDS)])
    assert read_or_refuse(path, "100ns") is None
    assert read(path, time_unit="100ns").channels["PPG"].rate == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize(
    "day", ["31-Jan-2024 22:15:{}", "31 January 2024 22:15:{}", "2024-01-31T22:15:{}+01:00[Europe/Oslo]"]
)
def test_dates_that_matlab_and_java_write(tmp_path: Path, day: str) -> None:
    recording = read(table(tmp_path, [day.format(f"{stamp:06.3f}") for stamp in seconds(50)]))
    assert str(recording.start_time).startswith("2024-01-31 22:15:00")
    assert recording.channels["PPG"].rate == pytest.approx(50)
