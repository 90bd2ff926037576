"""What a result shows of itself: three lines, a table and a figure for a notebook, a table of pandas."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..extras import needed
from ..figures.draw import Plot, plot
from ..figures.labels import Bundle, bundles, labels, problem_differences
from ..figures.runs import Run, number_rows
from ..figures.style import import_matplotlib
from ..units import seconds, size

if TYPE_CHECKING:
    from pandas import DataFrame

    from .config import Config


def as_run(config: Config, history: Sequence[dict[str, Any]], summary: dict[str, Any], manifest: dict[str, Any]) -> Run:
    """A result, for labels and figures. Raises ConfigError where it has no rounds: on other ranks than 0."""
    if not history:
        raise ConfigError(
            "this result is empty: rounds and summary are on rank 0 alone; ask there (`if comm.Get_rank() == 0:`)"
        )
    options = tomllib.loads(config.to_toml())
    return Run(options, summary, manifest.get("problem", {}), number_rows(history), config.out or "")


def figure_of(
    runs: Sequence[Run],
    x: str | Sequence[str],
    y: str,
    f_star: float | str | None,
    names: Sequence[str] | None,
    **look: Any,
) -> Plot:
    """The figure of some results; see `Result.plot`."""
    from .optima import optima

    if len(runs) > 1 and (different := problem_differences(runs)):
        raise ConfigError(
            f"these results are of different problems: {different[0]}; plot those of one problem together"
        )
    optimum, notes = optima(f_star)
    grouped = named(bundles(runs), names)
    made = plot(grouped, [x] if isinstance(x, str) else list(x), y, optimum=optimum, **look)
    return Plot(made.panels, made.band, made.width, made.log_x, tuple(notes))


def named(grouped: Sequence[Bundle[Any]], names: Sequence[str] | None) -> list[Bundle[Any]]:
    """The bundles with labels of the caller's own.

    Raises
    ------
    ConfigError : not one for each curve, or one twice.
    """
    if not names:
        return list(grouped)
    if len(names) != len(grouped) or len(set(names)) < len(names):
        known = "; ".join(bundle.label for bundle in grouped)
        raise ConfigError(
            f"{len(names)} labels for {len(grouped)} curves, which are: {known}; give each curve one of its own («labels»)"
        )
    return [Bundle(name, bundle.runs) for name, bundle in zip(names, grouped, strict=True)]


def frame(history: Sequence[dict[str, Any]], summary: dict[str, Any]) -> DataFrame:
    """The rounds as a pandas.DataFrame, a row for each evaluation, in the columns of rounds.csv; the summary is in its `attrs`."""
    pandas = needed("pandas", "Result.to_pandas", "pip install 'mpicomp[pandas]'")
    table: DataFrame = pandas.DataFrame(list(history))
    table.attrs.update(summary)
    return table


def three_lines(summary: dict[str, Any], run: Run, interrupted: bool) -> str:
    """What ran, how far it came, and what it sent."""
    up, down = summary["bytes"]["uplink"], summary["bytes"]["downlink"]
    norm = summary["grad_norm_sq"]
    reached = "f not evaluated" if norm is None else f"f = {summary['loss']:.6g}, ‖∇f‖² = {norm:.3g}"
    reached += "".join(
        f", {name} {value:.4g}" for name, value in summary.get("measures", {}).items() if value is not None
    )
    state = (
        ", diverged"
        if summary["diverged"]
        else ", interrupted"
        if interrupted
        else ", reached tol"
        if summary["reached_tol"]
        else ""
    )
    where = f"; files in {run.where}" if run.where else ""
    return (
        f"Result of {labels([run])[0]}, step {summary['step']:.4g}, on {summary['problem']}"
        f"{' ' + str(summary['data']) if summary['data'] else ''}: d = {summary['dim']}, n = {summary['clients']}\n"
        f"  after {summary['rounds']} rounds: {reached}{state}\n"
        f"  {size(up['message'])} up, {size(down['message'])} down, {seconds(summary['seconds']['total'])} in rounds on "
        f"{summary['ranks']} rank{'s' * (summary['ranks'] > 1)} ({summary['exchange']}){where}"
    )


def html(text: str, run: Run) -> str:
    """The three lines, and the curve of ‖∇f‖² where matplotlib is there."""
    body = f"<pre style='margin:0'>{escape(text)}</pre>"
    try:
        import_matplotlib()
        return f"{body}\n{figure_of([run], 'rounds', 'grad', None, None).svg()}"
    except (ImportError, ConfigError):  # nothing was evaluated, or nothing draws
        return body
