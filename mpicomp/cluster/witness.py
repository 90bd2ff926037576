"""`--verify-bytes`: a count of what MPI is handed that knows nothing of the ledger, by a PMPI library that lies below this process.

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
from typing import Any

from ..errors import EnvironmentMismatch
from .comm import Comm
from .launcher import OPEN_MPI, loaded_mpi
from .native import cached, compile_first

SOURCES = Path(__file__).parent / "pmpi"
NETWORKS = Path("/sys/class/net")
_STARTED = "MPICOMP_WITNESS"  # set in the process that was started again

Count = list[int]  # [calls, bytes]


# ---- getting it below the process -----------------------------------------------------------------------------------
def require() -> None:
    """Make sure that the PMPI library is below this process: return where it is, else start the process again with it.

    Raises
    ------
    EnvironmentMismatch : it cannot be built or loaded; says what is missing.
    """
    if _library() is not None:
        os.environ.pop("LD_PRELOAD", None)  # children need none
        return
    if _STARTED in os.environ:
        raise EnvironmentMismatch(
            f"--verify-bytes: LD_PRELOAD={os.environ[_STARTED]} was not loaded; is /tmp or $HOME noexec?"
        )
    library = build(sys.executable, loaded_mpi(os.environ, sys.executable).flavour == OPEN_MPI)
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
        f"--verify-bytes needs a C compiler and the MPI headers, to build {SOURCES / 'pmpicount.c'}: "
        f"{'; '.join(reasons) or 'there is no mpicc and no cc'}. Install gcc (the MPI wheels bring mpicc and mpi.h), or `module load` the "
        "compiler; without it, tests/test_bytes.py compares with Open MPI's own monitoring"
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
class WitnessedComm(Comm):
    """A communicator that tells the PMPI library the purpose of what follows.

    Raises
    ------
    EnvironmentMismatch : the library is not below this process.
    """

    def __init__(self, comm: Any, by_node: bool = False):
        library = _library()
        if library is None:
            raise EnvironmentMismatch(
                "verify_bytes needs the PMPI library below this process; use `mpicomp run --verify-bytes`"
            )
        for function in (library.pmpicount_calls, library.pmpicount_bytes):
            function.restype = ctypes.c_longlong
        library.pmpicount_name.restype = ctypes.c_char_p
        self._witness, self._purposes = library, {"": 0}
        super().__init__(comm, by_node=by_node)
        self._interfaces = interfaces()

    @property
    def purpose(self) -> str:
        """What the following calls are for."""
        return self._purpose

    @purpose.setter
    def purpose(self, value: str) -> None:
        self._purpose = value
        self._witness.pmpicount_purpose(self._purposes.setdefault(value, len(self._purposes)))

    def counted(self) -> dict[tuple[str, str], Count]:
        """[calls, bytes] by purpose and MPI function, as the library counted them, in the form of `Ledger.functions`."""
        counts, library = {}, self._witness
        for purpose, number in self._purposes.items():
            for f in range(library.pmpicount_functions()):
                if calls := library.pmpicount_calls(number, f):
                    counts[purpose, library.pmpicount_name(f).decode()] = [calls, library.pmpicount_bytes(number, f)]
        return counts

    def verify(self) -> dict[str, Any]:
        """Compare the ledger with the count, on all ranks.

        Returns
        -------
        "equal" : the same on all ranks. On rank 0 also "rows", [purpose, function, calls, bytes, calls counted, bytes counted] summed
        over the ranks; "differences", a text for each rank and function; "interfaces", {host: {interface: [received, sent]}}.
        """
        ledger, counted = {key: list(count) for key, count in self.ledger.functions.items()}, self.counted()
        keys = sorted(ledger.keys() | counted.keys())
        rows = [[*key, *ledger.get(key, [0, 0]), *counted.get(key, [0, 0])] for key in keys]
        moved = {
            name: [b - a for a, b in zip(self._interfaces.get(name, now), now, strict=True)]
            for name, now in interfaces().items()
        }
        ranks = self.gather_json({"rows": rows, "host": platform.node(), "interfaces": moved})
        answer: dict[str, Any] = {"equal": True}
        if ranks is not None:
            answer = _compared(ranks)
        return {**answer, "equal": bool(self.bcast_json(answer["equal"]))}


def _compared(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    sums: dict[tuple[str, str], list[int]] = {}
    differences: list[str] = []
    hosts: dict[str, Any] = {}
    for rank, said in enumerate(ranks):
        hosts.setdefault(said["host"], said["interfaces"])
        for purpose, function, *counts in said["rows"]:
            total = sums.setdefault((purpose, function), [0, 0, 0, 0])
            for k, count in enumerate(counts):
                total[k] += count
            if counts[:2] != counts[2:]:
                differences.append(
                    f"rank {rank}, {purpose} {function}: the ledger has {counts[1]} bytes in {counts[0]} calls, "
                    f"MPI was handed {counts[3]} in {counts[2]}"
                )
    rows = [[*key, *total] for key, total in sorted(sums.items())]
    return {"equal": not differences, "rows": rows, "differences": differences, "interfaces": hosts}


def interfaces(root: Path = NETWORKS) -> dict[str, Count]:
    """[bytes received, bytes sent] of each network interface of this host, all its programs together."""
    found = {}
    for folder in sorted(root.glob("*")):
        try:
            found[folder.name] = [int((folder / "statistics" / f"{way}_bytes").read_text()) for way in ("rx", "tx")]
        except (OSError, ValueError):
            continue
    return found
