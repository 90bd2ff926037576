"""Replaying traces by SimGrid: its program `smpirun`, the files that it wants, and the time that it answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..runtime import EnvironmentMismatch, MpicompError
from .lower import Lowering
from .platforms import Platform

PROGRAM = "smpirun"
# Links carry their nominal rate, whatever a message's length; SimGrid's own factors are those of one cluster of 2009.
OPTIONS = (
    "--cfg=smpi/bw-factor:0:1", "--cfg=smpi/lat-factor:0:1", "--cfg=network/crosstraffic:0", "--cfg=smpi/host-speed:1000000000f",
    "--cfg=contexts/stack-size:64", "--cfg=smpi/display-timing:1",
    "--log=xbt_cfg.thres:error",
)  # fmt: skip
_TOGETHER = "--cfg=smpi/finalization-barrier:1"  # nobody ends while something is sent to it
_TIME = re.compile(r"Simulated time: ([0-9.e+-]+) seconds")


def program() -> str:
    """The path of smpirun.

    Raises
    ------
    EnvironmentMismatch : it is not there; names the remedy.
    """
    found = shutil.which(PROGRAM)
    if found is None:
        raise EnvironmentMismatch(
            f"a simulation needs SimGrid's {PROGRAM}, not found on PATH; apt-get install libsimgrid-dev (Debian, Ubuntu), "
            "or build it from https://simgrid.org"
        )
    return found


def version() -> str:
    """Of SimGrid, in its own words."""
    return subprocess.run([program(), "--version"], capture_output=True, text=True, errors="replace").stdout.strip()


def write_files(
    directory: Path, traces: Iterable[Lowering], platform: Platform, nodes: int, node_of: Sequence[int]
) -> list[str]:
    """Write trace, host file and platform; returns the command that replays them.

    Parameters
    ----------
    traces : of each rank. node_of : of each rank, the number of its node.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "ranks.trace", "w", encoding="utf-8") as file:
        left = 0
        for trace in traces:
            left += trace.open
            file.write("\n".join(trace.lines))
            file.write("\n")
    hosts = platform.hosts(nodes)
    (directory / "trace.txt").write_text(f"{directory / 'ranks.trace'}\n", "utf-8")
    (directory / "hosts.txt").write_text("".join(f"{hosts[node]}\n" for node in node_of), "utf-8")
    (directory / "platform.xml").write_text(platform.xml(nodes), "utf-8")
    where = [directory / name for name in ("platform.xml", "hosts.txt", "trace.txt")]
    files = ["-platform", where[0], "-hostfile", where[1], "-replay", where[2]]
    together = [_TOGETHER] if left else []
    return [program(), "-np", str(len(node_of)), *map(str, files), "-no-privatize", *OPTIONS, *together]


def replay(
    traces: Iterable[Lowering], platform: Platform, nodes: int, node_of: Sequence[int], keep: Path | None = None,
    timeout: float = 3600.0,
) -> float:  # fmt: skip
    """Play traces of all ranks on a network; returns simulated seconds.

    Parameters
    ----------
    keep : directory for the files, which stay; a temporary one that goes, where None. timeout : real seconds.

    Raises
    ------
    EnvironmentMismatch : there is no SimGrid. MpicompError : it failed, or took too long.
    """
    program()
    with tempfile.TemporaryDirectory(prefix="mpicomp-simulate-") as temporary:
        command = write_files(keep or Path(temporary), traces, platform, nodes, node_of)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, cwd=temporary
            )
        except subprocess.TimeoutExpired:
            raise MpicompError(
                f"the simulation of {len(node_of)} ranks took more than {timeout:g} s; give fewer nodes or --rounds, or a longer --timeout"
            ) from None
    said = done.stdout + done.stderr
    found = _TIME.search(said)
    if done.returncode or found is None:
        raise MpicompError(f"{PROGRAM} ended with code {done.returncode}: {_cause(said)}")
    return float(found.group(1))


def _cause(said: str) -> str:
    """The lines of SimGrid's output that say what went wrong, without its stack."""
    lines = [
        line for line in said.splitlines() if line.strip() and not line.startswith("  ->") and "/INFO]" not in line
    ]
    return "\n".join(lines)[:800]
