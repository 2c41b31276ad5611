"""Records and annotations → one set of windows, with one PPG channel the right way up.

For every camera it is decided which of its colours shows the pulse best, and which way up the pulse is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.errors import UserError
from butppg_lightning.sources.but_ppg.reader import COLOURS, ROWS
from butppg_lightning.sources.but_ppg.release import NUMBERS
from butppg_lightning.sources.resampling import band_pass
from butppg_lightning.window import CHANNELS, SAMPLING_RATE, WINDOW_SAMPLES, WindowSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.but_ppg.reader import Record
    from butppg_lightning.sources.but_ppg.release import Annotation

_PPG, _ECG = CHANNELS.index("PPG"), CHANNELS.index("ECG")
_ACC = [row for row, name in enumerate(CHANNELS) if name.startswith("ACC")]
_WORDS = ("site", "motion", "sex", "blood_pressure")
_FIRST_RELEASE = "v1"  # one colour, published inverted by the authors, so that systole is up already
_PULSE_BAND = (0.5, 8.0)  # Hz: a pulse and its harmonics
_SURE = 0.01  # largest p of the sign test that decides
_TINY = 1e-100  # keeps a flat signal from dividing by 0
_HALF_WIDTH = 0.2  # Hz on either side of the heart rate: the main lobe of a Hann window of ten seconds


def assemble(
    recordings: Mapping[str, Record],
    annotations: Mapping[str, Annotation],
    ppg_channel: str = "red",
    polarity: str = "auto",
    missing_acc: str = "present",
) -> tuple[WindowSet, dict[str, dict[str, Any]], dict[str, str]]:
    """Join signals and annotations, by record; the options are those of ``butppg prepare but-ppg``.

    Returns the windows, float32 with channels in the guide's order; what was decided for each device; and why further
    records are left out. A UserError says that none is left.
    """
    left_out = {name: record.left_out for name, record in recordings.items() if record.left_out}
    usable = [record for record in recordings.values() if not record.left_out]
    notes = [annotations[name] for name in recordings if name not in left_out]
    devices = np.array([device_of(record.colours, note.site) for record, note in zip(usable, notes, strict=True)])
    recorded, there = _stack(usable)
    good = np.array([note.label == 1 for note in notes], dtype=bool)
    rates = np.array([note.heart_rate for note in notes])
    # red stands in for the PPG until a colour is chosen
    columns = [ROWS.index("red" if name == "PPG" else name) for name in CHANNELS]
    signals, present = recorded[:, columns], there[:, columns]
    decided = {}
    for device in sorted(set(devices.tolist())):
        own = np.flatnonzero(devices == device)
        ppg, seen = recorded[own, : len(COLOURS)], there[own, : len(COLOURS)]
        decided[device] = _decide(device, ppg, seen, good[own], rates[own], ppg_channel, polarity)
        colour = COLOURS.index(decided[device]["ppg_channel"])
        sign = -1 if decided[device]["polarity"]["invert"] else 1
        signals[own, _PPG], present[own, _PPG] = sign * ppg[:, colour], seen[:, colour]
    kept = []
    for row, note in enumerate(notes):
        if not present[row, _PPG]:
            left_out[note.record] = f"PPG has no usable {decided[str(devices[row])]['ppg_channel']} channel"
        elif missing_acc == "drop" and not present[row, _ACC].all():
            left_out[note.record] = "no acceleration (--missing-acc drop)"
        else:
            kept.append(row)
    if not kept:
        record = min(left_out, default="")
        first = f"{record} {left_out[record]}" if record else "no record was read"
        raise UserError(f"all {len(annotations)} records are left out, the first: {first}")
    return _window_set(signals, present, notes, devices).take(np.array(kept)), decided, left_out


def _window_set(signals: Array, present: Array, notes: list[Annotation], devices: Array) -> WindowSet:
    known = {key: np.array([getattr(note, key) for note in notes]) for key in ("record", "subject", "label", *_WORDS)}
    numbers = {key: np.array([getattr(note, key) for note in notes], np.float32) for key in ("heart_rate", *NUMBERS)}
    return WindowSet(
        signals=signals,
        channels=CHANNELS,
        labels=known.pop("label").astype(np.int64),
        subjects=known.pop("subject"),
        present=present,
        hr_ref=numbers.pop("heart_rate"),
        extras={"record": known.pop("record"), "device": devices, **known, **numbers},
    )


def _stack(records: list[Record]) -> tuple[Array, Array]:
    """Return the signals ``[N, 7, 1250]`` of records in the order of :data:`ROWS`, and whether each is there."""
    signals = np.zeros((len(records), len(ROWS), WINDOW_SAMPLES), dtype=np.float32)
    present = np.zeros(signals.shape[:2], dtype=bool)
    for row, record in enumerate(records):
        for name, samples in record.channels.items():
            signals[row, ROWS.index(name)], present[row, ROWS.index(name)] = samples, True
    return signals, present


def _decide(
    device: str, ppg: Array, there: Array, good: Array, rates: Array, chosen: str, polarity: str
) -> dict[str, Any]:
    """Choose colour and polarity from a device's PPG ``[N, 3, 1250]`` and reference heart rates ``[N]`` (bpm).

    By device, not by record: of three colours of noise one looks most like a pulse by chance.
    """
    shares: dict[str, float] = {}
    for column, colour in enumerate(COLOURS):
        rows = good & there[:, column] & np.isfinite(rates)
        if rows.any():
            shares[colour] = round(float(np.mean(pulse_share(ppg[rows, column], rates[rows]))), 4)
    if device.startswith(_FIRST_RELEASE) or (chosen == "best" and not shares):
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
        "polarity": decide_polarity(device, skewness, polarity),
    }


def describe_windows(windows: WindowSet) -> dict[str, Any]:
    """Count for the manifest what was written; the acceleration is about 1 g unless a header names the wrong unit."""
    good, present = int(np.asarray(windows.labels).sum()), np.asarray(windows.present)
    moved = present[:, _ACC].all(axis=1)
    means: Array = windows.signals[moved][:, _ACC].mean(axis=-1, dtype=np.float64)
    return {
        "windows": len(windows),
        "good": good,
        "poor": len(windows) - good,
        "good_share": round(good / len(windows), 4),
        "subjects": len(np.unique(np.asarray(windows.subjects))),
        "without_acceleration": int((~moved).sum()),
        "without_ecg": int((~present[:, _ECG]).sum()),
        "acceleration_magnitude_g": round(float(np.median(np.linalg.norm(means, axis=1))), 4) if moved.any() else None,
    }


def device_of(colours: int, site: str) -> str:
    """Name a record's camera: the release's form by the number of colours, and the site, as each has its own camera.

    Examples:
        >>> device_of(1, "finger"), device_of(3, "ear"), device_of(3, "")
        ('v1_finger', 'v2_ear', 'v2_unknown')
    """
    return f"{_FIRST_RELEASE if colours == 1 else 'v2'}_{site or 'unknown'}"


def upstroke_skewness(ppg: Array) -> Array:
    """Measure which way up pulses ``[N, 1250]`` are: the skewness of the band-passed signal's slope ``[N]``.

    Blood rushes in faster than it runs off, so with systole upwards the slope has few large positive values and many
    small negative ones: positive skewness. Upside down it is the same with the sign reversed. Of bedside PPG (BIDMC,
    systole up) 99.3 % of the windows are positive. A flat window has 0.
    """
    slope = np.diff(band_pass(ppg, *_PULSE_BAND), axis=-1)
    power = (slope**2).mean(-1)
    return np.asarray((power > 0) * (slope**3).mean(-1) / np.maximum(power, _TINY) ** 1.5)


def pulse_share(ppg: Array, heart_rate: Array) -> Array:
    """Measure how much of a signal is pulse: power at the reference heart rate and its double, of all in the band.

    After de Haan and Jeanne, Robust pulse rate from chrominance-based rPPG, IEEE TBME 2013. Of PPG ``[N, 1250]`` and
    heart rates ``[N]`` (bpm) the shares are ``[N]`` in 0..1, NaN without a heart rate.
    """
    spectrum = np.abs(np.fft.rfft(band_pass(ppg, *_PULSE_BAND) * np.hanning(ppg.shape[-1]), 4 * ppg.shape[-1])) ** 2
    frequency = np.fft.rfftfreq(4 * ppg.shape[-1], 1 / SAMPLING_RATE)
    band = (frequency >= _PULSE_BAND[0]) & (frequency <= _PULSE_BAND[1])
    rate = np.asarray(heart_rate)[:, None] / 60
    near = (np.abs(frequency - rate) <= _HALF_WIDTH) | (np.abs(frequency - 2 * rate) <= _HALF_WIDTH)
    total = np.maximum((spectrum * band).sum(-1), _TINY)
    return np.asarray(np.where(np.isfinite(rate[:, 0]), (spectrum * (band & near)).sum(-1) / total, np.nan))


def decide_polarity(device: str, skewness: Array, wanted: str) -> dict[str, Any]:
    """Decide whether a device's PPG is to be negated; returns ``invert``, ``reason`` and the evidence for the manifest.

    ``wanted`` is ``keep``, ``invert``, or ``auto``: negate when significantly more good records are upside down than
    not, by their upstroke skewness ``[N]`` (two-sided sign test, p below 0.01); keep what the first release's authors
    have turned, and what the records do not decide.
    """
    up, down = int((skewness > 0).sum()), int((skewness < 0).sum())
    sure = sign_test(up, down) < _SURE
    if wanted != "auto":
        invert, reason = wanted == "invert", f"--polarity {wanted}"
    elif device.startswith(_FIRST_RELEASE):
        invert, reason = False, "published with systole up"
    elif sure:
        invert, reason = down > up, "slopes of the good records"
    else:
        invert, reason = False, "too few good records to decide; --polarity settles it"
    median = round(float(np.median(skewness)), 4) if skewness.size else None
    return {
        "invert": invert,
        "reason": reason,
        "decided": wanted != "auto" or sure or device.startswith(_FIRST_RELEASE),
        "good_records_up": up,
        "good_records_down": down,
        "median_slope_skewness": median,
    }


def sign_test(up: int, down: int) -> float:
    """Return the two-sided p of a sign test.

    Examples:
        >>> round(sign_test(15, 3), 4), sign_test(0, 0), sign_test(4, 4)
        (0.0075, 1.0, 1.0)
    """
    from scipy.stats import binomtest

    return float(binomtest(up, up + down).pvalue) if up + down else 1.0
