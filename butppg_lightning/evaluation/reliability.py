"""The reliability diagram: how often windows of a given probability were good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.calibration_figures import expected_calibration_error, expected_ece, reliability_curve
from butppg_lightning.evaluation.drawing import require_matplotlib
from butppg_lightning.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from butppg_lightning.npz import Array

_BLUE, _INK, _FAINT = "#0072B2", "#222222", "#9A9A9A"
_MARKS = ("#D55E00", "#009E73", "#7B3FA0")  # of the thresholds; told apart by everybody (Okabe and Ito 2008)


@dataclass(frozen=True, eq=False)
class Panel:
    """One diagram of a picture.

    Attributes:
        title: Its heading.
        labels: ``[N]`` in {0 poor, 1 good}.
        probabilities: ``[N]`` in 0..1.
        thresholds: Name to threshold, drawn as vertical lines.
    """

    title: str
    labels: Array
    probabilities: Array
    thresholds: Mapping[str, float] | None = None


def draw_reliability(path: Path, panels: Sequence[Panel], bins: int = 10) -> None:
    """Draw reliability diagrams side by side as a PNG.

    Args:
        path: The PNG.
        panels: What to draw, such as before and after a calibration.
        bins: Bins of equal mass.

    Raises:
        UserError: If matplotlib is missing or the file cannot be written.
    """
    require_matplotlib("the reliability diagram")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 6.4), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=[4, 1])
    for column, panel in enumerate(panels):
        reliability_axes(axes[0, column], panel, bins)
        count_axes(axes[1, column], panel)
        for axis in axes[:, column]:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(colors=_INK)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def reliability_axes(axes: Any, panel: Panel, bins: int = 10) -> None:
    """Draw one diagram: share of good windows over mean probability, per bin, with 95 % Wilson intervals.

    Args:
        axes: Of matplotlib.
        panel: What to draw.
        bins: Bins of equal mass.
    """
    curve = reliability_curve(panel.labels, panel.probabilities, bins)
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle="--", zorder=1)
    for number, (name, value) in enumerate((panel.thresholds or {}).items()):
        colour = _MARKS[number % len(_MARKS)]
        axes.axvline(value, color=colour, linewidth=1.2, linestyle=":", zorder=2, label=f"{name} {value:.2f}")
    errors = np.stack([curve.observed - curve.low, curve.high - curve.observed])
    axes.errorbar(
        curve.predicted, curve.observed, yerr=errors, color=_BLUE, marker="o", markersize=5, linewidth=1.4,
        elinewidth=1, capsize=3, zorder=3,
    )  # fmt: skip
    found = expected_calibration_error(panel.labels, panel.probabilities, bins)
    chance = expected_ece(panel.probabilities, bins)
    axes.set_title(
        f"{panel.title}\nECE {found:.3f}; a perfect model (dashed) would show {chance:.3f}", fontsize=10, color=_INK
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share of good windows")
    if panel.thresholds:
        axes.legend(
            title="thresholds", fontsize=8, title_fontsize=8, framealpha=0.9, edgecolor="white", loc="lower right"
        )


def count_axes(axes: Any, panel: Panel) -> None:
    """Draw how many windows have which probability, good above poor.

    Args:
        axes: Of matplotlib.
        panel: What to draw.
    """
    labels, probabilities = np.asarray(panel.labels), np.asarray(panel.probabilities)
    axes.hist(
        [probabilities[labels == 1], probabilities[labels == 0]], bins=np.linspace(0, 1, 26), stacked=True,
        color=[_BLUE, "#E69F00"], label=["good", "poor"],
    )  # fmt: skip
    axes.set(xlabel="probability of good", ylabel="windows")
    axes.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 1.25), ncols=2)
