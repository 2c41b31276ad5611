"""Figures of matplotlib as inline SVG whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from butppg_lightning.evaluation.drawing import ACCENT, AGAINST, FAINT, GOOD, GRID, INK, PAPER, POOR

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARIABLES = {
    INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper", GOOD: "good", POOR: "poor", ACCENT: "accent",
    AGAINST: "against",
}  # fmt: skip
WIDTH = 340.0
"""Width of a figure in points, which on a phone are about pixels."""
_SETTINGS: Any = {
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
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


class Drawing:
    """A figure while it is drawn; :attr:`svg` afterwards.

    Attributes:
        figure: Of matplotlib.
        svg: The ``<svg>`` element, once the ``with`` block is left.
    """

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.svg = ""


@contextmanager
def drawing(name: str, title: str, height: float) -> Iterator[Drawing]:
    """Draw a figure.

    Args:
        name: Letters that set its identifiers apart from those of other figures on the page.
        title: What a screen reader says of it.
        height: In points; the width is :data:`WIDTH`.

    Yields:
        The drawing; its ``svg`` is set when the block ends.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        drawn = Drawing(figure)
        yield drawn
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        drawn.svg = _inline(file.getvalue(), name, title)


def _inline(text: str, name: str, title: str) -> str:
    """Make a page's element of an SVG file: own identifiers, no styles that leak, colours as variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    head = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(title)}">'
    text = re.sub(r"<svg.*?>", lambda _: head, text, count=1, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r' id="([\w-]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)
    text = re.sub(r"font: (?:(\d{3}|bold) )?([\d.]+)px [^;\"]+", _font, text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _font(found: re.Match[str]) -> str:
    # the family is the page's
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}px{weight}"
