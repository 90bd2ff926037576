"""Draws docs/images/quickstart.svg: what `mpicomp quickstart` printed of its first case in a real run on this machine.

usage: .venv/bin/python scripts/picture.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mpicomp.experiments.commands.quickstart import CASES

OUT = Path(__file__).parent.parent / "docs" / "images" / "quickstart.svg"
PROGRESS_LINES = 3  # of each run; the middle ones say nothing new


def main() -> None:
    """Run, keep what a reader wants to see, and draw it as a terminal."""
    command = [sys.executable, "-m", "mpicomp", "quickstart", "--force"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    console = Console(record=True, width=128, file=sys.stderr)
    console.print(Text("$ scripts/quickstart", style="bold"))
    for line in shorten(printed):
        console.print(Text(line.rstrip()))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(OUT), title="mpicomp quickstart: 1 server, 4 workers, 20 clients, mushrooms")


def shorten(lines: list[str]) -> list[str]:
    """Of the first case the first and last progress lines of each run, and everything after them."""
    titles = [k for k, line in enumerate(lines) if line.startswith(tuple(f"{case.name}: " for case in CASES))]
    lines = lines[: titles[1]] if len(titles) > 1 else lines
    progress = [line for line in lines if "  round " in line and "‖∇f‖²" in line]
    kept: list[str] = []
    for label in dict.fromkeys(line.split("  round ")[0] for line in progress):
        own = [line for line in progress if line.split("  round ")[0] == label]
        kept += own[: PROGRESS_LINES - 1] + own[-1:] if len(own) > PROGRESS_LINES else own
    return kept + [line for line in lines if line not in progress]


if __name__ == "__main__":
    main()
