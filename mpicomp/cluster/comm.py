"""With `messages`, the only module that calls MPI to move bytes. Each call is entered in the ledger with what this rank hands over.

`handed over` is: the buffer of a send, the root's buffer of a broadcast or scatter, each rank's contribution to a gather or a
reduction. That is also what a PMPI wrapper sees, so the two must agree to the byte.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import EnvironmentMismatch, RankFailure, number_of
from .counts import pieces
from .environment import no_library
from .ledger import Ledger
from .messages import PointToPoint, bytes_of
from .process import is_owned

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm
    from mpi4py.MPI import Intracomm

TAG_PARTS = 4  # a rank's part of a gather or scatter that no call can carry whole
START_SECONDS, FINALIZE_SECONDS = 60.0, 5.0
_MPICH_FILE = re.compile(
    r" ([0-9a-f]+:[0-9a-f]+) (\d+) +(/dev/shm/mpich_shm_[0-9a-f]+_\d+)$"
)  # of a line of /proc/self/maps


def world() -> MPIComm:
    """MPI.COMM_WORLD; the first call initialises MPI.

    There all ranks wait for each other, for ever where one ended before it came so far. After MPICOMP_START_SECONDS (60) the process ends
    with its stack, which names this line.

    Raises
    ------
    NoMpiError : mpi4py is not installed, or finds no MPI library that it can load.
    """
    seconds = number_of("MPICOMP_START_SECONDS", START_SECONDS, 1e9, "seconds") or 1e9
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # sys.stderr may be no file, as in a notebook
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise no_library(str(error)) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    return MPI.COMM_WORLD


def mpi_initialized() -> bool:
    """MPI is initialised in this process."""
    if "mpi4py.MPI" not in sys.modules:
        return False
    from mpi4py import MPI

    return bool(MPI.Is_initialized())


def refuse_single_thread() -> None:
    """Raises EnvironmentMismatch where MPI was started in this process in a way that only one thread may call it."""
    if mpi_initialized():
        from mpi4py import MPI

        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise EnvironmentMismatch(
                "this needs an MPI that several threads may call (MPI_THREAD_MULTIPLE), and the one here was started without; "
                "leave mpi4py.rc.threads as it is"
            )


def mpi_finalized() -> bool:
    """MPI has been ended in this process."""
    if not mpi_initialized():
        return False
    from mpi4py import MPI

    return bool(MPI.Is_finalized())


def finalize(code: int) -> int:
    """End MPI in this process, where it was started; returns the size that its world had, 1 where there was none.

    Where ranks have died, MPI may wait for ever: after FINALIZE_SECONDS the process ends, with the exit code `code`.
    """
    if not mpi_initialized():
        return 1
    from mpi4py import MPI

    if MPI.Is_finalized():
        return 1
    size: int = MPI.COMM_WORLD.Get_size()
    patience = threading.Timer(FINALIZE_SECONDS, os._exit, [code])
    patience.daemon = True
    patience.start()
    library(MPI).MPI_Finalize()  # mpi4py's own keeps Python's lock, so that `patience` could not run out
    patience.cancel()
    return size


def library(extension: Any) -> ctypes.CDLL:
    """The MPI library below mpi4py's `MPI`, for what that does not offer; what lies before it (LD_PRELOAD) comes first."""
    everything = ctypes.CDLL(None)
    return everything if hasattr(everything, "MPI_Finalize") else ctypes.CDLL(extension.__file__)


def take_names_away() -> None:
    """Unlink the files of shared memory that this job's MPICH has in /dev/shm; its ranks have them open, and keep them.

    MPICH unlinks them in MPI_Finalize, to which a rank that is killed, or a job that is aborted, does not come: 4 MB stay for each.
    Nobody looks for them by their names once MPI has started on all ranks of a node, and nothing but the run uses MPI: so only the command
    line calls this. A file is unlinked only where it is the very one that this process has mapped (device and inode), and its user's.
    """
    try:
        lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return
    for device, inode, name in {tuple(found.groups()) for line in lines if (found := _MPICH_FILE.search(line))}:
        with suppress(OSError):
            file = os.stat(name, follow_symlinks=False)
            mapped = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}", str(file.st_ino)
            if (device, inode) == mapped and file.st_uid == os.geteuid():
                os.unlink(name)


class Comm(PointToPoint):
    """A duplicate of an mpi4py communicator, whose calls are counted.

    Parameters
    ----------
    comm : an mpi4py communicator; it is duplicated, so that no message of the caller's can meet ours.
    ledger : where the bytes are entered.
    by_node : number the ranks anew, so that those of a node are consecutive; rank 0 stays rank 0.

    Attributes
    ----------
    sums_in_a_ring : no link carries more than twice the vector each way in `allreduce_sum`, for any number of ranks.
    """

    sums_in_a_ring: ClassVar[bool] = False

    def __init__(self, comm: MPIComm, ledger: Ledger | None = None, by_node: bool = False):
        from mpi4py import MPI

        self._comm = comm.Split(0, _lowest(comm) * comm.Get_size() + comm.Get_rank()) if by_node else comm.Dup()
        super().__init__(MPI, self._comm, ledger or Ledger(), _nap_seconds())
        self.now = MPI.Wtime
        if (
            is_owned() and self.size == MPI.COMM_WORLD.Get_size()
        ):  # all ranks have come here: MPI has started on all of them
            take_names_away()

    def begin_round(self) -> None:
        """A round begins: what follows is for it."""
        self.purpose = "round"

    def end_round(self) -> None:
        """The round is over."""

    # ---- collectives --------------------------------------------------------------------------------------------
    def bcast(self, buf: np.ndarray, root: int = 0) -> None:
        """Broadcast a contiguous array from `root`."""
        whole = bytes_of(buf)
        for s in pieces(buf.nbytes, self._most):
            part = whole[s]
            self.ledger.handed(self.purpose, "Bcast", part.nbytes if self.rank == root else 0)
            self._comm.Bcast([part, part.nbytes, self._mpi.BYTE], root)

    def gather(self, send: np.ndarray, recv: np.ndarray | None, root: int = 0) -> None:
        """Gather equally many bytes from each rank into `recv` on `root`."""
        self.ledger.handed(self.purpose, "Gather", send.nbytes)
        self._comm.Gather([send, self._mpi.BYTE], [recv, self._mpi.BYTE] if self.rank == root else None, root)

    def gatherv(
        self, send: np.ndarray, recv: np.ndarray | None, counts: Any, displacements: Any, root: int = 0, room: int = 0
    ) -> None:
        """Gather `counts[r]` bytes from rank r to `displacements[r]` of `recv` (uint8) on `root`.

        room : bytes of `recv` at most, the same number on all ranks; what no call can carry travels as a message from each rank.
        """
        if room > self._most:
            if self.rank != root:
                self.send(send, root, TAG_PARTS)
                return
            for rank, part in enumerate(_parts(recv, counts, displacements)):
                if rank == root:
                    part[:] = bytes_of(send)
                else:
                    self.recv(part, rank, TAG_PARTS)
            return
        self.ledger.handed(self.purpose, "Gatherv", send.nbytes)
        target: Any = [recv, (counts, displacements), self._mpi.BYTE] if self.rank == root else None
        self._comm.Gatherv([send, send.nbytes, self._mpi.BYTE], target, root)

    def scatterv(
        self, send: np.ndarray | None, counts: Any, displacements: Any, recv: np.ndarray, root: int = 0, room: int = 0
    ) -> None:
        """Scatter `counts[r]` bytes at `displacements[r]` of `send` (uint8, on `root`) to rank r's `recv`; room : as for `gatherv`."""
        if room > self._most:
            if self.rank != root:
                self.recv(recv, root, TAG_PARTS)
                return
            for rank, part in enumerate(_parts(send, counts, displacements)):
                if rank == root:
                    bytes_of(recv)[:] = part
                else:
                    self.send(part, rank, TAG_PARTS)
            return
        self.ledger.handed(self.purpose, "Scatterv", int(np.sum(counts)) if self.rank == root else 0)
        source = [send, (counts, displacements), self._mpi.BYTE] if self.rank == root else None
        self._comm.Scatterv(source, [recv, recv.nbytes, self._mpi.BYTE], root)

    def allreduce_sum(self, values: np.ndarray) -> None:
        """Sum over all ranks, in place (float32 or float64); the order of the additions is the MPI library's."""
        for s in pieces(values.size, self._most):
            part = values.reshape(-1)[s]
            self.ledger.handed(self.purpose, "Allreduce", part.nbytes)
            self._comm.Allreduce(self._mpi.IN_PLACE, part, self._mpi.SUM)

    def allreduce_max(self, values: np.ndarray) -> None:
        """Elementwise maximum over all ranks, in place (float64)."""
        self.ledger.handed(self.purpose, "Allreduce", values.nbytes)
        self._comm.Allreduce(self._mpi.IN_PLACE, values, self._mpi.MAX)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.ledger.handed(self.purpose, "Barrier", 0)
        self._comm.Barrier()

    def meet(self) -> None:
        """Wait for all ranks, asleep: for the set-up, where others may still need the processors that a waiting MPI call keeps busy.

        Nothing is handed over, so nothing is entered in the ledger.
        """
        request = self._comm.Ibarrier()
        while not request.Test():
            time.sleep(0.001)

    def bcast_json(self, value: Any, root: int = 0) -> Any:
        """Broadcast a JSON value from `root`: its length, then its text."""
        text = json.dumps(value).encode() if self.rank == root else b""
        length = np.array([len(text)], np.int64)
        self.bcast(length, root)
        buf = np.frombuffer(text, np.uint8).copy() if self.rank == root else np.empty(int(length[0]), np.uint8)
        self.bcast(buf, root)
        return json.loads(buf.tobytes())

    def gather_json(self, value: Any) -> list[Any] | None:
        """Every rank's JSON value, in order of ranks, on rank 0; None elsewhere. First the lengths travel, then the texts."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
        lengths = np.zeros(self.size, np.int64)
        self.gather(np.array([len(text)], np.int64), lengths if self.rank == 0 else None)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        buf = np.empty(int(lengths.sum()), np.uint8) if self.rank == 0 else None
        self.gatherv(text, buf, lengths, starts)
        if buf is None:
            return None
        return [json.loads(buf[a : a + n].tobytes()) for a, n in zip(starts, lengths, strict=True)]

    # ---- the rest -----------------------------------------------------------------------------------------------
    @cached_property
    def nodes(self) -> np.ndarray:
        """The node of each rank, by the lowest rank that is on it; int64, shape (size,). The first use is collective."""
        nodes = np.zeros(self.size, np.int64)
        self.gather(np.array([_lowest(self._comm)]), nodes if self.rank == 0 else None)
        self.bcast(nodes)
        return nodes

    def node(self) -> Intracomm:
        """The mpi4py communicator of the ranks that share this rank's memory."""
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        assert isinstance(node, self._mpi.Intracomm)
        return node

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Errors of MPI in here are raised as RankFailure. (Most libraries end the job instead of reporting any.)"""
        try:
            yield
        except self._mpi.Exception as error:
            raise RankFailure(str(error)) from error

    def revoke(self) -> None:
        """Every call of any rank on this communicator, also one that is under way, fails from now on."""
        self._comm.Revoke()

    def free(self) -> None:
        """Give the duplicate back."""
        self._comm.Free()


def _parts(whole: np.ndarray | None, counts: Any, displacements: Any) -> list[np.ndarray]:
    """The bytes of the root's array that are each rank's, as views of it."""
    assert whole is not None, "only the root has all parts"
    memory = bytes_of(whole)
    return [memory[int(at) : int(at) + int(count)] for count, at in zip(counts, displacements, strict=True)]


def _nap_seconds() -> float:
    """How long a rank sleeps between looks at a request that it waits for: MPICOMP_NAP, in microseconds; 0, the default, keeps looking.

    MPI keeps a processor busy while it waits. Where more ranks wait than there are cores, those that have something to do (and the
    kernel's own work for the network) then wait for a core, for milliseconds; `mpicomp lab` therefore sets it.
    """
    return number_of("MPICOMP_NAP", 0, 1e6, "microseconds") * 1e-6


def _lowest(comm: MPIComm) -> int:
    """The lowest rank of a communicator that shares this one's memory."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    here, everybody = node.Get_group(), comm.Get_group()
    lowest = min(here.Translate_ranks(list(range(node.Get_size())), everybody))
    for handle in (here, everybody, node):
        handle.Free()
    return lowest
