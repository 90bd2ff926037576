"""How figures and numbers look: one colour and marker for each method, safe for colour-blind readers, and units everywhere."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ..runtime import COLOURS as COLOURS
from ..runtime import GREY, LINES, MARKERS, MissingExtra, colours, import_matplotlib

BASELINE_STYLE = {
    "dense": {"color": "#000000", "marker": "s", "linestyle": "-"},
    "allreduce": {"color": "#000000", "marker": "s", "markerfacecolor": "white", "linestyle": "--"},
    "bfloat16": {"color": GREY, "marker": "s", "linestyle": "-"},
}


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files only.

    Raises
    ------
    MissingExtra : it is not installed; with the pip command.
    """
    try:
        matplotlib = import_matplotlib()
    except ImportError:
        raise MissingExtra(
            "a report draws with matplotlib, which is not installed: pip install 'mpicomp[plot]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5,
            "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6,
            "axes.axisbelow": True, "lines.linewidth": 1.5, "lines.markersize": 5, "svg.fonttype": "path", "svg.hashsalt": "mpicomp",
            "figure.dpi": 100, "savefig.dpi": 150,
        }
    )  # fmt: skip
    return plt


class Look:
    """Colour, marker and line style of each label, the same in all figures of a report; baselines always look alike.

    Parameters
    ----------
    labels : each label with the name of its baseline, "" for a method.
    """

    def __init__(self, labels: dict[str, str]):
        self._baseline = labels
        self._index = {label: k for k, label in enumerate(label for label, baseline in labels.items() if not baseline)}
        self._colours = colours(len(self._index))

    def __call__(self, label: str) -> dict[str, Any]:
        """Keyword arguments for matplotlib; no two methods share a colour."""
        if self._baseline[label]:
            return BASELINE_STYLE[self._baseline[label]]
        k = self._index[label]
        return {
            "color": self._colours[k],
            "marker": MARKERS[k % 7],
            "linestyle": LINES[k // len(COLOURS) % len(LINES)],
        }


def save(figure: Any, path: Path) -> str:
    """Write the figure beside `path` as PNG and SVG, the same bytes each time; returns the SVG."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    path.with_suffix(".svg").write_text(file.getvalue(), encoding="utf-8")
    figure.savefig(path.with_suffix(".png"))
    return file.getvalue()


def inline(svg: str, prefix: str) -> str:
    """An SVG file's text made part of a page: no XML header, no outside names; ids get a prefix, since several figures share the page.

    >>> inline('<?xml version="1.0"?><svg><path id="a"/><use xlink:href="#a"/></svg>', "f1")
    '<svg><path id="f1-a"/><use href="#f1-a"/></svg>'
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return re.sub(r"\n\s*", "\n", svg)
