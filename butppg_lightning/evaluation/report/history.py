"""How the run went: loss and figures per epoch, with the stages of unfreezing shaded."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.report.canvas import FAINT, GOOD, INK, POOR, drawing
from butppg_lightning.evaluation.report.page import Picture, Section

if TYPE_CHECKING:
    from butppg_lightning.evaluation.report.evidence import Evidence
    from butppg_lightning.npz import Array

_STAGES = {"stage1_head_only": "head", "stage2_partial": "last blocks", "stage3_full": "everything"}


def training_section(evidence: Evidence) -> Section | None:
    """Return the training curves, or None without a history."""
    history = evidence.history
    if not history or not _numbers(history.get("train_loss")).size:
        return None
    section = Section("How it was trained")
    stages = [str(stage) for stage in history.get("stage", [])]
    kinds = list(dict.fromkeys(stages))
    epochs = len(history["train_loss"])
    named = "; ".join(f"{stages.count(kind)} of {_STAGES.get(kind, kind)}" for kind in kinds)
    section.text.append(f"{epochs} epochs{f', by what was trained: {named}' if named else ''}.")
    section.parts.append(_picture(evidence, "loss", [("train_loss", "train", POOR), ("val_loss", "validation", GOOD)]))
    quality = [("val_auroc", "AUROC", GOOD)]
    if np.isfinite(_numbers(history.get("val_auroc"))).any():
        section.parts.append(_picture(evidence, "AUROC", quality))
    return section


def _picture(evidence: Evidence, quantity: str, curves: list[tuple[str, str, str]]) -> Picture:
    history = evidence.history or {}
    with drawing(f"training-{quantity.lower()}", f"{quantity} per epoch", 250) as drawn:
        axes = drawn.figure.add_subplot()
        _shade(axes, [str(stage) for stage in history.get("stage", [])])
        for key, label, colour in curves:
            values = _numbers(history.get(key))
            axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label, marker=".", markersize=4)
        best, last = evidence.best_epoch, len(history["train_loss"])
        if best is not None and best < last:
            axes.axvline(best + 1, color=INK, linewidth=1.1, linestyle=":", label="this checkpoint")
        axes.set(xlim=(0.5, last + 0.5), xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(f"{quantity} (validation)" if quantity == "AUROC" else quantity)
        axes.legend(loc="best")
    return Picture(drawn.svg, _words(history, quantity, best), quantity[0].upper() + quantity[1:])


def _shade(axes: Any, stages: list[str]) -> None:
    start = 0
    for number, (stage, epochs) in enumerate(groupby(stages)):
        count = len(list(epochs))
        axes.axvspan(start + 0.5, start + count + 0.5, color=FAINT, alpha=(0.06, 0.16, 0.28)[number % 3], linewidth=0)
        if count * 8 >= len(stages):  # else its name does not fit
            axes.annotate(
                _STAGES.get(stage, stage), (start + count / 2 + 0.5, 1), (0, 3), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", fontsize=9.5,
            )  # fmt: skip
        start += count


def _words(history: dict[str, list[Any]], quantity: str, best: int | None) -> str:
    shaded = "Darker grey: a later stage. "
    if quantity == "AUROC":
        values = _numbers(history.get("val_auroc"))
        said = f"The highest validation AUROC is {np.nanmax(values):.3f}, in epoch {int(np.nanargmax(values)) + 1}."
        if best is not None and best < len(values) and np.isfinite(values[best]):
            said += f" This checkpoint is from epoch {best + 1} ({values[best]:.3f})."
        return shaded + said
    train, held_out = _numbers(history.get("train_loss")), _numbers(history.get("val_loss"))
    if not np.isfinite(held_out).any():
        return shaded + "There was no validation loss."
    lowest = int(np.nanargmin(held_out))
    said = f"Validation loss was lowest in epoch {lowest + 1} ({held_out[lowest]:.3f})"
    if (
        np.isfinite(train[-1])
        and held_out[-1] > 1.1 * held_out[lowest]
        and train[-1] < train[min(lowest, len(train) - 1)]
    ):
        return shaded + said + ", then rose while training loss fell: the model overfits from there on."
    return shaded + said + "."


def _numbers(values: Any) -> Array:
    """Return a list of the history as floats, NaN where it holds none; empty if it is no list of numbers."""
    if not isinstance(values, list):
        return np.empty(0)
    known = (float(value) if isinstance(value, (int, float)) else np.nan for value in values)
    return np.array(list(known), dtype=np.float64)
