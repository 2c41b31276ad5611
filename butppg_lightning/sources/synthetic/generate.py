"""Synthetic windows whose labels follow BUT PPG's rule, and the files of them that training reads.

Who is recorded and when the heart beats are drawn first, then which label the window shall have, then recording
conditions (motion, corruption) again and again until the readers' verdict is that label. So the share of good
windows is met by choosing conditions, never by changing a label; and heart rate, rhythm, subject and device are
independent of the label within a subject.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from butppg_lightning.console import progress_bar
from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write, require_writable
from butppg_lightning.sources.splits import SplitSummary
from butppg_lightning.sources.synthetic.corruption import Corruption, draw_corruption, record_ecg, record_ppg
from butppg_lightning.sources.synthetic.heart import Beats, draw_beats, draw_ecg, draw_pulse
from butppg_lightning.sources.synthetic.motion import Motion, draw_motion
from butppg_lightning.sources.synthetic.readers import READERS, judge, read_rates, signal_to_noise
from butppg_lightning.sources.synthetic.subjects import BEDSIDE_MONITOR, Layout, draw_subject
from butppg_lightning.window import CHANNELS, PRETRAIN_CHANNELS, SAMPLING_RATE, WindowSet

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array
    from butppg_lightning.sources.synthetic.subjects import Subject

SPLIT_FILES: dict[Layout, dict[str, str]] = {
    "but_ppg": {"train": "train.npz", "val": "val.npz", "test": "test.npz"},
    "vitaldb": {"train": "train_windows.npz", "val": "val_windows.npz"},
}
"""File of every split, by layout."""

_SMALLEST_SHARE, _LARGEST_SHARE = 0.05, 0.95  # of good windows that can be asked for
_HELD_OUT_SHARE = 0.15  # of the subjects, for val and for test
_SHUFFLES = 64  # splits tried; the one whose shares of good windows differ least is taken
_CHUNK = 128  # windows read together: large enough to vectorise, small enough to stay in the cache
_REDRAW_HEART = 12  # conditions tried before the heart is drawn anew, should its rhythm defeat every reader
_PPG = -2  # PPG and ECG are the last two channels of both layouts
_SUBJECT, _HEART, _CONDITIONS, _QUOTA = range(4)  # streams of random numbers under one seed


class _Drawn(NamedTuple):
    """One window with everything the generator knows about it."""

    subject: Subject
    beats: Beats
    motion: Motion
    corruption: Corruption
    pulse: Array
    signals: Array
    reader_errors: Array


def synthesize(
    samples: int,
    *,
    seed: int,
    layout: Layout = "but_ppg",
    good_share: float = 0.21,
    subjects: int | None = None,
    progress: bool = False,
) -> WindowSet:
    """Generate raw windows: unfiltered, unscaled, 125 Hz, in each device's own unit.

    Args:
        samples: Number of windows.
        seed: Seed of at least 0; the same arguments give the same windows, bit for bit.
        layout: ``but_ppg``: five channels with motion and labels. ``vitaldb``: PPG and ECG of patients lying
            still, mostly clean, without labels.
        good_share: Share of good windows (but_ppg only), 0.05 to 0.95.
        subjects: Number of subjects; one for about twenty windows when None. Where numbers permit, every subject
            has windows of both labels.
        progress: Whether to show a progress bar on stderr (only if that is a terminal).

    Returns:
        ``[samples, 5 or 2, 1250]`` float32 with ``subjects``, ``hr_ref`` (bpm) and, for but_ppg, ``labels``. Extras:
        ``device``, ``rhythm``, ``motion``, ``fault`` and ``generator_snr_db``, the scale-invariant ratio of pulse to
        corruption between 0.5 and 8 Hz (dB).

    Raises:
        UserError: If ``samples``, ``seed``, ``good_share`` or ``subjects`` is out of range.
    """
    _check_request(samples, seed, good_share, subjects)
    labelled = layout == "but_ppg"
    good = round(samples * good_share) if labelled else 0
    # one subject for about twenty windows, at least six, but no more than can have windows of both labels
    rarer = min(good, samples - good) if labelled else samples
    count = subjects or max(1, min(max(6, round(samples / 20)), rarer))
    cast = [draw_subject(_stream(seed, _SUBJECT, index), f"S{index:04d}", layout) for index in range(count)]
    owner = np.sort(np.arange(samples) % count)
    wanted = _allot_labels(_stream(seed, _QUOTA), owner, good) if labelled else None
    chunks = []
    with progress_bar("synthesizing", samples) if progress else nullcontext(lambda done: None) as advance:
        for start in range(0, samples, _CHUNK):
            windows = range(start, min(start + _CHUNK, samples))
            chunks.append(_collect(_draw_chunk(seed, windows, [cast[owner[index]] for index in windows], wanted)))
            advance(len(windows))
    columns = {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
    return WindowSet(
        signals=columns.pop("signals"),
        channels=CHANNELS if labelled else PRETRAIN_CHANNELS,
        labels=wanted,
        subjects=columns.pop("subjects"),
        hr_ref=columns.pop("hr_ref"),
        extras=columns,
    )


def _check_request(samples: int, seed: int, good_share: float, subjects: int | None = None) -> None:
    """Refuse what :func:`synthesize` cannot do, before anything is drawn or written."""
    if samples < 1:
        raise UserError(f"{samples} samples were asked for; at least 1 is needed")
    if seed < 0:
        raise UserError(f"the seed is {seed}; it must be 0 or more")
    if not _SMALLEST_SHARE <= good_share <= _LARGEST_SHARE:
        raise UserError(f"good_share is {good_share:g}; choose {_SMALLEST_SHARE:g} to {_LARGEST_SHARE:g}")
    if subjects is not None and not 1 <= subjects <= samples:
        raise UserError(f"{subjects} subjects for {samples} samples; choose 1 to {samples}")


def _stream(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for every subject, window and attempt: no window depends on another."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def _allot_labels(rng: np.random.Generator, owner: Array, good: int) -> Array:
    """Choose the good windows of subjects ``owner [N]``: unevenly as in BUT PPG, but some of everybody if possible."""
    share = rng.beta(1.2, 1.2, owner.max() + 1)[owner]
    priority = np.log(share / (1 - share)) + rng.logistic(size=owner.size)
    order = rng.permutation(owner.size)
    for certain in (np.inf, -np.inf):  # one window of every subject is good, another poor
        _, first = np.unique(owner[order], return_index=True)
        priority[order[first]] = certain
        order = np.delete(order, first)
    labels = np.zeros(owner.size, dtype=np.int64)
    labels[np.argsort(-priority, kind="stable")[:good]] = 1
    return labels


def _draw_chunk(seed: int, windows: range, subjects: list[Subject], wanted: Array | None) -> list[_Drawn]:
    """Draw the windows of one chunk, repeating conditions until the readers' verdict is the wanted label."""
    drawn: dict[int, _Drawn] = {}
    attempts = itertools.count()
    while pending := [index for index in windows if index not in drawn]:
        attempt = next(attempts)
        candidates = [_draw(seed, index, attempt, subjects[index - windows.start]) for index in pending]
        accepted = np.ones(len(pending), dtype=bool)
        if wanted is not None:
            rates = read_rates(np.stack([item.signals[_PPG] for item in candidates]))
            errors = np.stack([item.reader_errors for item in candidates])
            accepted = judge(rates, errors, np.array([item.beats.mean_rate for item in candidates])) == wanted[pending]
        drawn.update((index, item) for index, item, keep in zip(pending, candidates, accepted, strict=True) if keep)
    return [drawn[index] for index in windows]


def _draw(seed: int, index: int, attempt: int, subject: Subject) -> _Drawn:
    monitored = subject.device is BEDSIDE_MONITOR
    beats = draw_beats(_stream(seed, _HEART, index, attempt // _REDRAW_HEART), subject, calm=monitored)
    rng = _stream(seed, _CONDITIONS, index, attempt)
    motion = draw_motion(rng, subject, beats, calm=monitored)
    pulse = draw_pulse(rng, subject, beats)
    corruption = draw_corruption(rng, beats, motion, pulse, monitored=monitored)
    ppg = record_ppg(rng, subject, pulse, corruption)
    ecg = record_ecg(rng, draw_ecg(subject, beats), motion)
    signals = np.stack([ppg, ecg]) if monitored else np.stack([*motion.acceleration, ppg, ecg])
    errors = rng.normal(0, list(READERS.values()))
    return _Drawn(subject, beats, motion, corruption, pulse, signals.astype(np.float32), errors)


def _collect(recordings: list[_Drawn]) -> dict[str, Array]:
    """The columns of a file, so that the parts a window was made of need not be kept."""
    signals = np.stack([item.signals for item in recordings])
    snr = signal_to_noise(np.stack([item.pulse for item in recordings]), signals[:, _PPG].astype(float))
    return {
        "signals": signals,
        "subjects": np.array([item.subject.name for item in recordings]),
        "hr_ref": np.array([item.beats.mean_rate for item in recordings], dtype=np.float32),
        "device": np.array([item.subject.device.name for item in recordings]),
        "rhythm": np.array([item.beats.rhythm for item in recordings]),
        "motion": np.array([item.motion.kind for item in recordings]),
        "fault": np.array([item.corruption.fault for item in recordings]),
        "generator_snr_db": snr.astype(np.float32),
    }


def write_mock(
    output: Path,
    samples: int,
    *,
    seed: int,
    layout: Layout = "but_ppg",
    good_share: float = 0.21,
    progress: bool = False,
) -> dict[str, SplitSummary]:
    """Write synthetic splits: about 70/15/15 % of the windows (vitaldb: 85/15 %), no subject in two of them.

    The arguments are those of :func:`synthesize`, ``samples`` of all splits together; labelled splits have both labels.
    Split files that are in the folder ``output`` are replaced. Returns what was written, by split; too few samples, an
    argument out of range or a folder that cannot be written end in a UserError.
    """
    _check_request(samples, seed, good_share)
    least = minimum_samples(layout, good_share)
    if samples < least:
        reason = "two disjoint splits" if layout == "vitaldb" else f"both labels in every split at {good_share:g} good"
        raise UserError(f"{samples} samples are too few for {reason}; the minimum is {least}")
    require_writable(output)
    windows = synthesize(samples, seed=seed, layout=layout, good_share=good_share, progress=progress)
    split_of_window = _split_by_subject(windows, tuple(SPLIT_FILES[layout]), seed)
    written = {}
    for split, name in SPLIT_FILES[layout].items():
        part = windows.take(np.flatnonzero(split_of_window == split))
        part.save(output / name)
        written[split] = SplitSummary.of(part)
    return written


def write_recording(path: Path, samples: int, *, seed: int, good_share: float = 0.21) -> None:
    """Write windows of one subject, one after the other, as a CSV with time in s, acceleration in g and ECG in mV.

    Args:
        path: The CSV.
        samples: Number of windows, of 10 s each.
        seed: Seed of at least 0.
        good_share: Share of good windows, 0.05 to 0.95.

    Raises:
        UserError: If a number is out of range, or the file cannot be written.
    """
    windows = synthesize(samples, seed=seed, good_share=good_share, subjects=1)
    signals = windows.signals.transpose(1, 0, 2).reshape(len(windows.channels), -1)
    units = {"A": " (g)", "E": " (mV)"}
    header = ["time (s)", *(name + units.get(name[0], "") for name in windows.channels)]
    table = np.column_stack([np.arange(signals.shape[1]) / SAMPLING_RATE, *signals])
    require_writable(path.parent)
    with atomic_write(path) as file:
        np.savetxt(file, table, fmt="%.6g", delimiter=",", header=",".join(header), comments="")


def minimum_samples(layout: Layout, good_share: float) -> int:
    """Fewest windows :func:`write_mock` can split.

    Examples:
        >>> minimum_samples("but_ppg", 0.21), minimum_samples("vitaldb", 0.21)
        (12, 2)
    """
    splits = len(SPLIT_FILES[layout])
    if layout == "vitaldb":
        return splits
    # one good and one poor window for each split; every split has subjects of its own, every subject both labels
    return next(n for n in range(2 * splits, 10**6) if splits <= round(n * good_share) <= n - splits)


def _split_by_subject(windows: WindowSet, splits: tuple[str, ...], seed: int) -> Array:
    """Name the split of every window ``[N]``."""
    _, owner = np.unique(np.asarray(windows.subjects), return_inverse=True)
    count = int(owner.max()) + 1
    held_out = max(1, round(_HELD_OUT_SHARE * count))
    slots = np.array([split for split in splits[1:] for _ in range(held_out)])
    slots = np.concatenate([np.full(count - slots.size, splits[0]), slots])
    rng = np.random.default_rng(seed)
    candidates = [rng.permutation(slots)[owner] for _ in range(_SHUFFLES)]
    if windows.labels is None:
        return np.asarray(candidates[0])
    uneven = [np.ptp([windows.labels[named == split].mean() for split in splits]) for named in candidates]
    return np.asarray(candidates[int(np.argmin(uneven))])
