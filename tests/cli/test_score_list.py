"""Many recordings in one call: a folder each, one table, a code that tells of failures; and several files of one."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import save_classifier
from device_files import empatica_e4, made, plain_csv

from butppg_lightning.cli import main

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("run") / "best_model.pt")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder with an npz, a CSV, an E4's folder, a broken file, and one of a sensor without PPG."""
    folder = tmp_path / "people of $x"
    (folder / "e4").mkdir(parents=True)
    data = made(64, 32)
    empatica_e4(folder / "e4", data)
    plain_csv(folder, made(50, 50))
    np.savez(folder / "a.npz", PPG=data.ppg, fs=64)
    (folder / "broken.csv").write_text("time,PPG\n0,1\n0.1,x\n0.2,3\n")
    return folder


def score(checkpoint: Path, output: Path, *words: object) -> int:
    fixed = ["score", "--checkpoint", str(checkpoint), "--output_dir", str(output)]
    return main([*fixed, *map(str, words)])


def table(output: Path) -> list[dict[str, str]]:
    with (output / "recordings.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", ["folder", "pattern", "several"])
def test_every_recording_is_scored_and_a_failure_is_told(
    checkpoint: Path, people: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    several = [people / name for name in ("a.npz", "broken.csv", "e4", "night.csv")]
    items = {"folder": [people], "pattern": [f"{people}/*"], "several": several}[form]
    assert score(checkpoint, tmp_path / "out", "--input_list", *items) == 1
    rows = {row["folder"]: row for row in table(tmp_path / "out")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "scored", "broken": "failed", "e4": "scored", "night": "scored",
    }  # fmt: skip
    assert "line 3: 'PPG' holds 'x'" in rows["broken"]["error"]
    summary = json.loads((tmp_path / "out" / "e4" / "summary.json").read_text())
    assert summary["device"] == "Empatica E4"
    assert int(rows["e4"]["windows"]) == summary["windows"] == 6
    assert float(rows["e4"]["share_usable"]) == summary["share_usable"]
    printed = capsys.readouterr()
    told = f"1 of 4 recordings could not be scored; {tmp_path}/out/recordings.csv says why"
    assert printed.err.strip().endswith(told)
    assert "broken" in printed.out


def test_all_well_is_exit_code_0_and_results_are_not_replaced(checkpoint: Path, people: Path, tmp_path: Path) -> None:
    words = ["--input_list", people / "a.npz", "--input_list", people / "night.csv"]
    assert score(checkpoint, tmp_path / "out", *words) == 0
    assert [row["status"] for row in table(tmp_path / "out")] == ["scored"] * 2
    assert score(checkpoint, tmp_path / "out", *words) == 2
    assert score(checkpoint, tmp_path / "out", *words, "--overwrite") == 0


def test_recordings_of_one_name_get_folders_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    for person in ("p1", "p2"):
        (tmp_path / person).mkdir()
        plain_csv(tmp_path / person, made(50, 50))
    assert score(checkpoint, tmp_path / "out", "--input_list", f"{tmp_path}/p*/*.csv") == 0
    assert [row["folder"] for row in table(tmp_path / "out")] == ["p1_night.csv", "p2_night.csv"]
    assert (tmp_path / "out" / "p2_night.csv" / "scores.csv").is_file()


@pytest.mark.parametrize("repeated", [False, True])
def test_files_of_one_recording(checkpoint: Path, people: Path, tmp_path: Path, repeated: bool) -> None:
    """Given behind one option or several, where a second --input must not replace the first."""
    files = [people / "e4" / "BVP.csv", people / "e4" / "ACC.csv"]
    words = ["--input", files[0], "--input", files[1]] if repeated else ["--input", *files]
    assert score(checkpoint, tmp_path / "out", *words) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["channels"]) == ["ACC_X", "ACC_Y", "ACC_Z", "PPG"]
    assert (summary["channels"]["PPG"]["rate"], summary["channels"]["ACC_X"]["rate"]) == (64, 32)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --input (one recording) and --input_list (many)"),
        (["--input", "a.npz", "--input_list", "a.npz"], "give one of --input"),
        (["--input_list", "no/where*"], "--input_list 'no/where*': no recording is there"),
        (["--input", "no where.csv"], "no where.csv does not exist"),
    ],
)
def test_mistakes_are_one_line(
    checkpoint: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(checkpoint, tmp_path / "out", *words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
