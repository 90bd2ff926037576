"""Where the seconds of a test run went: a table by file from the reports that `scripts/test` leaves, the longest first."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

WORTH = 1.0  # seconds; files that took less are summed up


def by_file(folder: Path) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """(seconds, case) of every case, by lane and part, and module."""
    found = defaultdict(list)
    for report in sorted(folder.rglob("*.xml")):
        for case in ElementTree.parse(report).iter("testcase"):
            # a module of tests, perhaps with a class; or a module of the package, whose docstring's example it is
            names = case.get("classname", "").split(".")
            module = names[1] if names[0] == "tests" and len(names) > 1 else "examples of docstrings"
            found[report.relative_to(folder).with_suffix("").as_posix(), module].append(
                (float(case.get("time", 0)), case.get("name", ""))
            )
    return found


def table(folder: Path) -> str:
    """The table, as Markdown."""
    lines = ["| part | file | cases | seconds | longest case |", "| --- | --- | ---: | ---: | --- |"]
    rows = sorted(by_file(folder).items(), key=lambda row: -sum(seconds for seconds, _ in row[1]))
    rest_cases, rest_seconds = 0, 0.0
    for (part, module), cases in rows:
        total = sum(seconds for seconds, _ in cases)
        if total < WORTH:
            rest_cases, rest_seconds = rest_cases + len(cases), rest_seconds + total
            continue
        longest, name = max(cases)
        lines.append(
            f"| {part} | {module} | {len(cases)} | {total:.1f} | {longest:.1f} s {name[:60].replace('|', '')} |"
        )
    lines.append(f"| | others | {rest_cases} | {rest_seconds:.1f} | |")
    everything = [seconds for _, cases in rows for seconds, _ in cases]
    lines.append(f"| | all, one after another | {len(everything)} | {sum(everything):.1f} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not any(folder.rglob("*.xml")):
        sys.exit(f"durations: no report in {folder}; run scripts/test first")
    print(table(folder))
