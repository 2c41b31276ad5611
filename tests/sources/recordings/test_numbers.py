"""Numbers of every spelling: read as they are meant, or refused with the option that settles it, but never mixed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Recording, Selection, read_recording

RATE, COUNT = 25, 300
BLANKS = ["\u00a0", "\u202f", "'", " "]


def read_or_refuse(path: Path) -> Recording | None:
    """Read; None if it is refused with the option that settles it."""
    try:
        return read_recording(path)
    except UserError as error:
        told = str(error)
    assert "--decimal" in told
    return None


def spelt(value: float, decimal: str, thousands: str, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.translate(str.maketrans({",": thousands, ".": decimal}))


def write(
    folder: Path, values: np.ndarray, decimal: str, thousands: str, digits: int, separator: str, stamped: bool
) -> Path:
    """Write a table whose time is in ms (whole numbers) or in seconds of two digits."""
    quote = '"' if separator in (decimal, thousands) else ""
    stamps = np.arange(len(values)) / RATE
    times = [spelt(t, decimal, "", 2) if stamped else f"{t * 1000:.0f}" for t in stamps]
    cells = [spelt(value, decimal, thousands, digits) for value in values]
    rows = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in zip(times, cells, strict=True)]
    path = folder / "night.csv"
    path.write_text("\n".join([f"time [{'s' if stamped else 'ms'}]{separator}PPG", *rows]), encoding="utf-8")
    return path


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from([0.5, 3.0, 50.0, 985.0, 5_000.0, 250_000.0]),
    swing=st.sampled_from([0.3, 20.0, 4000.0]),
    digits=st.integers(0, 4),
    decimal=st.sampled_from([".", ","]),
    grouping=st.sampled_from(["", "other", *BLANKS]),
    separator=st.sampled_from([";", "\t", ","]),
    stamped=st.booleans(),
)
def test_every_spelling_is_read_as_meant_or_refused(
    base: float, swing: float, digits: int, decimal: str, grouping: str, separator: str, stamped: bool
) -> None:
    other = {".": ",", ",": "."}[decimal]
    values = np.round(base + swing * np.sin(np.arange(COUNT) / 4), digits)
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder), values, decimal, other if grouping == "other" else grouping, digits, separator, stamped
        )
        recording = read_or_refuse(path)
        doubtful = grouping == "other" or digits == 3
        if recording is None:
            assert doubtful
        else:
            # where every cell looks like 5.000 only the scale is open, which is said
            said = any("is taken as the decimal sign" in guess for guess in recording.guesses)
            assert doubtful or not said
            scales = (1, 1000, 1e-3) if said else (1,)
            found = recording.channels["PPG"].samples
            assert any(np.allclose(found * scale, values, rtol=1e-6) for scale in scales)
        settled = read_recording(path, Selection(decimal=decimal)).channels["PPG"].samples
        np.testing.assert_allclose(settled, values, rtol=1e-6)


@pytest.mark.parametrize("first", [["0;0"], ["0;0", "1;1"] * 20])
def test_whole_numbers_decide_nothing(tmp_path: Path, first: list[str]) -> None:
    rows = [f"{(row + len(first)) * 0.04:.4f};{row / 7:.4f}".replace(".", ",") for row in range(COUNT)]
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time [s];PPG", *first, *rows]))
    if len(first) == 1:
        assert read_recording(path).channels["PPG"].rate == pytest.approx(RATE, rel=1e-3)
    assert (
        np.nanmax(read_recording(path, Selection(rates={"": 25.0}, channels={"TIME": "none"})).channels["PPG"].samples)
        > 40
    )


@pytest.mark.parametrize(
    ("spoiled", "message"), [("0.5", "where ',' is the decimal sign"), ("1.01", "no number"), ("1.0170", "no")]
)
def test_a_point_among_decimal_commas_groups_thousands_or_names_its_cell(
    tmp_path: Path, spoiled: str, message: str
) -> None:
    rows = [f"{row * 0.04:.2f};{900 + row}".replace(".", ",") for row in range(99)]
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time;PPG", *rows, f"3,96;{spoiled}", "4,00;1.000", "4,04;1.001"]))
    with pytest.raises(UserError, match=f"line 101: 'PPG' holds '{spoiled}'.*{message}"):
        read_recording(path)


def test_a_later_block_decides_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("butppg_lightning.sources.recordings.text_file._BLOCK_BYTES", 2000)
    values = np.r_[np.arange(2000.0), np.arange(100) + 0.25]
    rows = [f"{row * 40};{value:.2f}".replace(".00", "").replace(".", ",") for row, value in enumerate(values)]
    path = tmp_path / "night.csv"
    path.write_text("\n".join(["time [ms];PPG", *rows]))
    np.testing.assert_array_equal(read_recording(path).channels["PPG"].samples, values.astype(np.float32))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"decimal": ","}, "is no table of text, so --decimal"),
        ({"time_unit": "ms"}, "no time array is used, so --time-unit"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, option: dict[str, str], message: str) -> None:
    np.savez(tmp_path / "a.npz", PPG=np.arange(900.0), fs=64)
    with pytest.raises(UserError, match=message):
        read_recording(tmp_path / "a.npz", Selection(**option))  # type: ignore[arg-type]
