"""Which of a file's named arrays are signals, and which say something of signals: rates, units, starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import is_time, plain_name, printable, split_unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

_TRIPLES = ("acc", "accel", "acceleration", "accelerometer")
_RATES = ("fs", "samplingrate", "samplerate", "samplingfrequency", "samplefrequency", "samplingfreq", "sfreq", "srate")
_UNITS = ("units", "unit")
_VALUES = ("v", "val", "value", "values", "signal", "sig", "data", "samples", "y")  # ppg.v beside ppg.fs is the PPG

Parts = tuple[str, ...]  # an array's name, behind those of the structs that it is in
Setting = tuple[str, Parts, str]  # rate, unit, start or moment; the struct that it holds for; the array, empty for all


@dataclass
class Signal:
    """An array of samples, or of times."""

    scope: Parts  # the structs it is in
    label: str  # what it is known by
    owner: str  # the array that it is a part of, else its label
    values: Array

    @property
    def name(self) -> str:
        """Its name with those of the structs, as the file has it."""
        return ".".join([*self.scope, self.label])


def sort_out(path: Path, arrays: Sequence[tuple[Parts, Array]]) -> tuple[dict[Setting, Array], list[Signal]]:
    """Part the arrays that say something of signals from the signals."""
    settings: dict[Setting, Array] = {}
    signals = []
    for parts, values in arrays:
        *scope, label = (printable(part) for part in parts)
        setting = _setting(tuple(scope), label, values)
        if setting:
            if setting in settings and not np.array_equal(settings[setting], values):
                raise UserError(f"{path} states what '{'.'.join([*scope, label])}' does in another array too; save one")
            settings[setting] = values
            continue
        if values.ndim == 2 and 1 in values.shape:
            values = values.reshape(-1)
        if split_unit(label)[0].lower() in _TRIPLES and values.ndim == 2:
            if 3 not in values.shape:
                raise UserError(f"{path}: '{label}' has shape {list(values.shape)}; expected [samples, 3]")
            columns = values.T if values.shape[1] == 3 else values
            base = split_unit(label)[0]
            signals += [Signal(tuple(scope), f"{base}_{axis}", label, columns[row]) for row, axis in enumerate("XYZ")]
        elif values.ndim:
            signals.append(Signal(tuple(scope), label, label, values))
    return settings, [_of_struct(signal, signals, settings) for signal in signals]


def _of_struct(signal: Signal, signals: Sequence[Signal], settings: Mapping[Setting, Array]) -> Signal:
    """Return the signal that a struct is of its values and their rate (``ppg.v`` and ``ppg.fs``), else the same."""
    beside = [other for other in signals if other.scope == signal.scope and not is_time(other.label)]
    if signal.scope and len(beside) == 1 and signal.label.lower() in _VALUES and ("rate", signal.scope, "") in settings:
        return Signal(signal.scope[:-1], signal.scope[-1], signal.label, signal.values)
    return signal


def _setting(scope: Parts, label: str, values: Array) -> Setting | None:
    plain = plain_name(label)
    if scope and plain_name(scope[-1]) in _RATES and values.size == 1:  # fs.ppg
        return ("rate", scope[:-1], plain)
    if plain in _RATES:
        return ("rate", scope, "")
    if plain == "starttime":
        return ("moment", scope, "")
    if values.size != 1:
        return None
    for kind, words in (("rate", _RATES), ("unit", _UNITS), ("start", ("start",))):
        for word in words:
            if plain.startswith(word) or plain.endswith(word):
                return (kind, scope, plain.removeprefix(word).removesuffix(word))
    return None
