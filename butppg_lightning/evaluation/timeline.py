"""The picture of a scored recording: verdicts, probability and signal over time, and the best and the worst window."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.evaluation.clock_axis import clock, span, time_ticks
from butppg_lightning.evaluation.drawing import require_matplotlib
from butppg_lightning.evaluation.scores import VERDICTS, Scores
from butppg_lightning.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from butppg_lightning.npz import Array

COLOURS = {"good": "#0072B2", "poor": "#E69F00", "no_ppg": "#C9C9C9"}
"""Blue, orange (Okabe and Ito 2008, told apart by everybody, and in grey) and a light grey."""
_LABELS = {"good": "good", "poor": "poor", "no_ppg": "no PPG"}
_INK, _FAINT = "#222222", "#8A8A8A"
_MOST_COLUMNS = 480  # a strip's columns; more would be narrower than its pixels
_MOST_POINTS = 720  # windows drawn one by one


@dataclass(eq=False)
class Example:
    """One window to be shown.

    Attributes:
        title: What it is an example of.
        row: Its row among the scores.
        signals: Its signals ``[1250]`` by channel name.
    """

    title: str
    row: int
    signals: dict[str, Array]


def draw_timeline(
    path: Path, title: str, scores: Scores, outline: tuple[Array, Array, Array], examples: list[Example]
) -> None:
    """Draw a scored recording as a PNG.

    Args:
        path: The PNG.
        title: Its first line.
        scores: The scored windows.
        outline: Edges ``[n + 1]`` (s), lowest and highest PPG value ``[n]`` of equal stretches of time.
        examples: Windows to show below.

    Raises:
        UserError: If matplotlib is missing or the file cannot be written.
    """
    require_matplotlib("the timeline", "recordings")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8.2), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    heights = [0.55, 1.9, 1.9, 0.42, 1.75] if examples else [0.55, 1.9, 1.9]
    grid = figure.add_gridspec(
        len(heights),
        2,
        height_ratios=heights,
        left=0.075,
        right=0.985,
        top=0.885,
        bottom=0.075,
        hspace=0.16,
        wspace=0.1,
    )
    end = float(outline[0][-1])
    over_time = [figure.add_subplot(grid[row, :]) for row in range(3)]
    _draw_verdicts(over_time[0], scores)
    _draw_probability(over_time[1], scores)
    _draw_outline(over_time[2], scores, outline)
    ticks, labels, name = time_ticks(end, scores.start_time)
    for axes in over_time:
        axes.set_xlim(0, end)
        axes.set_xticks(ticks, labels if axes is over_time[2] else [""] * len(ticks))
        _style(axes)
    over_time[2].set_xlabel(name, color=_INK)
    figure.align_ylabels(over_time[1:])
    for column, example in enumerate(examples[:2]):
        _draw_example(figure.add_subplot(grid[4, column]), scores, example)
    _write_titles(figure, title, scores)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    with atomic_write(path) as file:
        file.write(picture.getvalue())


def _draw_verdicts(axes: Any, scores: Scores) -> None:
    edges = _columns(scores, min(len(scores.starts), _MOST_COLUMNS))
    column = np.clip(np.searchsorted(edges, scores.starts, side="right") - 1, 0, len(edges) - 2)
    verdicts = scores.verdicts
    counts = np.stack([np.bincount(column[verdicts == row], minlength=len(edges) - 1) for row in range(len(VERDICTS))])
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    floor = np.zeros(len(edges) - 1)
    for name, share in zip(VERDICTS, shares, strict=True):
        axes.bar(edges[:-1], share, np.diff(edges), bottom=floor, align="edge", color=COLOURS[name], linewidth=0)
        floor = floor + share
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("verdict", rotation=0, ha="right", va="center", color=_INK)


def _draw_probability(axes: Any, scores: Scores) -> None:
    middle = scores.starts + scores.seconds / 2
    if len(middle) <= _MOST_POINTS:
        for row, name in enumerate(VERDICTS[:2]):
            chosen = scores.verdicts == row
            axes.plot(middle[chosen], scores.probabilities[chosen], "o", markersize=4, color=COLOURS[name], mew=0)
        axes.plot(middle, scores.probabilities, color=_FAINT, linewidth=0.7, zorder=1)
    else:
        edges = _columns(scores, _MOST_COLUMNS)
        column = np.searchsorted(edges, scores.starts, side="right") - 1
        figures = np.full((3, len(edges) - 1), np.nan)
        for row in range(len(edges) - 1):
            known = scores.probabilities[column == row]
            known = known[~np.isnan(known)]
            if len(known):
                figures[:, row] = np.percentile(known, [10, 50, 90])
        centres = (edges[:-1] + edges[1:]) / 2
        axes.fill_between(centres, figures[0], figures[2], color=COLOURS["good"], alpha=0.22, linewidth=0)
        axes.plot(centres, figures[1], color=COLOURS["good"], linewidth=1.1)
        minutes = (edges[1] - edges[0]) / 60
        _note(axes, f"median and 10 to 90 % of the windows in {minutes:.2g} min")
    axes.axhline(scores.threshold, color=_INK, linewidth=0.9, linestyle=(0, (5, 3)))
    axes.annotate(
        f"threshold {scores.threshold:.3g}", (1, scores.threshold), (-4, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", fontsize=8, color=_INK,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )  # fmt: skip
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability of\ngood quality", color=_INK)


def _draw_outline(axes: Any, scores: Scores, outline: tuple[Array, Array, Array]) -> None:
    edges, low, high = outline
    middle = (edges[:-1] + edges[1:]) / 2
    row = np.clip(np.searchsorted(scores.starts, middle, side="right") - 1, 0, len(scores.starts) - 1)
    reach = max([scores.seconds, *np.diff(scores.starts[:2])])  # a window speaks for the time up to the next one
    verdicts = np.where(middle <= scores.starts[row] + reach, scores.verdicts[row], -1)
    for number, colour in ((0, COLOURS["good"]), (1, COLOURS["poor"]), (2, _FAINT), (-1, _FAINT)):
        chosen = np.where(verdicts == number, 1.0, np.nan)
        axes.stairs(
            high * chosen, edges, baseline=low * chosen, fill=True, color=colour, linewidth=0.5, antialiased=False
        )
    known = ~np.isnan(high)
    if known.any():
        # a burst of motion may be a hundred times the pulse: it is cut off, so that the pulse can be seen
        reach = 2.5 * float(np.median(np.maximum(high[known], -low[known]))) or 1.0
        reach = min(reach, 1.1 * float(np.maximum(high[known], -low[known]).max()) or 1.0)
        axes.set_ylim(-reach, reach)
        if (np.maximum(high[known], -low[known]) > reach).any():
            _note(axes, "larger swings are cut off")
    axes.set_ylabel("PPG without baseline\n(unit of the file)", color=_INK)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))


def _draw_example(axes: Any, scores: Scores, example: Example) -> None:
    verdict = VERDICTS[int(scores.verdicts[example.row])]
    names = [name for name in ("PPG", "ECG") if name in example.signals]
    for level, name in enumerate(names):
        signal = example.signals[name].astype(np.float64)
        low, high = np.percentile(signal, [0.5, 99.5])
        shape = np.clip((signal - low) / ((high - low) or 1.0), -0.15, 1.15)
        colour, width = (COLOURS[verdict], 1.4) if name == "PPG" else (_FAINT, 0.8)
        axes.plot(
            np.linspace(0, scores.seconds, len(signal), endpoint=False), shape - 1.45 * level, color=colour, lw=width
        )
    axes.set_yticks([0.5 - 1.45 * level for level in range(len(names))], names)
    axes.set_xlim(0, scores.seconds)
    axes.set_xticks(np.arange(0, scores.seconds + 0.1, 2))
    _style(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds", color=_INK)
    moment = scores.starts[example.row]
    when = (
        clock(moment)
        if scores.start_time is None
        else f"{scores.start_time + timedelta(seconds=float(moment)):%H:%M:%S}"
    )
    axes.set_title(
        f"{example.title}: p = {scores.probabilities[example.row]:.2f}, at {when}", loc="left", fontsize=10, color=_INK
    )


def _write_titles(figure: Any, title: str, scores: Scores) -> None:
    figures = scores.summary()
    begin, end = scores.longest_stretch
    longest = f"longest usable stretch {span(end - begin)}" if end > begin else "no usable stretch"
    usable = f"{figures['good']:,} of {figures['windows']:,} windows usable"
    told = f"{usable} ({figures['share_usable']:.1%}, {span(scores.usable_seconds)}), {longest}"
    figure.text(0.062, 0.962, title, fontsize=13, weight="bold", color=_INK, va="center", parse_math=False)
    figure.text(0.062, 0.918, told, fontsize=10.5, color=_INK, va="center")
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[name], label=f"{_LABELS[name]} {figures[name]:,}") for name in VERDICTS]
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(0.99, 0.985), ncols=3, frameon=False, fontsize=10.5,
        handlelength=1.1, handleheight=1.1, columnspacing=1.4,
    )  # fmt: skip


def _columns(scores: Scores, count: int) -> Array:
    end = scores.starts[-1] + (scores.starts[1] - scores.starts[0] if len(scores.starts) > 1 else scores.seconds)
    return np.linspace(scores.starts[0], max(end, scores.seconds), count + 1)


def _style(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=9)


def _note(axes: Any, text: str) -> None:
    axes.annotate(
        text,
        (1, 1),
        (-4, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=_FAINT,
    )
