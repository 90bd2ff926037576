"""How much one call of MPI can carry, and what is carried in several calls where that is less than a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

C_INT = 2**31 - 1
LARGE = 2**62  # a count of MPI 4 has 64 bits


def most_of_a_call(mpi: Any) -> int:
    """The largest count (of bytes, or of values in a reduction) that one call may have: 64-bit counts came with MPI 4.

    mpi : mpi4py's `MPI`; that version it was built against counts, and that of the library that is there.
    """
    return LARGE if min((mpi.VERSION, mpi.SUBVERSION), mpi.Get_version()) >= (4, 0) else C_INT


def pieces(nbytes: int, most: int) -> list[slice]:
    """Slices of at most `most` bytes or values that cover `nbytes`; one, empty, for none.

    >>> pieces(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(first, min(first + most, nbytes)) for first in range(0, max(nbytes, 1), most)]


def closed_pieces(nbytes: int, most: int) -> list[slice]:
    """The same for a receiver who does not know the length: the last piece is shorter than `most`, if need be empty.

    >>> closed_pieces(4, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 4, None)]
    """
    cut = pieces(nbytes, most)
    return [*cut, slice(nbytes, nbytes)] if nbytes and nbytes % most == 0 else cut


def checked_communicator(comm: MPIComm | None) -> None:
    """Look at what a caller gives as `comm`, before anything of it is used; None is one process.

    Raises
    ------
    ConfigError : it is no communicator of mpi4py, MPI.COMM_NULL, freed, or joins two groups (an intercommunicator).
    """
    if comm is None:
        return
    from mpi4py import MPI

    if not isinstance(comm, MPI.Comm):
        raise ConfigError(
            f"comm={comm!r} is no communicator of mpi4py; give for example MPI.COMM_WORLD, or None for one process"
        )
    if comm == MPI.COMM_NULL:
        raise ConfigError(
            "comm is MPI.COMM_NULL: this rank is in no group of the Split or Create that made it, or it is freed; call this on the ranks "
            "that are in one, or give MPI.COMM_WORLD"
        )
    if comm.Is_inter():
        raise ConfigError(
            "comm joins two groups (an intercommunicator); give one of a single group, for example comm.Merge()"
        )
