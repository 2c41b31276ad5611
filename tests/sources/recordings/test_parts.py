"""Several files of one recording: laid over each other by their times, or refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings import Selection, read_recording

if TYPE_CHECKING:
    from pathlib import Path

PPG = np.round(100 + 20 * np.sin(np.arange(64 * 30) / 8), 2)
AXES = "acc_x [g],acc_y [g],acc_z [g]"
ACC = np.round(0.3 * np.sin(np.arange(25 * 40) / 5), 3)


def ppg_file(folder: Path, header: str = "time [s],PPG", start: float = 0.0, name: str = "ppg.csv") -> Path:
    path = folder / name
    stamps = start + np.arange(len(PPG)) / 64
    path.write_text("\n".join([header, *(f"{stamp:.5f},{value}" for stamp, value in zip(stamps, PPG, strict=True))]))
    return path


def acc_file(folder: Path, header: str = f"time [s],{AXES}", start: float = 0.0) -> Path:
    path = folder / "acc.csv"
    stamps = start + np.arange(len(ACC)) / 25
    path.write_text(
        "\n".join([header, *(f"{stamp:.5f},{value},0,1" for stamp, value in zip(stamps, ACC, strict=True))])
    )
    return path


@pytest.mark.parametrize("start", [0.0, 1.7e9])
@pytest.mark.parametrize("by", ["folder", "files", "files turned"])
def test_a_clock_they_share_aligns_them(tmp_path: Path, start: float, by: str) -> None:
    stamp = "unix time [s]" if start else "time [s]"
    files = [
        ppg_file(tmp_path, f"{stamp},PPG", start + 4),
        acc_file(tmp_path, f"{stamp},{AXES}", start),
    ]
    given = {"folder": tmp_path, "files": files, "files turned": files[::-1]}[by]
    recording = read_recording(given)
    assert list(recording.channels) == ["ACC_X", "ACC_Y", "ACC_Z", "PPG"]
    assert recording.channels["PPG"].start == pytest.approx(4, abs=1e-3)
    assert (recording.channels["ACC_X"].start, recording.channels["ACC_X"].rate) == (0, pytest.approx(25))
    np.testing.assert_array_equal(recording.channels["PPG"].samples, PPG.astype(np.float32))
    assert recording.duration == pytest.approx(40, abs=0.01)
    assert any("taken as of one clock" in guess for guess in recording.guesses) == (not start)


def test_files_without_times_begin_together_which_is_said(tmp_path: Path) -> None:
    ppg, acc = tmp_path / "ppg.csv", tmp_path / "acc.csv"
    ppg.write_text("\n".join(["PPG", *map(str, PPG)]))
    acc.write_text("\n".join(["acc_x [g],acc_y [g],acc_z [g]", *(f"{value},0,1" for value in ACC)]))
    recording = read_recording([ppg, acc], Selection(rates={"PPG": 64.0, "ACC": 25.0}))
    assert {channel.start for channel in recording.channels.values()} == {0.0}
    assert any("taken to begin at one moment" in guess for guess in recording.guesses)


def test_files_that_cannot_be_related_are_refused(tmp_path: Path) -> None:
    ppg = ppg_file(tmp_path, "unix time [s],PPG", 1.7e9)
    with pytest.raises(UserError, match=r"ppg.csv says when it began and acc.csv does not"):
        read_recording([ppg, acc_file(tmp_path)])
    with pytest.raises(UserError, match=r"acc.csv begins 60 s after ppg.csv ends"):
        read_recording([ppg, acc_file(tmp_path, f"unix time [s],{AXES}", 1.7e9 + 90)])


def test_a_zone_that_only_one_states_is_no_relation(tmp_path: Path) -> None:
    ppg, acc = tmp_path / "ppg.csv", tmp_path / "acc.csv"
    ppg.write_text("\n".join(["time,PPG", *(f"2024-02-29T10:00:{row / 64:09.6f}Z,{v}" for row, v in enumerate(PPG))]))
    rows = [f"2024-02-29T10:00:{row / 25:09.6f},{value}" for row, value in enumerate(ACC)]
    acc.write_text("\n".join(["time,acc_x [g]", *rows]))
    with pytest.raises(UserError, match=r"ppg.csv states a time zone and acc.csv states none.*write both in UTC"):
        read_recording([ppg, acc])


def test_one_channel_in_two_files_is_two_recordings(tmp_path: Path) -> None:
    one, two = ppg_file(tmp_path, name="one a.csv"), ppg_file(tmp_path, name="two.csv")
    with pytest.raises(UserError, match=f"if they are several recordings, score each: --input-list '?{tmp_path}"):
        read_recording(tmp_path)
    with pytest.raises(UserError, match=r"leave one out .*, or score several recordings: --input-list '"):
        read_recording([one, two])


def test_a_name_may_be_in_any_of_them_but_must_be_in_one(tmp_path: Path) -> None:
    ppg_file(tmp_path, "time [s],green", 0)
    acc_file(tmp_path, "time [s],a,b,c")
    channels = {"PPG": "green", "ACC_X": "a", "ACC_Y": "b", "ACC_Z": "c"}
    recording = read_recording(tmp_path, Selection(channels, acc_unit="g"))
    assert recording.channels["ACC_Z"].samples[0] == 1
    with pytest.raises(UserError, match="no file has a signal 'd' with numbers for ACC_Z; they have"):
        read_recording(tmp_path, Selection({**channels, "ACC_Z": "d"}, acc_unit="g"))


def test_what_is_no_signal_in_a_folder_is_left_out_and_said(tmp_path: Path) -> None:
    ppg_file(tmp_path)
    (tmp_path / "temperature.csv").write_text("time [s],degrees\n" + "".join(f"{row},36.5\n" for row in range(30)))
    assert "temperature.csv was left out: it has no known signal" in read_recording(tmp_path).notes
    (tmp_path / "broken.csv").write_text("time,PPG\n1,2\n3,4x\n")
    with pytest.raises(UserError, match=r"broken\.csv"):  # it has a signal, so it is not passed over
        read_recording(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no recording; known are: WFDB"):
        read_recording(tmp_path / "empty")
