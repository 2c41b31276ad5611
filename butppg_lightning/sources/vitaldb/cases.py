"""Which cases there are, whose they are, and who goes into which split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.console import suggestion
from butppg_lightning.errors import UserError, first_line
from butppg_lightning.files import write_json
from butppg_lightning.sources.splits import SPLITS
from butppg_lightning.sources.vitaldb.recording import NO_NETWORK, import_vitaldb, patient_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping

CASE_SETS = {
    "bis": "caseids_bis",
    "desflurane": "caseids_des",
    "sevoflurane": "caseids_sevo",
    "remifentanil": "caseids_rft20",
    "propofol": "caseids_ppf",
    "tiva": "caseids_tiva",
}
"""The vitaldb package's own lists of cases, by anaesthetic or monitor."""
FASTTRACK_CASES = 70  # cases of the small subset
CLINICAL_FILE = "clinical_data.csv"  # the table of cases and patients, as the release has it

_LAST_CASE = 6388
_DATASET = "VitalDB"


@dataclass(frozen=True)
class Splits:
    """Who is in which split."""

    cases: dict[str, dict[str, str]]  # split to case to patient
    source: Path | None  # folder of the `.vital` files, or None for the server
    about: dict[str, Any]  # how they were drawn; plain JSON

    def write(self, path: Path) -> None:
        """Write them as JSON."""
        source = None if self.source is None else str(self.source.resolve())
        write_json(path, {"dataset": _DATASET, **self.about, "source": source, **self.cases})


def local_files(source: Path) -> dict[str, Path]:
    """Find the `.vital` files of a folder, however deep, by case (the release's ``0001.vital`` is case 1)."""
    if not source.is_dir():
        raise UserError(f"{source} is no folder of .vital files")
    found: dict[str, Path] = {}
    for path in sorted(source.rglob("*.vital")):
        case = str(int(path.stem)) if path.stem.isascii() and path.stem.isdigit() else path.stem
        if found.setdefault(case, path) != path:
            raise UserError(f"{found[case]} and {path} are both case {case}; keep one of them")
    if not found:
        raise UserError(f"{source} holds no .vital files, here or below")
    return found


def find_patients(source: Path | None, clinical: Path | None) -> tuple[dict[str, str], str]:
    """Find the cases of a folder, or all of VitalDB (None): patient by case, and in words where the patients come from.

    ``clinical`` is a table with the columns caseid and subjectid; None for ``clinical_data.csv`` in the source (without
    one every case counts as a patient of its own), or without a source for the server's.
    """
    if source is None:
        return (_read_clinical(clinical), clinical.name) if clinical else (_download_clinical(), "VitalDB server")
    cases = list(local_files(source))
    nearby = source / CLINICAL_FILE
    table = clinical or (nearby if nearby.is_file() else None)
    if table is None:
        return {case: f"case {case}" for case in cases}, "unknown: every case counts as a patient"
    patients = _read_clinical(table)
    unknown = [case for case in cases if case not in patients]
    if unknown:
        raise UserError(f"{table} does not list case {unknown[0]} ({len(unknown)} of {len(cases)} files of {source})")
    return {case: patients[case] for case in cases}, table.name


def choose_cases(patients: Mapping[str, str], case_set: str, subset: str, seed: int) -> dict[str, str]:
    """Choose a set (``all`` or of CASE_SETS) of cases, with patients; ``fasttrack`` draws patients up to 70 cases."""
    chosen = dict(patients)
    if case_set != "all":
        wanted = {str(case) for case in getattr(import_vitaldb(), CASE_SETS[case_set])}
        chosen = {case: patient for case, patient in chosen.items() if case in wanted}
    if not chosen:
        raise UserError(f"none of the {len(patients)} cases is in the set '{case_set}'")
    if subset == "full":
        return chosen
    drawn: dict[str, str] = {}
    for cases in _shuffled(chosen, seed).values():
        if len(drawn) + len(cases) <= FASTTRACK_CASES:
            drawn |= dict.fromkeys(cases, chosen[cases[0]])
    return drawn


def split_cases(patients: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, dict[str, str]]:
    """Deal patients out at random with all their cases: val and test by shares, at least one each; train the rest."""
    owned = _shuffled(patients, seed)
    wanted = {split: share * len(patients) for split, share in shares.items() if share > 0}
    if len(owned) <= len(wanted):
        raise UserError(f"{len(owned)} patients cannot be split into {len(wanted) + 1} parts without sharing one")
    splits: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    waiting = list(owned.items())
    for position, (split, target) in enumerate(wanted.items()):
        needed_later = len(wanted) - position  # a patient for each split to come, train among them
        while len(waiting) > needed_later and (not splits[split] or len(splits[split]) + 0.5 < target):
            patient, cases = waiting.pop()
            splits[split] |= dict.fromkeys(cases, patient)
    for patient, cases in waiting:
        splits["train"] |= dict.fromkeys(cases, patient)
    return {split: dict(sorted(cases.items(), key=lambda item: _order(item[0]))) for split, cases in splits.items()}


def read_splits(path: Path) -> Splits:
    """Read what :meth:`Splits.write` wrote; nobody may be in two splits."""
    make = suggestion("prepare vitaldb-splits --output", path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it with: {make}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({first_line(error)}); make it with: {make}") from None
    if not isinstance(content, dict) or content.pop("dataset", None) != _DATASET:
        raise UserError(f"{path} holds no splits of VitalDB; make them with: {make}")
    cases = {split: content.pop(split, None) for split in SPLITS}
    source = content.pop("source", None)
    tables = all(
        isinstance(part, dict) and all(isinstance(who, str) for who in part.values()) for part in cases.values()
    )
    if not tables or not isinstance(source, str | None):
        raise UserError(f"{path}: train, val and test must say the patient of each case; make them with: {make}")
    owners: dict[str, str] = {}
    for split, part in cases.items():
        for who in {*part.values(), *(f"case {case}" for case in part)}:
            if owners.setdefault(who, split) != split:
                raise UserError(f"{path}: {who} is in both {owners[who]} and {split}; make them with: {make}")
    return Splits(cases, None if source is None else Path(source), content)


def _shuffled(patients: Mapping[str, str], seed: int) -> dict[str, list[str]]:
    """Cases by patient, patients in random order, whatever order they came in."""
    owned: dict[str, list[str]] = {}
    for case in sorted(patients, key=_order):
        owned.setdefault(patients[case], []).append(case)
    names = sorted(owned)
    return {names[row]: owned[names[row]] for row in np.random.default_rng(seed).permutation(len(names))}


def _order(case: str) -> tuple[int, str]:
    return (int(case), "") if case.isascii() and case.isdigit() else (_LAST_CASE + 1, case)


def _read_clinical(path: Path) -> dict[str, str]:
    import pandas

    try:
        table = pandas.read_csv(path, usecols=["caseid", "subjectid"])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no table with the columns caseid and subjectid ({first_line(error)})") from None
    return _patients_of(table, str(path))


def _download_clinical() -> dict[str, str]:
    vitaldb = import_vitaldb()
    try:
        with patient_sockets():
            # an empty list of cases, which should mean all, gives an empty table
            table = vitaldb.load_clinical_data(list(range(1, _LAST_CASE + 1)), ["caseid", "subjectid"])
    except OSError as error:
        raise UserError(f"VitalDB cannot be reached ({getattr(error, 'reason', error)}); {NO_NETWORK}") from error
    return _patients_of(table, "the server's table of cases")


def _patients_of(table: Any, where: str) -> dict[str, str]:
    if table.empty or table.isna().to_numpy().any() or table["caseid"].duplicated().any():
        raise UserError(f"{where} must have one caseid and subjectid on each line, and each case once")
    return {str(case): str(patient) for case, patient in zip(table["caseid"], table["subjectid"], strict=True)}
