"""The windows worth looking at, and what every second of every channel did to their verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from butppg_lightning.console import progress_bar
from butppg_lightning.models.freezing import evaluating
from butppg_lightning.models.prediction import predict_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from butppg_lightning.models.network import QualityNetwork
    from butppg_lightning.npz import Array

KINDS = {
    "right_good": "rightly called good",
    "right_poor": "rightly called poor",
    "wrong_good": "wrongly called good",
    "wrong_poor": "wrongly called poor",
    "good": "called good, without a label",
    "poor": "called poor, without a label",
}
"""Why a window is shown."""


class Case(NamedTuple):
    """A window that is shown."""

    row: int  # in the file
    kind: str  # why it is shown: a key of KINDS
    signals: Array  # [C, T] as the model sees them: filtered and scaled
    usable: Array  # [C] bool
    pushes: Array  # [C, seconds], by how much each second of each channel raises the logit

    @property
    def verdict(self) -> str:
        """``good`` or ``poor``."""
        return self.kind.rpartition("_")[2]

    @property
    def support(self) -> Array:
        """``[C, seconds]`` by how much each second of each channel spoke for this window's verdict, or against it."""
        return self.pushes if self.verdict == "good" else -self.pushes


def choose_cases(
    labels: Array | None, probabilities: Array, threshold: float, subjects: Array | None, each: int = 2
) -> list[tuple[str, int]]:
    """Choose the surest windows of every kind, ``each`` at most, of different subjects as far as there are.

    Returns kind (a key of :data:`KINDS`) and row, the surest first within a kind.
    """
    called = np.where(probabilities >= threshold, "good", "poor")
    if labels is not None:
        called = np.char.add(np.where((called == "good") == (labels == 1), "right_", "wrong_"), called)
    found = []
    for kind in KINDS:
        rows = np.flatnonzero(called == kind)
        sign = -1 if kind.endswith("good") else 1
        rows = rows[np.argsort(sign * probabilities[rows], kind="stable")]
        if subjects is not None:
            # the first of each subject before anybody's second
            firsts = np.sort(np.unique(subjects[rows], return_index=True)[1])
            rows = np.r_[rows[firsts], np.delete(rows, firsts)]
        found += [(kind, int(row)) for row in rows[:each]]
    return found


def explain_cases(
    network: QualityNetwork, fetch: Callable[[Array], dict[str, Any]], chosen: list[tuple[str, int]]
) -> list[Case]:
    """Return the chosen windows with what every second of every channel did to their logits.

    The network sees whole raw windows: filters and side inputs take part. ``fetch`` maps rows ``[B]`` to raw ``signals
    [B, C, 1250]`` and ``present [B, C]``.
    """
    found, device = [], network.preprocess.acc_scale.device
    with torch.no_grad(), evaluating(network), progress_bar("what drove the verdicts", len(chosen)) as progress:
        for kind, row in chosen:
            batch = fetch(np.array([row]))
            raw, present = batch["signals"].float().to(device), batch["present"].to(device)
            scaled, faults = network.preprocess.prepare(raw, present)  # channels that the encoder does not see, too

            def logits(windows: Array, present: torch.Tensor = present) -> Array:
                return predict_windows(network, windows, present.expand(len(windows), -1)).logits

            there = (faults[0] == 0).cpu().numpy()
            pushes = occlusion(logits, raw[0].cpu().numpy(), there)
            found.append(Case(row, kind, scaled[0].cpu().numpy(), there, pushes))
            progress(1)
    return found


def occlusion(logits: Callable[[Array], Array], window: Array, usable: Array, seconds: int = 10) -> Array:
    """Return how much each second of each channel raises a window's logit (occlusion: Zeiler and Fergus 2014).

    One second of one channel at a time is blanked in the raw window: the straight line between the samples beside it
    takes its place (at the window's ends, the one sample beside it). What the logit falls by is what that second
    contributed. Pieces that only matter together do not show, and the line speaks too: no pulse looks poor.

    ``logits`` maps raw windows ``[B, C, T]`` to ``[B]``, called once; ``window [C, T]`` is raw, T a multiple of
    ``seconds``. Returns ``[C, seconds]``: above 0 where the piece speaks for good, 0 in channels not ``usable [C]``.
    """
    length, channels = window.shape[1] // seconds, np.flatnonzero(usable)
    # the untouched window is in the same batch: a batch of another size may round otherwise
    batch = np.repeat(window[None], len(channels) * seconds + 1, axis=0)
    for piece, blanked in enumerate(batch[:-1]):
        signal, start = blanked[channels[piece // seconds]], piece % seconds * length
        ends = [signal[place] for place in (start - 1, start + length) if 0 <= place < len(signal)]
        signal[start : start + length] = np.linspace(ends[0], ends[-1], length + 2)[1:-1]
    found = logits(batch).astype(np.float64)
    pushes = np.zeros((len(window), seconds))
    pushes[channels] = (found[-1] - found[:-1]).reshape(-1, seconds)
    return pushes
