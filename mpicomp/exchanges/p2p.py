"""Point-to-point exchange: the server receives each rank's frames in client order and decodes one while the next travels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import SEND, WAIT, Clock
from ..cluster.comm import Comm
from ..compressors import Codec
from ..kernels.random import Keys
from .base import Fold, Group, Vectors, exchanges, frame_capacity
from .mpi import MPIExchange

if TYPE_CHECKING:
    from ..cluster.messages import AnyRequest

SLOTS = 2  # frames under way at once, for each pair of ranks
TAG_UP, TAG_DOWN = 1, 2
IN_TURN_NBYTES = 1 << 17  # a broadcast of at least so many bytes goes to other nodes one after the other


@exchanges.register("p2p")
class P2PExchange(MPIExchange):
    """Isend and Irecv, two frames under way for each pair of ranks, receives posted before the workers have encoded.

    A long broadcast goes to the ranks of other nodes in turn. All at once they would share the server's link and have it at the same, late
    time; in turn the first one has it after an n-th of that, and works and sends while the others receive. So up and down overlap. For
    that the receives of the next uplink are posted before: whatever its codec is, they have room for it.
    """

    summary = "a star of point-to-point messages, two frames under way for each worker, decoded while the next travels"

    def __init__(self, comm: Comm, n_clients: int, dim: int, dtype: DTypeLike, weights: np.ndarray, clock: Clock):
        super().__init__(comm, n_clients, dim, dtype, weights, clock)
        self._pending: dict[tuple, AnyRequest] = {}
        self._ahead: dict[int, tuple[AnyRequest, np.ndarray]] = {}  # by rank: a receive, posted before its uplink began
        self._most = 0  # bytes of the longest uplink frame that may come
        self._away = frozenset(np.flatnonzero(self.nodes != self.nodes[self.rank]).tolist())

    def check(self, codec: Codec, uplink: bool) -> None:
        if uplink:
            self._most = max(self._most, self._uplink_capacity(codec))

    def _uplink_capacity(self, codec: Codec) -> int:
        """Bytes that a frame to the server may take."""
        return self.plan(codec).frame_nbytes

    def _free_slot(self, name: tuple, nbytes: int) -> np.ndarray:
        """A send buffer whose previous message has left."""
        request = self._pending.pop(name, None)
        if request is not None:
            self.comm.wait(request)
            self.clock.lap(SEND)
        return self.buffer(name, nbytes)

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        if self.is_server:
            groups = {rank: self.speaking(plan, rank, active) for rank in self.workers}
            self._receive_all(
                codec, keys, round, plan.frame_nbytes, groups, lambda: self.fold(codec, total, weights, separate)
            )
            return
        for g, group in enumerate(self.speaking(plan, self.rank, active)):
            name, own = ("up", g % SLOTS), self.own_frame(codec, V, group.rows)
            buf = self._free_slot(name, plan.frame_nbytes) if own is None else own
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, buf, own is not None)
            self.record_uplink(nbytes, len(group.rows))
            request = self.comm.isend(buf[:nbytes], 0, TAG_UP)
            self.clock.lap(SEND)
            if add_to is not None:
                self.absorb(codec, buf, nbytes, group, keys, round, add_to, scale)
            if own is None:
                self._pending[name] = request
            else:  # the memory is the caller's, who may write to it next
                self.comm.wait(request)
                self.clock.lap(SEND)

    def _receive_all(
        self, codec: Codec, keys: Keys, round: int, frame_nbytes: int, groups: dict[int, list[Group]],
        begin: Callable[[], Fold],
    ) -> None:  # fmt: skip
        comm = self.comm
        requests: dict[tuple, tuple[AnyRequest, np.ndarray]] = {}

        def post(rank: int, g: int) -> None:
            if g == 0 and rank in self._ahead:
                requests[rank, g] = self._ahead.pop(rank)
                return
            buf = self.buffer(("from", rank, g % SLOTS), frame_nbytes)
            requests[rank, g] = comm.irecv(buf[:frame_nbytes], rank, TAG_UP), buf

        for rank, own in groups.items():
            for g in range(min(SLOTS, len(own))):
                post(rank, g)
        fold = begin()
        for rank, own in groups.items():
            for g, group in enumerate(own):
                request, buf = requests.pop((rank, g))
                nbytes = comm.wait(request)
                self.clock.lap(WAIT)
                self.accumulate(codec, buf, nbytes, group, keys, round, fold)
                if g + SLOTS < len(own):
                    post(rank, g + SLOTS)

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        capacity, group = frame_capacity(codec), self._server_row
        if not self.is_server:
            own = self.own_frame(codec, into, group.rows) if not add and codec.scale == 1.0 else None
            buf = self.buffer(("down",), capacity) if own is None else own
            nbytes = self.comm.recv(buf[:capacity], 0, TAG_DOWN)
            self.clock.lap(WAIT)
            self.deliver(codec, buf, nbytes, keys, round, into, add, own is not None)
            return
        self._complete()
        own = self.own_frame(codec, v, group.rows)
        buf = self.buffer(("broadcast",), capacity) if own is None else own
        nbytes = self.write_frame(codec, v, group.rows, group.clients, keys, round, buf, own is not None)
        self.record_downlink(nbytes, 1, self.to_workers, self.n_clients)
        self._send_to(self.workers, buf[:nbytes])
        if into is not None:
            self.deliver(codec, buf, nbytes, keys, round, into, add, False)
        if own is not None:
            self._complete()

    def _send_to(self, ranks: list[int], frame: np.ndarray) -> None:
        """Send a broadcast to these ranks, where it is long to those of other nodes in turn; the last send may still be under way."""
        far = [rank for rank in ranks if rank in self._away] if len(frame) >= IN_TURN_NBYTES else []
        for rank in ranks if not far else [rank for rank in ranks if rank not in self._away]:
            self._pending["broadcast", rank] = self.comm.isend(frame, rank, TAG_DOWN)
        for rank in far if self._most else ():
            if rank not in self._ahead:
                buf = self.buffer(("from", rank, 0), self._most)
                self._ahead[rank] = self.comm.irecv(buf[: self._most], rank, TAG_UP), buf
        for rank in far:
            request = self._pending.pop(("in turn",), None)
            if request is not None:
                self.comm.wait(request)
            self._pending["in turn",] = self.comm.isend(frame, rank, TAG_DOWN)
        self.clock.lap(SEND)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        if not self.is_server:
            buf = self.buffer(("down",), plan.frame_nbytes)
            for group in self.addressed(plan, self.rank, active):
                nbytes = self.comm.recv(buf[: plan.frame_nbytes], 0, TAG_DOWN)
                self.clock.lap(WAIT)
                self.set_rows(codec, buf, nbytes, group, keys, round, into, add)
            return
        groups = [self.addressed(plan, rank, active) for rank in range(self.placement.size)]
        for g in range(max(len(own) for own in groups)):
            for rank in self.workers:
                if g < len(groups[rank]):
                    group, name = groups[rank][g], ("to", rank, g % SLOTS)
                    buf = self._free_slot(name, plan.frame_nbytes)
                    nbytes = self.write_scattered(codec, v, group, keys, round, buf, mirror, add)
                    self.record_downlink(nbytes, len(group.rows), self.level(rank))
                    self._pending[name] = self.comm.isend(buf[:nbytes], rank, TAG_DOWN)
                    self.clock.lap(SEND)

    def finish(self) -> None:
        self._complete()
        for request, _ in self._ahead.values():
            self.comm.cancel(request)
        self._ahead.clear()

    def _complete(self) -> None:
        """Wait until everything that was sent has left."""
        for request in self._pending.values():
            self.comm.wait(request)
        self._pending.clear()
        self.clock.lap(SEND)
