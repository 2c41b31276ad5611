"""`butppg prepare vitaldb-splits` and `vitaldb-windows`: VitalDB cases → splits by patient → windows to pretrain on."""

from __future__ import annotations

import shlex
from pathlib import Path

from butppg_lightning.cli.parser import OneLineErrors, command_parser, parse
from butppg_lightning.cli.prepare.vitaldb_work import SplitReport, Work
from butppg_lightning.console import print_table
from butppg_lightning.errors import UserError
from butppg_lightning.files import write_json
from butppg_lightning.sources.parallel import usable_cores
from butppg_lightning.sources.vitaldb.cases import (
    CASE_SETS,
    FASTTRACK_CASES,
    SPLITS,
    Splits,
    choose_cases,
    find_patients,
    local_files,
    read_splits,
    split_cases,
)
from butppg_lightning.sources.vitaldb.recording import import_vitaldb
from butppg_lightning.sources.vitaldb.windowing import REASONS, Gate
from butppg_lightning.version import __version__

MANIFEST_FILE = "manifest.json"
"""What was written, and what was left out and why."""


def splits(arguments: list[str]) -> None:
    """Deal the cases of VitalDB out to train, val and test, by patient.

    Args:
        arguments: The words after ``butppg prepare vitaldb-splits``.

    Raises:
        UserError: If an option is wrong, there are too few patients, or the server cannot be reached.
    """
    options = parse(_splits_parser(), arguments)
    output: Path = options.output
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file, for example {output / 'splits.json'}")
    if output.exists() and not options.overwrite:
        raise UserError(f"{output} exists; choose another --output, or replace it with --overwrite")
    val, test = options.val_share, options.test_share
    if val < 0 or test < 0 or val + test >= 1:
        raise UserError(f"--val_share {val:g} and --test_share {test:g} must be at least 0 and leave some to train on")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; it must be 0 or more")
    patients, patients_from = find_patients(options.source, options.clinical)
    chosen = choose_cases(patients, options.case_set, options.subset, options.seed)
    cases = split_cases(chosen, {"test": test, "val": val}, options.seed)
    asked = {key: getattr(options, key) for key in ("subset", "case_set", "seed", "val_share", "test_share")}
    Splits(cases, options.source, {**asked, "patients": patients_from}).write(output)
    rows = [(split, f"{len(part):,}", f"{len(set(part.values())):,}") for split, part in cases.items()]
    print_table(f"Splits in {output}", ("split", "cases", "patients"), rows)
    print(f"patients: {patients_from}")
    if patients_from.startswith("unknown"):
        print("a patient with several cases may be in several splits; name the table of cases: --clinical FILE.csv")
    if options.subset == "fasttrack" and len(chosen) < FASTTRACK_CASES:
        print(f"fasttrack is {FASTTRACK_CASES} cases, but there are only {len(chosen)}")
    print(f"\nnext: butppg prepare vitaldb-windows --splits {shlex.quote(str(output))} --output data/vitaldb_windows")


def windows(arguments: list[str]) -> None:
    """Cut the cases of each split into windows.

    Args:
        arguments: The words after ``butppg prepare vitaldb-windows``.

    Raises:
        UserError: If an option is wrong, no window passes, or the server cannot be reached.
        StoppedError: If the user interrupts it; the same command goes on.
    """
    options = parse(_windows_parser(), arguments)
    output: Path = options.output
    gate = Gate(options.min_sqi, options.min_ecg_sqi, options.min_cycles, options.max_gap, options.max_windows_per_case)
    if options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must be 0 (one for each core) or more")
    if options.store == "never" and options.dtype == "float16":
        raise UserError("--dtype float16 is a form of the store; drop --store never, or take --dtype float32")
    import_vitaldb()
    found = read_splits(options.splits)
    places = _places(found, options.source)
    work = Work(output, places, found.cases, gate, options.dtype)
    existing = [output / MANIFEST_FILE, *(output / f"{split}_windows{end}" for split in SPLITS for end in work.ENDINGS)]
    existing = [path for path in existing if path.exists()]
    if existing and not options.overwrite and not work.begun:
        raise UserError(f"{existing[0]} exists; choose another --output, or replace it with --overwrite")
    work.begin(anew=options.overwrite)
    reports = work.run(options.workers or usable_cores())
    if not reports["train"].windows:
        work.discard()
        raise UserError(f"no window to train on: {_why_none(reports['train'])}")
    manifest = {
        "written_by": f"butppg_lightning {__version__}, prepare vitaldb-windows",
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "splits": {split: report.summary() for split, report in reports.items()},
        "cases": {split: report.cases for split, report in reports.items()},
    }
    write_json(output / MANIFEST_FILE, manifest)
    work.finish(options.store)
    _tell(reports, output)


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


def _why_none(report: SplitReport) -> str:
    told = [f"{case['case']} {case['unusable']}" for case in report.cases if case.get("unusable")]
    reasons = [f"{count} for {reason}" for reason, count in report.left_out.items() if count]
    return f"{len(told)} of {len(report.cases)} cases are unusable{f' ({told[0]})' if told else ''}" + (
        f", and windows were left out: {', '.join(reasons)}; lower --min_sqi or --min_ecg_sqi" if reasons else ""
    )


def _tell(reports: dict[str, SplitReport], output: Path) -> None:
    lines: list[tuple[str, ...]] = [
        ("cases", *(f"{len(report.cases):,}" for report in reports.values())),
        ("  unusable", *(f"{report.unusable:,}" for report in reports.values())),
        ("patients with windows", *(f"{len(report.patients):,}" for report in reports.values())),
        *((f"left out: {reason}", *(f"{part.left_out[reason]:,}" for part in reports.values())) for reason in REASONS),
        ("windows", *(f"{report.windows:,}" for report in reports.values())),
    ]
    print_table(f"Windows in {output}", ("", *reports), lines)
    told = [
        (case["case"], case["unusable"]) for report in reports.values() for case in report.cases if case["unusable"]
    ]
    for case, reason in told[:3]:
        print(f"unusable: case {case} {reason}")
    print(f"{output / MANIFEST_FILE} tells what was left out of every case and why")
    empty = [split for split, report in reports.items() if report.cases and not report.windows]
    for split in empty:
        print(f"{split} has no windows, so no file")
    folder = shlex.quote(str(output))
    print(f"\nnext: butppg pretrain --config pretrain.yaml --data.root {folder} --output_dir runs/pretrained")


def _splits_parser() -> OneLineErrors:
    parser = command_parser(
        "prepare vitaldb-splits",
        "Deal the cases of VitalDB (or of a folder of .vital files) out to train, val and test, by patient.",
        "butppg prepare vitaldb-splits --subset fasttrack --output data/vitaldb_splits.json",
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--source", type=Path, default=None, help="folder of .vital files; without it, the server's")
    parser.add_argument(
        "--clinical",
        type=Path,
        default=None,
        help="table with caseid and subjectid; without it, clinical_data.csv in --source, or the server's",
    )
    parser.add_argument(
        "--subset", choices=("fasttrack", "full"), default="full", help=f"fasttrack: {FASTTRACK_CASES} cases; full: all"
    )
    parser.add_argument(
        "--case_set", choices=("all", *CASE_SETS), default="all", help="one of the vitaldb package's lists of cases"
    )
    parser.add_argument("--val_share", type=float, default=0.15, help="share of the cases for validation")
    parser.add_argument("--test_share", type=float, default=0.15, help="share of the cases for the test")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace a file that is there")
    return parser


def _windows_parser() -> OneLineErrors:
    parser = command_parser(
        "prepare vitaldb-windows",
        "Cut VitalDB cases into windows of PPG and ECG, 10 s at 125 Hz, and keep those of good quality.",
        "butppg prepare vitaldb-windows --splits data/vitaldb_splits.json --output data/vitaldb_windows",
    )
    gate = Gate()
    parser.add_argument("--splits", type=Path, required=True, help="what prepare vitaldb-splits wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the windows and manifest.json")
    parser.add_argument(
        "--source", type=Path, default=None, help="folder of .vital files; without it the splits' own, or the server"
    )
    parser.add_argument(
        "--min_sqi",
        type=float,
        default=gate.min_sqi,
        help="least mean correlation of a PPG's beats with their template (Orphanidou 2015: 0.86); -1 switches it off",
    )
    parser.add_argument(
        "--min_ecg_sqi", type=float, default=gate.min_ecg_sqi, help="the same for the ECG (Orphanidou 2015: 0.66)"
    )
    parser.add_argument(
        "--min_cycles", type=int, default=gate.min_cycles, help="least whole cardiac cycles of a window"
    )
    parser.add_argument(
        "--max_gap",
        type=float,
        default=gate.max_gap,
        help="longest gap, in seconds, bridged by a straight line (at most 5 % of a window altogether)",
    )
    parser.add_argument(
        "--max_windows_per_case",
        type=int,
        default=gate.max_windows_per_case,
        help="most windows of a case, spread evenly over it; 0 for all",
    )
    parser.add_argument(
        "--store",
        choices=("auto", "always", "never"),
        default="auto",
        help=f"write a store instead of an npz file; auto: from {Work.STORE_FROM:,} windows on, or with float16",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of a store; float16 takes half the disk"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one for each core")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace windows that are there")
    return parser
