"""Several files of one recording, as devices write them: one file a sensor, each with its rate, on one time axis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from butppg_lightning.console import quoted
from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.names import NoSignalError, listed
from butppg_lightning.sources.recordings.recording import Channel, Recording, check_span
from butppg_lightning.window import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from butppg_lightning.sources.recordings.names import Selection


def read_parts(
    paths: Sequence[Path], selection: Selection, read: Callable[[Path, Selection], Recording], folder: Path | None
) -> Recording:
    """Read files as one recording; those without a known signal are left out with a note.

    Their time axes are laid over each other by the moments they state, else by a clock they share, else by their
    beginnings, which is reported as a guess.

    Args:
        paths: The files.
        selection: What the user says of their signals, each of which is in one of them.
        read: Reads one file.
        folder: The folder that was given in their place.

    Raises:
        UserError: If a channel is in two files, their times cannot be related, or they do not overlap.
    """
    parts: list[Recording] = []
    notes: list[str] = []
    last: UserError | None = None
    for path in paths:
        try:
            parts.append(read(path, replace(selection, partial=True)))
        except NoSignalError as error:
            if folder is None:
                raise
            notes.append(f"{path.name} was left out: it has no known signal")
            last = error
    if not parts:
        raise UserError(f"{folder} has no file with a known signal; {last}")
    _check_names(parts, selection)
    where = str(folder) if folder is not None else " + ".join(map(str, paths))
    channels: dict[str, Channel] = {}
    owners: dict[str, str] = {}
    offsets, guesses = _offsets(where, parts)
    for part, offset in zip(parts, offsets, strict=True):
        for name, channel in part.channels.items():
            if name in owners:
                raise UserError(_twice(name, owners[name], part.path, folder))
            channel.start += offset
            owners[name], channels[name] = part.path, channel
    _check_overlap(where, parts)
    first = min(range(len(parts)), key=lambda row: offsets[row])
    recording = Recording(
        where,
        {name: channels[name] for name in CHANNELS if name in channels},
        parts[first].start_time,
        tuple(name for part in parts for name in part.names),
        notes,
        guesses,
        ", ".join(dict.fromkeys(part.device for part in parts if part.device)),
        parts[first].clock,
    )
    for part in parts:
        label = Path(part.path).name
        recording.notes += [f"{label}: {note}" for note in part.notes]
        recording.guesses += [f"{label}: {guess}" for guess in part.guesses]
    check_span(where, recording.duration)
    return recording


def _check_names(parts: Sequence[Recording], selection: Selection) -> None:
    found = {name for part in parts for name in part.channels}
    for channel, source in selection.channels.items():
        if channel in CHANNELS and source.lower() != "none" and channel not in found:
            names = listed([name for part in parts for name in part.names])
            raise UserError(f"no file has a signal '{source}' with numbers for {channel}; they have {names}")


def _twice(channel: str, one: str, other: str, folder: Path | None) -> str:
    told = f"{channel} is in {one} and in {other}: one recording has it once"
    if folder is not None:
        return f"{told}; if they are several recordings, score each: --input-list {quoted(folder)}"
    several = " ".join(quoted(Path(part)) for part in (one, other))
    return f"{told}; leave one out (--channels {channel}=none), or score several recordings: --input-list {several}"


def _offsets(where: str, parts: Sequence[Recording]) -> tuple[list[float], list[str]]:
    """Return by how many seconds each part begins after the earliest, and what had to be assumed for it."""
    if len(parts) == 1:
        return [0.0], []
    moments = [part.start_time for part in parts if part.start_time is not None]
    zoned = [moment.tzinfo is not None for moment in moments]
    if 0 < len(moments) < len(parts):
        stated = [part.start_time is not None for part in parts]
        pair = [Path(parts[stated.index(kind)].path).name for kind in (True, False)]
        raise UserError(
            f"{where}: {pair[0]} says when it began and {pair[1]} does not, so they cannot be related; "
            "give them times of one kind, or score the PPG's file alone"
        )
    if moments and any(zoned) != all(zoned):
        pair = [Path(parts[zoned.index(kind)].path).name for kind in (True, False)]
        raise UserError(
            f"{where}: {pair[0]} states a time zone and {pair[1]} states none, so their times cannot be related; "
            "write both in UTC"
        )
    if moments:
        return [(moment - min(moments)).total_seconds() for moment in moments], []
    clocks = [part.clock for part in parts if part.clock is not None]
    if len(clocks) == len(parts):
        guess = "the files' times are taken as of one clock, because none of them says when it began"
        return [clock - min(clocks) for clock in clocks], [guess]
    return [0.0] * len(parts), ["the files are taken to begin at one moment, because they do not say when they began"]


def _check_overlap(where: str, parts: Sequence[Recording]) -> None:
    """Refuse files that were not recorded at the same time."""
    spans = []
    for part in parts:
        begin = min(channel.start for channel in part.channels.values())
        spans.append((begin, part.duration, Path(part.path).name))
    for begin, _, later in spans:
        for _, end, earlier in spans:
            if begin >= end:
                raise UserError(
                    f"{where}: {later} begins {begin - end:.4g} s after {earlier} ends, so they are not one recording; "
                    "give files that overlap in time"
                )
