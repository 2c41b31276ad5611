"""Records and annotations → one set of windows, with one PPG channel the right way up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.but_ppg.devices import (
    FIRST_RELEASE,
    decide_polarity,
    device_of,
    pulse_share,
    upstroke_skewness,
)
from butppg_lightning.sources.but_ppg.reader import COLOURS, ROWS
from butppg_lightning.window import CHANNELS, WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.but_ppg.annotations import Annotation
    from butppg_lightning.sources.but_ppg.batches import Recordings

_PPG = CHANNELS.index("PPG")
_NUMBERS = ("age", "height", "weight", "glycaemia", "spo2")
_WORDS = ("site", "motion", "sex", "blood_pressure")


@dataclass(frozen=True)
class Choices:
    """What the user decides about the signals.

    Attributes:
        ppg_channel: ``red``, ``green``, ``blue``, or ``best``: for every device with three colours the one with the
            largest mean :func:`~butppg_lightning.sources.but_ppg.devices.pulse_share` over its good records. By
            device, not by record: of three colours of noise one looks most like a pulse by chance.
        polarity: ``auto``, ``keep`` or ``invert``, see
            :func:`~butppg_lightning.sources.but_ppg.devices.decide_polarity`.
        missing_acc: ``present`` keeps records without acceleration, marked as absent; ``drop`` leaves them out.
    """

    ppg_channel: str = "red"
    polarity: str = "auto"
    missing_acc: str = "present"


def assemble(
    recordings: Recordings, annotations: Mapping[str, Annotation], choices: Choices
) -> tuple[WindowSet, dict[str, dict[str, Any]], dict[str, str]]:
    """Join signals and annotations.

    Args:
        recordings: What has been read; each record is annotated with a label.
        annotations: By record.
        choices: What the user decides.

    Returns:
        The windows, float32 with channels in the guide's order; what was decided for each device; and why further
        records are left out.

    Raises:
        UserError: If no record is left.
    """
    left_out = dict(recordings.left_out)
    rows = np.flatnonzero([name not in left_out and name not in recordings.damaged for name in recordings.records])
    notes = [annotations[str(name)] for name in recordings.records[rows]]
    devices = np.array(
        [device_of(int(recordings.colours[row]), note.site) for row, note in zip(rows, notes, strict=True)]
    )
    good = np.array([note.label == 1 for note in notes], dtype=bool)
    rates = np.array([note.heart_rate for note in notes])
    signals, present = _without_ppg(recordings, rows)
    decided = {}
    for device in sorted(set(devices.tolist())):
        own = np.flatnonzero(devices == device)
        ppg, there = recordings.signals[rows[own], : len(COLOURS)], recordings.present[rows[own], : len(COLOURS)]
        decided[device] = _decide(device, ppg, there, good[own], rates[own], choices)
        colour = COLOURS.index(decided[device]["ppg_channel"])
        sign = -1 if decided[device]["polarity"]["invert"] else 1
        signals[own, _PPG], present[own, _PPG] = sign * ppg[:, colour], there[:, colour]
    windows = _window_set(signals, present, notes, devices)
    reasons = _left_out(present, decided, devices, choices)
    kept = np.array([not reason for reason in reasons], dtype=bool)
    left_out |= {note.record: reason for note, reason in zip(notes, reasons, strict=True) if reason}
    if not kept.any():
        record = min(left_out, default="")
        first = f"{record} {left_out[record]}" if record else "no record was read"
        raise UserError(f"all {len(annotations)} records are left out, the first: {first}")
    return windows.take(np.flatnonzero(kept)), decided, left_out


def _without_ppg(recordings: Recordings, rows: Array) -> tuple[Array, Array]:
    signals = np.zeros((len(rows), len(CHANNELS), recordings.signals.shape[-1]), dtype=np.float32)
    present = np.zeros(signals.shape[:2], dtype=bool)
    for place, name in enumerate(CHANNELS):
        if name != "PPG":
            signals[:, place] = recordings.signals[rows, ROWS.index(name)]
            present[:, place] = recordings.present[rows, ROWS.index(name)]
    return signals, present


def _decide(device: str, ppg: Array, there: Array, good: Array, rates: Array, choices: Choices) -> dict[str, Any]:
    """Choose a device's colour and polarity.

    They follow from its PPG ``[N, 3, 1250]``, where that is there ``[N, 3]`` and good ``[N]``, and the reference heart
    rates ``[N]`` (bpm).
    """
    shares: dict[str, float] = {}
    for column, colour in enumerate(COLOURS):
        rows = good & there[:, column] & np.isfinite(rates)
        if rows.any():
            shares[colour] = round(float(np.mean(pulse_share(ppg[rows, column], rates[rows]))), 4)
    chosen = choices.ppg_channel
    if device.startswith(FIRST_RELEASE) or (chosen == "best" and not shares):
        chosen = "red"
    elif chosen == "best":
        chosen = max(shares, key=lambda colour: shares[colour])
    column = COLOURS.index(chosen)
    skewness = upstroke_skewness(ppg[good & there[:, column], column])
    return {
        "records": len(good),
        "good": int(good.sum()),
        "ppg_channel": chosen,
        "mean_pulse_share_of_good": shares,
        "polarity": decide_polarity(device, skewness, choices.polarity),
    }


def _window_set(signals: Array, present: Array, notes: Sequence[Annotation], devices: Array) -> WindowSet:
    return WindowSet(
        signals=signals,
        channels=CHANNELS,
        labels=np.array([note.label for note in notes], dtype=np.int64),
        subjects=np.array([note.subject for note in notes]),
        present=present,
        hr_ref=np.array([note.heart_rate for note in notes], dtype=np.float32),
        extras={
            "record": np.array([note.record for note in notes]),
            "device": devices,
            **{key: np.array([getattr(note, key) for note in notes]) for key in _WORDS},
            **{key: np.array([getattr(note, key) for note in notes], dtype=np.float32) for key in _NUMBERS},
        },
    )


def _left_out(present: Array, decided: Mapping[str, dict[str, Any]], devices: Array, choices: Choices) -> list[str]:
    """Return why each record is left out; empty where it is kept."""
    axes = [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]
    reasons = [""] * len(present)
    for row, there in enumerate(present):
        if not there[_PPG]:
            reasons[row] = f"PPG has no usable {decided[str(devices[row])]['ppg_channel']} channel"
        elif choices.missing_acc == "drop" and not there[axes].all():
            reasons[row] = "no acceleration (--missing-acc drop)"
    return reasons
