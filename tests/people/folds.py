"""Who is trained on, who is held out, and the windows of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from butppg_lightning.data.overlap import window_digests
from butppg_lightning.errors import UserError
from butppg_lightning.sources.splits import folds_by_subject, subjects_named
from butppg_lightning.window import CHANNELS, WINDOW_SAMPLES, WindowSet

if TYPE_CHECKING:
    from butppg_lightning.npz import Array

BY_SUBJECT = "subject"
_INSIDE = 3  # folds of the training people, to choose among methods


@dataclass(frozen=True)
class Fold:
    """Subjects parted in two.

    Attributes:
        name: In file names: its number, or ``all``.
        train: Subjects to train on.
        test: Subjects that are held out; nobody in the fold ``all``.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    def __str__(self) -> str:
        return f"without {', '.join(self.test)}" if 0 < len(self.test) <= 3 else f"fold {self.name}"


def make_folds(windows: WindowSet, asked: str) -> list[Fold]:
    """Part the subjects: ``subject`` leaves one out, a number asks for folds of similar size and class balance."""
    if windows.subjects is None:
        raise UserError("the windows have no 'subjects', so nobody can be held out; save who they come from")
    names = [str(name) for name in np.unique(windows.subjects)]
    if asked != BY_SUBJECT and not asked.isdigit():
        raise UserError(f"--folds is {asked}; expected {BY_SUBJECT} (leave one out) or a number such as 5")
    if len(names) < 2:
        raise UserError(f"there is one subject, {names[0]}; holding people out needs at least two")
    tests = [[name] for name in names] if asked == BY_SUBJECT else folds_by_subject(windows, int(asked))
    return _parted(names, tests)


def everybody(windows: WindowSet) -> Fold:
    """Return the fold that trains on all subjects."""
    return Fold("all", tuple(str(name) for name in np.unique(np.asarray(windows.subjects))), ())


def folds_inside(windows: WindowSet, fold: Fold) -> list[Fold]:
    """Part the people a fold trains on in three, so that a choice can be made without those it holds out."""
    own = windows.take(np.flatnonzero(subjects_named(windows, fold.train)))
    tests = folds_by_subject(own, min(_INSIDE, len(fold.train)))
    return _parted(fold.train, tests, f"{fold.name}_inside-")


def _parted(names: Sequence[str], tests: Sequence[Sequence[str]], prefix: str = "") -> list[Fold]:
    return [
        Fold(f"{prefix}{number}", tuple(name for name in names if name not in test), tuple(sorted(test)))
        for number, test in enumerate(tests)
    ]


def with_fewer(fold: Fold, people: int, draw: int) -> Fold:
    """Return a fold that trains on so many of its people, and holds out the same ones as before.

    The people of a draw are always the same, and those of a smaller number are among those of a larger one.

    Raises:
        UserError: If the fold trains on fewer.
    """
    if not 0 < people <= len(fold.train):
        raise UserError(f"{people} people cannot be drawn from the {len(fold.train)} that {fold} trains on")
    order = np.random.default_rng([draw, *fold.name.encode()]).permutation(len(fold.train))
    train = tuple(sorted(fold.train[row] for row in order[:people]))
    return Fold(f"{fold.name}_people-{people}_draw-{draw}", train, fold.test)


def training_windows(windows: WindowSet, fold: Fold, place: str) -> WindowSet:
    """Return the windows to train on; a person or a window on both sides is an error."""
    train = windows.take(np.flatnonzero(subjects_named(windows, fold.train)))
    _refuse_leaks(train, windows, fold, place)
    return train


def unlabelled_windows(windows: WindowSet, unlabelled: WindowSet | None, fold: Fold, place: str) -> WindowSet:
    """Return the windows on which a fold's encoder continues its self-supervision.

    Args:
        windows: The labelled windows, held-out subjects among them.
        unlabelled: Windows with subjects, in any order of channels; None for the fold's training windows.
        fold: The fold.
        place: Where the unlabelled windows are from, for messages.

    Returns:
        Windows of the fold's training subjects and of nobody else, without labels; a held-out person's is an error.
    """
    if unlabelled is None:
        found = training_windows(windows, fold, place)  # refuses leaks itself
    else:
        if unlabelled.subjects is None:
            raise UserError(f"{place} has no 'subjects', so held-out people cannot be kept out; save who they are")
        # those of training subjects are let in, rather than those of held-out ones left out: a name written in
        # another way then keeps windows out, not in
        found = unlabelled.take(np.flatnonzero(np.isin(unlabelled.subjects, fold.train)))
        if not len(found):
            raise UserError(
                f"{place} has no windows of the subjects {', '.join(fold.train[:5])}; its subjects are "
                f"{', '.join(np.unique(unlabelled.subjects)[:5])}: name them alike"
            )
        _refuse_leaks(found, windows, fold, place)
    return WindowSet(found.signals, found.channels, subjects=found.subjects, present=found.present)


def softened(windows: WindowSet, spoiled: str, place: str) -> WindowSet:
    """Return windows with soft labels: 1 less the file's array ``spoiled``, ``[N]`` in 0..1."""
    shares = windows.extras.get(spoiled)
    if shares is None or shares.shape != (len(windows),) or shares.dtype.kind != "f":
        others = ", ".join(sorted(windows.extras)) or "no further array"
        raise UserError(f"{place} has no '{spoiled}' to make soft labels from; it has {others}")
    return replace(windows, soft_labels=np.clip(1 - shares, 0, 1).astype(np.float32))


def join(parts: Sequence[tuple[str, WindowSet]]) -> WindowSet:
    """Join unlabelled windows of several named sources, whose subjects' names get the source's in front.

    There is every channel that one of them has, absent where a source lacks it.
    """
    channels = tuple(name for name in CHANNELS if any(name in windows.channels for _, windows in parts))
    signals = np.zeros((sum(len(windows) for _, windows in parts), len(channels), WINDOW_SAMPLES), dtype=np.float32)
    present = np.zeros(signals.shape[:2], dtype=bool)
    names: list[str] = []
    for source, windows in parts:
        rows, places = slice(len(names), len(names) + len(windows)), [channels.index(name) for name in windows.channels]
        signals[rows, places] = windows.signals
        present[rows, places] = True if windows.present is None else windows.present
        names += [
            f"{source}-{name}" for name in (windows.subjects if windows.subjects is not None else "?" * len(windows))
        ]
    return WindowSet(signals, channels, subjects=np.array(names), present=present)


def _refuse_leaks(train: WindowSet, windows: WindowSet, fold: Fold, place: str) -> None:
    if not fold.test:
        return
    held_out = windows.take(np.flatnonzero(subjects_named(windows, fold.test)))
    people = np.intersect1d(np.asarray(train.subjects), np.asarray(held_out.subjects))
    if people.size:
        raise UserError(f"{place}: subject {people[0]} would be trained on and held out; part people, not windows")
    if "PPG" not in train.channels or "PPG" not in held_out.channels:
        return
    same = np.intersect1d(_ppg_digests(train), _ppg_digests(held_out))
    if (count := int((same != 0).sum())) > 0:
        raise UserError(
            f"{place}: {count} windows of held-out subjects have the very PPG of windows to train on, under another "
            "subject's name; remove the copies, or name people alike"
        )


def _ppg_digests(windows: WindowSet) -> Array:
    column = windows.channels.index("PPG")
    return window_digests(WindowSet(windows.signals[:, column : column + 1], ("PPG",)))
