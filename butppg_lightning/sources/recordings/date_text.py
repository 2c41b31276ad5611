"""Dates and times of day in the spellings that tables have, as text that pandas reads without a doubt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.sources.recordings.numbers import EMPTY

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

_CELLS_LOOKED_AT = 1000  # of a block, which tell dates from numbers
_DATE = re.compile(r"\d:\d|\d/\d+/\d|\d-\d\d?-|\d\.\d\d?\.\d{4}|\dT\d")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def as_iso(text: Any) -> Any:
    """Return dates in the spellings that leave no doubt as ISO text: 2024/01/31, 31.1.2024, 10:00:00:040, UTC."""
    text = text.str.replace(r"(\d:\d\d:\d\d)[,:](\d+)", r"\1.\2", regex=True)
    text = text.str.replace(r"(?<=\d)\s*\[[A-Za-z_/+-]+\]$", "", regex=True)  # Java names the zone once more
    text = text.str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    if text.str.contains("[A-Za-z]{3}", regex=True).any():  # 31-Jan-2024, as MATLAB writes
        day = rf"^(\d\d?)[- ]({'|'.join(_MONTHS)})[a-z]*[- ](\d{{4}})"
        text = text.str.replace(
            day, lambda m: f"{m[3]}-{_MONTHS.index(m[2].title()) + 1:02d}-{m[1]:0>2}", regex=True, flags=re.IGNORECASE
        )
    text = text.str.replace(r"^(\d{4})/(\d\d?)/(\d\d?)", r"\1-\2-\3", regex=True)
    text = text.str.replace(r"^(\d\d?)\.(\d\d?)\.(\d{4}),?", r"\3-\2-\1", regex=True)
    return text.str.replace(r"-(\d)(?=-|[T ]|$)", r"-0\1", regex=True)


def time_of_day(text: Any) -> tuple[Any, bool]:
    """Return times of day, a Series of Timedelta, and whether dates that are not understood stand before them."""
    import pandas as pd

    parts = as_iso(text).str.extract(r"^(.*?[\sT])?(\d+:\d\d(?::\d\d(?:\.\d+)?)?)\s*(?:([AaPp])\.?[Mm]\.?)?(\s+\S.*)?$")
    clock = parts[1].str.replace(r"^(\d+:\d\d)$", r"\1:00", regex=True)
    found = pd.to_timedelta(clock, errors="coerce")
    half = pd.Timedelta(hours=12)
    afternoon, morning = parts[2].str.lower() == "p", parts[2].str.lower() == "a"
    found = found.where(~(afternoon & (found < half)), found + half)
    found = found.where(~(morning & (found >= half)), found - half)
    return found, bool(parts[[0, 3]].notna().any(axis=None))


def compact_dates(numbers: Array) -> bool:
    """Return whether numbers are dates such as 20240131221500, whose minutes have 60 and whose hours 6,000."""
    whole = np.floor(numbers[np.isfinite(numbers)])
    if not len(whole) or not ((whole > 1.9e13) & (whole < 2.2e13)).all():
        return False
    limits = ((1e8, 12), (1e6, 31), (1e4, 23), (1e2, 59), (1, 59))
    return all(bool((whole // size % 100 <= most).all()) for size, most in limits)


def mostly_dates(cells: Any) -> bool:
    """Return whether cells, a pandas Series, are dates or times of day rather than numbers."""
    if cells.dtype.kind in "iufM":
        return bool(cells.dtype.kind == "M")
    some = cells.iloc[:: 1 + len(cells) // _CELLS_LOOKED_AT]
    if some.isna().any():
        some = cells.dropna().iloc[:: 1 + len(cells) // _CELLS_LOOKED_AT]
    some = some.astype(str).str.strip()
    some = some[~some.str.lower().isin(EMPTY)]
    return bool(some.str.contains(_DATE).sum() * 2 > len(some))
