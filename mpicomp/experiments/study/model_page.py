"""The cost model's part of a report: its rates with their uncertainty, its misses, and what it says of links that were not measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime import seconds
from .calibrate import Miss, Observation, fit, flat, observe, validate
from .cells import Results
from .model import Model
from .style import COLOURS, GREY
from .tables import Table

FIGURES = ("model",)
TABLES = ("rates", "misses")
LEAST = 6
"""With fewer configurations than this there is nothing to calibrate and check a model with."""
_UNITS = {
    "constant": "a round",
    "frame": "a frame",
    "hop": "a step that waits for the one before",
    "within": "a byte through the busiest rank, within its node",
    "between": "a byte through the busiest rank, to other nodes",
    "wire": "times the nominal time of the link",
}


@dataclass(frozen=True)
class Section:
    """A fitted model with the observations it stands on and its predictions for what it had not seen."""

    observations: list[Observation]
    model: Model
    misses: list[Miss]

    @classmethod
    def of(cls, results: Results) -> Section | None:
        """Calibrate on all cells; None where they are too few."""
        observations = observe(results)
        if len(observations) < LEAST:
            return None
        return cls(observations, fit(observations), validate(observations))

    def text(self) -> str:
        """What the reader must know before the figure."""
        fitted = np.array([abs(self.model.seconds(o.shape) / o.total - 1) for o in self.observations])
        said = (
            "T = c + w + αF + (λ+δ)H + β₁B₁ + β₂B₂ + η8B₂/r: constant, work on the critical path, frames, steps in a "
            "row, bytes through the "
            f"busiest rank within its node and over its link (docs/explanation/cost-model.md). Calibrated on {len(self.observations)} "
            "configurations, which it meets within "
            f"{100 * np.median(fitted):.1f} % (median)."
        )
        for kind, what in (("workers", "numbers of workers"), ("link", "link speeds")):
            errors = [abs(m.error) for m in self.misses if m.held_out == kind]
            if errors:
                said += (
                    f" On {len(errors)} configurations with {what} that were left out of the calibration, the median error is "
                    f"{100 * np.median(errors):.1f} %, nine in ten are within {100 * np.percentile(errors, 90):.0f} %, "
                    f"the largest is {100 * max(errors):.0f} %."
                )
        if not self.misses:
            said += " There are fewer than three numbers of workers and three link speeds, so nothing could be left out to check it."
        return said

    def tables(self) -> dict[str, Table]:
        """The rates, and the predictions that missed by most."""
        rows = []
        for name, value in flat(self.model).items():
            low, high = self.model.intervals.get(name, (np.nan, np.nan))
            of = seconds if name != "wire" else lambda x: f"{x:.3g}"
            per = _UNITS.get(name) or ("a client and entry" if name != "step" else "an entry")
            rows.append([name, _tiny(value, of), f"{_tiny(low, of)} … {_tiny(high, of)}", per])
        rates = Table(
            "Rates of the cost model",
            "Estimates with 95 % intervals from resampled configurations; 0 where the data ask for none of it.",
            ["rate", "estimate", "95 % interval", "for"],
            rows,
        )
        worst = sorted(self.misses, key=lambda m: -abs(m.error))
        misses = Table(
            "Predictions for what was left out",
            "Every number of workers, and every link speed, left out in turn; sorted by error, the largest first.",
            ["configuration", "left out", "predicted", "measured", "error"],
            [[m.name, m.held_out, seconds(m.predicted), seconds(m.measured), f"{100 * m.error:+.0f} %"] for m in worst],
            2,
        )
        return {"rates": rates, **({"misses": misses} if worst else {})}

    def figures(self, plt: Any) -> list[tuple[str, Any, str]]:
        """Predicted against measured, and the distribution of the errors."""
        if not self.misses:
            return []
        figure, (scatter, errors) = plt.subplots(1, 2, figsize=(8.8, 3.6), layout="constrained")
        everything = [v for m in self.misses for v in (m.measured, m.predicted)]
        ends = np.array([min(everything) / 1.3, max(everything) * 1.3])
        scatter.plot(ends, ends, color=GREY, linewidth=1, label="equal")
        scatter.fill_between(ends, ends * 0.85, ends * 1.15, color=GREY, alpha=0.18, linewidth=0, label="± 15 %")
        for kind, colour, marker in (("workers", COLOURS[0], "o"), ("link", COLOURS[1], "s")):
            own = [m for m in self.misses if m.held_out == kind]
            if not own:
                continue
            name = {"workers": "number of workers left out", "link": "link speed left out"}[kind]
            scatter.plot(
                [m.measured for m in own], [m.predicted for m in own], marker, color=colour, markersize=4, label=name
            )
            ordered = np.sort([100 * abs(m.error) for m in own])
            errors.step(ordered, np.arange(1, len(own) + 1) / len(own) * 100, where="post", color=colour, label=name)
        scatter.set(xscale="log", yscale="log", xlabel="measured, seconds a round", ylabel="predicted, seconds a round")
        errors.axvline(15, color=GREY, linestyle=":", linewidth=1)
        errors.set(
            xlabel="error, % of the measured time", ylabel="configurations within, %", ylim=(0, 102), xlim=(0, None)
        )
        for line in (scatter.xaxis, scatter.yaxis):
            line.set_major_formatter(lambda value, _: seconds(value))
            line.set_minor_formatter(lambda value, _: "")
        handles, texts = scatter.get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
        return [
            (
                "model",
                figure,
                "The cost model on configurations that it had not seen, and how its errors are distributed; the dotted line is 15 %.",
            )
        ]


def _tiny(value: float, text: Any) -> str:
    """As `text`, but nanoseconds where microseconds are too coarse."""
    if text is seconds and 0 < value < 1e-6:
        return f"{value * 1e9:.3g} ns" if value >= 1e-9 else f"{value * 1e12:.3g} ps"
    return "0" if value == 0 else str(text(value))
