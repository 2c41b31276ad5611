"""Acceleration in g, whatever the file's unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.sources.recordings.recording import Recording

STANDARD_GRAVITY = 9.80665
"""m/s² of one g (CGPM 1901)."""
UNITS = {"g": 1.0, "mg": 1e-3, "m/s2": 1 / STANDARD_GRAVITY}
"""What ``--acc-unit`` accepts, in g."""
_SPELLINGS = {"gn": "g", "gs": "g", "millig": "mg", "m/s/s": "m/s2", "ms-2": "m/s2", "m*s-2": "m/s2", "mps2": "m/s2"}
_LARGEST_MAGNITUDE = 3.0  # g; a person's median is 1, or 0 where gravity was removed
_LOOKED_AT = 100_000  # samples


def unit_of(text: str) -> str | None:
    """Return the unit that a header states, spelt as in :data:`UNITS`; None if it is none of them.

    Examples:
        >>> unit_of("m/s^2"), unit_of("G"), unit_of("adu")
        ('m/s2', 'g', None)
    """
    plain = re.sub(r"[\s_^.]", "", text.lower().replace("²", "2").replace("·", ""))
    plain = _SPELLINGS.get(plain, plain)
    return plain if plain in UNITS else None


def convert_acceleration(recording: Recording, stated: Mapping[str, str], asked: str | None) -> None:
    """Bring the acceleration of a recording to g, in place.

    Args:
        recording: The recording.
        stated: The text that the file gives as unit, by channel.
        asked: The user's unit, which decides; None for what the file says, or g.

    Raises:
        UserError: If nobody states a unit and the numbers cannot be g.
    """
    axes = [channel for name, channel in recording.channels.items() if name.startswith("ACC")]
    units = {channel.name: asked or unit_of(stated.get(channel.name, "")) for channel in axes}
    for channel in axes:
        factor = UNITS[units[channel.name] or "g"]
        if factor != 1:
            channel.samples *= np.float32(factor)
    if axes and not any(units.values()):
        shortest = min(len(channel.samples) for channel in axes)
        step = max(1, shortest // _LOOKED_AT)
        squares = [np.square(channel.samples[:shortest:step], dtype=np.float64) for channel in axes]
        magnitude = float(np.nanmedian(np.sqrt(np.sum(squares, axis=0)))) if shortest else 0.0
        if magnitude > _LARGEST_MAGNITUDE:
            raise UserError(
                f"{recording.path} states no unit of acceleration, and its median of {magnitude:.3g} is not g; "
                "give --acc-unit m/s2 or mg (or g to insist), or leave it out: "
                + "--channels "
                + ",".join(f"{channel.name}=none" for channel in axes)
            )
        recording.notes.append("the unit of acceleration is not stated; taken as g (--acc-unit)")
