"""The report of a study: figures as PNG and SVG, tables as CSV, and one HTML page that needs nothing from outside."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..runtime import DataError, seconds
from . import model_page
from .cells import DAMAGED, Results
from .html import document, facts, figure, table
from .plots import all_figures
from .rules import Observations, check
from .scale import FAILED
from .style import inline, pyplot, save
from .tables import all_tables, setup_rows


@dataclass(frozen=True)
class Report:
    """What was written: the page, the names of its figures and tables, and (name, reason) of the cells that are damaged."""

    page: Path
    figures: list[str]
    tables: list[str]
    damaged: list[tuple[str, str]]


def write_report(directory: str | Path, out: str | Path | None = None) -> Report:
    """Write the report of a study's directory.

    Parameters
    ----------
    directory : what `mpicomp scale` made. out : where the report goes, `directory`/report by default.

    Raises
    ------
    DataError : not a study's directory, or one without a finished cell. MissingExtra : matplotlib is not installed.
    """
    results = Results.load(directory)
    if not results.groups:
        states = sorted({state for _, state, _ in results.unfinished})
        raise DataError(
            f"{directory} has no finished cell yet ({len(results.unfinished)} are {', '.join(states)}"
            f"{_first_reason(results)}); run `mpicomp scale` again, with --retry-failed where cells failed"
        )
    plt = pyplot()
    where = Path(out) if out is not None else results.directory / "report"
    where.mkdir(parents=True, exist_ok=True)
    predicted = model_page.Section.of(results)
    figures = list(all_figures(results, plt))
    if predicted is not None:
        figures += predicted.figures(plt)
    inlined = []
    for k, (name, drawn, caption) in enumerate(figures):
        inlined.append((name, inline(save(drawn, where / name), f"f{k}"), caption))
        plt.close(drawn)
    tables = all_tables(results) | (predicted.tables() if predicted is not None else {})
    for name, found in tables.items():
        found.write_csv(where / f"{name}.csv")
    answers = check(
        Observations(results, predicted.misses if predicted is not None else [], [name for name, *_ in inlined])
    )
    blocks = [
        _header(results),
        *_warnings(results),
        '<h2 id="figures">Figures</h2>',
        *(figure(*parts) for parts in inlined if parts[0] not in model_page.FIGURES),
        '<h2 id="tables">Tables</h2>',
        *(table(found) for name, found in tables.items() if name not in model_page.TABLES),
        *(['<h2 id="model">Cost model</h2>', f"<p>{escape(predicted.text())}</p>"] if predicted is not None else []),
        *(figure(*parts) for parts in inlined if parts[0] in model_page.FIGURES),
        *(table(found) for name, found in tables.items() if name in model_page.TABLES),
        '<h2 id="setup">How it was measured</h2>',
        facts(setup_rows(results)),
        *_unfinished(results),
        '<footer><h2 id="rules">The twelve rules of Hoefler and Belli (2015)</h2>',
        "<p>T. Hoefler and R. Belli, “Scientific benchmarking of parallel computing systems”, SC ’15. Each is "
        "answered from the cells above.</p>",
        '<ol class="rules">',
        *(
            f"<li>{escape(a.rule)}: <span "
            f'class="verdict{" notmet" if a.verdict == "not met" else ""}">{a.verdict}</span>; {escape(a.why)}.</li>'
            for a in answers
        ),
        "</ol></footer>",
    ]
    page = where / "index.html"
    page.write_text(document(results.study.name, "\n".join(blocks)), encoding="utf-8")
    damaged = [(name, reason) for name, state, reason in results.unfinished if state == DAMAGED]
    return Report(page, [name for name, *_ in inlined], list(tables), damaged)


def _first_reason(results: Results) -> str:
    reason = next((reason for _, state, reason in results.unfinished if state in (FAILED, DAMAGED) and reason), "")
    return f"; the first says: {reason}" if reason else ""


def _header(results: Results) -> str:
    study, runs = results.study, results.runs
    total = sum(run.record["seconds"] for run in runs)
    labels = list(dict.fromkeys(g.label for g in results.groups))
    return (
        f"<h1>{escape(study.name)}</h1>\n"
        f'<p class="lead">{study.mode.capitalize()} scaling: {len(runs)} finished cells of {len(runs) + len(results.unfinished)}, '
        f"{len(results.groups)} configurations, {len(labels)} methods ({escape(', '.join(labels))}); {seconds(total)} of jobs. "
        "Seconds are the largest of any rank, bytes are what MPI was handed.</p>"
    )


def _warnings(results: Results) -> list[str]:
    found = []
    if results.unfinished:
        count: dict[str, int] = {}
        for _, state, _ in results.unfinished:
            count[state] = count.get(state, 0) + 1
        said = ", ".join(f"{n} {state}" for state, n in sorted(count.items()))
        found.append(f"This study is not complete: {said}. They are listed below; no figure or table includes them.")
    states = sorted(
        {
            str(run.manifest["mpicomp"]) + (f" ({run.manifest['git'][:12]})" if run.manifest["git"] else "")
            for run in results.runs
        }
    )
    if len(states) > 1:
        found.append(
            f"The cells were made by different versions of the program: {', '.join(states)}. Compare them with care."
        )
    places = sorted({run.record["machine"]["processor"] for run in results.runs})
    if len(places) > 1:
        found.append(f"The cells were measured on different processors: {', '.join(places)}.")
    diverged = [g.label for g in results.groups if any(run.diverged for run in g.runs)]
    if diverged:
        found.append(f"Diverged, so without a time to the target: {', '.join(dict.fromkeys(diverged))}.")
    shared = [run for run in results.runs if run.record["runner"]["shared"]]
    if shared:
        found.append(
            "The nodes are emulated: network namespaces of one machine that share its "
            f"{shared[0].record['runner']['cores']} cores. What the links "
            "decide is as on real nodes; what computing decides is not."
        )
    return [f'<p class="warning">{escape(text)}</p>' for text in found]


def _unfinished(results: Results) -> list[str]:
    if not results.unfinished:
        return []
    rows = "\n".join(
        f'<tr><td class="t">{escape(name)}</td><td class="t">{escape(state)}</td><td class="wrap">{escape(reason)}</td></tr>'
        for name, state, reason in results.unfinished
    )
    return [
        "<h3>Cells without a result</h3>",
        '<div class="scroll"><table><thead><tr><th class="t">cell</th><th class="t">state</th><th '
        f'class="t">why</th></tr></thead><tbody>\n{rows}\n</tbody></table></div>',
    ]
