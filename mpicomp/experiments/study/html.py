"""The pieces of an HTML page that needs nothing from outside: its frame, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .tables import Table

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


def document(title: str, body: str) -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
        'content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} · mpicomp</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def figure(name: str, svg: str, caption: str) -> str:
    """An inlined figure with its caption."""
    label = escape(caption[:120], quote=True)
    opening = f'<figure id="figure-{name}" role="img" aria-label="{label}">'
    return f"{opening}\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def table(found: Table) -> str:
    """A table under its title, with its note."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ["t" if k < found.text_columns else "" for k in range(len(cells))]
        return (
            "<tr>"
            + "".join(
                f"<{tag}{f' class={kind}' if kind else ''}>{escape(c)}</{tag}>"
                for c, kind in zip(cells, kinds, strict=True)
            )
            + "</tr>"
        )

    body = "\n".join(row(r, "td") for r in found.rows)
    return (
        f'<h3>{escape(found.title)}</h3>\n<p class="note">{escape(found.note)}</p>\n<div '
        f'class="scroll"><table><thead>{row(found.header, "th")}</thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names with what is to be said of them."""
    body = "\n".join(f'<tr><td class="t">{escape(k)}</td><td class="wrap">{escape(v)}</td></tr>' for k, v in rows)
    return f'<div class="scroll"><table><tbody>\n{body}\n</tbody></table></div>'
