"""Figures for papers: curves with bands in one or more panels, as PDF, SVG or PNG, with their points as CSV beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, unknown
from .axes import Axis, Optimum, horizontal, vertical
from .curves import BANDS, Curve, curve, to_csv
from .direct import label_directly
from .labels import Bundle
from .style import MissingExtra, import_matplotlib, looks
from .terminal import Look as TerminalLook
from .terminal import draw_text

WIDTHS = {"column": 3.3, "page": 6.9}  # inches, of the usual two column layouts
FORMATS = (".pdf", ".svg", ".png")
_MARKS = 6  # on a curve
_LEGEND_ROW = 0.16  # inches
_FORMULAS = {"‖∇f(x)‖²": r"$\|\nabla f(x)\|^2$", "f(x) − f*": r"$f(x)-f^{\,*}$", "f(x)": "$f(x)$"}
STYLE: dict[str, Any] = {
    "font.family": "STIXGeneral", "mathtext.fontset": "stix", "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.5, "axes.axisbelow": True, "axes.linewidth": 0.7, "lines.linewidth": 1.3,
    "lines.markersize": 3.8, "lines.markeredgewidth": 0.4, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "pdf.fonttype": 42,
    "svg.fonttype": "path", "svg.hashsalt": "mpicomp", "savefig.dpi": 300, "figure.dpi": 100,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """What is drawn against what, and the curves."""

    x: Axis
    y: Axis
    curves: list[Curve]


@dataclass(frozen=True)
class Plot:
    """A figure that is to be drawn, with its points; a notebook shows it.

    Attributes
    ----------
    panels : one for each horizontal axis. band : what the shaded bands are. width : of the figure in inches. log_x : of all panels.
    notes : what a caption has to say beside the bands.
    """

    panels: list[Panel]
    band: str
    width: float
    log_x: bool = False
    notes: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """What a reader of the figure has to know."""
        most = max(c.runs for panel in self.panels for c in panel.curves)
        names = [panel.x.label for panel in self.panels]
        against = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        said = [f"{self.panels[0].y.label} against {against}."]
        if most > 1:
            fewest = min(c.runs for panel in self.panels for c in panel.curves)
            seeds = f"{most} seeds" if fewest == most else f"up to {most} seeds"
            shade = {"minmax": "; bands from the smallest to the largest", "quartiles": "; bands between the quartiles"}
            said.append(f"Curves are medians over {seeds}{shade.get(self.band, '')}.")
        return " ".join([*said, *self.notes])

    def csv(self) -> str:
        """The points of all curves."""
        return to_csv([(panel.x, panel.y, panel.curves) for panel in self.panels], self.band)

    def figure(self) -> Any:
        """The figure as matplotlib's `Figure`, drawn once. Raises MissingExtra where matplotlib is not installed."""
        return self._figure

    @cached_property
    def _figure(self) -> Any:
        try:
            matplotlib = import_matplotlib()
        except ImportError:
            raise MissingExtra(
                "a figure is drawn with matplotlib, which is not installed: pip install 'mpicomp[plot]'; without it «text=True» draws in "
                "the terminal"
            ) from None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context(STYLE):
            count = len(self.panels)
            height = 0.68 * self.width if count == 1 else 0.74 * self.width / count
            made = Figure(figsize=(self.width, max(height, 1.75)), layout="constrained")
            FigureCanvasAgg(made)
            axes = made.subplots(1, count, squeeze=False, sharey=True)[0]
            drawn = [_draw(ax, panel, self.log_x) for ax, panel in zip(axes, self.panels, strict=True)]
            for ax in axes[1:]:
                ax.set_ylabel("")
            if _name(made, axes, drawn, [c.label for c in self.panels[0].curves]):
                made.canvas.draw()
            made.set_layout_engine("none")  # it stays as it is, however often the figure is saved
            return made

    def save(self, path: str | Path) -> list[Path]:
        """Write the figure, and its points as CSV beside it; returns both paths.

        Raises
        ------
        ConfigError : another ending than .pdf, .svg or .png, or the files cannot be written. MissingExtra : no matplotlib.
        """
        out = check_ending(path)
        matplotlib, figure = import_matplotlib, self.figure()
        plain = {".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with matplotlib().rc_context(STYLE):
                figure.savefig(out, metadata=plain[out.suffix.lower()])
            points = out.with_suffix(".csv")
            points.write_text(self.csv(), encoding="utf-8", newline="")
        except OSError as error:
            raise ConfigError(f"cannot write the figure to {out}: {error.strerror}; choose another «out»") from None
        return [out, points]

    def text(self, width: int = 80, height: int = 20, look: TerminalLook | None = None) -> str:
        """The figure for a terminal, panel under panel.

        Parameters
        ----------
        width, height : of a panel, characters. look : its characters and colours; Braille patterns without colours by default.
        """
        return "\n\n".join(
            draw_text(
                panel.curves, panel.x.label, panel.y.label, (width, height), (self.log_x, panel.y.logarithmic), look or TerminalLook()
            )
            for panel in self.panels
        )  # fmt: skip

    def svg(self) -> str:
        """The figure as SVG text."""
        file = io.StringIO()
        with import_matplotlib().rc_context(STYLE):
            self.figure().savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"Plot of {len(self.panels[0].curves)} curves: {self.caption}"


def check_ending(path: str | Path) -> Path:
    """The path of a figure. Raises ConfigError for an ending that is not one of FORMATS."""
    out = Path(path)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"«out={str(path)!r}»: a figure's name ends in {', '.join(FORMATS)}")
    return out


def plot(
    bundles: Sequence[Bundle[Any]],
    x: Sequence[str] = ("rounds",),
    y: str = "grad",
    *,
    optimum: Optimum | None = None,
    band: str = "minmax",
    width: str = "column",
    log_x: bool = False,
    log_y: bool | None = None,
    notes: Sequence[str] = (),
) -> Plot:
    """The figure of some runs.

    Parameters
    ----------
    bundles : the runs by curve. x : horizontal axes, a panel for each. y : the vertical one. optimum : f* of a run's problem.
    band : one of BANDS. width : `column` or `page`. log_x, log_y : logarithmic axes; None as the quantity has it.

    Raises
    ------
    ConfigError : an unknown name, or a run that lacks what is to be drawn.
    """
    if band not in BANDS:
        raise unknown("band", band, BANDS)
    if width not in WIDTHS:
        raise unknown("width", width, WIDTHS)
    runs = [run for bundle in bundles for run in bundle.runs]
    upright = vertical(y, runs, optimum)
    if log_y is not None:
        upright = upright._replace(logarithmic=log_y)
    panels = []
    for name in x:
        along = horizontal(name)
        made = [curve(bundle, along, upright, band) for bundle in bundles]
        panels.append(Panel(along, upright, [_drawable(c, log_x, upright) for c in made]))
    return Plot(panels, band, WIDTHS[width], log_x, tuple(notes))


def _drawable(c: Curve, log_x: bool, y: Axis) -> Curve:
    """The points that a logarithmic axis can show."""
    shown = (c.x > 0) | (not log_x)
    kept = c.where(shown & ((c.y > 0) | (not y.logarithmic)))
    if not len(kept.x):
        raise ConfigError(f"{c.label} has no point of {y.label} that a logarithmic axis can show")
    return kept


def _draw(axes: Any, panel: Panel, log_x: bool) -> list[Any]:
    lines = []
    for c, look in zip(panel.curves, looks([c.dense for c in panel.curves]), strict=True):
        if np.any(c.high > c.low):
            low = np.maximum(c.low, np.min(c.y) * 1e-3) if panel.y.logarithmic else c.low
            axes.fill_between(c.x, low, c.high, color=look["color"], alpha=0.18, linewidth=0)
        lines += axes.plot(c.x, c.y, label=c.label, markevery=_marks(c.x, log_x), markeredgecolor="white", **look)
    scales = {True: "log", False: "linear"}
    axes.set(xlabel=panel.x.label, ylabel=_FORMULAS.get(panel.y.label, panel.y.label))
    axes.set(xscale=scales[log_x], yscale=scales[panel.y.logarithmic])
    if not log_x:
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4), useMathText=True)
        axes.set_xlim(left=0)
    if panel.y.logarithmic:
        _decades(axes.yaxis, [v for c in panel.curves for v in c.y])
    else:
        axes.margins(y=0.06)
    return lines


def _decades(axis: Any, values: Sequence[float]) -> None:
    """A tick at each decade, or at each second, third, ... where there are more than eight; 2 and 5 too where there is hardly one."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    span = float(np.log10(max(values) / min(values)))
    if span > 2:
        axis.set_major_locator(LogLocator(base=10.0, numticks=9))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(base=10.0, subs=(1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())


def _marks(x: np.ndarray, log_x: bool) -> list[int]:
    """The points that get a marker: about _MARKS of them, evenly along the axis, with the last one."""
    if len(x) <= _MARKS:
        return list(range(len(x)))
    at = np.log(x) if log_x else x
    wanted = np.linspace(at[0], at[-1], _MARKS + 1)
    return sorted({int(np.argmin(np.abs(at - value))) for value in wanted})


def _name(figure: Any, axes: Any, lines: Sequence[Sequence[Any]], names: Sequence[str]) -> bool:
    """Labels beside the curves of one panel, or one legend above all panels; True where the layout has to be made once more."""
    if len(names) == 1:
        axes[0].set_title(names[0], fontsize=9)
        return True
    figure.canvas.draw()
    for ax, own in zip(axes, lines, strict=True):
        if len(names) <= 5 and label_directly(ax, own, names):
            return False
    longest = max(len(name) for name in names)
    columns = max(1, min(len(names), int(figure.get_figwidth() * 17 / (longest + 6))))
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * (rows - 1))
    figure.legend(lines[0], names, loc="outside upper center", ncols=columns, frameon=False, handlelength=2.6)
    return True
