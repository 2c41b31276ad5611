"""The picture of a scored recording: verdicts, probability and signal over time, and the best and the worst window."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from butppg_lightning.evaluation.drawing import FAINT, GOOD, INK, POOR, save_figure
from butppg_lightning.evaluation.scores import VERDICTS, Scores
from butppg_lightning.extras import require

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from butppg_lightning.npz import Array

COLOURS = {"good": GOOD, "poor": POOR, "no_ppg": "#c9c9c9"}
"""Blue, orange (Okabe and Ito 2008, told apart by everybody, and in grey) and a light grey."""
_MOST_COLUMNS = 480  # a strip's columns; more would be narrower than its pixels
_MOST_POINTS = 720  # windows drawn one by one
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800)
_MOST_TICKS = 13


class Example(NamedTuple):
    """A window to be shown: what it is an example of, its row among the scores, its signals ``[1250]`` by channel."""

    title: str
    row: int
    signals: dict[str, Array]


def draw_timeline(
    path: Path, title: str, scores: Scores, outline: tuple[Array, Array, Array], examples: list[Example]
) -> None:
    """Draw a scored recording as a PNG, with at most two windows below.

    ``outline`` has the edges ``[n + 1]`` (s), the lowest and the highest PPG value ``[n]`` of equal stretches of time.
    """
    require("matplotlib.figure", "the timeline", "recordings")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8.2), dpi=110, facecolor="white")
    heights = [0.55, 1.9, 1.9, 0.42, 1.75] if examples else [0.55, 1.9, 1.9]
    margins = {"left": 0.075, "right": 0.985, "top": 0.885, "bottom": 0.075, "hspace": 0.16, "wspace": 0.1}
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, **margins)
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
    over_time[2].set_xlabel(name, color=INK)
    figure.align_ylabels(over_time[1:])
    for column, example in enumerate(examples[:2]):
        _draw_example(figure.add_subplot(grid[4, column]), scores, example)
    _write_titles(figure, title, scores)
    save_figure(figure, path)


def _draw_verdicts(axes: Any, scores: Scores) -> None:
    edges, column = _columns(scores, min(len(scores.starts), _MOST_COLUMNS))
    verdicts = scores.verdicts
    counts = np.stack([np.bincount(column[verdicts == row], minlength=len(edges) - 1) for row in range(len(VERDICTS))])
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    floors = np.cumsum(shares, axis=0) - shares
    for name, share, floor in zip(VERDICTS, shares, floors, strict=True):
        axes.stairs(floor + share, edges, baseline=floor, fill=True, color=COLOURS[name], linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("verdict", rotation=0, ha="right", va="center", color=INK)


def _draw_probability(axes: Any, scores: Scores) -> None:
    if len(scores.starts) <= _MOST_POINTS:
        middle, verdicts = scores.starts + scores.seconds / 2, scores.verdicts
        for row, name in enumerate(VERDICTS[:2]):
            chosen = verdicts == row
            axes.plot(middle[chosen], scores.probabilities[chosen], "o", markersize=4, color=COLOURS[name], mew=0)
        axes.plot(middle, scores.probabilities, color=FAINT, linewidth=0.7, zorder=1)
    else:
        edges, column = _columns(scores, _MOST_COLUMNS)
        known = ~np.isnan(scores.probabilities)
        parts = [scores.probabilities[known & (column == row)] for row in range(len(edges) - 1)]
        low, median, high = np.array(
            [np.percentile(part, [10, 50, 90]) if len(part) else [np.nan] * 3 for part in parts]
        ).T
        centres = (edges[:-1] + edges[1:]) / 2
        axes.fill_between(centres, low, high, color=GOOD, alpha=0.22, linewidth=0)
        axes.plot(centres, median, color=GOOD, linewidth=1.1)
        minutes = (edges[1] - edges[0]) / 60
        _note(axes, f"median and 10 to 90 % of the windows in {minutes:.2g} min")
    axes.axhline(scores.threshold, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
    axes.annotate(
        f"threshold {scores.threshold:.3g}", (1, scores.threshold), (-4, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", fontsize=8, color=INK,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )  # fmt: skip
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("probability of\ngood quality", color=INK)


def _draw_outline(axes: Any, scores: Scores, outline: tuple[Array, Array, Array]) -> None:
    edges, low, high = outline
    middle = (edges[:-1] + edges[1:]) / 2
    row = np.clip(np.searchsorted(scores.starts, middle, side="right") - 1, 0, len(scores.starts) - 1)
    reach = max([scores.seconds, *np.diff(scores.starts[:2])])  # a window speaks for the time up to the next one
    verdicts = np.where(middle <= scores.starts[row] + reach, scores.verdicts[row], -1)
    for number, colour in ((0, GOOD), (1, POOR), (2, FAINT), (-1, FAINT)):
        chosen = np.where(verdicts == number, 1.0, np.nan)
        axes.stairs(
            high * chosen, edges, baseline=low * chosen, fill=True, color=colour, linewidth=0.5, antialiased=False
        )
    known = ~np.isnan(high)
    if known.any():
        # a burst of motion may be a hundred times the pulse: it is cut off, so that the pulse can be seen
        swings = np.maximum(high[known], -low[known])
        reach = min(2.5 * float(np.median(swings)) or 1.0, 1.1 * float(swings.max()) or 1.0)
        axes.set_ylim(-reach, reach)
        if (swings > reach).any():
            _note(axes, "larger swings are cut off")
    axes.set_ylabel("PPG without baseline\n(unit of the file)", color=INK)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))


def _draw_example(axes: Any, scores: Scores, example: Example) -> None:
    verdict = VERDICTS[int(scores.verdicts[example.row])]
    names = [name for name in ("PPG", "ECG") if name in example.signals]
    for level, name in enumerate(names):
        signal = example.signals[name].astype(np.float64)
        low, high = np.percentile(signal, [0.5, 99.5])
        shape = np.clip((signal - low) / ((high - low) or 1.0), -0.15, 1.15)
        colour, width = (COLOURS[verdict], 1.4) if name == "PPG" else (FAINT, 0.8)
        times = np.linspace(0, scores.seconds, len(signal), endpoint=False)
        axes.plot(times, shape - 1.45 * level, color=colour, lw=width)
    axes.set_yticks([0.5 - 1.45 * level for level in range(len(names))], names)
    axes.set_xlim(0, scores.seconds)
    axes.set_xticks(np.arange(0, scores.seconds + 0.1, 2))
    _style(axes)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("seconds", color=INK)
    moment = float(scores.starts[example.row])
    if scores.start_time is None:
        minutes, seconds = divmod(round(moment), 60)
        when = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    else:
        when = f"{scores.start_time + timedelta(seconds=moment):%H:%M:%S}"
    title = f"{example.title}: p = {scores.probabilities[example.row]:.2f}, at {when}"
    axes.set_title(title, loc="left", fontsize=10, color=INK)


def _write_titles(figure: Any, title: str, scores: Scores) -> None:
    figures = scores.summary()
    begin, end = scores.longest_stretch
    longest = f"longest usable stretch {span(end - begin)}" if end > begin else "no usable stretch"
    usable = f"{figures['good']:,} of {figures['windows']:,} windows usable"
    says = f"{usable} ({figures['share_usable']:.1%}, {span(scores.usable_seconds)}), {longest}"
    figure.text(0.062, 0.962, title, fontsize=13, weight="bold", color=INK, va="center", parse_math=False)
    figure.text(0.062, 0.918, says, fontsize=10.5, color=INK, va="center")
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS[name], label=f"{name.replace('no_ppg', 'no PPG')} {figures[name]:,}") for name in VERDICTS
    ]
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(0.99, 0.985), ncols=3, frameon=False, fontsize=10.5,
        handlelength=1.1, handleheight=1.1, columnspacing=1.4,
    )  # fmt: skip


def _columns(scores: Scores, count: int) -> tuple[Array, Array]:
    """Return the edges ``[count + 1]`` (s) of equal stretches of time, and which of them each window begins in."""
    end = scores.starts[-1] + (scores.starts[1] - scores.starts[0] if len(scores.starts) > 1 else scores.seconds)
    edges = np.linspace(scores.starts[0], max(end, scores.seconds), count + 1)
    return edges, np.clip(np.searchsorted(edges, scores.starts, side="right") - 1, 0, count - 1)


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)


def _note(axes: Any, text: str) -> None:
    axes.annotate(
        text, (1, 1), (-4, 3), fontsize=8, color=FAINT, xycoords="axes fraction", textcoords="offset points", ha="right"
    )


def time_ticks(end: float, start_time: datetime | None) -> tuple[list[float], list[str], str]:
    """Return positions (s), labels and name of a time axis: the clock where it is known, else the time elapsed.

    Examples:
        >>> time_ticks(3600, None)[1][:3], time_ticks(86400, None)[1][-1]
        (['0:00', '0:05', '0:10'], '24:00')
    """
    step = next((step for step in _TICKS if end / step <= _MOST_TICKS), 86_400 * max(1, round(end / 86_400 / 10)))
    offset = 0.0
    if start_time is not None:  # seconds since midnight
        offset = 3600 * start_time.hour + 60 * start_time.minute + start_time.second + start_time.microsecond / 1e6
    ticks = np.arange(np.ceil(offset / step), np.floor((end + offset) / step + 1e-9) + 1) * step - offset
    with_seconds = step < 60
    if start_time is None:
        parts = [divmod(round(tick), 60 if with_seconds else 3600) for tick in ticks.tolist()]
        labels = [f"{whole}:{rest if with_seconds else rest // 60:02d}" for whole, rest in parts]
        return ticks.tolist(), labels, f"time since the recording began ({'min:s' if with_seconds else 'h:min'})"
    form = "%H:%M:%S" if with_seconds else "%H:%M"
    moments = [start_time + timedelta(seconds=round(tick, 3)) for tick in ticks.tolist()]
    labels = [moment.strftime("%d %b" if end > 86_400 and moment.hour == 0 else form) for moment in moments]
    zone = f" {start_time.strftime('%Z')}" if start_time.tzinfo else ""
    return ticks.tolist(), labels, f"time of day{zone}; the recording begins {start_time:%Y-%m-%d %H:%M:%S}"


def span(seconds: float) -> str:
    """Return a length of time in the unit that suits it.

    Examples:
        >>> span(50), span(930), span(9360)
        ('50 s', '15.5 min', '2.6 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
