"""Messages from one rank to another, in pieces where they are longer than a call of MPI can carry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .counts import closed_pieces, most_of_a_call
from .ledger import Ledger

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm
    from mpi4py.MPI import Request

REST = 64  # added to a message's tag: that of its second piece and those after it


def bytes_of(array: np.ndarray) -> np.ndarray:
    """The memory of a contiguous array, as bytes."""
    return array.reshape(-1).view(np.uint8)


class Sending:
    """The requests of a message that is sent in pieces, used as one request.

    Attributes
    ----------
    requests : those that are not known to be complete.
    """

    def __init__(self, requests: list[Request]):
        self.requests = requests

    def Test(self, status: Any = None) -> bool:
        """All of them are complete."""
        self.requests = [request for request in self.requests if not request.Test()]
        return not self.requests

    def Wait(self, status: Any = None) -> bool:
        """Wait for all of them."""
        for request in self.requests:
            request.Wait()
        self.requests = []
        return True


class Receiving:
    """A receive whose first piece is under way: those that follow are received when it is waited for.

    Attributes
    ----------
    request : of the first piece. buf : uint8, for the whole message. source, tag : of the message.
    """

    def __init__(self, request: Request, buf: np.ndarray, source: int, tag: int):
        self.request, self.buf, self.source, self.tag = request, buf, source, tag


AnyRequest: TypeAlias = "Request | Sending | Receiving"


class PointToPoint:
    """The point-to-point calls of a communicator, entered in the ledger.

    Parameters
    ----------
    mpi : mpi4py's `MPI`. comm : an mpi4py communicator. ledger : where the bytes are entered.
    nap : seconds to sleep between looks at a request; 0 keeps looking.
    """

    def __init__(self, mpi: Any, comm: MPIComm, ledger: Ledger, nap: float):
        self._mpi, self._comm, self._nap = mpi, comm, nap
        self._status, self._most = mpi.Status(), most_of_a_call(mpi)
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.ledger, self.purpose = ledger, "setup"

    def isend(self, buf: np.ndarray, dest: int, tag: int = 0) -> AnyRequest:
        """Start sending a contiguous array; returns the request."""
        if buf.nbytes < self._most:
            return self._isend(buf, dest, tag)
        whole, tags = bytes_of(buf), [tag] + [tag + REST] * (buf.nbytes // self._most)
        return Sending(
            [self._isend(whole[s], dest, t) for s, t in zip(closed_pieces(buf.nbytes, self._most), tags, strict=True)]
        )

    def _isend(self, buf: np.ndarray, dest: int, tag: int) -> Request:
        self.ledger.handed(self.purpose, "Isend", buf.nbytes)
        return self._comm.Isend([buf, buf.nbytes, self._mpi.BYTE], dest, tag)

    def irecv(self, buf: np.ndarray, source: int, tag: int = 0) -> AnyRequest:
        """Start receiving at most buf.nbytes bytes; returns the request. Receives of one rank and tag are waited for in their order."""
        if buf.nbytes < self._most:
            return self._irecv(buf, source, tag)
        whole = bytes_of(buf)
        return Receiving(self._irecv(whole[: self._most], source, tag), whole, source, tag)

    def _irecv(self, buf: np.ndarray, source: int, tag: int) -> Request:
        return self._comm.Irecv([buf, buf.nbytes, self._mpi.BYTE], source, tag)

    def wait(self, request: AnyRequest) -> int:
        """Wait for a request, asleep between looks where MPICOMP_NAP says so; returns the number of bytes received (for a receive)."""
        if isinstance(request, Receiving):
            nbytes = last = self.wait(request.request)
            while last == self._most:
                rest = request.buf[nbytes : nbytes + self._most]
                last = self.wait(self._irecv(rest, request.source, request.tag + REST))
                nbytes += last
            return nbytes
        if self._nap:
            while not request.Test(self._status):
                time.sleep(self._nap)
        else:
            request.Wait(self._status)
        return self._status.Get_count(self._mpi.BYTE)

    def cancel(self, request: AnyRequest) -> None:
        """Give up a receive for which nothing comes any more."""
        if isinstance(request, Receiving):
            request = request.request
        assert not isinstance(request, Sending)
        request.Cancel()
        request.Wait()

    def send(self, buf: np.ndarray, dest: int, tag: int = 0) -> None:
        """Send a contiguous array."""
        if buf.nbytes >= self._most:
            self.wait(self.isend(buf, dest, tag))
            return
        self.ledger.handed(self.purpose, "Send", buf.nbytes)
        self._comm.Send([buf, buf.nbytes, self._mpi.BYTE], dest, tag)

    def recv(self, buf: np.ndarray, source: int, tag: int = 0) -> int:
        """Receive into a contiguous array; returns the number of bytes received."""
        return self.wait(self.irecv(buf, source, tag))
