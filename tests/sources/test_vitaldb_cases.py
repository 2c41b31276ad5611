"""Cases are dealt out by patient, and what says so is believed only when it is sound."""

import json
from pathlib import Path

import pytest
import vitaldb
from hypothesis import given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.vitaldb.cases import (
    FASTTRACK_CASES,
    Splits,
    choose_cases,
    find_patients,
    local_files,
    read_splits,
    split_cases,
)

PATIENTS = st.dictionaries(st.integers(1, 400).map(str), st.integers(1, 150).map(str), min_size=3, max_size=150)
EVERYBODY = {str(case): str(case * 9 // 10) for case in range(1, 301)}


@settings(max_examples=150, deadline=None)
@given(patients=PATIENTS, val=st.floats(0, 0.45), test=st.floats(0, 0.45), seed=st.integers(0, 9))
def test_nobody_is_in_two_splits_and_nobody_is_lost(patients: dict, val: float, test: float, seed: int) -> None:
    wanted = 1 + (val > 0) + (test > 0)
    shares = {"test": test, "val": val}
    if len(set(patients.values())) < wanted:
        with pytest.raises(UserError, match="cannot be split"):
            split_cases(patients, shares, seed)
        return
    found = split_cases(patients, shares, seed)
    assert {case: who for part in found.values() for case, who in part.items()} == patients
    people = [set(part.values()) for part in found.values()]
    assert sum(map(len, people)) == len(set(patients.values()))
    assert found["train"]
    assert bool(found["val"]) == (val > 0)
    assert bool(found["test"]) == (test > 0)
    most = max(list(patients.values()).count(who) for who in patients.values())
    for split, share in shares.items():
        assert len(found[split]) <= max(share * len(patients), 1) + most


def test_shares_are_met_when_patients_are_many() -> None:
    found = split_cases(EVERYBODY, {"test": 0.2, "val": 0.1}, seed=3)
    assert {split: len(part) for split, part in found.items()} == pytest.approx(
        {"train": 210, "val": 30, "test": 60}, abs=2
    )
    assert found == split_cases(dict(reversed(EVERYBODY.items())), {"test": 0.2, "val": 0.1}, seed=3)
    assert found != split_cases(EVERYBODY, {"test": 0.2, "val": 0.1}, seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_fasttrack_is_seventy_cases_of_whole_patients(seed: int) -> None:
    found = choose_cases(EVERYBODY, "all", "fasttrack", seed)
    assert len(found) == FASTTRACK_CASES == 70
    people = set(found.values())
    assert {case for case, who in EVERYBODY.items() if who in people} == set(found)


def test_case_sets_are_the_packages_own() -> None:
    everybody = {str(case): str(case) for case in range(1, 6389)}
    for name, expected in {"bis": vitaldb.caseids_bis, "tiva": vitaldb.caseids_tiva}.items():
        assert set(choose_cases(everybody, name, "full", 0)) == {str(case) for case in expected}
    with pytest.raises(UserError, match="none of the 1 cases is in the set 'tiva'"):
        choose_cases({"1": "1"}, "tiva", "full", 0)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_local_files_are_found_and_joined_with_the_clinical_table(tmp_path: Path) -> None:
    touch(tmp_path, "vital_files/0001.vital", "vital_files/0012.vital", "b/ward 7.vital", "b/notes.txt")
    assert set(local_files(tmp_path)) == {"1", "12", "ward 7"}
    patients, where = find_patients(tmp_path, None)
    assert patients == {"1": "case 1", "12": "case 12", "ward 7": "case ward 7"}
    assert where.startswith("unknown")
    table = tmp_path / "clinical_data.csv"
    table.write_text("caseid,subjectid,age\n1,5955,70\n12,5955,71\n13,1,20\n")
    with pytest.raises(UserError, match="does not list case ward 7"):
        find_patients(tmp_path, None)
    (tmp_path / "b" / "ward 7.vital").unlink()
    assert find_patients(tmp_path, None) == ({"1": "5955", "12": "5955"}, "clinical_data.csv")
    assert find_patients(None, table)[0] == {"1": "5955", "12": "5955", "13": "1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("", "no table with the columns"),
        ("caseid,age\n1,2\n", "no table with the columns"),
        ("caseid,subjectid\n", "one caseid and subjectid"),
        ("caseid,subjectid\n1,2\n1,3\n", "one caseid and subjectid"),
        ("caseid,subjectid\n1,\n", "one caseid and subjectid"),
        ("caseid,subjectid\n1,2,3,4\n5\n", "one caseid and subjectid|no table"),
    ],
)
def test_a_table_of_another_kind_is_one_line(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        find_patients(None, path)
    assert "\n" not in str(error.value)


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "0001.vital", "more/1.vital")
    with pytest.raises(UserError, match="both case 1"):
        local_files(tmp_path)


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_files_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.vital files|is no folder"):
        local_files(tmp_path / name)


def test_splits_are_read_as_written(tmp_path: Path) -> None:
    cases = split_cases(EVERYBODY, {"test": 0.2, "val": 0.1}, seed=3)
    Splits(cases, tmp_path, {"seed": 3}).write(tmp_path / "s.json")
    found = read_splits(tmp_path / "s.json")
    assert found.cases == cases
    assert list(found.cases["train"]) == sorted(cases["train"], key=int)
    assert found.source == tmp_path.resolve()
    assert found.about == {"seed": 3}


GOOD = {"dataset": "VitalDB", "source": None, "train": {"1": "a", "2": "a"}, "val": {"3": "b"}, "test": {}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "is no JSON"),
        (b"[" * 10**5, "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[]", "no splits of VitalDB"),
        ({"train": ["1"], "val": [], "test": []}, "no splits of VitalDB"),
        ({**GOOD, "train": ["1", "2"]}, "must say the patient"),
        ({**GOOD, "train": {"1": 7}}, "must say the patient"),
        ({**GOOD, "source": 7}, "must say the patient"),
        ({**GOOD, "val": {"3": "a"}}, "a is in both train and val"),
        ({**GOOD, "test": {"3": "c"}}, "case 3 is in both val and test"),
    ],
)
def test_splits_of_another_kind_are_one_line(content: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UserError, match=words) as error:
        read_splits(path)
    assert "\n" not in str(error.value)
