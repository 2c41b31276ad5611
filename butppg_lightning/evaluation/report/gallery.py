"""Windows to look at: the surest right and wrong verdicts as signals, with what drove them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.report.canvas import FAINT, GOOD, INK, POOR, drawing
from butppg_lightning.evaluation.report.cases import KINDS
from butppg_lightning.evaluation.report.page import Picture, Section
from butppg_lightning.evaluation.report.words import listed, signed
from butppg_lightning.window import SAMPLING_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from butppg_lightning.evaluation.report.evidence import Case, Evidence
    from butppg_lightning.npz import Array

_LEAST_PUSH = 0.2  # of the logit; where nothing moves it by as much, all tints are faint
_LANE = 5.0  # scaled units from one channel's middle to its lane's edge; more is cut off
_DRAWN_SAMPLES = 625  # of 1250: 62.5 Hz, above what a picture of this width resolves
_GAIN = {"PPG": 2.0}  # its quartiles are 1 apart: of a pulse, the peaks lie at about 1.5


def gallery_section(evidence: Evidence) -> Section | None:
    """Return the windows that are shown, or None if there are none."""
    if not evidence.cases:
        return None
    section = Section("Windows to look at")
    section.text.append(
        "The surest verdicts of each kind, of different people where there are. Signals are drawn as the model sees "
        "them: band-passed, PPG and ECG scaled window by window, acceleration on one scale, so that rest is a flat "
        "line. Behind them, each second of each channel is tinted by what it did to the verdict when it was blanked "
        "out: blue spoke for good, orange for poor, the stronger the more."
    )
    section.parts += [_picture(number, case, evidence) for number, case in enumerate(evidence.cases)]
    section.after = (
        "Blanking asks what is missed when one piece is gone; pieces that only matter together, such as the rhythm of "
        "the whole window, do not show. Tints are scaled per window and cannot be compared between windows."
    )
    if any(case.kind.startswith("wrong") for case in evidence.cases):
        section.after += " A wrong verdict may also be a wrong label: look before you count it against the model."
    return section


def _picture(number: int, case: Case, evidence: Evidence) -> Picture:
    channels = evidence.channels
    height = 62 + 40 * len(channels)
    with drawing(f"case-{number}", f"Signals of window {case.row}, {KINDS[case.kind]}", height) as drawn:
        axes = drawn.figure.add_subplot()
        _draw_tints(axes, case)
        for lane, name in enumerate(channels):
            _draw_channel(axes, case, lane, name)
        axes.set_yticks(-2 * _LANE * np.arange(len(channels)), channels)
        axes.set_ylim(-2 * _LANE * (len(channels) - 0.5), _LANE)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        seconds = case.signals.shape[1] / SAMPLING_RATE
        axes.set(xlim=(0, seconds), xlabel="seconds")
        axes.set_xticks(np.arange(0, seconds + 0.1, 2))
    return Picture(drawn.svg, _words(case, channels), KINDS[case.kind].capitalize())


def _draw_tints(axes: Any, case: Case) -> None:
    largest = max(float(np.abs(case.pushes).max()), _LEAST_PUSH)
    length = case.signals.shape[1] / SAMPLING_RATE / case.pushes.shape[1]
    for lane, pushes in enumerate(case.pushes):
        if not case.present[lane]:
            continue
        for second, push in enumerate(pushes):
            strength = abs(float(push)) / largest
            if strength < 0.04:
                continue  # invisible, and half of the picture's size
            middle = -2 * _LANE * lane
            axes.fill_between(
                [second * length, (second + 1) * length], middle - 0.92 * _LANE, middle + 0.92 * _LANE,
                color=GOOD if push > 0 else POOR, alpha=0.55 * strength, linewidth=0,
            )  # fmt: skip


def _draw_channel(axes: Any, case: Case, lane: int, name: str) -> None:
    middle = -2 * _LANE * lane
    if not case.present[lane]:
        axes.text(case.signals.shape[1] / SAMPLING_RATE / 2, middle, "absent", color=FAINT, ha="center", va="center")
        return
    times, values = _outline(case.signals[lane] * _GAIN.get(name, 1.0))
    axes.plot(times, middle + np.clip(values, -_LANE, _LANE), color=INK, linewidth=1.1 if name == "PPG" else 0.8)


def _outline(signal: Array) -> tuple[Array, Array]:
    """Return fewer samples that keep every peak: the lowest and the highest of each piece, in their order."""
    length = max(1, 2 * len(signal) // _DRAWN_SAMPLES)
    pieces = signal[: len(signal) // length * length].reshape(-1, length)
    places = np.sort(np.stack([pieces.argmin(axis=1), pieces.argmax(axis=1)], axis=1), axis=1)
    rows = np.unique((places + length * np.arange(len(pieces))[:, None]).ravel())
    return rows / SAMPLING_RATE, signal[rows]


def _words(case: Case, channels: Sequence[str]) -> str:
    label = {1: ", label good", 0: ", label poor"}.get(case.label, "")
    whose = f" of subject {case.subject}" if case.subject else ""
    says = f"Window {case.row}{whose}: probability of good {100 * case.probability:.1f} %{label}. "
    weight = np.abs(case.pushes).sum(axis=1)
    if np.abs(case.pushes).max() < _LEAST_PUSH / 4:
        return says + "No single second of a channel moves the verdict."
    share = weight / weight.sum()
    order = np.argsort(-share)
    first = [f"{channels[row]} ({100 * share[row]:.0f} %)" for row in order[:2] if share[row] >= 0.05]
    lane, second = np.unravel_index(np.abs(case.pushes).argmax(), case.pushes.shape)
    speaks = "good" if case.pushes[lane, second] > 0 else "poor"
    return (
        says + f"Most of what moved the verdict lies in {listed(first)}; the strongest piece is second {second + 1} of "
        f"{channels[int(lane)]}, which spoke for {speaks} (logit {signed(float(case.pushes[lane, second]), 2)})."
    )
