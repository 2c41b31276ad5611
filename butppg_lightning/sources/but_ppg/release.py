"""A release on disk, however deep it was unpacked: its records and checksums, and its two tables of annotations."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from butppg_lightning.errors import UserError, first_line
from butppg_lightning.files import file_sha256

QUALITY_FILE = "quality-hr-ann.csv"  # record, quality (1 good, 0 poor) and the ECG's heart rate
INFO_FILE = "subject-info.csv"  # record, subject, site of the camera and kind of motion
CHECKSUM_FILE = "SHA256SUMS.txt"  # PhysioNet ships it with every release: a SHA-256 sum and a path on every line
NUMBERS = ("age", "height", "weight", "glycaemia", "spo2")  # of a subject, that the tables may give

_DEPTH = 4  # folders below the one named; a release unpacked beside another is at most this deep
_SIGNAL_FILE = re.compile(r"([0-9]{6})_(?:PPG|ECG|ACC)\.(?:hea|dat)")
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(.+)")
_SITES = {"0": "ear", "1": "finger"}
_RECORD = re.compile(r"[0-9]{6}")
_SAME = {"signalid": "id", "sex": "gender", "bloodpressure": "pressure"}


@dataclass(frozen=True)
class Release:
    """Where everything is."""

    quality_file: Path
    info_file: Path
    records: dict[str, Path]  # folder of each record that has signal files
    checksum_file: Path | None = None  # None when the release came without
    checksums: dict[Path, str] = field(default_factory=dict)  # the SHA-256 sums it lists, by absolute path

    def checksums_of(self, record: str) -> dict[str, str]:
        """Return the sums of a record's signal files, by file name."""
        folder = self.records[record]
        names = (f"{record}_{kind}{suffix}" for kind in ("PPG", "ECG", "ACC") for suffix in (".hea", ".dat"))
        return {name: self.checksums[folder / name] for name in names if folder / name in self.checksums}

    def describe(self, source: Path) -> dict[str, Any]:
        """Return for the manifest where the windows come from, and how many files were checked (None: no sums)."""
        tables = (self.quality_file, self.info_file)
        checked = None
        if self.checksum_file is not None:
            records = sum(len(self.checksums_of(record)) for record in self.records)
            checked = {
                "file": self.checksum_file.name,
                "sha256": file_sha256(self.checksum_file),
                "files_checked": records + sum(path in self.checksums for path in tables),
            }
        sums = {path.name: file_sha256(path) for path in tables}
        return {"folder": str(source), "sha256": sums, "checked_against": checked}


@dataclass(frozen=True)
class Annotation:
    """What the tables say about one record; unknown numbers are NaN and unknown words empty."""

    record: str  # six digits
    label: int | None  # 1 good, 0 poor, None when the table says neither
    heart_rate: float  # mean of the ECG, bpm
    site: str = ""  # of the camera: ear (front camera) or finger (rear camera)
    motion: str = ""  # the release's code, "0" at rest; several are joined as in "2;3"
    sex: str = ""  # F or M
    age: float = math.nan  # years
    height: float = math.nan  # cm
    weight: float = math.nan  # kg
    blood_pressure: str = ""  # as written, systolic/diastolic in mmHg
    glycaemia: float = math.nan  # mmol/l
    spo2: float = math.nan  # oxygen saturation, %

    @property
    def subject(self) -> str:
        """The subject: the first three digits of the record."""
        return self.record[:3]


def find_release(source: Path) -> Release:
    """Find the tables, the records and the checksums of a release; the sums of the two tables are checked.

    ``source`` is the folder it was unpacked into, or one up to three levels above; a UserError says what is missing, is
    there twice or differs from its checksum.
    """
    source = Path(source)
    if source.is_file():
        raise UserError(f"{source} is a file; unpack it and name the folder")
    if not source.is_dir():
        raise UserError(f"{source} does not exist; name the folder the BUT PPG release was unpacked into")
    tables: dict[str, list[Path]] = {QUALITY_FILE: [], INFO_FILE: [], CHECKSUM_FILE: []}
    records: dict[str, Path] = {}
    root = source.resolve()
    for name_of_folder, below, names in os.walk(root):
        folder = Path(name_of_folder)
        deep = len(folder.relative_to(root).parts) >= _DEPTH
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        for name in names:
            if name in tables:
                tables[name].append(folder / name)
            found = _SIGNAL_FILE.fullmatch(name)
            if found and records.setdefault(found[1], folder) != folder:
                raise UserError(
                    f"record {found[1]} is in {records[found[1]]} and in {folder}; name one release's folder"
                )
    quality_file = _only(tables[QUALITY_FILE], QUALITY_FILE, source)
    info_file = _only(tables[INFO_FILE], INFO_FILE, source)
    if not records:
        raise UserError(
            f"{source} holds no records; expected <id>/<id>_PPG.hea and .dat, for example 112001/112001_PPG.hea"
        )
    sums = _only(tables[CHECKSUM_FILE], CHECKSUM_FILE, source) if tables[CHECKSUM_FILE] else None
    release = Release(quality_file, info_file, records, sums, _read_checksums(sums) if sums else {})
    for path in (quality_file, info_file):
        if path in release.checksums and file_sha256(path) != release.checksums[path]:
            raise UserError(f"{path} does not match {CHECKSUM_FILE}; download it again")
    return release


def _only(paths: list[Path], name: str, source: Path) -> Path:
    if not paths:
        raise UserError(f"{source} has no {name}, here or below; name the folder the BUT PPG release was unpacked into")
    if len(paths) > 1:
        raise UserError(f"{source} holds {name} {len(paths)} times ({paths[0]}, {paths[1]}); name one release's folder")
    return paths[0]


def _read_checksums(path: Path) -> dict[Path, str]:
    sums = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        found = _SUM_LINE.fullmatch(line.strip())
        if found:
            sums[path.parent / found[2].removeprefix("./")] = found[1].lower()
        elif line.strip():
            raise UserError(f"{path} line {number} is no SHA-256 sum and path; download it again")
    return sums


def read_annotations(quality_file: Path, info_file: Path) -> dict[str, Annotation]:
    """Read both tables and join them on the record; the annotations are in the order of the records.

    A record that ``subject-info.csv`` does not list keeps its label, and nothing else is known of it.
    """
    quality = _read_table(quality_file, ("id", "quality", "hr"))
    info = _read_table(info_file, ("id",))
    return {record: _annotation(record, row, info.get(record, {})) for record, row in sorted(quality.items())}


def _annotation(record: str, quality: dict[str, str], info: dict[str, str]) -> Annotation:
    return Annotation(
        record=record,
        label={"0": 0, "1": 1}.get(quality["quality"].removesuffix(".0")),
        heart_rate=_number(quality["hr"]),
        site=_SITES.get(info.get("ear/finger", "").removesuffix(".0"), ""),
        motion=";".join(part.strip() for part in info.get("motion", "").split(";")),
        sex=info.get("gender", "").upper()[:1],
        blood_pressure=info.get("pressure", ""),
        **{key: _number(info.get(key, "")) for key in NUMBERS},
    )


def _read_table(path: Path, needed: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Rows by record; columns are known by their lower-case name without unit, blank or underscore."""
    lines = _lines(path)
    plain = [re.sub(r"[\s_]", "", name.partition("[")[0]).lower() for name in lines[0]] if lines else []
    columns = [_SAME.get(name, name) for name in plain]
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(lines[0])[:100] if lines else "nothing"
        raise UserError(f"{path} has no column '{missing[0].upper()}' (found: {found!r}); download it again")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        row = dict.fromkeys(columns, "") | dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        record = row["id"]
        if not _RECORD.fullmatch(record):
            raise UserError(f"{path} line {number}: {record[:20]!r} is no record; expected six digits")
        if record in rows:
            raise UserError(f"{path} line {number}: record {record} is there twice; keep one line of each")
        rows[record] = row
    return rows


def _lines(path: Path) -> list[list[str]]:
    try:
        # the files start with a byte-order mark
        text = path.read_bytes().decode("utf-8-sig")
        head = text.partition("\n")[0]
        delimiter = ";" if head.count(";") > head.count(",") else ","
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it comes with the release") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV table ({first_line(error)}); download it again") from None


def _number(text: str) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
