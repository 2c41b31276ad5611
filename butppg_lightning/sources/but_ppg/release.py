"""A release on disk: where its tables, records and checksums are, however deep it was unpacked."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from butppg_lightning.errors import UserError
from butppg_lightning.sources.but_ppg.annotations import INFO_FILE, QUALITY_FILE

CHECKSUM_FILE = "SHA256SUMS.txt"
"""PhysioNet ships it with every release: a SHA-256 sum and a path on every line."""

_DEPTH = 4  # folders below the one named; a release unpacked beside another is at most this deep
_SIGNAL_FILE = re.compile(r"([0-9]{6})_(?:PPG|ECG|ACC)\.(?:hea|dat)")
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(.+)")


@dataclass(frozen=True)
class Release:
    """Where everything is.

    Attributes:
        quality_file: ``quality-hr-ann.csv``.
        info_file: ``subject-info.csv``.
        records: Folder of each record that has signal files.
        checksum_file: ``SHA256SUMS.txt``, or None when the release came without.
        checksums: The SHA-256 sums it lists, by absolute path.
    """

    quality_file: Path
    info_file: Path
    records: dict[str, Path]
    checksum_file: Path | None = None
    checksums: dict[Path, str] = field(default_factory=dict)

    def checksums_of(self, record: str) -> dict[str, str]:
        """Return the sums of a record's signal files, by file name."""
        folder = self.records[record]
        names = (f"{record}_{kind}{suffix}" for kind in ("PPG", "ECG", "ACC") for suffix in (".hea", ".dat"))
        return {name: self.checksums[folder / name] for name in names if folder / name in self.checksums}


def find_release(source: Path) -> Release:
    """Find the tables, the records and the checksums below a folder.

    Args:
        source: The folder the release was unpacked into, or one up to three levels above it.

    Returns:
        The release. The sums of the two tables have been checked.

    Raises:
        UserError: If the folder, a table or every record is missing, if two releases lie below it, or if a table
            differs from its checksum.
    """
    source = Path(source)
    if source.is_file():
        raise UserError(f"{source} is a file; unpack it and name the folder")
    if not source.is_dir():
        raise UserError(f"{source} does not exist; name the folder the BUT PPG release was unpacked into")
    tables: dict[str, list[Path]] = {QUALITY_FILE: [], INFO_FILE: [], CHECKSUM_FILE: []}
    records: dict[str, Path] = {}
    for folder, names in _folders(source.resolve()):
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
        if path in release.checksums and file_checksum(path) != release.checksums[path]:
            raise UserError(f"{path} does not match {CHECKSUM_FILE}; download it again")
    return release


def file_checksum(path: Path) -> str:
    """Return the SHA-256 sum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _folders(source: Path) -> list[tuple[Path, list[str]]]:
    found = []
    for folder, below, names in os.walk(source):
        deep = len(Path(folder).relative_to(source).parts) >= _DEPTH
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        found.append((Path(folder), names))
    return found


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
