"""Pictures without a display: PNG files, and inline SVG whose colours follow a page's light or dark scheme."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from butppg_lightning.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INK, FAINT, GRID, PAPER = "#222222", "#8a8a8a", "#dddddd", "#fefefe"
GOOD, POOR, ACCENT, AGAINST = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
"""Blue, orange, green and purple (Okabe and Ito 2008): told apart by everybody."""
_VARIABLES = {
    INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper", GOOD: "good", POOR: "poor", ACCENT: "accent",
    AGAINST: "against",
}  # fmt: skip
_WIDTH = 340.0  # of an inline figure in points, which on a phone are about pixels
_INLINE: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's colour
    "svg.hashsalt": "butppg",
    "font.size": 10.5,
    "font.family": ["sans-serif"],
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color", "legend.labelcolor"), INK),
    "text.parse_math": False,
    **dict.fromkeys(("xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 10),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor"), "none"),
}


def new_figure(width: float, height: float, *, dpi: int = 120, **options: Any) -> tuple[Any, Any]:
    """Return a figure of so many inches and its axes (``options`` of ``Figure.subplots``), without pyplot's state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
    axes = figure.subplots(**options)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=INK)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


class _Drawn:
    svg = ""


@contextmanager
def inline_figure(name: str, title: str, height: float) -> Iterator[tuple[Any, _Drawn]]:
    """Draw a figure for a page; yields its axes, and what has the ``<svg>`` element once the block is left.

    ``name`` sets its identifiers apart from those of other figures on the page, ``title`` is what a screen reader says
    of it, ``height`` is in points.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_INLINE):
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        drawn, file = _Drawn(), io.StringIO()
        yield figure.add_subplot(), drawn
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        drawn.svg = _inline(file.getvalue(), name, title)


def _inline(text: str, name: str, title: str) -> str:
    """Make a page's element of an SVG file: own identifiers, no styles that leak, colours as variables."""
    text = text[text.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<defs>\s*<style.*?</defs>", r"<!--.*?-->\s*"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    head = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(title)}">'
    text = re.sub(r"<svg.*?>", lambda _: head, text, count=1, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r' id="([\w-]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    # the family is the page's
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    text = re.sub(r"font: (\d{3}|bold) ([\d.]+)px [^;\"]+", r"font-size: \2px; font-weight: \1", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def percent_square(axes: Any, horizontal: str, vertical: str) -> None:
    """Make axes run from 0 to 100 % both ways, for values of 0..1."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=horizontal, ylabel=vertical)
    percent_ticks(axes.set_xticks)
    percent_ticks(axes.set_yticks)
    axes.grid(True)
    axes.set_axisbelow(True)


def percent_ticks(set_ticks: Any) -> None:
    """Label values of 0..1 in percent."""
    set_ticks([tick / 5 for tick in range(6)], [str(20 * tick) for tick in range(6)])
