#!/usr/bin/env python3
"""Put what `mpicomp reproduce` left in its directories into the pages docs/reproductions/NAME.md.

    scripts/reproduction_docs.py runs/reproduce/permk-small runs/reproduce/permk-paper ... [--not-run NAME-SCALE ...]

In the page of a study, the text between `<!-- verdicts SCALE -->` and `<!-- end -->` becomes the table of verdicts. The figures of
the scale named in `<!-- figures SCALE -->` are copied to docs/images/reproductions, as SVG where that is small enough, else as
PNG, and shown before the next `<!-- end -->`. After `<!-- table NAME SCALE COLUMN ... -->` come those columns of the study's table
NAME; COLUMN_std, where the table has it, goes behind COLUMN. In docs/reproductions/README.md the text after
`<!-- summary SCALE -->` becomes the one table of all the directories of that scale. What stands after --not-run has no directory:
all its claims are undecided.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

from mpicomp.experiments.reproduce.summary import markdown, record_without_runs, summary_rows

DOCS = Path(__file__).parent.parent / "docs"
IMAGES = DOCS / "images" / "reproductions"
LARGEST_SVG = 200_000  # bytes


def verdict_table(record: dict) -> str:
    """The verdicts as a Markdown table."""
    rows = ["| claim | verdict | numbers |", "|---|---|---|"]
    for verdict in record["verdicts"]:
        cells = (verdict["text"], f"**{verdict['outcome']}**", verdict["numbers"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def figures(record: dict, directory: Path) -> str:
    """Copy the figures; the Markdown that shows them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    shown = []
    for svg in sorted((directory / "figures").glob("*.svg")):
        source = svg if svg.stat().st_size < LARGEST_SVG else svg.with_suffix(".png")
        target = IMAGES / f"{record['study']}-{source.name}"
        for old in IMAGES.glob(f"{record['study']}-{svg.stem}.*"):
            old.unlink()
        shutil.copy(source, target)
        shown.append(f"![{record['study']}: {svg.stem}](../images/reproductions/{target.name})")
    return "\n\n".join(shown)


def columns(directory: Path, name: str, wanted: list[str]) -> str:
    """Columns of a table of the study, as Markdown; numbers with four digits."""
    with open(directory / "tables" / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| " + " | ".join(wanted) + " |", "|" + "---|" * len(wanted)]
    for row in rows:
        cells = [short(row[c]) + (f" ± {short(row[c + '_std'])}" if c + "_std" in row else "") for c in wanted]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def short(text: str) -> str:
    """A number with four digits, other text as it is."""
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def fill(text: str, kind: str, scale: str, content: str) -> str:
    """Replace what stands between the marks of a kind and scale, where the page has them."""
    pattern = rf"(<!-- {kind} {scale} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", text, flags=re.DOTALL)


def main(directories: list[str]) -> None:
    """The command line."""
    made, missing = directories, []
    if "--not-run" in directories:
        made, missing = directories[: directories.index("--not-run")], directories[directories.index("--not-run") + 1 :]
    records = {Path(d): json.loads((Path(d) / "verdicts.json").read_text()) for d in made}
    unknown = [record_without_runs(*name.rsplit("-", 1)) for name in missing]
    front = DOCS / "reproductions" / "README.md"
    for scale in dict.fromkeys(record["scale"] for record in [*records.values(), *unknown]):
        rows = summary_rows(record for record in [*records.values(), *unknown] if record["scale"] == scale)
        front.write_text(fill(front.read_text(), "summary", scale, markdown(rows)))
    for record in unknown:
        page = DOCS / "reproductions" / f"{record['study']}.md"
        page.write_text(fill(page.read_text(), "verdicts", record["scale"], verdict_table(record)))
    for directory, record in records.items():
        page = DOCS / "reproductions" / f"{record['study']}.md"
        text = page.read_text()
        text = fill(text, "verdicts", record["scale"], verdict_table(record))
        for name, wanted in re.findall(rf"<!-- table (\w+) {record['scale']} ([\w ]+) -->", text):
            text = fill(text, f"table {name}", f"{record['scale']} {wanted}", columns(directory, name, wanted.split()))
        if f"<!-- figures {record['scale']} -->" in text:
            text = fill(text, "figures", record["scale"], figures(record, directory))
        page.write_text(text)
        print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
