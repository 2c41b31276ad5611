"""Figures in words: percentages, intervals, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


_MINUS = "\u2212"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share of 0..1 as text.

    Examples:
        >>> percent(0.125), percent(None)
        ('12.5 %', 'undefined')
    """
    return "undefined" if share is None else f"{100 * share:.{digits}f} %"


def fraction(value: float | None, digits: int = 3) -> str:
    """Return a figure as text.

    Examples:
        >>> fraction(0.8389), fraction(None)
        ('0.839', 'undefined')
    """
    return "undefined" if value is None else f"{value:.{digits}f}"


def span(edges: Sequence[float] | None, digits: int = 3) -> str:
    """Return an interval as text, a true minus in front of negative numbers.

    Examples:
        >>> span([0.4, 0.75], 2)
        '0.40 to 0.75'
    """
    return "" if edges is None else " to ".join(f"{edge:.{digits}f}".replace("-", _MINUS) for edge in edges)


def signed(value: float, digits: int = 1) -> str:
    """Return a difference as text, with its sign.

    Examples:
        >>> signed(0.84)
        '+0.8'
    """
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    Examples:
        >>> counted(1, "subject"), counted(1200, "window")
        ('1 subject', '1,200 windows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Return words as an enumeration.

    Examples:
        >>> listed(["PPG", "ECG", "ACC_X"])
        'PPG, ECG and ACC_X'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
