"""Any program as the ranks of a job: what a launcher starts for it, and the variables that torch.distributed reads (`env://`).

`python -m mpicomp.cluster.program ADDRESS PORT PROGRAM ...` is what a launcher starts on each rank. It knows its rank from the launcher's
variables, adds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and becomes the program. A script of this
Python runs in `mpicomp.cluster.script`, so that an exception on one rank ends all.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import ConfigError, EnvironmentMismatch, unknown
from .environment import declared_rank, declared_size
from .launcher import Launcher, find_launcher, names_hosts

Environ = Mapping[str, str]

HERE = "127.0.0.1"
_LOCAL = (
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("SLURM_LOCALID", ""),
)
_SWITCHES = re.compile(r"-[bBdEOqRsuvx]+|-[WX].+")  # of Python, that may stand before its script
_WITH_VALUE = ("-W", "-X")


def resolve(words: Sequence[str], commands: Collection[str]) -> list[str] | None:
    """The program and arguments that the words of a command line name; None where they are a command of mpicomp's own.

    A Python file that is not executable is run by this Python.

    Parameters
    ----------
    words : at least one. commands : mpicomp's own; they come before programs of the same name.

    Raises
    ------
    ConfigError : the first word is neither a command nor a program.
    """
    name = words[0]
    if name in commands or name.startswith("-"):
        return None
    if shutil.which(name):
        return list(words)
    if os.path.isfile(name):
        if name.endswith(".py"):
            return [sys.executable, *words]
        raise ConfigError(
            f"{name} is a file that cannot be executed: chmod +x {name}, or name the program that runs it"
        )
    raise ConfigError(
        f"{name!r} is no program that can be found on PATH; and {unknown('command', name, sorted(commands))}"
    )


def rank_command(program: Sequence[str], address: str, port: int) -> list[str]:
    """What a launcher is to start for a program on each rank.

    Parameters
    ----------
    address, port : where rank 0 may listen; "" where the launch does not know it.
    """
    return [sys.executable, "-P", "-m", __name__, address or "-", str(port), *guarded(program)]


def launcher_for(program: Sequence[str], env: Environ = os.environ) -> Launcher:
    """The launcher of the MPI that a program's mpi4py loads: its own where it is another Python, else this Python's. Errors as
    `find_launcher`."""
    found = shutil.which(program[0])
    if found and Path(found).name.startswith("python") and not _is_this_python(found):
        try:
            return find_launcher(env, found)
        except EnvironmentMismatch:  # it has no mpi4py; what it wants of a launcher are the variables
            pass
    return find_launcher(env)


def guarded(program: Sequence[str]) -> list[str]:
    """A script, module or text of this Python is run by `mpicomp.cluster.script`; any other program is itself.

    >>> guarded(["ls", "-l"])
    ['ls', '-l']
    """
    words = list(program)
    found = shutil.which(words[0])
    if not found or not _is_this_python(found):
        return words
    first = 1
    while first < len(words) and (_SWITCHES.fullmatch(words[first]) or words[first] in _WITH_VALUE):
        first += 2 if words[first] in _WITH_VALUE else 1
    what = words[first:]
    if not what or (what[0].startswith("-") and what[0] not in ("-m", "-c")):
        return words
    return [*words[:first], "-P", "-m", "mpicomp.cluster.script", *what]


def _is_this_python(path: str) -> bool:
    """Of the same environment: beside `sys.executable`, and the same file."""
    ours = Path(sys.executable)
    return Path(path).absolute().parent == ours.parent and os.path.samefile(path, ours)


def master(hosts: Sequence[str], hostfile: str, more: Sequence[str], env: Environ = os.environ) -> tuple[str, int]:
    """Where rank 0 will be, and a port that is free here.

    Parameters
    ----------
    hosts, hostfile, more : hosts and other options of the launcher, as `mpicomp launch` has them.

    Returns
    -------
    The address is empty where only the launcher knows it.
    """
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = int(probe.getsockname()[1])
    if hosts:
        return hosts[0].partition(":")[0], port
    if hostfile:
        return _first_of(Path(hostfile)), port
    return ("" if names_hosts(more, env) else HERE), port


def _first_of(hostfile: Path) -> str:
    """The first host of a file of hosts; empty where it cannot be read."""
    try:
        lines = hostfile.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    named = [line.split("#")[0].split() for line in lines]
    return next((words[0].partition(":")[0] for words in named if words), "")


def rank_environment(address: str, port: str, env: Environ = os.environ) -> dict[str, str]:
    """The variables of torch.distributed, as far as the launcher's tell; empty in a process that no launcher started.

    MASTER_ADDR and MASTER_PORT that are set already stay.
    """
    rank, size = declared_rank(env), declared_size(env)
    if rank is None or size is None:
        return {}
    found = {"RANK": str(rank), "WORLD_SIZE": str(size)}
    for own, all_ in _LOCAL:
        if env.get(own, "").isdigit():
            beside = env.get(all_, "") if all_ else _tasks_here(env)
            found |= {"LOCAL_RANK": env[own]} | ({"LOCAL_WORLD_SIZE": beside} if beside.isdigit() else {})
            break
    address = first_node(env.get("SLURM_STEP_NODELIST", "")) if address == "-" else address
    if address and "MASTER_ADDR" not in env:
        found |= {"MASTER_ADDR": address, "MASTER_PORT": env.get("MASTER_PORT", port)}
    return found


def first_node(nodes: str) -> str:
    """The first host of a list as SLURM writes it.

    >>> first_node("gpu[07-09,12],login1"), first_node("a,b"), first_node("")
    ('gpu07', 'a', '')
    """
    found = re.match(r"([^,\[]*)(?:\[([0-9]+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def _tasks_here(env: Environ) -> str:
    """Tasks of this step on this node, from SLURM's "2(x3),1"."""
    counts: list[str] = []
    for part in env.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if found := re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part):
            counts += [found[1]] * int(found[2] or 1)
    node = env.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else ""


def main(words: Sequence[str]) -> None:
    """On a rank: become the program."""
    address, port, *program = words
    env = {**os.environ, **rank_environment(address, port)}
    try:
        os.execvpe(program[0], program, env)
    except OSError as error:
        sys.exit(
            f"mpicomp: rank {env.get('RANK', '0')} on {socket.gethostname()} cannot start {program[0]}: {error.strerror}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
