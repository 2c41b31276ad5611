"""The release's two tables: quality and heart rate, and who was recorded how."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError, first_line

if TYPE_CHECKING:
    from pathlib import Path

QUALITY_FILE = "quality-hr-ann.csv"
"""Record, quality (1 good, 0 poor) and the ECG's heart rate."""
INFO_FILE = "subject-info.csv"
"""Record, subject, site of the camera and kind of motion."""

_SITES = {"0": "ear", "1": "finger"}
_RECORD = re.compile(r"[0-9]{6}")
_SAME = {"signalid": "id", "sex": "gender", "bloodpressure": "pressure"}


@dataclass(frozen=True)
class Annotation:
    """What the tables say about one record; unknown numbers are NaN and unknown words empty.

    Attributes:
        record: Six digits, of which the first three are the subject.
        label: 1 good, 0 poor, None when the table says neither.
        heart_rate: Mean heart rate of the ECG in bpm.
        site: Where the camera was: ``ear`` (front camera), ``finger`` (rear camera), or empty.
        motion: The release's code, "0" at rest; several are joined as in "2;3".
        sex: ``F``, ``M`` or empty.
        age: Years.
        height: Centimetres.
        weight: Kilograms.
        blood_pressure: As written, systolic/diastolic in mmHg.
        glycaemia: mmol/l.
        spo2: Oxygen saturation in percent.
    """

    record: str
    label: int | None
    heart_rate: float
    site: str = ""
    motion: str = ""
    sex: str = ""
    age: float = math.nan
    height: float = math.nan
    weight: float = math.nan
    blood_pressure: str = ""
    glycaemia: float = math.nan
    spo2: float = math.nan

    @property
    def subject(self) -> str:
        """The subject: the first three digits of the record."""
        return self.record[:3]


def read_annotations(quality_file: Path, info_file: Path) -> dict[str, Annotation]:
    """Read both tables and join them on the record.

    Args:
        quality_file: ``quality-hr-ann.csv``.
        info_file: ``subject-info.csv``; a record it does not list keeps its label, and nothing else is known of it.

    Returns:
        Annotations by record, in the order of the records.

    Raises:
        UserError: If a table is missing or no table of this kind.
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
        age=_number(info.get("age")),
        height=_number(info.get("height")),
        weight=_number(info.get("weight")),
        blood_pressure=info.get("pressure", ""),
        glycaemia=_number(info.get("glycaemia")),
        spo2=_number(info.get("spo2")),
    )


def _read_table(path: Path, needed: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Rows by record; columns are known by their lower-case name without unit, blank or underscore."""
    lines = _lines(path)
    columns = [_column(name) for name in lines[0]] if lines else []
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


def _column(name: str) -> str:
    plain = re.sub(r"[\s_]", "", name.partition("[")[0]).lower()
    return _SAME.get(plain, plain)


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
