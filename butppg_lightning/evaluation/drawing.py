"""Pictures without a display: what every figure shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from butppg_lightning.errors import UserError
from butppg_lightning.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

INK, FAINT, GRID, PAPER = "#222222", "#8a8a8a", "#dddddd", "#fefefe"
GOOD, POOR, ACCENT, AGAINST = "#0072b2", "#e69f00", "#009e73", "#cc79a7"
"""Blue, orange, green and purple (Okabe and Ito 2008): told apart by everybody."""


def require_matplotlib(what: str, extra: str = "evaluation") -> None:
    """Raise unless pictures can be drawn.

    Args:
        what: What needs them, for example ``the timeline``.
        extra: The extra that installs matplotlib.

    Raises:
        UserError: If matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(f"{what} needs matplotlib; pip install 'butppg-lightning[{extra}]'") from None


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of ``width`` by ``height`` inches and its axes, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


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
