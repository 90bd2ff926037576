"""Open MPI's own count of what it moves, for `--verify-bytes` where no PMPI library can be built: no compiler, no headers.

The component `monitoring` (Bosilca et al. 2017, "Online dynamic monitoring of MPI communications") lies below MPI's functions and knows
nothing of the ledger. It is switched on by OMPI_MCA_pml_monitoring_enable before MPI starts and read through MPI's tool interface, MPI_T,
of which mpi4py has nothing: hence ctypes. It tells no functions apart, only kinds of communication, and the collectives that MPI_Comm_dup
and others are made of count as all-to-all like a program's own.
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..errors import EnvironmentMismatch
from .comm import library

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

ENABLE, APART = (
    "OMPI_MCA_pml_monitoring_enable",
    "2",
)  # a program's messages apart from those that collectives are made of
POINT_TO_POINT, ONE_TO_ALL, ALL_TO_ONE, ALL_TO_ALL = "point to point", "one to all", "all to one", "all to all"
_VARIABLES = {  # the counts and the bytes, with their classes in MPI_T: one number for each rank of the world, or one for a communicator
    POINT_TO_POINT: ("pml_monitoring_messages", 2, 2),
    ONE_TO_ALL: ("coll_monitoring_o2a", 6, 7),
    ALL_TO_ONE: ("coll_monitoring_a2o", 6, 7),
    ALL_TO_ALL: ("coll_monitoring_a2a", 6, 7),
}

Counts = dict[tuple[str, str], list[int]]


def switch_on() -> None:
    """Let Open MPI monitor; before MPI starts."""
    os.environ[ENABLE] = APART
    os.environ.setdefault("OMPI_MCA_osc", "^monitoring")  # under its part for windows, shared ones cannot be had


def switched_on() -> bool:
    """Open MPI was told to monitor."""
    return os.environ.get(ENABLE) == APART


class Monitor:
    """Reads what this rank has sent: by point-to-point calls to any rank, by collectives on one communicator.

    Parameters
    ----------
    comm : an mpi4py communicator of all ranks.

    Raises
    ------
    EnvironmentMismatch : this MPI has no such counters.
    """

    def __init__(self, comm: MPIComm):
        from mpi4py import MPI

        self._mpi, self._comm = library(MPI), comm  # the handles below hold the communicator's address
        self._call("MPI_T_init_thread", 0, ctypes.byref(ctypes.c_int()))
        self._session = ctypes.c_void_p()
        self._call("MPI_T_pvar_session_create", ctypes.byref(self._session))
        self._handles = {}
        for kind, (name, *classes) in _VARIABLES.items():
            where = MPI.COMM_WORLD if kind == POINT_TO_POINT else comm
            both = zip(("count", "size"), classes, strict=True)
            self._handles[kind] = [
                self._handle(f"{name}_{what}", number, MPI._addressof(where)) for what, number in both
            ]

    def read(self) -> dict[str, list[int]]:
        """{kind: [calls, bytes]} since MPI has started."""
        return {kind: [self._sum(*handle) for handle in handles] for kind, handles in self._handles.items()}

    def _handle(self, name: str, number: int, where: int) -> tuple[ctypes.c_void_p, Any]:
        index, count, handle = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self._call("MPI_T_pvar_get_index", name.encode(), number, ctypes.byref(index))
        self._call(
            "MPI_T_pvar_handle_alloc",
            self._session,
            index,
            ctypes.c_void_p(where),
            ctypes.byref(handle),
            ctypes.byref(count),
        )
        self._call("MPI_T_pvar_start", self._session, handle)
        return handle, (ctypes.c_size_t * count.value)()

    def _sum(self, handle: ctypes.c_void_p, values: Any) -> int:
        self._call("MPI_T_pvar_read", self._session, handle, values)
        return sum(values)

    def _call(self, function: str, *args: Any) -> None:
        code = getattr(self._mpi, function)(*args)
        if code:
            raise EnvironmentMismatch(
                f"«verify_bytes=True»: {function} of this MPI answered {code}, so Open MPI's monitoring cannot be read (is its component "
                "excluded by an MCA option such as `--mca pml ob1`?); install a C compiler, for the PMPI library"
            )


def by_kind(functions: Counts, rank: int, size: int) -> Counts:
    """What monitoring should have counted on this rank, for a ledger's counts by (purpose, function); all roots are rank 0.

    A broadcast counts once for each receiver, a reduction once for each other rank, and a gather counts at its root, so that only the sum
    over the ranks can be compared: the bytes stand with those who gave them, the calls with the root.
    """
    kinds: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(purpose: str, kind: str, calls: int, nbytes: int) -> None:
        kinds[purpose, kind][0] += calls
        kinds[purpose, kind][1] += nbytes

    root = rank == 0
    for (purpose, function), (calls, nbytes) in functions.items():
        match function:
            case "Isend" | "Send":
                add(purpose, POINT_TO_POINT, calls, nbytes)
            case "Bcast" | "Scatterv" if root:
                add(purpose, ONE_TO_ALL, calls, nbytes * (size - 1 if function == "Bcast" else 1))
            case "Gather" | "Gatherv":
                add(purpose, ALL_TO_ONE, calls if root else 0, 0 if root else nbytes)
            case "Allreduce" | "Barrier":
                add(purpose, ALL_TO_ALL, calls, nbytes * (size - 1))
    return {key: count for key, count in kinds.items() if count != [0, 0]}
