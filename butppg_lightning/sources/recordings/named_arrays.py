"""Long recordings from named arrays, as npz files hold them, and MATLAB files (see ``mat_file``).

One array ``[samples]`` per channel (``[samples, 1]`` and ``[1, samples]`` too), keyed by its name, an alias, or as
``--channels`` says; acceleration may be one array ``acc`` of shape ``[samples, 3]`` or ``[3, samples]``. ``fs`` (or
``sampling_rate`` ...) is the sampling rate of all, ``fs_NAME`` that of one array (Hz); an array ``time`` of the same
length states the moment of each sample. Optional: ``start_NAME`` (seconds after the recording's start, default 0),
``start_time`` (ISO text, or seconds since 1970) and ``unit_NAME``. NaN marks gaps. Where arrays are in structs, what a
struct states holds for what is in it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.npz import read_npz
from butppg_lightning.sources.recordings.array_names import Parts, Setting, Signal, sort_out
from butppg_lightning.sources.recordings.even_sampling import even_samples
from butppg_lightning.sources.recordings.names import (
    TIME,
    Selection,
    is_time,
    known_names,
    listed,
    match_channels,
    plain_name,
    printable,
    split_unit,
)
from butppg_lightning.sources.recordings.recording import Channel, Recording, assemble, to_samples
from butppg_lightning.sources.recordings.stamps import ClockRules, TimeColumn, Timeline, dated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

_SAME_RATE = 0.02  # share by which two statements of one rate may differ


class _Clock:
    """The time arrays among a file's signals."""

    def __init__(self, path: Path, signals: Sequence[Signal], chosen: int | None, selection: Selection) -> None:
        self.path, self.signals, self._chosen, self._unit = path, signals, chosen, selection.time_unit
        self._off = selection.channels.get(TIME, "").lower() == "none"
        self._times: dict[int, Timeline | None] = {}  # by row; None for an array that is no time
        self.guesses: list[str] = []
        self.notes: list[str] = []

    @property
    def used(self) -> bool:
        """Whether a signal goes by a time array."""
        return any(self._times.values())

    @property
    def start(self) -> datetime | None:
        """The moment of the first sample, if a time array says."""
        return next((time.start for time in self._times.values() if time and time.start), None)

    def of(self, row: int, *, optional: bool) -> tuple[Timeline | None, str]:
        """Return the time of a signal, and its name: the user's choice, or the nearest array of the signal's length."""
        signal, found = self.signals[row], self._chosen
        if found is None:
            found = None if self._off else self._nearest(row)
        elif self.signals[found].values.shape != signal.values.shape:
            name = self.signals[found].name
            raise UserError(f"{self.path}: '{name}' is not as long as '{signal.name}'; choose another time")
        if found is None:
            return None, ""
        if found not in self._times:
            try:
                self._times[found] = self._read(self.signals[found])
            except UserError as error:
                if self._chosen is not None or not optional:
                    raise
                # t may be a temperature, and the file states the rate
                self._times[found] = None
                self.notes.append(f"'{self.signals[found].name}' is not taken for the time ({error})")
        return self._times[found], self.signals[found].name

    def _nearest(self, row: int) -> int | None:
        signal = self.signals[row]
        inside = (*signal.scope, signal.label)
        fitting: dict[int, list[int]] = {}  # by how many structs they share
        for other, time in enumerate(self.signals):
            same_length = other != row and time.values.shape == signal.values.shape
            if same_length and is_time(time.label) and time.scope == inside[: len(time.scope)]:
                fitting.setdefault(len(time.scope), []).append(other)
        nearest = fitting[max(fitting)] if fitting else []
        if len(nearest) > 1:
            names = [self.signals[other].name for other in nearest]
            raise UserError(
                f"{self.path}: the time could be any of {listed(names)}; say which: --channels TIME={names[0]}"
            )
        return nearest[0] if nearest else None

    def _read(self, signal: Signal) -> Timeline:
        import pandas as pd

        column = TimeColumn(self.path, signal.name, split_unit(signal.label)[1], ClockRules(self._unit))
        values = signal.values.astype("datetime64[ns]") if signal.values.dtype.kind == "M" else signal.values
        column.add(pd.Series(values.astype(str) if values.dtype.kind in "MU" else values))
        line = column.seconds()
        self.guesses += column.guesses
        self.notes += column.notes
        return line


def read(path: Path, selection: Selection) -> Recording:
    """Read a recording from an npz file."""
    arrays = read_npz(path)
    if "signals" in arrays and arrays["signals"].ndim == 3:
        raise UserError(f"{path} holds windows, not a recording; `butppg predict` gives their probabilities")
    return to_recording(path, [((key,), value) for key, value in arrays.items()], selection, {})


def to_recording(
    path: Path, arrays: Sequence[tuple[Parts, Array]], selection: Selection, skipped: Mapping[str, str]
) -> Recording:
    """Make a recording of named arrays; ``skipped`` says what the file has beside them (by name), and is no array."""
    settings, signals = sort_out(path, arrays)
    if not signals:
        others = listed([f"{name} ({what})" for name, what in skipped.items()])
        raise UserError(f"{path} has no arrays of samples; it has {others}: save a vector of numbers per channel")
    names = tuple(signal.name for signal in signals)
    asked = {channel: _by_label(source, signals) for channel, source in selection.channels.items()}
    choice = replace(selection, channels=asked)
    found = match_channels(path, [signal.label for signal in signals], choice, timed=TIME in asked)
    clock = _Clock(path, signals, found.pop(TIME, None), choice)
    channels = {channel: _channel(path, channel, row, clock, settings, selection) for channel, row in found.items()}
    start, notes = _start_time(path, settings)
    if selection.time_unit and not clock.used and not selection.partial:
        raise UserError(f"{path}: no time array is used, so --time-unit means nothing; drop it")
    recording = assemble(path, channels, start or clock.start, names, selection.acc_unit)
    recording.notes[:0] = (
        notes
        + clock.notes
        + [
            f"'{name}' is {what}, which is not read; save a vector of numbers"
            for name, what in skipped.items()
            if known_names([name.split(".")[-1]])
        ]
    )
    recording.guesses += clock.guesses
    return recording


def _channel(
    path: Path, channel: str, row: int, clock: _Clock, settings: Mapping[Setting, Array], selection: Selection
) -> Channel:
    signal = clock.signals[row]
    own = [signal.label, signal.owner, channel, channel.split("_")[0]]
    stated = _number(path, settings, _keys("rate", signal, own))
    asked = selection.rate(channel)
    if stated is not None and asked is not None and stated != asked:
        raise UserError(f"--fs says {asked:g} Hz for {channel}, but {path} states {stated:g}; drop the flag")
    rate, start = stated if stated is not None else asked, 0.0
    samples = to_samples(path, signal.name, signal.values)
    there = ~np.isnan(samples)
    time, by = clock.of(row, optional=rate is not None) if there.any() else (None, "")
    if time is not None:
        order = slice(None) if time.order is None else time.order
        samples, there = samples[order], there[order]
        found, start, samples = even_samples(path, signal.name, time.seconds[there], samples[there], None)
        if rate is not None and abs(found / rate - 1) > _SAME_RATE:
            raise UserError(
                f"{path}: '{signal.name}' is sampled at {rate:g} Hz, but by '{by}' at {found:.4g} Hz; "
                "to go by the rate: --channels TIME=none"
            )
        rate = found
    elif rate is None:
        name = f"fs_{signal.label}"
        raise UserError(f"{path} states no sampling rate of '{signal.name}'; save fs or {name} (Hz), or give --fs")
    else:
        start = _number(path, settings, _keys("start", signal, own)) or 0.0
    unit = next((_text(settings[key]) for key in _keys("unit", signal, own) if key in settings), "")
    return Channel(channel, signal.name, rate, start, samples, unit or split_unit(signal.owner)[1])


def _keys(kind: str, signal: Signal, own: Sequence[str]) -> list[Setting]:
    """Return where a signal's setting may stand, the nearest place first."""
    scopes = [(*signal.scope, signal.label), *(signal.scope[:count] for count in range(len(signal.scope), -1, -1))]
    return [(kind, scope, target) for scope in scopes for target in (*map(plain_name, own), "")]


def _by_label(source: str, signals: Sequence[Signal]) -> str:
    """Return what names a signal by its label, for one that is named with its structs."""
    for row, signal in enumerate(signals):
        if signal.scope and signal.name == source:
            same = [other for other, one in enumerate(signals) if one.label == signal.label]
            return signal.label if len(same) == 1 else f"{signal.label}#{same.index(row) + 1}"
    return source


def _text(value: Array) -> str:
    return printable(str(value.item())) if value.size == 1 and value.dtype.kind == "U" else ""


def _number(path: Path, settings: Mapping[Setting, Array], keys: Sequence[Setting]) -> float | None:
    key = next((key for key in keys if key in settings), None)
    if key is None:
        return None
    value = settings[key]
    if value.size != 1 or value.dtype.kind not in "fiu":
        name = "_".join(filter(None, ("fs" if key[0] == "rate" else key[0], key[2])))
        raise UserError(f"{path}: '{name}' is {value.dtype} of shape {list(value.shape)}; expected one number")
    return float(value.item())


def _start_time(path: Path, settings: Mapping[Setting, Array]) -> tuple[datetime | None, list[str]]:
    value = next((value for (kind, _, _), value in settings.items() if kind == "moment"), None)
    if value is None:
        return None, []
    stated: Any = value.item() if value.size == 1 else value.tolist()
    stated = stated.decode("ascii", "replace") if isinstance(stated, bytes) else stated
    try:
        if isinstance(stated, str):
            return datetime.fromisoformat(stated.strip().replace("Z", "+00:00")), []
        if math.isfinite(stated) and dated(stated):
            return datetime.fromtimestamp(stated, timezone.utc), []
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    return None, [
        f"{path}: 'start_time' is {printable(str(stated))[:60]!r}, neither ISO text (2024-01-31T22:15:00) "
        "nor seconds since 1970: no clock times"
    ]
