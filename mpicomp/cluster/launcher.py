"""Finds the program that starts MPI processes here, and writes its command line.

Inside a SLURM allocation that is `srun`, elsewhere the `mpirun` beside this Python (where the MPI of a wheel lives),
else one on PATH. It has to belong to the MPI library that mpi4py loads: another one's starts N worlds of one rank each.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import ConfigError, EnvironmentMismatch
from .environment import no_library

Environ = Mapping[str, str]

OPEN_MPI, MPICH, INTEL = "Open MPI", "MPICH", "Intel MPI"
_FLAVOURS = {OPEN_MPI: r"Open MPI|Open ?RTE|PRTE|PRRTE", INTEL: r"Intel\(R\) MPI", MPICH: r"MPICH|HYDRA|MVAPICH"}
_LIBRARY = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
_LOOPBACK = Path("/sys/class/net/lo")
_INTERFACES = ("UCX_NET_DEVICES", "FI_TCP_IFACE")  # of the two network libraries that MPICH is built with
_HERE = {"localhost", "127.0.0.1"}
_OF_HOSTS = {"host", "hosts", "f", "hostfile", "machine", "machines", "machinefile", "iface", "rmk", "configfile"}
# variables from which MPICH's launcher takes hosts or an interface by itself
_OF_ALLOCATIONS = {
    "HYDRA_HOST_FILE", "HYDRA_IFACE", "HYDRA_RMK", "SLURM_JOB_ID", "PBS_NODEFILE", "LSB_MCPU_HOSTS", "PE_HOSTFILE", "COBALT_NODEFILE",
    "LOADL_HOSTFILE",
}  # fmt: skip
_REMEDY = "`pip install 'mpicomp[mpi]'` installs an MPI beside this Python"


@dataclass(frozen=True)
class Mpi:
    """An MPI implementation: one of OPEN_MPI, MPICH and INTEL, and its version."""

    flavour: str
    version: str

    def starts(self, library: Mpi) -> bool:
        """This MPI's mpirun can start processes of `library`. Intel's and MPICH's speak the same PMI."""
        if OPEN_MPI in (self.flavour, library.flavour):
            return self.flavour == library.flavour and self.major == library.major
        return True

    @property
    def major(self) -> int:
        """The first number of the version."""
        return int(self.version.split(".")[0])

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def identify(text: str) -> Mpi | None:
    """The MPI that printed `text` for `mpirun --version`, or returned it from MPI_Get_library_version.

    >>> identify("mpirun (Open MPI) 4.1.4")
    Mpi(flavour='Open MPI', version='4.1.4')
    """
    flavour = next((name for name, pattern in _FLAVOURS.items() if re.search(pattern, text, re.IGNORECASE)), None)
    version = re.search(r"\d+(\.\d+)+", text)
    return Mpi(flavour, version.group()) if flavour and version else None


@dataclass(frozen=True)
class Launcher:
    """A program that starts MPI processes, `srun` or an mpirun, and the MPI it starts them for."""

    program: str
    mpi: Mpi

    @property
    def is_srun(self) -> bool:
        """SLURM starts the processes."""
        return Path(self.program).name == "srun"

    def command(
        self,
        n: int,
        argv: Sequence[str],
        *,
        hosts: Sequence[str] = (),
        hostfile: str = "",
        extra: Sequence[str] = (),
        cores: int = 0,
        env: Environ = os.environ,
    ) -> list[str]:
        """The command line that runs `argv` on n ranks.

        Parameters
        ----------
        n : number of ranks, at least 1.
        argv : program and arguments of each rank.
        hosts : host names, each with `:SLOTS` behind it or not (then the ranks are spread evenly).
        hostfile : a file of hosts in the launcher's own format.
        extra : more options for the launcher; they come last, so they win.
        cores : cores of this machine, since Open MPI must be told when ranks are more; 0 means count them.
        env : the environment, of which SLURM's variables are used.

        Raises
        ------
        ConfigError : n is not positive, or hosts are given twice.
        """
        if n < 1:
            raise ConfigError(f"cannot start {n} ranks; allowed: 1 or more, for example -n 5")
        if hosts and hostfile:
            raise ConfigError("both hosts and a hostfile are given; give one of them")
        if self.is_srun:
            flags = self._srun_flags(n, hosts, hostfile, env)
        else:
            flags = self._mpirun_flags(n, hosts, hostfile, cores or physical_cores())
        return [self.program, *flags, *extra, *argv]

    def loopback(
        self, hosts: Sequence[str] = (), hostfile: str = "", extra: Sequence[str] = (), env: Environ = os.environ
    ) -> tuple[list[str], dict[str, str]]:
        """Options and variables that keep a job's connections off the network: for MPICH on Linux, where all ranks are on this host.

        The ranks then listen on the loopback interface alone, and the launcher's helper connects over it. MPICH's launcher itself listens
        on all interfaces; it has no option for that. Nothing where there may be other hosts, or the user chose an interface.
        """
        elsewhere = hostfile or any(host.partition(":")[0] not in _HERE for host in hosts)
        if self.mpi.flavour != MPICH or self.is_srun or elsewhere or names_hosts(extra, env) or not _LOOPBACK.exists():
            return [], {}
        return ["-iface", _LOOPBACK.name], {name: _LOOPBACK.name for name in _INTERFACES if name not in env}

    def environment(self, *, root: bool) -> dict[str, str]:
        """Variables that the launcher needs: Open MPI asks root (in a container) to say yes twice."""
        if self.mpi.flavour == OPEN_MPI and root and not self.is_srun:
            return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return {}

    def _srun_flags(self, n: int, hosts: Sequence[str], hostfile: str, env: Environ) -> list[str]:
        # without --kill-on-bad-exit the other ranks wait for a dead one until the time limit
        flags = [f"--mpi={_slurm_plugin(self.mpi)}", "--kill-on-bad-exit=1", "-n", str(n)]
        if "SLURM_CPUS_PER_TASK" in env:  # from SLURM 22.05 on, srun no longer takes it over from sbatch
            flags.append(f"--cpus-per-task={env['SLURM_CPUS_PER_TASK']}")
        if "SLURM_STEP_ID" in env:  # in `srun --pty bash`, a step that holds the cores
            flags.append("--overlap")
        if hosts:
            flags.append(f"--nodelist={','.join(host.partition(':')[0] for host in hosts)}")
        if hostfile:
            flags.append(f"--nodefile={hostfile}")
        return flags

    def _mpirun_flags(self, n: int, hosts: Sequence[str], hostfile: str, cores: int) -> list[str]:
        flags = ["-n", str(n)]
        open_mpi = self.mpi.flavour == OPEN_MPI
        if hosts:
            slots = math.ceil(n / len(hosts))
            listed = ",".join(host if ":" in host else f"{host}:{slots}" for host in hosts)
            flags += ["--host" if open_mpi else "-hosts", listed]
        elif hostfile:
            flags += ["--hostfile" if open_mpi else "-f", hostfile]
        elif open_mpi and n > cores:
            flags += ["--map-by", ":OVERSUBSCRIBE"] if self.mpi.major >= 5 else ["--oversubscribe"]
        return flags


def names_hosts(options: Sequence[str], env: Environ = os.environ) -> bool:
    """A launcher's options, or the variables of an allocation, name hosts: ranks may be elsewhere than here."""
    return bool(_OF_ALLOCATIONS & set(env)) or any(option.lstrip("-").split("=")[0] in _OF_HOSTS for option in options)


def find_launcher(env: Environ = os.environ, python: str = sys.executable) -> Launcher:
    """The launcher for the MPI that mpi4py loads in `python`.

    Raises
    ------
    EnvironmentMismatch : there is no MPI library, no launcher, or none that belongs to the library; with the remedy.
    """
    library = loaded_mpi(env, python)
    path = env.get("PATH", os.defpath)
    srun = shutil.which("srun", path=path) if "SLURM_JOB_ID" in env else None
    if srun and _slurm_plugin(library) in _output([srun, "--mpi=list"], env).split():
        return Launcher(srun, library)
    others = []
    for program in _mpiruns(path, python):
        mpi = identify(_output([program, "--version"], env))
        if mpi and mpi.starts(library):
            return Launcher(program, mpi)
        others.append(f"{program} ({mpi or 'of an unknown MPI'})")
    if others:
        raise EnvironmentMismatch(
            f"mpi4py loads {library}, but there is only {', '.join(others)}; put its mpirun first on PATH, "
            f"or load the other MPI (`module load`; one MPI wheel for each virtual environment): {_REMEDY}"
        )
    raise EnvironmentMismatch(
        f"mpi4py loads {library}, but no mpirun or mpiexec is on PATH or beside {python}; {_REMEDY}"
    )


def loaded_mpi(env: Environ = os.environ, python: str = sys.executable) -> Mpi:
    """The MPI library that mpi4py loads in `python`; asked in a process of its own, where it is not initialised."""
    answer = subprocess.run(
        [python, "-P", "-c", _LIBRARY], env=dict(env), capture_output=True, text=True, errors="replace", timeout=60
    )
    library = identify(answer.stdout)
    if library is None:
        if answer.returncode:
            lines = [line for line in answer.stderr.strip().splitlines() if not line.startswith((" ", "Traceback"))]
            raise no_library(lines[0] if lines else "", python)
        raise EnvironmentMismatch(
            f"mpi4py of {python} loads an MPI that is not known here ({answer.stdout.strip()[:200]!r}); {_REMEDY}"
        )
    return library


def physical_cores() -> int:
    """Cores that this process may use; hardware threads of one core count once, as in Open MPI's slots."""
    threads = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len({_siblings(thread) for thread in threads})


def become(command: Sequence[str], env: Environ) -> NoReturn:
    """Replace this process by the launcher: signals and exit code need no passing on, nothing is left behind."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so
    os.execve(command[0], list(command), dict(env))


def _slurm_plugin(library: Mpi) -> str:
    return "pmix" if library.flavour == OPEN_MPI else "pmi2"


def _mpiruns(path: str, python: str) -> Iterator[str]:
    """Each mpirun or mpiexec, those beside `python` first. The link of a virtual environment is not followed."""
    for folder in dict.fromkeys([str(Path(python).parent), *path.split(os.pathsep)]):
        program = shutil.which("mpirun", path=folder) or shutil.which("mpiexec", path=folder)
        if program:
            yield program


def _output(command: Sequence[str], env: Environ) -> str:
    """What a command prints, on both streams; nothing when it cannot be run."""
    try:
        done = subprocess.run(
            command,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _siblings(thread: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list").read_text("utf-8", "replace")
    except OSError:
        return str(thread)
