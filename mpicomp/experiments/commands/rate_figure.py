"""The figure of `mpicomp bench rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..study.style import COLOURS, GREY, MARKERS, pyplot, save


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a vector: bits an entry over relative error, both on logarithmic axes; written as PNG and SVG beside `path`."""
    plt = pyplot()
    names = list(dict.fromkeys(r["vector"] for r in rows))
    families = list(dict.fromkeys(_family(r) for r in rows))
    figure, axes = plt.subplots(
        1, len(names), figsize=(1.2 + 3.1 * len(names), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        shown = [r for r in rows if r["vector"] == name and r["error"] > 0]
        for k, family in enumerate(families):
            own = sorted((r["error"], r["bits"], r["pareto"]) for r in shown if _family(r) == family)
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            peer = any(r["kind"] == "peer" for r in shown if _family(r) == family)
            style = {
                "color": GREY if peer else colour,
                "marker": marker,
                "linestyle": ":" if peer else "-",
                "linewidth": 0.8,
            }
            axis.plot([e for e, _, _ in own], [b for _, b, _ in own], **style, markerfacecolor="white", label=family)
            best = [(e, b) for e, b, pareto in own if pareto]
            axis.plot([e for e, _ in best], [b for _, b in best], **{**style, "linestyle": ""})
        law = [(r["error"], r["least"]) for r in shown if r["least"] is not None]
        if law:
            errors = np.geomspace(min(e for e, _ in law), 1.0, 100)
            (offset,) = {round(b + float(np.log2(e)), 9) for e, b in law if b > 0}
            axis.plot(
                errors, np.maximum(offset - np.log2(errors), 1e-9), color="black", linewidth=1, label="least possible"
            )
        axis.set(xscale="log", yscale="log", xlabel="relative error", title=name, xlim=(3e-3, 30), ylim=(0.02, 40))
    axes[0][0].set_ylabel("bits an entry")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    save(figure, path)
    plt.close(figure)


def _family(row: dict[str, Any]) -> str:
    """Rows that differ in a number only share a line."""
    name = str(row["spec"]).replace(",", ":").partition(":")[0]
    for word, said in (("entropy", ", entropy coded"), ("values=4", ", 4 bits"), ("nearest", ", nearest")):
        name += said if word in row["spec"] else ""
    return name
