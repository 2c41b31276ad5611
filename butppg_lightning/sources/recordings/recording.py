"""A long recording in memory: named channels, each with its own sampling rate, start and gaps; acceleration in g."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from butppg_lightning.npz import Array

LOWEST_RATE, HIGHEST_RATE = 5.0, 100_000.0
"""Sampling rates (Hz) that a signal can have; below it is a trend, and no pulse can be read from it."""
LONGEST_DAYS = 31  # days that one recording may span, gaps included
_MOST_SAMPLES = 2**28  # per channel, 1 GiB: a day at 3 kHz, twelve days at 250 Hz
_CONVERTED = 2**20  # samples converted together
STANDARD_GRAVITY = 9.80665  # m/s² of one g (CGPM 1901)
UNITS = {"g": 1.0, "mg": 1e-3, "m/s2": 1 / STANDARD_GRAVITY, "cm/s2": 0.01 / STANDARD_GRAVITY, "ug": 1e-6}
"""What --acc-unit accepts, in g."""
_SPELLINGS = {"gal": "cm/s2", "µg": "ug", "μg": "ug", "millig": "mg", "milli-g": "mg"}
_SPELLINGS |= dict.fromkeys(("gn", "gs", "g0", "gravity"), "g")
_SPELLINGS |= dict.fromkeys(("m/s/s", "ms-2", "m*s-2", "mps2", "ms2", "m/s*s", "meters/s2", "metres/s2"), "m/s2")
_LARGEST_MAGNITUDE = 3.0  # g; a person's median is 1, or 0 where gravity was removed
_LOOKED_AT = 100_000  # samples
_MARKERS = {-1.0, -32768.0, 32767.0, 65535.0, -8388608.0, 8388607.0, 16777215.0, -(2.0**31), 2.0**31, 2.0**32}
_MARKERS |= {sign * float(np.float32(10**digits - 1)) for sign in (1, -1) for digits in range(3, 9)}
_MARKERS |= {-999.25, float(np.float32(9.96921e36))}  # of LAS and netCDF files
_FAR = 5.0  # times the range of all other values


@dataclass(eq=False)
class Channel:
    """One signal of a recording, evenly sampled."""

    name: str  # in the window contract (PPG, ECG, ACC_X ...)
    source: str  # its name in the file
    rate: float  # samples per second (Hz), above 0
    start: float  # seconds from the recording's start to the first sample, at least 0
    samples: Array  # [T] float32 in the file's unit, NaN where not recorded; assemble() brings acceleration to g
    unit: str = ""  # what the file states, in its spelling; empty where it states none

    @property
    def end(self) -> float:
        """Seconds from the recording's start to the end of the last sample."""
        return self.start + len(self.samples) / self.rate


@dataclass(eq=False)
class Recording:
    """Channels on a common time axis that begins where the earliest of them begins."""

    path: str  # the file
    channels: dict[str, Channel]  # by name, in the order of the window contract
    start_time: datetime | None  # when it began, with a time zone if the file states one; None if it does not say
    names: tuple[str, ...]  # all signal names of the file, those without a channel too
    notes: list[str] = field(default_factory=list)  # things a reader should know, one line each
    guesses: list[str] = field(default_factory=list)  # what had to be assumed, with the option that settles it
    device: str = ""  # the known device that wrote the file
    clock: float | None = None  # s, when it began on a clock of its own, where there is no start_time

    @property
    def duration(self) -> float:
        """Seconds from the first sample of any channel to the end of the last."""
        return max(channel.end for channel in self.channels.values())


def assemble(
    path: Path,
    channels: Mapping[str, Channel],
    start_time: datetime | None,
    names: tuple[str, ...],
    acc_unit: str | None = None,
) -> Recording:
    """Check channels, put them on a common time axis and bring acceleration to g: what every reader ends with.

    The channels' starts may be relative to anything they share, of which ``start_time`` is the moment if it is known.
    The user's ``acc_unit`` decides; None for what the file says, or g if the numbers can be that.
    """
    kept: dict[str, Channel] = {}
    notes, guesses = [], []
    for name, channel in channels.items():
        check_rate(path, channel.source, channel.rate)
        if not np.isfinite(channel.start):
            raise UserError(f"{path}: '{channel.source}' starts at {channel.start} s; expected a number of seconds")
        if np.isnan(channel.samples).all():
            notes.append(f"'{channel.source}' ({name}) holds no numbers, so {name} is absent")
        else:
            kept[name] = channel
            guesses += _without_markers(channel)
    if not kept:
        empty = ", ".join(channel.source for channel in channels.values())
        raise UserError(f"{path}: {empty} hold no numbers at all; give a recording with samples")
    first = min(channel.start for channel in kept.values())
    for channel in kept.values():
        channel.start -= first
    recording = Recording(str(path), kept, start_time, names, notes, guesses)
    check_span(str(path), recording.duration)
    if start_time is not None:
        try:
            recording.start_time = start_time + timedelta(seconds=first)
        except OverflowError:
            raise UserError(f"{path} starts {first:g} s after {start_time}; check its times") from None
    _convert_acceleration(recording, acc_unit)
    return recording


def _without_markers(channel: Channel) -> list[str]:
    """Take out what stands for missing samples (-9999, 65535 ...): one value far from all others; returns a guess."""
    guesses = []
    for extreme in (np.nanmin, np.nanmax):
        value = extreme(channel.samples)
        if float(value) not in _MARKERS or (value == -1 and channel.name.startswith("ACC")):
            continue
        there = channel.samples == value
        others = channel.samples[~there & ~np.isnan(channel.samples)]
        if len(others) < 2 or np.abs(others - value).min() <= _FAR * np.ptp(others):
            continue
        channel.samples[there] = np.nan
        told = f"'{channel.source}' holds {value:.10g} {np.count_nonzero(there):,} times, far from all its other values"
        guesses.append(f"{told}; taken as missing samples")
    return guesses


def _convert_acceleration(recording: Recording, asked: str | None) -> None:
    axes = [channel for name, channel in recording.channels.items() if name.startswith("ACC")]
    if not axes:
        return
    stated = [asked or unit_of(channel.unit) for channel in axes]
    common = {unit for unit in stated if unit}
    if len(common) > 1 and None in stated:
        raise UserError(
            f"{recording.path} states {' and '.join(sorted(common))} for some axes of acceleration and no "
            "unit for others; give --acc-unit"
        )
    assumed = common.pop() if len(common) == 1 else "g"
    for channel, unit in zip(axes, stated, strict=True):
        channel.samples *= np.float32(UNITS[unit or assumed])
    shortest = min(len(channel.samples) for channel in axes)
    some = [channel.samples[: shortest : max(1, shortest // _LOOKED_AT)].astype(np.float64) for channel in axes]
    with np.errstate(invalid="ignore"):
        sizes = np.linalg.norm(some, axis=0)
    magnitude = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else 0.0
    if magnitude > _LARGEST_MAGNITUDE and asked is None:
        left_out = ",".join(f"{channel.name}=none" for channel in axes)
        told = sorted({channel.unit for channel in axes if channel.unit})
        says = f"states {'/'.join(told)}" if told else "states no unit"
        raw = magnitude / UNITS[assumed]
        fitting = [unit for unit, size in UNITS.items() if 0.5 <= raw * size <= 2]
        way = (
            f"give --acc-unit {' or '.join(fitting)}"
            if fitting
            else "no known unit makes a usual size of it: write it in g"
        )
        raise UserError(
            f"{recording.path} {says} of acceleration, and its median of {raw:.3g} is not {assumed}; "
            f"{way} (--acc-unit {assumed} insists), or leave it out: --channels {left_out}"
        )
    if None in stated:
        what = "an axis of acceleration states no unit" if any(stated) else "the unit of acceleration is not stated"
        unknown = {channel.unit for channel, unit in zip(axes, stated, strict=True) if channel.unit and not unit}
        if unknown:
            what = f"the unit of acceleration {', '.join(map(repr, sorted(unknown)))} is not known"
        recording.guesses.append(f"{what}; taken as {assumed} (--acc-unit)")


def check_span(path: str, seconds: float) -> None:
    """Refuse a recording that lasts longer than one can."""
    if seconds > LONGEST_DAYS * 86_400:
        raise UserError(
            f"{path} spans {seconds / 86_400:.3g} days; at most {LONGEST_DAYS}: check its times, or split it"
        )


def unit_of(text: str) -> str | None:
    """Return the unit that a header states, spelt as in :data:`UNITS`; None if it is none of them.

    Examples:
        >>> unit_of("m/s^2"), unit_of("G"), unit_of("m/(s^2)"), unit_of("adu")
        ('m/s2', 'g', 'm/s2', None)
    """
    plain = re.sub(r"[\s_^.()\[\]{}]", "", text.lower().replace("²", "2").replace("⁻", "-").replace("·", ""))
    plain = re.sub(r"sec(onds?)?", "s", plain.replace("**", ""))
    plain = _SPELLINGS.get(plain, plain)
    return plain if plain in UNITS else None


def check_rate(path: Path, name: str, rate: float) -> float:
    """Return ``rate`` (Hz), or refuse what no signal of a pulse can have."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:  # NaN fails too
        raise UserError(
            f"{path}: '{name}' is sampled at {rate:g} Hz; expected {LOWEST_RATE:g} to {HIGHEST_RATE:g} "
            "(leave it out with --channels NAME=none, or correct the rate)"
        )
    return float(rate)


def empty_samples(path: Path, name: str, count: int) -> Array:
    """Return ``[count]`` float32 of NaN; refuse more than a recording can have, as a damaged header may ask for."""
    if count > _MOST_SAMPLES:
        raise UserError(
            f"{path}: '{name}' would have {count:,} samples, gaps included; at most {_MOST_SAMPLES:,}: "
            "split the recording, or check its header and times"
        )
    return np.full(count, np.nan, dtype=np.float32)


def to_samples(path: Path, name: str, values: Any) -> Array:
    """Return real numbers ``[T]`` as float32, with NaN for what is not finite; refuse other types and shapes."""
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise UserError(f"{path}: '{name}' is {values.dtype} of shape {list(values.shape)}; expected numbers [samples]")
    samples = empty_samples(path, name, len(values))
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, len(values), _CONVERTED):
            part = np.asarray(values[begin : begin + _CONVERTED], dtype=np.float64)
            samples[begin : begin + _CONVERTED] = np.where(np.isfinite(part), part, np.nan)
        samples[np.isinf(samples)] = np.nan  # finite in float64, too large for float32
    return samples
