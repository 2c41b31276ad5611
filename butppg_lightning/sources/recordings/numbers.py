"""The numbers of a table of text: which sign is decimal, which one groups thousands, and columns of them.

The sign is decided by all cells of a file, never by the first: ``0,04`` and ``0.5`` decide it, ``1.017`` does not, for
it may be a thousand and seventeen. What no cell decides and would change the numbers' meaning is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import printable
from butppg_lightning.sources.recordings.recording import to_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

EMPTY = {"", "na", "nan", "null", "none", "-", "n/a", "#n/a", "--", "---", "?", ".", "*", "err", "error", "nodata"}
EMPTY |= {"no data", "missing", "undefined", "ovf", "overflow", "#div/0!", "#value!", "#num!", "#ref!", "#null!"}
_OTHER = {".": ",", ",": "."}
_SCALED = r"(?:[eE][-+]?\d+)?"
_BLANKS = r"[\s\u00a0\u202f'\u2019]"  # between thousands: 1 017, 1'017
_FIRST_BYTES = 2**16  # looked at before whole blocks are


def grouped(sign: str) -> str:
    """Return a pattern of numbers whose thousands ``sign`` groups, their decimal sign being the other one."""
    return rf"[-+]?[1-9]\d{{0,2}}(?:\{sign}\d{{3}})+(?:\{_OTHER[sign]}\d*)?{_SCALED}"


def decisive(sign: str) -> str:
    """Return a pattern of numbers in which ``sign`` can only be the decimal sign: 0,5 and 1.017,25 and 1.017.250."""
    group = rf"[-+]?[1-9]\d{{0,2}}\{sign}\d{{3}}$"
    groups = rf"[-+]?[1-9]\d{{0,2}}(?:(?:\{_OTHER[sign]}\d{{3}})+\{sign}\d*|(?:\{_OTHER[sign]}\d{{3}}){{2,}})"
    return rf"(?!{group})[-+]?(?:\d+\{sign}\d*|\{sign}\d+){_SCALED}|{groups}"


def find_decimal(
    path: Path, names: Sequence[str], separator: str, blocks: Iterable[tuple[int, bytes]], parse: Any
) -> tuple[str, str]:
    """Return the decimal sign of a table of text, and what is assumed if no cell decides it (else empty).

    A cell of another form than 1,017 decides it; a point is decimal where no cell has a comma.

    ``parse(block, line)`` returns a block's cells as text, a pandas DataFrame with columns named by position.

    Raises:
        UserError: If cells hold commas that may be decimal or group thousands, with the option that settles it.
    """
    seen: dict[int, tuple[bool, str]] = {}  # by column: whether a number under 1000 stands there; a cell with a comma
    mark = b'"' if separator == "," else b","  # without it no cell can hold a comma
    for line, whole in blocks:
        for block in (whole[:_FIRST_BYTES].rpartition(b"\n")[0], whole):
            if mark not in block:
                continue
            table = parse(block, line)
            for column in table.columns:
                cells = table[column].dropna().str.strip().str.replace(rf"(?<=\d){_BLANKS}(?=\d)", "", regex=True)
                for sign in ",.":
                    if cells.str.fullmatch(decisive(sign)).any():
                        return sign, ""
                grouping = cells[cells.str.fullmatch(grouped(","))]
                small, cell = seen.get(column, (False, ""))
                small = small or bool(cells.str.fullmatch(r"[-+]?\d{1,3}").any())
                seen[column] = (small, cell or (str(grouping.iloc[0]) if len(grouping) else ""))
    doubtful = {column: cell for column, (small, cell) in seen.items() if cell and small}
    if doubtful:
        column, cell = next(iter(doubtful.items()))
        raise UserError(_undecided(path, names[column], cell))
    commas = next(((names[column], cell) for column, (_, cell) in seen.items() if cell), None)
    return (".", "") if commas is None else (",", _assumed(*commas))


def _undecided(path: Path, name: str, cell: str) -> str:
    sign = "," if "," in cell else "."
    return (
        f"{path}: '{name}' holds {cell!r} beside whole numbers below 1000, so {sign!r} may be the decimal sign or "
        f"group thousands; say which sign is decimal: --decimal {sign} or --decimal {_OTHER[sign]}"
    )


class PointEvidence:
    """Whether a column's points are decimal, from its numbers: 1.017 beside 987 leaves it open, 0.5 does not."""

    def __init__(self) -> None:
        self._open = True
        self._pointed = False

    def look(self, numbers: Array) -> None:
        """Take the next numbers ``[T]``, read as if points were decimal."""
        if not self._open or not len(numbers):
            return
        size = np.abs(numbers[np.isfinite(numbers)].astype(np.float64))
        whole = size == np.floor(size)
        thousandths = np.minimum(size, 1000.0) * 1000
        as_group = (size >= 1) & (size < 1000) & (np.abs(thousandths - np.rint(thousandths)) < 1e-6)
        self._open = bool((as_group | whole).all() and (size[whole] < 1000).all())
        self._pointed |= bool((~whole).any())

    @property
    def decided(self) -> bool:
        """Whether a number shows that points are decimal."""
        return self._pointed and not self._open

    @property
    def doubtful(self) -> bool:
        """Whether points may group thousands: whole numbers are below 1000, and all others would be thousands."""
        return self._open and self._pointed


class NumberColumn:
    """Collects a table's numbers without its empty cells, which prevail where channels of other rates share it."""

    def __init__(self, path: Path, name: str, decimal: str = ".") -> None:
        self.path, self.name, self.points = path, name, PointEvidence()
        self.decimal = decimal
        self._values: list[Array] = []
        self._filled: list[tuple[int, Array]] = []

    def add(self, cells: Any) -> None:
        """Take the next cells, a pandas Series indexed by line number."""
        numbers = to_numbers(self.path, self.name, cells, self.decimal)
        self.points.look(numbers)
        values = to_samples(self.path, self.name, numbers)
        filled = ~np.isnan(values)
        self._values.append(values[filled])
        self._filled.append((len(filled), np.packbits(filled)))

    def take(self) -> tuple[Array, Array]:
        """Return the numbers, float32 without NaN, and which rows ``[T]`` they stand in; afterwards there are none."""
        filled = [np.unpackbits(packed, count=count).view(np.bool_) for count, packed in self._filled]
        values = joined(self._values, np.float32)
        self._filled = []
        return values, joined(filled, np.bool_)


def settle_points(path: Path, name: str, texts: Iterable[Any]) -> str:
    """Look at the text of a column whose points may group thousands: refuse it, or return what is assumed of it.

    The text decides where it has other digits behind a point than three (2.50). Whole numbers below 1000 beside it make
    the difference between 999 and 1.000 a step or a fall, so that is refused; else only the scale is open.
    """
    small, pointed = False, ""
    for cells in texts:
        text = cells.dropna().str.strip()
        points = text[text.str.contains(".", regex=False)]
        if not points.str.fullmatch(grouped(".")).all():
            return ""
        small = small or len(points) < len(text)
        pointed = pointed or (str(points.iloc[0]) if len(points) else "")
    if small and pointed:
        raise UserError(_undecided(path, name, pointed))
    return _assumed(name, pointed) if pointed else ""


def _assumed(name: str, cell: str) -> str:
    sign = "," if "," in cell else "."
    return f"'{name}' holds {cell!r} and the like only; {sign!r} is taken as the decimal sign (--decimal)"


def to_numbers(path: Path, name: str, cells: Any, decimal: str) -> Array:
    """Return cells (a pandas Series, numbers or text) as numbers; the first that is none is named by its line."""
    import pandas as pd

    if cells.dtype.kind in "iuf":
        return np.asarray(cells)
    text = cells.astype(str).str.strip()
    text = text.str.replace("\u2212", "-", regex=False)
    spaced = text.str.fullmatch(rf"[-+]?\d{{1,3}}(?:{_BLANKS}\d{{3}})+(?:\{decimal}\d*)?")
    text = text.where(~spaced, text.str.replace(_BLANKS, "", regex=True))
    groups = text.str.fullmatch(grouped(_OTHER[decimal]))
    text = text.where(~groups, text.str.replace(_OTHER[decimal], "", regex=False))
    foreign = text.str.contains(_OTHER[decimal], regex=False)
    plain = text.str.replace(decimal, ".", regex=False).where(~foreign)
    empty = cells.isna() | text.str.lower().isin(EMPTY)
    numbers = pd.to_numeric(plain.where(~empty), errors="coerce")
    bad = cells.index[numbers.isna() & ~empty]
    if len(bad):
        cell = str(cells[bad[0]])
        why = f", where {decimal!r} is the decimal sign" if foreign[bad[0]] and re.search(r"\d", cell) else ""
        raise UserError(f"{path}, line {bad[0]}: '{name}' holds {quoted(cell)}, which is no number{why}")
    return np.asarray(numbers, dtype=np.float64)


def joined(parts: list[Array], dtype: Any) -> Array:
    """Join arrays and let go of them."""
    whole = np.concatenate([np.empty(0, dtype), *parts])
    parts.clear()
    return whole


def quoted(cell: Any) -> str:
    """Return a cell as a message can show it."""
    return repr(printable(str(cell))[:40])
