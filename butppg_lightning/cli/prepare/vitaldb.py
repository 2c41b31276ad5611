"""`butppg prepare vitaldb-splits` and `vitaldb-windows`: VitalDB cases → splits by patient → windows to pretrain on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from butppg_lightning.cli.checks import require_at_least
from butppg_lightning.cli.prepare.splits import MANIFEST_FILE, plain_options, write_manifest
from butppg_lightning.console import print_table, suggestion
from butppg_lightning.errors import UserError
from butppg_lightning.files import refuse_existing
from butppg_lightning.sources.parallel import usable_cores
from butppg_lightning.sources.splits import SPLITS, check_shares
from butppg_lightning.sources.vitaldb.cases import (
    FASTTRACK_CASES,
    Splits,
    choose_cases,
    find_patients,
    local_files,
    read_splits,
    split_cases,
)
from butppg_lightning.sources.vitaldb.recording import import_vitaldb
from butppg_lightning.sources.vitaldb.windowing import REASONS, Gate
from butppg_lightning.sources.vitaldb.work import Case, Work, summary


def vitaldb_splits(
    *,
    output: Path,
    source: Path | None = None,
    clinical: Path | None = None,
    subset: Literal["fasttrack", "full"] = "full",
    case_set: Literal["all", "bis", "desflurane", "sevoflurane", "remifentanil", "propofol", "tiva"] = "all",
    val_share: float = 0.15,
    test_share: float = 0.15,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Deal the cases of VitalDB (or of a folder of .vital files) out to train, val and test, by patient.

    Args:
        output: The JSON file to write.
        source: Folder of .vital files; without it, the server's.
        clinical: Table with caseid and subjectid; without it, clinical_data.csv in --source, or the server's.
        subset: fasttrack: 70 cases; full: all.
        case_set: One of the vitaldb package's lists of cases.
        val_share: Share of the cases for validation.
        test_share: Share of the cases for the test.
        seed: Seed of the draw.
        overwrite: Replace a file that is there.

    Raises:
        UserError: If an option is wrong, there are too few patients, or the server cannot be reached.

    Example:
        butppg prepare vitaldb-splits --subset fasttrack --output data/vitaldb_splits.json
    """
    asked = {"subset": subset, "case_set": case_set, "seed": seed, "val_share": val_share, "test_share": test_share}
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file, for example {output / 'splits.json'}")
    refuse_existing([output], overwrite)
    check_shares(val_share, test_share, seed)
    patients, patients_from = find_patients(source, clinical)
    chosen = choose_cases(patients, case_set, subset, seed)
    cases = split_cases(chosen, {"test": test_share, "val": val_share}, seed)
    Splits(cases, source, {**asked, "patients": patients_from}).write(output)
    rows = [(split, f"{len(part):,}", f"{len(set(part.values())):,}") for split, part in cases.items()]
    print_table(f"Splits in {output}", ("split", "cases", "patients"), rows)
    print(f"patients: {patients_from}")
    if patients_from.startswith("unknown"):
        print("a patient with several cases may be in several splits; name the table of cases: --clinical FILE.csv")
    if subset == "fasttrack" and len(chosen) < FASTTRACK_CASES:
        print(f"fasttrack is {FASTTRACK_CASES} cases, but there are only {len(chosen)}")
    print(f"\nnext: {suggestion('prepare vitaldb-windows --splits', output, '--output', 'data/vitaldb_windows')}")


def vitaldb_windows(
    *,
    splits: Path,
    output: Path,
    source: Path | None = None,
    store: Literal["auto", "always", "never"] = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    workers: int = 0,
    overwrite: bool = False,
    **gate: Any,
) -> None:
    """Turn VitalDB cases into windows of PPG and ECG, 10 s at 125 Hz, and keep those of good quality.

    Args:
        splits: What prepare vitaldb-splits wrote.
        output: Folder for the windows and manifest.json.
        source: Folder of .vital files; without it the splits' own, or the server.
        store: Write a store instead of an npz file; auto: from 50,000 windows on, or with float16.
        dtype: Of a store; float16 takes half the disk.
        workers: Processes; 0: one for each core.
        overwrite: Replace windows that are there.
        **gate: Options of Gate.

    Raises:
        UserError: If an option is wrong, no window passes, or the server cannot be reached.
        StoppedError: If the user interrupts it; the same command goes on.

    Example:
        butppg prepare vitaldb-windows --splits data/vitaldb_splits.json --output data/vitaldb_windows
    """
    asked = plain_options({**locals()}, gate)
    limits = Gate(**gate)
    require_at_least(0, workers=workers)
    if store == "never" and dtype == "float16":
        raise UserError("--dtype float16 is a form of the store; drop --store never, or take --dtype float32")
    import_vitaldb()
    found = read_splits(splits)
    places = _places(found, source)
    work = Work(output, places, found.cases, limits, dtype)
    existing = [output / MANIFEST_FILE, *(output / f"{split}_windows{end}" for split in SPLITS for end in work.ENDINGS)]
    refuse_existing(existing, overwrite or work.begun)
    work.begin(anew=overwrite)
    cases = work.run(workers or usable_cores())
    counts = {split: summary(part) for split, part in cases.items()}
    if not counts["train"]["windows"]:
        work.discard()
        raise UserError(f"no window to train on: {_why_none(cases['train'], counts['train'])}")
    write_manifest(output, "vitaldb-windows", {"options": asked, "splits": counts, "cases": cases})
    work.finish(store)
    _report(cases, counts, output)


def _places(found: Splits, source: Path | None) -> dict[str, Path | int | str]:
    """Say where each case is to be read: a file, a number of the server's, or why nowhere."""
    source = source or found.source
    cases = [case for part in found.cases.values() for case in part]
    if source is None:
        named = [case for case in cases if not (case.isascii() and case.isdigit())]
        if named:
            raise UserError(f"case {named[0]} is no number of VitalDB's; name the folder of the files: --source DIR")
        return {case: int(case) for case in cases}
    files = local_files(source)
    if not set(files) & set(cases):
        raise UserError(f"{source} holds none of the {len(cases)} cases; name the folder of their files: --source DIR")
    return {case: files.get(case, f"has no file in {source}") for case in cases}


def _why_none(cases: list[Case], counts: dict[str, Any]) -> str:
    first = next((f" ({case['case']} {case['unusable']})" for case in cases if case["unusable"]), "")
    reasons = [f"{count} for {reason}" for reason, count in counts["left_out"].items() if count]
    return f"{counts['unusable_cases']} of {counts['cases']} cases are unusable{first}" + (
        f", and windows were left out: {', '.join(reasons)}; lower --min_sqi or --min_ecg_sqi" if reasons else ""
    )


def _report(cases: dict[str, list[Case]], counts: dict[str, dict[str, Any]], output: Path) -> None:
    named = {"cases": "cases", "  unusable": "unusable_cases", "patients with windows": "patients"}
    lines = [(name, *(f"{part[key]:,}" for part in counts.values())) for name, key in named.items()]
    for reason in REASONS:
        lines.append((f"left out: {reason}", *(f"{part['left_out'][reason]:,}" for part in counts.values())))
    lines.append(("windows", *(f"{part['windows']:,}" for part in counts.values())))
    print_table(f"Windows in {output}", ("", *counts), lines)
    unusable = [case for part in cases.values() for case in part if case["unusable"]]
    for case in unusable[:3]:
        print(f"unusable: case {case['case']} {case['unusable']}")
    print(f"{output / MANIFEST_FILE} lists what was left out of every case and why")
    for split, part in counts.items():
        if part["cases"] and not part["windows"]:
            print(f"{split} has no windows, so no file")
    following = suggestion("pretrain --config pretrain.yaml --data.root", output, "--output_dir", "runs/pretrained")
    print(f"\nnext: {following}")
