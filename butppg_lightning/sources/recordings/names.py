"""Which signal of a file is which channel: the names that monitors, wearables and data bases use, or the user's."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
        " elapsedtime elapsed seconds sec ms millis milliseconds unixtime unixtimestamp unix epoch epochms utc"
        " localtime date dateandtime",
    ),
}

_NONE = "none"
_WITH_UNIT = re.compile(r"^\[?(.*?)\]?\s*[\(\[]([^\(\)\[\]]*)[\)\]]$")


@dataclass(frozen=True)
class Selection:
    """What the user says about a file's signals."""

    channels: Mapping[str, str] = field(default_factory=dict)  # signal names; none leaves one out, others go by alias
    rates: Mapping[str, float] = field(default_factory=dict)  # sampling rates (Hz) by channel, or under "" for all
    acc_unit: str | None = None  # unit of acceleration (g, mg, m/s2), or None for what the file says

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
    for pair in (pair for argument in arguments for pair in argument.split(",")):
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
    """Part a name from the unit in brackets behind it.

    Examples:
        >>> split_unit("Acc X (m/s^2)")
        ('Acc X', 'm/s^2')
        >>> split_unit("II")
        ('II', '')
    """
    name = name.strip().strip("'\"").strip()
    match = _WITH_UNIT.match(name)
    return (match[1].strip(), match[2].strip()) if match else (name, "")


def printable(name: str) -> str:
    r"""Return a name as it can stand in a line: white space collapsed, control characters dropped.

    Examples:
        >>> printable("  ECG\tII\x00 ")
        'ECG II'
    """
    return "".join(letter for letter in " ".join(name.split()) if letter.isprintable())


def match_channels(path: Path, names: Sequence[str], selection: Selection, *, timed: bool = False) -> dict[str, int]:
    """Find the channels among a file's printable signal names, or say what is missing or ambiguous (UserError).

    Returns positions in ``names`` by channel, in the order of the window contract, and under ``TIME`` the time column
    if one of the names may be that (``timed``).
    """
    plain = [_plain(name) for name in names]
    wanted = (*CHANNELS, TIME) if timed else CHANNELS
    if not timed and TIME in selection.channels:
        raise UserError(f"--channels names a {TIME} column, but {path} is no table: it states its rates")
    found: dict[str, int] = {}
    for channel in wanted:
        asked = selection.channels.get(channel)
        if asked is not None:
            if asked.lower() != _NONE:
                found[channel] = _named(path, asked, names, plain)
            continue
        taken = {_plain(source) for source in selection.channels.values()}
        for rank in ALIASES[channel]:
            rows = [row for row, name in enumerate(plain) if name in rank.split() and name not in taken]
            if len(rows) > 1:
                candidates = ", ".join(names[row] for row in rows)
                raise UserError(
                    f"{path}: {channel} could be any of {candidates}; say which: --channels {channel}={names[rows[0]]}"
                )
            if rows:
                found[channel] = rows[0]
                break
    if not set(found) - {TIME}:
        raise UserError(
            f"{path}: no signal is known by its name; it has {listed(names)}; "
            f"say which is which: --channels PPG={next((name[:40] for name in names if name), 'NAME')}"
        )
    return found


def _named(path: Path, asked: str, names: Sequence[str], plain: Sequence[str]) -> int:
    stripped = [split_unit(name)[0] for name in names]
    for candidates, wanted in ((list(names), asked), (stripped, asked), (list(plain), _plain(asked))):
        if candidates.count(wanted) > 1:
            raise UserError(f"{path} has {candidates.count(wanted)} signals named '{asked}'; rename them")
        if wanted in candidates:
            return candidates.index(wanted)
    near = difflib.get_close_matches(asked, stripped, n=1)
    hint = f"; the nearest is '{near[0]}'" if near else ""
    raise UserError(f"{path} has no signal '{asked}'{hint}; it has {listed(names)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", split_unit(name)[0].lower())


def listed(names: Sequence[str]) -> str:
    """Return the first dozen names in one line."""
    first = ", ".join(name[:40] or "(no name)" for name in names[:12]) or "none"
    return f"{first} and {len(names) - 12} more" if len(names) > 12 else first
