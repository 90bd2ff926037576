"""The report of a study: figures as PNG and SVG, tables as CSV, and one HTML page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..runtime import DataError, seconds
from . import model_page
from .cells import DAMAGED, Results
from .plots import all_figures
from .rules import Observations, check
from .scale import FAILED
from .style import inline, pyplot, save
from .tables import Table, all_tables, setup_rows

CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fff;
  max-width: 1120px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0 .7rem; } .lead { color: #444; } .note, figcaption { color: #555; font-size: 13px; max-width: 62rem; }
figure { margin: 1.2rem 0 1.8rem; } figure svg { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .8rem .22rem 0; text-align: right; white-space: nowrap; vertical-align: top; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #999; font-weight: 600; vertical-align: bottom; } th.t, td.t { text-align: left; }
td.wrap { white-space: normal; text-align: left; min-width: 18rem; }
.warning { border-left: 4px solid #D55E00; background: #fdf1e9; padding: .5rem .8rem; margin: .8rem 0; }
.verdict { font-weight: 600; white-space: nowrap; } .notmet { color: #a84300; } footer { margin-top: 2.5rem; font-size: 13px; color: #444; }
ol.rules li { margin: .35rem 0; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


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
    for k, (name, figure, caption) in enumerate(figures):
        inlined.append((name, inline(save(figure, where / name), f"f{k}"), caption))
        plt.close(figure)
    tables = all_tables(results) | (predicted.tables() if predicted is not None else {})
    for name, table in tables.items():
        table.write_csv(where / f"{name}.csv")
    answers = check(
        Observations(results, predicted.misses if predicted is not None else [], [name for name, *_ in inlined])
    )
    blocks = [
        _header(results),
        *_warnings(results),
        '<h2 id="figures">Figures</h2>',
        *(_figure(*drawn) for drawn in inlined if drawn[0] not in model_page.FIGURES),
        '<h2 id="tables">Tables</h2>',
        *(_table(table) for name, table in tables.items() if name not in model_page.TABLES),
        *(['<h2 id="model">Cost model</h2>', f"<p>{escape(predicted.text())}</p>"] if predicted is not None else []),
        *(_figure(*drawn) for drawn in inlined if drawn[0] in model_page.FIGURES),
        *(_table(table) for name, table in tables.items() if name in model_page.TABLES),
        '<h2 id="setup">How it was measured</h2>',
        _setup(results),
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
    page.write_text(_document(results.study.name, "\n".join(blocks)), encoding="utf-8")
    damaged = [(name, reason) for name, state, reason in results.unfinished if state == DAMAGED]
    return Report(page, [name for name, *_ in inlined], list(tables), damaged)


def _first_reason(results: Results) -> str:
    reason = next((reason for _, state, reason in results.unfinished if state in (FAILED, DAMAGED) and reason), "")
    return f"; the first says: {reason}" if reason else ""


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
        'content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} · mpicomp</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


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


def _figure(name: str, svg: str, caption: str) -> str:
    label = escape(caption[:120], quote=True)
    opening = f'<figure id="figure-{name}" role="img" aria-label="{label}">'
    return f"{opening}\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ["t" if k < table.text_columns else "" for k in range(len(cells))]
        return (
            "<tr>"
            + "".join(
                f"<{tag}{f' class={kind}' if kind else ''}>{escape(c)}</{tag}>"
                for c, kind in zip(cells, kinds, strict=True)
            )
            + "</tr>"
        )

    body = "\n".join(row(r, "td") for r in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3>\n<p class="note">{escape(table.note)}</p>\n<div '
        f'class="scroll"><table><thead>{row(table.header, "th")}</thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _setup(results: Results) -> str:
    rows = "\n".join(
        f'<tr><td class="t">{escape(k)}</td><td class="wrap">{escape(v)}</td></tr>' for k, v in setup_rows(results)
    )
    return f'<div class="scroll"><table><tbody>\n{rows}\n</tbody></table></div>'


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
