"""Times as people read them: ticks of an axis, moments, spans."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datetime import datetime

_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800)
_MOST_TICKS = 13


def time_ticks(end: float, start_time: datetime | None) -> tuple[list[float], list[str], str]:
    """Return positions (s), labels and name of a time axis: the clock where it is known, else the time elapsed.

    Examples:
        >>> time_ticks(3600, None)[1][:3]
        ['0:00', '0:05', '0:10']
        >>> time_ticks(86400, None)[1][-1]
        '24:00'
    """
    step = next((step for step in _TICKS if end / step <= _MOST_TICKS), 86_400 * max(1, round(end / 86_400 / 10)))
    offset = 0.0
    if start_time is not None:
        midnight = start_time.replace(hour=0, minute=0, second=0, microsecond=0)
        offset = (start_time - midnight).total_seconds()
    ticks = np.arange(np.ceil(offset / step), np.floor((end + offset) / step + 1e-9) + 1) * step - offset
    with_seconds = step < 60
    if start_time is None:
        parts = [divmod(round(tick), 60 if with_seconds else 3600) for tick in ticks.tolist()]
        labels = [f"{whole}:{rest if with_seconds else rest // 60:02d}" for whole, rest in parts]
        return ticks.tolist(), labels, f"time since the recording began ({'min:s' if with_seconds else 'h:min'})"
    form = "%H:%M:%S" if with_seconds else "%H:%M"
    moments = [start_time + timedelta(seconds=round(tick, 3)) for tick in ticks.tolist()]
    labels = [moment.strftime("%d %b" if end > 86_400 and moment.hour == 0 else form) for moment in moments]
    zone = f" {start_time.strftime('%Z')}" if start_time.tzinfo else ""
    return ticks.tolist(), labels, f"time of day{zone}; the recording begins {start_time:%Y-%m-%d %H:%M:%S}"


def clock(seconds: float) -> str:
    """Return a moment after the start.

    Examples:
        >>> clock(3725.2)
        '1:02:05'
    """
    minutes, rest = divmod(round(float(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def span(seconds: float) -> str:
    """Return a length of time in the unit that suits it.

    Examples:
        >>> span(50), span(930), span(9360)
        ('50 s', '15.5 min', '2.6 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
