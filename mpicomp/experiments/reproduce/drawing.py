"""How the figures of all studies look. matplotlib is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..study.compare import Stored
from ..study.style import import_matplotlib
from .axes import column
from .evidence import Evidence
from .reproduction import Figure

# Okabe and Ito 2008, "Color Universal Design", without yellow, which is too light for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
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
    "svg.fonttype": "none",
    "svg.hashsalt": "mpicomp",  # the same figure gives the same file
}
MARKS = 6  # markers on a curve
POINTS = 120  # and points, so that the files stay small


class Line(NamedTuple):
    """A curve of a figure: what the legend says, the run, and which colour and marker it has throughout the study."""

    name: str
    stored: Stored
    colour: int


def have_matplotlib() -> bool:
    """Figures can be drawn here."""
    try:
        import_matplotlib()
    except ImportError:
        return False
    return True


def save(figures: Iterable[Figure], evidence: Evidence, directory: Path) -> list[Path]:
    """Draw figures and write each as PNG and SVG; returns the paths."""
    matplotlib = import_matplotlib()
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
    ax: Any, lines: Iterable[Line], axis: Callable[[Stored], np.ndarray], label: str, logarithmic: bool = False
) -> None:
    """‖∇f(x)‖² on a logarithmic scale over `axis`, whose `label` names the unit; without x⁰ where `axis` is logarithmic, too."""
    for line in lines:
        x, y = axis(line.stored), column(line.stored, "grad_norm_sq")
        shown = thinned(np.flatnonzero(np.isfinite(y) & ((x > 0) | (not logarithmic))), logarithmic)
        series(ax, x[shown], y[shown], line.name, line.colour)
    ax.set_yscale("log")
    ax.set_xlabel(label)
    ax.set_ylabel("‖∇f(x)‖²")
    if logarithmic:
        ax.set_xscale("log")
    else:
        ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4), useMathText=True)


def thinned(points: np.ndarray, logarithmic: bool) -> np.ndarray:
    """At most about POINTS of the points, evenly spaced, or evenly in the logarithm of their number.

    >>> len(thinned(np.arange(10000), False)), len(thinned(np.arange(5), True))
    (120, 5)
    """
    if len(points) <= POINTS:
        return points
    places = np.geomspace(1, len(points), POINTS) - 1 if logarithmic else np.linspace(0, len(points) - 1, POINTS)
    return points[np.unique(places.round().astype(np.int64))]


def series(ax: Any, x: Any, y: Any, name: str, colour: int, **more: Any) -> None:
    """A line in the study's colour and marker number `colour`, with a few markers on it; dashed where the name ends in "tuned"."""
    style = {
        "color": COLOURS[colour % len(COLOURS)],
        "marker": MARKERS[colour % len(MARKERS)],
        "markevery": max(1, len(x) // MARKS),
        "label": name,
        "linestyle": "--" if name.endswith("tuned") else "-",
    }
    ax.plot(x, y, **{**style, **more})


def plain_ticks(ax: Any, values: Iterable[float]) -> None:
    """Ticks of a logarithmic x axis at these values alone, as plain numbers."""
    shown = list(values)
    ax.set_xscale("log")
    ax.set_xticks(shown, [f"{value:g}" for value in shown])
    ax.set_xticks([], minor=True)


def decimal_ticks(axis: Any) -> None:
    """Labels at 1, 2 and 5 times the powers of ten of a logarithmic axis, which may span less than one of them."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter("")


def shared_legend(figure: Any, ax: Any, columns: int = 4) -> None:
    """One legend for all panels, above them, from the lines of one."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)


def panels_by_clients(
    figure: Any,
    names: Sequence[str],
    curve: Callable[[str, int], Stored],
    cost: Callable[[str, int], float],
    axis: Callable[[Stored], np.ndarray],
    label: str,
    clients: Sequence[int],
    panels: int = 3,
    columns: int = 5,
) -> None:
    """A panel of curves for each of the last `panels` numbers of clients, then one of what it took to the target over all of them.

    Parameters
    ----------
    names : of the methods. curve, cost : a method's run with n clients, and what it took. axis, label : what is counted, as text with unit.
    """
    *shown, last = figure.subplots(1, min(panels, len(clients)) + 1)
    for ax, n in zip(shown, clients[-len(shown) :], strict=True):
        convergence(ax, [Line(name, curve(name, n), i) for i, name in enumerate(names)], axis, label, logarithmic=True)
        ax.set_title(f"n = {n}")
        if ax is not shown[0]:
            ax.set_ylabel("")
    for i, name in enumerate(names):
        series(last, clients, [cost(name, n) for n in clients], name, i, markevery=1)
    last.set(yscale="log", xlabel="clients n", ylabel=f"{label} to the target")
    decimal_ticks(last.yaxis)
    plain_ticks(last, clients)
    shared_legend(figure, shown[0], columns=columns)
