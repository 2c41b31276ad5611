"""Long recordings from tables of text: CSV, TSV, semicolons with decimal commas.

The first line that is neither empty nor a ``#`` comment names the columns, with units in brackets if there are any; a
line of units may follow. One column holds the time (seconds, ISO time stamps, or ms, µs, ns), unless ``--fs`` gives
the rate. Empty cells are missing samples, so that channels of different rates can share a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from butppg_lightning.errors import UserError
from butppg_lightning.sources.recordings.acceleration import convert_acceleration
from butppg_lightning.sources.recordings.aliases import TIME
from butppg_lightning.sources.recordings.csv_cells import read_cells
from butppg_lightning.sources.recordings.csv_layout import read_layout
from butppg_lightning.sources.recordings.recording import LOWEST_RATE, Channel, Recording, assemble, empty_samples
from butppg_lightning.sources.recordings.selection import Selection, listed, match_channels
from butppg_lightning.sources.recordings.stamps import even_samples

if TYPE_CHECKING:
    from pathlib import Path


def read_csv_recording(path: Path, selection: Selection) -> Recording:
    """Read a recording from a table; the module's docstring states the form.

    Args:
        path: The file.
        selection: What the user says of its columns.

    Raises:
        UserError: If the table is empty or malformed, a cell is no number, or time is missing or goes backwards.
    """
    layout = read_layout(path)
    found = match_channels(path, layout.names, selection, timed=True)
    time_row = found.pop(TIME, None)
    if time_row is None and not all(selection.rate(channel) for channel in found):
        raise UserError(
            f"{path} has no time column among {listed(layout.names)}; "
            "name it (--channels TIME=...), or give the rate of its evenly sampled rows (--fs)"
        )
    columns, time = read_cells(path, layout, list(found.values()), time_row)
    stamps, start_time = time.seconds() if time is not None else (None, None)
    channels = {}
    for channel, row in found.items():
        name, rate, start = layout.names[row], selection.rate(channel), 0.0
        values, filled = columns.pop(row).take()
        if stamps is not None and len(values):
            own = stamps if filled.all() else stamps[filled]
            rate, start, samples = even_samples(path, name, own, values, rate)
        else:
            samples = empty_samples(path, name, len(filled))
            samples[filled] = values
        # a column without numbers has no rate; assemble() drops it
        channels[channel] = Channel(channel, name, rate or LOWEST_RATE, start, samples)
    recording = assemble(path, channels, start_time, layout.names)
    convert_acceleration(recording, {name: layout.units[row] for name, row in found.items()}, selection.acc_unit)
    return recording
