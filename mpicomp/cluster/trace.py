"""A trace: every MPI call of every rank with its bytes, and the time between the calls. `run --trace` records it at `Comm`.

The ledger adds bytes up; a trace keeps the calls in their order, so that a simulator can replay them on another network. The two are
written down apart from each other, and must agree to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from .comm import Comm
from .messages import AnyRequest, Receiving, Sending

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm
    from mpi4py.MPI import Request

FACTS = "trace.json"
ROUND, END = "Round", "End"  # no calls of MPI: a round begins here, and is over here
ROOTED = ("Bcast", "Scatterv")  # only their root hands bytes over
SENDING = ("Isend", "Send", "Gather", "Gatherv", "Allreduce")
FUNCTIONS = (ROUND, END, *SENDING, *ROOTED, "Irecv", "Wait", "Barrier")


class Call(NamedTuple):
    """One call of MPI on one rank.

    Attributes
    ----------
    purpose : as in the ledger. function : one of FUNCTIONS.
    peer : the rank that a message goes to or comes from, or a collective's root; −1 where there is none. tag : of a message.
    nbytes : of this rank's buffer; of a receive 0, its Wait has what came.
    request : number of an Isend or Irecv on this rank, which its Wait repeats; −1 elsewhere.
    seconds : what this rank did by itself since the call before. A call that returns at once (Isend, Irecv) is part of that, too.
    counts : bytes of each rank, of a Gatherv or Scatterv on its root.
    """

    purpose: str
    function: str
    peer: int = -1
    tag: int = 0
    nbytes: int = 0
    request: int = -1
    seconds: float = 0.0
    counts: tuple[int, ...] = ()

    def handed(self, rank: int) -> int:
        """Bytes that this rank hands to MPI by this call, as the ledger counts them."""
        if self.function in ROOTED:
            return self.nbytes if rank == self.peer else 0
        return self.nbytes if self.function in SENDING else 0

    def line(self) -> str:
        """As a line of a file; `read_call` gives it back."""
        counts = ",".join(map(str, self.counts)) or "-"
        return f"{self.purpose} {self.function} {self.peer} {self.tag} {self.nbytes} {self.request} {self.seconds:.9g} {counts}"


def read_call(line: str) -> Call:
    """A call from its line.

    >>> read_call(Call("round", "Isend", 2, 1, 80, 5, 0.25).line())
    Call(purpose='round', function='Isend', peer=2, tag=1, nbytes=80, request=5, seconds=0.25, counts=())

    Raises
    ------
    ValueError : it is none.
    """
    purpose, function, peer, tag, nbytes, request, seconds, counts = line.split(" ")
    if function not in FUNCTIONS or int(nbytes) < 0 or not 0 <= float(seconds) < float("inf"):
        raise ValueError(line)
    each = tuple(int(count) for count in counts.split(",")) if counts != "-" else ()
    return Call(purpose, function, int(peer), int(tag), int(nbytes), int(request), float(seconds), each)


def functions_of(calls: Iterable[Call], rank: int) -> dict[tuple[str, str], list[int]]:
    """[calls, bytes] by (purpose, function), as the ledger has them."""
    found: dict[tuple[str, str], list[int]] = {}
    for call in calls:
        if call.function in (*SENDING, *ROOTED, "Barrier"):
            entry = found.setdefault((call.purpose, call.function), [0, 0])
            entry[0] += 1
            entry[1] += call.handed(rank)
    return found


class TracedComm(Comm):
    """A communicator that keeps all its calls; parameters as for Comm.

    Attributes
    ----------
    calls : of this rank, in their order. round_seconds : wall time of each round on this rank.
    """

    def __init__(self, comm: MPIComm, by_node: bool = False):
        self.calls: list[Call] = []
        self.round_seconds: list[float] = []
        self._numbers: dict[int, tuple[int, bool, Request]] = {}  # by id of a request: its number, whether it receives
        self._last = self._began = 0.0
        self._count = 0
        super().__init__(comm, by_node=by_node)
        self._last = self.now()

    def _enter(
        self, function: str, began: float, peer: int = -1, tag: int = 0, nbytes: int = 0, request: int = -1,
        counts: tuple[int, ...] = (), returns_at_once: bool = False,
    ) -> None:  # fmt: skip
        work = max(began - self._last, 0.0)
        self._last = began if returns_at_once else self.now()
        self.calls.append(Call(self.purpose, function, peer, tag, nbytes, request, work, counts))

    # ---- rounds -------------------------------------------------------------------------------------------------
    def begin_round(self) -> None:
        super().begin_round()
        self._began = self._last = self.now()
        self._enter(ROUND, self._began)

    def end_round(self) -> None:
        self._enter(END, self.now())
        self.round_seconds.append(self._last - self._began)

    # ---- messages -----------------------------------------------------------------------------------------------
    def _isend(self, buf: np.ndarray, dest: int, tag: int) -> Request:
        began = self.now()
        request = super()._isend(buf, dest, tag)
        self._number("Isend", request, began, dest, tag, buf.nbytes)
        return request

    def _irecv(self, buf: np.ndarray, source: int, tag: int) -> Request:
        began = self.now()
        request = super()._irecv(buf, source, tag)
        self._number("Irecv", request, began, source, tag, 0)
        return request

    def _number(self, function: str, request: Request, began: float, peer: int, tag: int, nbytes: int) -> None:
        self._numbers[id(request)] = (
            self._count,
            function == "Irecv",
            request,
        )  # which keeps its id from being used again
        self._enter(function, began, peer, tag, nbytes, self._count, returns_at_once=True)
        self._count += 1

    def wait(self, request: AnyRequest) -> int:
        if isinstance(request, Receiving):  # its pieces come here one by one
            return super().wait(request)
        parts = list(request.requests) if isinstance(request, Sending) else [request]
        began = self.now()
        nbytes = super().wait(request)
        for part in parts:
            number, receives, _ = self._numbers.pop(id(part))
            self._enter("Wait", began, nbytes=nbytes if receives else 0, request=number)
            began = self._last
        return nbytes

    def send(self, buf: np.ndarray, dest: int, tag: int = 0) -> None:
        began = self.now()
        super().send(buf, dest, tag)
        if buf.nbytes < self._most:
            self._enter("Send", began, dest, tag, buf.nbytes)

    # ---- collectives --------------------------------------------------------------------------------------------
    def bcast(self, buf: np.ndarray, root: int = 0) -> None:
        began = self.now()
        super().bcast(buf, root)
        self._enter("Bcast", began, root, nbytes=buf.nbytes)

    def gather(self, send: np.ndarray, recv: np.ndarray | None, root: int = 0) -> None:
        began = self.now()
        super().gather(send, recv, root)
        self._enter("Gather", began, root, nbytes=send.nbytes)

    def gatherv(
        self, send: np.ndarray, recv: np.ndarray | None, counts: Any, displacements: Any, root: int = 0, room: int = 0
    ) -> None:
        began = self.now()
        super().gatherv(send, recv, counts, displacements, root, room)
        if room <= self._most:
            each = tuple(int(count) for count in counts) if self.rank == root else ()
            self._enter("Gatherv", began, root, nbytes=send.nbytes, counts=each)

    def scatterv(
        self, send: np.ndarray | None, counts: Any, displacements: Any, recv: np.ndarray, root: int = 0, room: int = 0
    ) -> None:
        began = self.now()
        super().scatterv(send, counts, displacements, recv, root, room)
        if room <= self._most:
            each = tuple(int(count) for count in counts) if self.rank == root else ()
            self._enter("Scatterv", began, root, nbytes=sum(each) if self.rank == root else recv.nbytes, counts=each)

    def allreduce_sum(self, values: np.ndarray) -> None:
        began = self.now()
        super().allreduce_sum(values)
        self._enter("Allreduce", began, nbytes=values.nbytes)

    def allreduce_max(self, values: np.ndarray) -> None:
        began = self.now()
        super().allreduce_max(values)
        self._enter("Allreduce", began, nbytes=values.nbytes)

    def barrier(self) -> None:
        began = self.now()
        super().barrier()
        self._enter("Barrier", began)

    # ---- the end ------------------------------------------------------------------------------------------------
    def save(self, directory: Path, facts: dict[str, Any]) -> None:
        """Write the calls of all ranks, from rank 0, and beside them `facts`, the ranks' nodes and their rounds' seconds. Collective."""
        text = "".join(call.line() + "\n" for call in self.calls)
        self.purpose = "trace"
        nodes = self.nodes.tolist()
        everything = self.gather_json({"text": text, "seconds": self.round_seconds})
        if everything is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        for rank, own in enumerate(everything):
            rank_file(directory, rank).write_text(own["text"], "utf-8")
        rounds = np.max([own["seconds"] for own in everything], axis=0).tolist()
        whole = {**facts, "ranks": self.size, "nodes": nodes, "round_seconds": rounds}
        (directory / FACTS).write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def rank_file(directory: Path, rank: int) -> Path:
    """Where a rank's calls are."""
    return directory / f"rank-{rank:05d}.trace"


def read_trace(directory: Path) -> tuple[dict[str, Any], list[list[Call]]]:
    """A trace's facts and the calls of each rank.

    Raises
    ------
    DataError : it is none, or damaged.
    """
    damaged = DataError(f"{directory / FACTS} is damaged; record the run again")
    try:
        facts = json.loads((directory / FACTS).read_text("utf-8"))
        count, nodes, walls = facts["ranks"], facts["nodes"], facts["round_seconds"]
    except OSError as error:
        raise _missing(directory, error) from None
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if not (isinstance(count, int) and isinstance(nodes, list) and isinstance(walls, list) and len(nodes) == count):
        raise damaged
    try:
        return facts, [_read_rank(rank_file(directory, rank)) for rank in range(count)]
    except OSError as error:
        raise _missing(directory, error) from None


def _missing(directory: Path, error: OSError) -> DataError:
    return DataError(
        f"{directory} has no trace: {error.strerror}, {error.filename}; `mpicomp launch -n 5 -- run --trace DIR ...` writes one"
    )


def _read_rank(path: Path) -> list[Call]:
    lines: Sequence[str] = path.read_text("utf-8").splitlines()
    calls = []
    for number, line in enumerate(lines, 1):
        try:
            calls.append(read_call(line))
        except ValueError:
            raise DataError(
                f"{path}, line {number}, is no call of a trace: {line[:60]!r}; record the run again"
            ) from None
    return calls
