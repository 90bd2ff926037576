"""The figure of `mpicomp model simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runtime import seconds
from ..study.style import COLOURS, MARKERS, pyplot, save


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds of a round over nodes, a colour for each exchange: simulated as markers, by the closed form as lines; PNG and SVG."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    done = [row for row in rows if "simulated" in row]
    for k, name in enumerate(dict.fromkeys(row["exchange"] for row in done)):
        own = sorted((row for row in done if row["exchange"] == name), key=lambda row: row["nodes"])
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        places = [row["nodes"] for row in own]
        axis.plot(places, [row["simulated"] for row in own], marker, color=colour, markerfacecolor="white", label=name)
        formula = [(row["nodes"], row["closed_form"]) for row in own if row.get("closed_form") is not None]
        axis.plot([n for n, _ in formula], [s for _, s in formula], "-", color=colour, linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="nodes", ylabel="a round")
    axis.set_xticks(sorted({row["nodes"] for row in done}))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.yaxis.set_major_formatter(lambda value, _: seconds(value))
    axis.yaxis.set_minor_formatter(lambda value, _: "")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)
    plt.close(figure)
