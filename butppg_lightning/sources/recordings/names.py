"""Which signal of a file is which channel: the names that monitors, wearables and data bases use, or the user's."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from butppg_lightning.console import quoted
from butppg_lightning.errors import UserError
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from pathlib import Path

TIME = "TIME"  # stands for a table's time column

_LEADS = "i iii avr avl avf v v1 v2 v3 v4 v5 v6"
_AXIS = "accel{0} acceleration{0} accelerometer{0} wristacc{0} a{0} accaxis{0} accelaxis{0} accelerationaxis{0}"
_AXIS += " accelerometeraxis{0} {0}acc {0}accel {0}acceleration {0}axis {0}axisacceleration"

# Names by channel in ranks, the best rank first: letters and digits only, lower case. A channel takes the first rank
# that a file has a name of; two names of that rank are ambiguous.
ALIASES = {
    # colours and numbers come last: which of several is right is the user's choice
    "PPG": (
        "ppg",
        "pleth plethysmogram photoplethysmogram photoplethysmograph photoplethysmography bvp"
        " ppgraw rawppg ppgsignal ppgvalue snuadcpleth spo2pleth plethspo2",
        "ppgred ppgr red ppggreen ppgg green ppgblue ppgb ppgir ppginfrared ir infrared ppg0 ppg1 ppg2 ppg3",
    ),
    # lead II before the others: it is the one encoders are pretrained on
    "ECG": (
        "ecg ekg",
        "ii leadii ecgii ekgii ecgleadii mlii snuadcecgii",
        "ecgraw rawecg ecgsignal ecgvalue",
        f"ecg0 ecg1 ecg2 ecg3 ekg1 ekg2 {_LEADS} mcl1 "
        + " ".join(f"{word}{lead}" for word in ("ecg", "lead", "ecglead") for lead in _LEADS.split()),
    ),
    **{f"ACC_{axis.upper()}": (f"acc{axis}", _AXIS.format(axis), axis) for axis in "xyz"},
    TIME: (
        "time timestamp datetime t",
        "times timesec timeseconds timems timeus timens timestamps timestampms timestampus timestampns ts tms"
        " elapsedtime elapsed seconds sec ms millis micros milliseconds microseconds unixtime unixtimestamp unix epoch"
        " epochms utc localtime date dateandtime",
    ),
}

_NONE = "none"
_SEVERAL = re.compile(r"^(.+)#([1-9]\d*)$")  # NAME#2: the second signal of that name
_PAIRS = re.compile(rf",(?=\s*(?:{'|'.join(ALIASES)})\s*=)", re.IGNORECASE)  # a comma within a name parts nothing
# a unit that follows the name without brackets; a letter alone may be a colour or a lead (ppg_g, ecg_v)
_BEHIND = (
    re.compile(r"^(.*acc.*?|[xyz])[\s_,/]+(m?g|milli-?g|m/s\^?2|m/s²|ms-?2|mps2)$", re.IGNORECASE),
    re.compile(
        r"^(.*(?:time|stamp|epoch|elapsed|unix).*?)[\s_,/]+(m?s|100ns|[uµn]s|secs?|seconds|min|minutes|h|hours|d|days|samples)$",
        re.IGNORECASE,
    ),
    re.compile(r"^(.*(?:ppg|pleth|bvp|ecg|ekg).*?)[\s_,/]+([mµu]v)$", re.IGNORECASE),
)
_OTHER_QUANTITY = re.compile(
    r"(m|milli)?(d(eg(rees?)?)?|rad(ians?)?|°)(/s(ec(ond)?)?|ps| s-1|/s\^-1)?|dps|rpm|[mµunμ]?t(esla)?|[mk]?gauss"
    r"|px|pixels?|[cmk]?m|[mµu]?v(olts?)?|%",
    re.IGNORECASE,
)
_CLOSES = {")": "(", "]": "["}
_LOOKS_LIKE = {"ACC_X": re.compile(r"acc", re.I), "ECG": re.compile(r"ecg|ekg", re.I)}


@dataclass(frozen=True)
class Selection:
    """What the user says about a file's signals."""

    channels: Mapping[str, str] = field(default_factory=dict)  # signal names; none leaves one out, others go by alias
    rates: Mapping[str, float] = field(default_factory=dict)  # sampling rates (Hz) by channel, or under "" for all
    acc_unit: str | None = None  # unit of acceleration (g, mg, m/s2), or None for what the file says
    time_unit: str | None = None  # unit of a time column of plain numbers, or None for what the file says
    decimal: str | None = None  # the decimal sign of a table, . or , or None for what its cells say
    partial: bool = False  # whether the file is one of several of a recording, so that a name may be in another

    def rate(self, channel: str) -> float | None:
        """Return the rate the user gives for a channel, or None."""
        return self.rates.get(channel, self.rates.get(channel.split("_")[0], self.rates.get("")))


def parse_channels(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``PPG=pleth,ECG=II`` (one argument or several).

    Examples:
        >>> parse_channels(["PPG=pleth,ecg=II"])
        {'PPG': 'pleth', 'ECG': 'II'}
    """
    found: dict[str, str] = {}
    for pair in (pair for argument in arguments for pair in _PAIRS.split(argument)):
        name, equals, source = pair.partition("=")
        name, source = name.strip().upper(), source.strip()
        if not equals or not source or name not in ALIASES:
            raise UserError(
                f"--channels '{pair}' is not CHANNEL=NAME-IN-THE-FILE with one of {', '.join((*CHANNELS, TIME))} "
                f"(CHANNEL={_NONE} leaves it out)"
            )
        if name in found:
            raise UserError(f"--channels names {name} twice: {found[name]} and {source}")
        found[name] = source
    return found


def parse_rates(text: str | None) -> dict[str, float]:
    """Read ``64`` or ``PPG=64,ACC=50,ECG=250`` (Hz).

    Examples:
        >>> parse_rates("PPG=64,ACC=50")
        {'PPG': 64.0, 'ACC': 50.0}
    """
    found: dict[str, float] = {}
    for pair in [] if text is None else text.split(","):
        name, equals, value = pair.strip().rpartition("=")
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        name = name.strip().upper()
        known = (*CHANNELS, "ACC") if equals else ("",)
        if name not in known or not 0 < rate < float("inf"):
            raise UserError(f"--fs '{pair}' is neither a rate in Hz (64) nor CHANNEL=RATE (PPG=64,ACC=50,ECG=250)")
        found[name] = rate
    return found


def split_unit(name: str) -> tuple[str, str]:
    """Part a name from the unit behind it, in brackets or (of acceleration, time and voltage) without.

    Examples:
        >>> split_unit("Acc X (m/(s^2))"), split_unit("acc_x_mg")
        (('Acc X', 'm/(s^2)'), ('acc_x', 'mg'))
        >>> split_unit("II")
        ('II', '')
    """
    name = name.strip().strip("'\"").strip()
    if name[-1:] in _CLOSES:
        begin, depth = len(name) - 1, 1
        while begin and depth:
            begin -= 1
            depth += (name[begin] in ")]") - (name[begin] in "([")
        if not depth and name[begin] == _CLOSES[name[-1]] and begin:
            base = name[:begin].strip().rstrip(",/").strip()
            return re.sub(r"^\[(.*)\]$", r"\1", base), name[begin + 1 : -1].strip()
    match = next(filter(None, (pattern.match(name) for pattern in _BEHIND)), None)
    return (match[1], match[2]) if match else (name, "")


def printable(name: str) -> str:
    r"""Return a name as it can stand in a line: white space collapsed, control characters dropped.

    Examples:
        >>> printable("  ECG\tII\x00 ")
        'ECG II'
    """
    return "".join(letter for letter in " ".join(name.split()) if letter.isprintable())


def match_channels(
    path: Path,
    names: Sequence[str],
    selection: Selection,
    *,
    timed: bool = False,
    known: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Find the channels among a file's printable signal names, or say what is missing or ambiguous (UserError).

    Names need not differ: ``NAME#2`` is the second signal of that name. ``known`` are positions that a device's format
    fixes, by channel; the user's choice goes before them. Returns positions in ``names`` by channel, in the order of
    the window contract, and under ``TIME`` the time column if one of the names may be that (``timed``).
    """
    plain = [plain_name(name) for name in names]
    wanted = (*CHANNELS, TIME) if timed else CHANNELS
    if not timed and TIME in selection.channels:
        raise UserError(f"--channels names a {TIME} column, but {path} is no table: it states its rates")
    asked = {
        channel: None if source.lower() == _NONE else _named(path, source, names, plain, selection.partial)
        for channel, source in selection.channels.items()
    }
    taken = set(asked.values())
    rows = [row for row in asked.values() if row is not None]
    if len(set(rows)) < len(rows):
        twice = next(row for row in rows if rows.count(row) > 1)
        several = " and ".join(channel for channel, row in asked.items() if row == twice)
        raise UserError(f"--channels gives '{names[twice]}' of {path} to {several}; a signal is one of them")
    found: dict[str, int] = {}
    for channel in wanted:
        row = asked[channel] if channel in asked else _by_alias(path, channel, names, plain, taken, known)
        if row is not None:
            found[channel] = row
    if not set(found) - {TIME}:
        near = next((name for name in names if name and not is_time(name)), "NAME")
        raise NoSignalError(
            f"{path}: no signal is known by its name; it has {listed(names)}; "
            f"say which is which: --channels {quoted(f'PPG={near}')}"
        )
    return found


class NoSignalError(UserError):
    """A file in which no signal is known by its name: of several files of a recording it may be left out."""


def overlooked(names: Sequence[str], channels: Container[str], selection: Selection) -> list[str]:
    """Return a note for each kind of channel that is absent though signals look like it by their names."""
    notes = []
    for channel, pattern in _LOOKS_LIKE.items():
        like = [name for name in names if pattern.search(name)]
        if like and channel not in channels and channel not in selection.channels:
            choice = quoted(f"{channel}={like[0]}")
            notes.append(f"{listed(like)}: not taken for {channel[:3]}, unless named (--channels {choice})")
    return notes


def known_names(names: Sequence[str]) -> int:
    """Return how many of the names are one that some channel or the time is known by."""
    return sum(any(plain_name(name) in rank.split() for ranks in ALIASES.values() for rank in ranks) for name in names)


def is_time(name: str) -> bool:
    """Return whether a name is one of time stamps."""
    return any(plain_name(name) in rank.split() for rank in ALIASES[TIME])


def _by_alias(
    path: Path,
    channel: str,
    names: Sequence[str],
    plain: Sequence[str],
    taken: Container[int | None],
    known: Mapping[str, int] | None,
) -> int | None:
    if known and channel in known:
        return None if known[channel] in taken else known[channel]
    for rank in ALIASES[channel]:
        rows = [row for row, name in enumerate(plain) if name in rank.split() and row not in taken]
        if rank in ("x", "y", "z"):  # of another sensor, where the unit says so
            rows = [row for row in rows if not _OTHER_QUANTITY.fullmatch(split_unit(names[row])[1])]
        if len(rows) > 1:
            candidates = [numbered(names, row) for row in rows]
            choice = quoted(f"{channel}={candidates[0]}")
            raise UserError(
                f"{path}: {channel} could be any of {', '.join(candidates)}; say which: --channels {choice}"
            )
        if rows:
            return rows[0]
    return None


def numbered(names: Sequence[str], row: int) -> str:
    """Return what ``--channels`` knows a signal by: its name, with its number if others have it too."""
    same = [other for other, name in enumerate(names) if name == names[row]]
    return names[row] if len(same) == 1 else f"{names[row]}#{same.index(row) + 1}"


def _named(path: Path, asked: str, names: Sequence[str], plain: Sequence[str], partial: bool) -> int | None:
    stripped = [split_unit(name)[0] for name in names]
    several = _SEVERAL.match(asked)
    tries = [(asked, 0)] + ([(several[1], int(several[2]))] if several else [])
    for wanted, number in tries:
        for candidates, text in ((list(names), wanted), (stripped, wanted), (list(plain), plain_name(wanted))):
            rows = [row for row, name in enumerate(candidates) if name == text]
            if len(rows) > 1 and not number:
                choices = ", ".join(numbered(candidates, row) for row in rows)
                raise UserError(f"{path} has {len(rows)} signals named '{asked}'; say which: {choices}")
            if rows and number <= len(rows):
                return rows[max(number, 1) - 1]
    if partial:
        return None
    near = difflib.get_close_matches(asked, stripped, n=1)
    hint = f"; the nearest is '{near[0]}'" if near else ""
    raise UserError(f"{path} has no signal '{asked}'{hint}; it has {listed(names)}")


def plain_name(name: str) -> str:
    """Return a name's letters and digits, in lower case and without a unit."""
    return re.sub(r"[^a-z0-9]", "", split_unit(name)[0].lower())


def listed(names: Sequence[str]) -> str:
    """Return the first dozen names in one line."""
    first = ", ".join(name[:40] or "(no name)" for name in names[:12]) or "none"
    return f"{first} and {len(names) - 12} more" if len(names) > 12 else first
