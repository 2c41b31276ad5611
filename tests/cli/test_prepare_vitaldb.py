"""From `.vital` files to windows that pretraining reads."""

import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from exactness import command, environment
from vital_files import ECG_II, PLETH, heart, write_vital

from butppg_lightning.cli import main
from butppg_lightning.data.store import read_store
from butppg_lightning.window import read_windows

CASES = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cases of two minutes of six patients, laid out as the release is; case 5 has no ECG, case 6 is cut off."""
    folder = tmp_path_factory.mktemp("vitaldb")
    for case in range(1, CASES + 1):
        signals = heart(120, seed=case, rate=50 + 8 * case)
        signals[ECG_II][1000 * case :][:400] = np.nan
        if case == 5:
            del signals[ECG_II]
        path = write_vital(folder / "vital_files" / f"{case:04d}.vital", signals, packed=case % 2 == 0)
        if case == 6:
            path.write_bytes(path.read_bytes()[:-100])
    lines = [f"{case},{900 + case // 2 if case < 5 else case}" for case in range(1, 20)]
    (folder / "clinical_data.csv").write_text("\n".join(["caseid,subjectid", *lines]))
    return folder


@pytest.fixture(scope="module")
def splits(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splits") / "splits.json"
    assert main(["prepare", "vitaldb-splits", "--source", str(source), "--output", str(path), "--seed", "1"]) == 0
    return path


def cut(splits: Path, output: Path, *flags: str) -> int:
    words = ["prepare", "vitaldb-windows", "--splits", str(splits), "--output", str(output)]
    return main([*words, "--workers", "1", *flags])


@pytest.fixture(scope="module")
def windows(splits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    assert cut(splits, folder) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_splits_are_by_patient_and_say_how_they_were_made(splits: Path, source: Path) -> None:
    content = json.loads(splits.read_text())
    parts = [content[split] for split in ("train", "val", "test")]
    assert sorted(int(case) for part in parts for case in part) == list(range(1, CASES + 1))
    people = [set(part.values()) for part in parts]
    assert all(people)
    assert len(set.union(*people)) == sum(map(len, people)) == 7
    assert {"901", "902"} <= set.union(*people)
    assert content["patients"] == "clinical_data.csv"
    assert content["source"] == str(source.resolve())
    assert content["seed"] == 1


def test_every_window_is_accounted_for(windows: Path, splits: Path) -> None:
    manifest = json.loads((windows / "manifest.json").read_text())
    content = json.loads(splits.read_text())
    for split in ("train", "val", "test"):
        told = manifest["splits"][split]
        assert told["cases"] == len(content[split])
        if told["windows"]:
            found = read_windows(windows / f"{split}_windows.npz", labelled=False)
            assert len(found) == told["windows"]
            assert found.channels == ("PPG", "ECG")
            assert set(found.subjects) <= set(content[split].values())
            order = [case["patient"] for case in manifest["cases"][split] for _ in range(case["windows"])]
            assert found.subjects.tolist() == order
        else:
            assert not (windows / f"{split}_windows.npz").exists()
    cases = {case["case"]: case for part in manifest["cases"].values() for case in part}
    assert cases["5"]["unusable"] == "has no SNUADC/ECG_II"
    assert cases["6"]["unusable"] == "is truncated"
    for name, case in cases.items():
        total = case["windows"] + sum(case["left_out"].values())
        assert total == (0 if name in "56" else 12)
    assert not (windows / ".vitaldb_parts").exists()


def test_the_table_tells_what_was_left_out(splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut(splits, tmp_path / "w", "--min_sqi=-1", "--max-windows-per-case=5") == 0
    said = capsys.readouterr().out
    assert "left out: over the limit" in said
    assert "case 5 has no SNUADC/ECG_II" in said
    assert "manifest.json" in said
    assert f"next: butppg pretrain --config pretrain.yaml --data.root {tmp_path / 'w'}" in said
    manifest = json.loads((tmp_path / "w" / "manifest.json").read_text())
    assert max(case["windows"] for part in manifest["cases"].values() for case in part) == 5


def test_stricter_limits_keep_fewer(windows: Path, splits: Path, tmp_path: Path) -> None:
    assert cut(splits, tmp_path / "w", "--min-sqi", "0.999") == 0
    before, after = (
        json.loads((folder / "manifest.json").read_text())["splits"]["train"] for folder in (windows, tmp_path / "w")
    )
    assert after["windows"] < before["windows"]
    assert after["left_out"]["PPG quality"] > before["left_out"]["PPG quality"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_holds_the_same_windows_and_is_pretrained_on(
    dtype: str, windows: Path, splits: Path, tmp_path: Path
) -> None:
    assert cut(splits, tmp_path / "w", "--store", "always", "--dtype", dtype) == 0
    found = read_store(tmp_path / "w" / "train_windows.store")
    expected = read_windows(windows / "train_windows.npz", labelled=False)
    assert found.subjects[:].tolist() == expected.subjects.tolist()
    if dtype == "float32":
        assert np.array_equal(found.signals[:], expected.signals)
    else:
        centred = expected.signals - np.median(expected.signals, axis=-1, keepdims=True)
        assert np.abs(found.signals[:] - centred).max() < 0.02
    assert not (tmp_path / "w" / "train_windows.npz").exists()
    flags = ["--config=pretrain.yaml", "--config=tiny.yaml", f"--data.root={tmp_path / 'w'}", "--trainer.max_epochs=1"]
    assert main(["pretrain", *flags, f"--output_dir={tmp_path / 'run'}"]) == 0


def test_large_splits_become_stores_by_themselves(splits: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("butppg_lightning.sources.vitaldb.work.Work.STORE_FROM", 20)
    assert cut(splits, tmp_path / "w") == 0
    assert {path.name for path in (tmp_path / "w").iterdir()} >= {"train_windows.store", "val_windows.npz"}


def test_what_is_there_is_replaced_only_when_asked(splits: Path, tmp_path: Path, capsys) -> None:
    assert cut(splits, tmp_path / "w", "--store=always") == 0
    before = files(tmp_path / "w")
    capsys.readouterr()
    assert cut(splits, tmp_path / "w") == 2
    assert "manifest.json exists" in refusal(capsys)
    assert files(tmp_path / "w") == before
    assert cut(splits, tmp_path / "w", "--overwrite") == 0
    assert not list((tmp_path / "w").glob("*.store")), "one form of each split"
    assert (tmp_path / "w" / "train_windows.npz").is_file()


def test_processes_and_kills_change_nothing(windows: Path, splits: Path, tmp_path: Path) -> None:
    output = tmp_path / "w"
    words = ["prepare", "vitaldb-windows", "--splits", str(splits), "--output", str(output), "--workers", "2"]
    begun = output / ".vitaldb_parts" / "train.store" / "manifest.json"
    process = subprocess.Popen(command(*words), env=environment(), start_new_session=True)
    while not begun.exists():
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "manifest.json").exists()
    assert cut(splits, output) == 0
    for split in ("train", "val", "test"):
        name = f"{split}_windows.npz"
        assert (windows / name).exists() == (output / name).exists()
        if (windows / name).exists():
            assert (windows / name).read_bytes() == (output / name).read_bytes()


class Cut(KeyboardInterrupt):
    """Stands for the user's interrupt."""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_run_goes_on_where_it_stopped(
    after: int, windows: Path, splits: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    from butppg_lightning.sources.vitaldb import work

    done = []

    def counted(where, gate):
        if len(done) == after:
            raise Cut
        done.append(where)
        return original(where, gate)

    original = work.case_windows
    monkeypatch.setattr(work, "case_windows", counted)
    assert cut(splits, tmp_path / "w") == 130
    assert "the same command goes on" in refusal(capsys)
    assert cut(splits, tmp_path / "w", "--min_sqi=0.5") == 2
    assert "unfinished run with another min_sqi; begin anew with --overwrite" in refusal(capsys)
    again = []
    monkeypatch.setattr(work, "case_windows", lambda where, gate: (again.append(where), original(where, gate))[1])
    assert cut(splits, tmp_path / "w") == 0
    repeated = set(done) & set(again)
    assert all("0005" in str(path) or "0006" in str(path) for path in repeated), "only cases that gave no windows"
    expected, found = files(windows), files(tmp_path / "w")
    assert expected.pop("manifest.json")
    assert found.pop("manifest.json")
    assert found == expected


def test_a_run_killed_while_it_put_things_in_place_finishes(
    windows: Path, splits: Path, tmp_path: Path, monkeypatch
) -> None:
    from butppg_lightning.sources.vitaldb import work

    original = work.read_store

    def once(path: Path, verify: bool):
        if path.name.startswith("val"):
            raise Cut
        return original(path, verify=verify)

    monkeypatch.setattr(work, "read_store", once)
    assert cut(splits, tmp_path / "w") == 130
    monkeypatch.setattr(work, "read_store", original)
    assert cut(splits, tmp_path / "w") == 0
    expected, found = files(windows), files(tmp_path / "w")
    assert expected.keys() == found.keys()
    assert all(found[name] == content for name, content in expected.items() if name != "manifest.json")


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refuse(*arguments, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_without_a_network_one_line_names_local_files(no_network: None, splits: Path, tmp_path: Path, capsys) -> None:
    assert main(["prepare", "vitaldb-splits", "--output", str(tmp_path / "s.json"), "--subset", "fasttrack"]) == 2
    assert "VitalDB cannot be reached (Name or service not known); use local files: --source DIR" in refusal(capsys)
    assert not (tmp_path / "s.json").exists()
    content = {**json.loads(splits.read_text()), "source": None}
    (tmp_path / "remote.json").write_text(json.dumps(content))
    assert cut(tmp_path / "remote.json", tmp_path / "w") == 2
    assert "cannot be loaded from VitalDB (Name or service not known); use local files: --source" in refusal(capsys)


def test_the_patients_come_from_the_server_when_it_answers(source: Path, tmp_path: Path, monkeypatch) -> None:
    class Answer(io.BytesIO):
        headers: ClassVar = {}

    asked = []

    def answer(request, *arguments, **options) -> Answer:
        asked.append(request.full_url)
        return Answer((source / "clinical_data.csv").read_bytes())

    monkeypatch.setattr("vitaldb.dataset.dfci", None)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert main(["prepare", "vitaldb-splits", "--output", str(tmp_path / "s.json")]) == 0
    content = json.loads((tmp_path / "s.json").read_text())
    assert {case for split in ("train", "val", "test") for case in content[split]} == {
        str(case) for case in range(1, 20)
    }
    assert content["patients"] == "VitalDB server"
    assert len(asked) == 1


def test_a_clinical_table_makes_splits_without_a_network(no_network: None, source: Path, tmp_path: Path) -> None:
    words = ["prepare", "vitaldb-splits", "--output", str(tmp_path / "s.json"), "--case-set", "bis"]
    assert main([*words, "--clinical", str(source / "clinical_data.csv")]) == 0
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["source"] is None
    # of cases 1 to 19 the package lists these with a bispectral index
    cases = {int(case) for split in ("train", "val", "test") for case in content[split]}
    assert cases == {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 16, 17, 19}


def test_cases_come_from_the_server_when_it_answers(source: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def answer(request, *arguments, **options):
        url = request if isinstance(request, str) else request.full_url
        asked.append(url)
        case = Path(url).stem
        if case == "3":
            raise urllib.error.HTTPError(url, 404, "Not Found", None, None)
        return (source / "vital_files" / f"{int(case):04d}.vital").open("rb")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    words = ["prepare", "vitaldb-splits", "--output", str(tmp_path / "s.json")]
    assert main([*words, "--clinical", str(table_of(range(1, 9), tmp_path / "c.csv"))]) == 0
    assert cut(tmp_path / "s.json", tmp_path / "w") == 0
    assert len(asked) == CASES
    manifest = json.loads((tmp_path / "w" / "manifest.json").read_text())
    cases = {case["case"]: case for part in manifest["cases"].values() for case in part}
    assert cases["3"]["unusable"] == "is not on the server (HTTP 404)"
    assert cases["1"]["windows"] > 5


def table_of(cases, path: Path) -> Path:
    path.write_text("\n".join(["caseid,subjectid", *(f"{case},{case}" for case in cases)]))
    return path


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("is a folder; name a file", ["--output", "{folder}"]),
        ("exists; choose another --output", ["--output", "{file}"]),
        ("leave some to train on", ["--val_share", "0.6", "--test_share", "0.4"]),
        ("--seed is -1", ["--seed", "-1"]),
        ("is no folder of .vital files", ["--source", "{folder}/none"]),
        ("unknown option --sourc; the nearest is --source", ["--sourc", "x"]),
        ("cannot be split", ["--source", "{one}"]),
    ],
)
def test_mistakes_about_splits_are_one_line(words: str, flags: list[str], source: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "one").mkdir()
    shutil.copy(source / "vital_files" / "0001.vital", tmp_path / "one")
    names = {"folder": tmp_path, "file": tmp_path / "there.json", "one": tmp_path / "one"}
    given = [flag.format(**names) for flag in flags]
    standard = ["--source", str(source), "--output", str(tmp_path / "s.json")]
    assert main(["prepare", "vitaldb-splits", *standard, *given]) == 2
    assert words in refusal(capsys)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("--min_sqi is 2", ["--min-sqi", "2"]),
        ("--workers is -1", ["--workers", "-1"]),
        ("--dtype float16 is a form of the store", ["--store", "never", "--dtype", "float16"]),
        ("holds none of the 8 cases", ["--source", "{folder}"]),
        ("cannot be read", ["--splits", "{folder}/none.json"]),
        ("no window to train on", ["--min-cycles", "500"]),
        ("cannot make the folder", ["--output", "{folder}/99.vital/w"]),
    ],
)
def test_mistakes_about_windows_are_one_line(
    words: str, flags: list[str], splits: Path, tmp_path: Path, capsys
) -> None:
    write_vital(tmp_path / "99.vital", {PLETH: np.ones(100, dtype=np.float32)})
    given = [flag.format(folder=tmp_path) for flag in flags]
    assert cut(splits, tmp_path / "w", *given) == 2
    assert words in refusal(capsys)
    assert not list(tmp_path.rglob("*_windows.*"))


def test_named_recordings_need_their_folder(splits: Path, tmp_path: Path, capsys) -> None:
    content = {"dataset": "VitalDB", "source": None, "train": {"ward 7": "a"}, "val": {}, "test": {}}
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert cut(tmp_path / "s.json", tmp_path / "w") == 2
    assert "case ward 7 is no number of VitalDB's; name the folder of the files: --source DIR" in refusal(capsys)


def test_without_the_vitaldb_package_one_line_tells_how_to_get_it(
    splits: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vitaldb", None)
    assert cut(splits, tmp_path / "w") == 2
    assert "pip install 'butppg-lightning[recordings]'" in refusal(capsys)
