"""How the figures of all studies look. matplotlib is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..study.compare import Stored
from .axes import column
from .study import Evidence, Figure

# Okabe and Ito 2008, "Color Universal Design", without yellow, which is too light for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "mpicomp",  # the same figure gives the same file
}
MARKS = 6  # markers on a curve


class Line(NamedTuple):
    """A curve of a figure: what the legend says, the run, and which colour and marker it has throughout the study."""

    name: str
    stored: Stored
    colour: int


def have_matplotlib() -> bool:
    """Figures can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def save(figures: Iterable[Figure], evidence: Evidence, directory: Path) -> list[Path]:
    """Draw figures and write each as PNG and SVG; returns the paths."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for figure in figures:
            canvas = Canvas(figsize=figure.size, layout="constrained")
            FigureCanvasAgg(canvas)
            figure.draw(evidence, canvas)
            for ending in ("png", "svg"):
                path = directory / f"{figure.name}.{ending}"
                canvas.savefig(path, dpi=110, metadata={"Date": None} if ending == "svg" else None)
                written.append(path)
    return written


def convergence(
    ax: Any, lines: Iterable[Line], axis: Callable[[Stored], np.ndarray], label: str, target: float | None = None
) -> None:
    """‖∇f(x)‖² on a logarithmic scale over `axis`, whose `label` names the unit."""
    for line in lines:
        x, y = axis(line.stored), column(line.stored, "grad_norm_sq")
        shown = np.isfinite(y)
        series(ax, x[shown], y[shown], line.name, line.colour)
    if target is not None:
        ax.axhline(target, color="#888888", linewidth=0.8, linestyle=":")
    ax.set_yscale("log")
    ax.set_xlabel(label)
    ax.set_ylabel("‖∇f(x)‖²")
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4), useMathText=True)


def series(ax: Any, x: Any, y: Any, name: str, colour: int, **more: Any) -> None:
    """A line in the study's colour and marker number `colour`, with a few markers on it."""
    style = {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[colour % len(MARKERS)],
        "markevery": max(1, len(x) // MARKS),
        "label": name,
    }
    ax.plot(x, y, **{**style, **more})


def shared_legend(figure: Any, ax: Any, columns: int = 4) -> None:
    """One legend for all panels, above them, from the lines of one."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)
