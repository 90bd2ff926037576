"""Hierarchical exchange: ranks of a node meet in shared memory, and only one of them, its leader, crosses the network.

Down, a broadcast crosses the network once for each node instead of once for each rank. Up, a rank writes its frames into a window of
shared memory, from which the leader sends them on as they are: the server gets the bytes that it would get from `p2p`, in client order,
and adds them alike, so the trajectory is the same bit for bit.

With `hierarchical:sum` the leader adds its node's messages up and sends the sum, one dense frame in the dtype of the computation, in
exchanges where that takes fewer bytes. Sums are then taken node by node: the trajectory is that of the others up to rounding.

The server leads the first node. Messages of no bytes say that something is there to be read, or that it has been.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import SEND, WAIT, Clock
from ..cluster.comm import Comm
from ..cluster.ledger import BETWEEN_NODES, DOWNLINK, IN_MEMORY, UPLINK
from ..cluster.window import Window
from ..compressors import Codec
from ..compressors.identity import Identity
from ..kernels.random import Keys
from ..wire import FLAG_REQUEST, HEADER_NBYTES, framed_zeros
from .base import Exchange, ExchangeSetting, Fold, Group, Vectors, exchanges, frame_capacity
from .collective import declared_length
from .local import LocalExchange
from .p2p import TAG_DOWN, TAG_UP, P2PExchange

TAG_WRITTEN, TAG_TAKEN, TAG_POSTED, TAG_READ = (
    11,
    12,
    13,
    14,
)  # up: there to be sent on, sent on; down: there to be read, read
_LINE = 64
_TOKEN = np.empty(0, np.uint8)


@exchanges.register("hierarchical")
class HierarchicalExchange(P2PExchange):
    """As P2PExchange, with a window for each node and direction.

    Parameters
    ----------
    comm : its ranks are numbered node by node (`Comm(..., by_node=True)`). For the others see Exchange.
    """

    summary = "ranks of a node meet in shared memory, one of them crosses the network"
    by_node, survives_deaths = True, False
    summed: ClassVar[bool] = False  # leaders may send sums

    def __init__(self, comm: Comm, n_clients: int, dim: int, dtype: DTypeLike, weights: np.ndarray, clock: Clock):
        super().__init__(comm, n_clients, dim, dtype, weights, clock)
        self.leader = int(self.nodes[self.rank])
        self.mates = [rank for rank in np.flatnonzero(self.nodes == self.leader).tolist() if rank != self.leader]
        self.leaders = [rank for rank in np.unique(self.nodes).tolist() if rank != 0]
        self._node = self.comm.node()
        self._windows: dict[str, Window] = {}
        self._owed: dict[tuple[int, int], int] = {}  # (rank, tag): so many tokens are on their way to this rank
        self._sums: dict[int, np.ndarray] = {}

    @property
    def leads_node(self) -> bool:
        """This rank is the one of its node that crosses the network."""
        return self.rank == self.leader

    # ---- shared memory ------------------------------------------------------------------------------------------
    def _tell(self, rank: int, tag: int) -> None:
        self.comm.send(_TOKEN, rank, tag)

    def _hear(self, rank: int, tag: int) -> None:
        self.comm.recv(_TOKEN, rank, tag)
        self.clock.lap(WAIT)

    def _settle(self, tag: int) -> None:
        """Hear the tokens of this kind that are on their way."""
        for rank, kind in [key for key in self._owed if key[1] == tag]:
            for _ in range(self._owed.pop((rank, kind))):
                self._hear(rank, kind)

    def _window(self, name: str, nbytes: int) -> Window:
        """The window of a direction, with at least so many bytes for each rank; where it must grow, on all ranks of the node alike."""
        window = self._windows.get(name)
        if window is None or window.nbytes < nbytes:
            if window is not None:
                window.free()
            window = self._windows[name] = Window(self._node, nbytes)
        return window

    def _part(self, window: Window, rank: int) -> np.ndarray:
        """The part of a rank of this node: they are numbered as in the whole, from the leader on."""
        return window.parts[rank - self.leader]

    # ---- up -----------------------------------------------------------------------------------------------------
    def _uplink_capacity(self, codec: Codec) -> int:
        return max(self._stride(codec), frame_capacity(self._dense(codec.dim)) if self.summed else 0)

    def _stride(self, codec: Codec) -> int:
        """From one frame of a rank to the next in its part of the window."""
        return -(-self.plan(codec).frame_nbytes // _LINE) * _LINE

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        groups = [self.speaking(plan, rank, active) for rank in range(self.placement.size)]
        stride = self._stride(codec)
        self._settle(TAG_TAKEN)
        window = self._window("up", stride * max(len(of_rank) for of_rank in plan.groups))
        if self.is_worker:
            self._write_up(codec, V, keys, round, groups[self.rank], window, stride, add_to, scale)
        summed = self.summed and not separate and self._sum_pays(codec, groups)
        if self.is_server:
            self._receive_up(codec, keys, round, total, weights, separate, groups, window, stride, summed)
        elif self.leads_node:
            if summed:
                self._send_sum(codec, keys, round, weights, groups, window, stride)
            else:
                self._send_on(groups, window, stride)

    def _write_up(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, groups: list[Group], window: Window,
        stride: int, add_to: np.ndarray | None, scale: float,
    ) -> None:  # fmt: skip
        """Encode this rank's frames into its part of the window."""
        part = self._part(window, self.rank)
        for g, group in enumerate(groups):
            buf = part[g * stride : (g + 1) * stride]
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, buf)
            self.ledger.frame(
                UPLINK, self._tally, nbytes, len(group.rows), BETWEEN_NODES if self.leads_node else IN_MEMORY
            )
            window.sync()
            if not self.leads_node:
                self._tell(self.leader, TAG_WRITTEN)
            self.clock.lap(SEND)
            if add_to is not None:
                self.absorb(codec, buf, nbytes, group, keys, round, add_to, scale)
        if groups and not self.leads_node:
            self._owed[self.leader, TAG_TAKEN] = 1

    def _frames(
        self, groups: list[list[Group]], window: Window, stride: int
    ) -> Iterator[tuple[int, Group, np.ndarray]]:
        """The frames of this node in client order, once they are written: (rank, group, frame)."""
        for rank in [self.leader, *self.mates]:
            part = self._part(window, rank)
            for g, group in enumerate(groups[rank]):
                if rank != self.rank:
                    self._hear(rank, TAG_WRITTEN)
                window.sync()
                buf = part[g * stride : (g + 1) * stride]
                yield rank, group, buf[: HEADER_NBYTES + declared_length(buf, stride)]

    def _release(self, groups: list[list[Group]]) -> None:
        """The node's ranks may write again."""
        for rank in self.mates:
            if groups[rank]:
                self._tell(rank, TAG_TAKEN)
        self.clock.lap(SEND)

    def _send_on(self, groups: list[list[Group]], window: Window, stride: int) -> None:
        """Leader: the node's frames to the server, as they are."""
        requests = []
        for rank, group, frame in self._frames(groups, window, stride):
            if rank != self.rank:
                payload = 8 * (len(frame) - HEADER_NBYTES), 0
                self.ledger.frame(UPLINK, payload, len(frame), len(group.rows), BETWEEN_NODES)
            requests.append(self.comm.isend(frame, 0, TAG_UP))
            self.clock.lap(SEND)
        for request in requests:
            self.comm.wait(request)
        self._release(groups)

    def _receive_up(
        self, codec: Codec, keys: Keys, round: int, total: np.ndarray | None, weights: np.ndarray | None, separate: bool,
        groups: list[list[Group]], window: Window, stride: int, summed: bool,
    ) -> None:  # fmt: skip
        """Server: its own node's frames, which come first in client order, and then those of the other leaders."""

        def begin() -> Fold:
            fold = self.fold(codec, total, weights, separate)
            for _, group, frame in self._frames(groups, window, stride):
                self.accumulate(codec, frame, len(frame), group, keys, round, fold)
            self._release(groups)
            return fold._replace(weights=np.ones(self.n_clients, self.dtype)) if summed else fold

        arriving: dict[int, list[Group]] = {}
        for leader in self.leaders:
            of_node = [group for rank in np.flatnonzero(self.nodes == leader) for group in groups[rank]]
            arriving[leader] = [self._server_row] * bool(of_node) if summed else of_node
        sent = self._dense(codec.dim) if summed else codec
        self._receive_all(sent, keys, round, frame_capacity(sent) if summed else stride, arriving, begin)

    # ---- sums of nodes ------------------------------------------------------------------------------------------
    def _dense(self, dim: int) -> Codec:
        return dense_codec(dim, self.n_clients, self.dtype)

    def _sum_pays(self, codec: Codec, groups: list[list[Group]]) -> bool:
        """Whether the other nodes' sums take fewer bytes than their messages may."""
        messages = sums = 0
        for leader in self.leaders:
            of_node = [group for rank in np.flatnonzero(self.nodes == leader) for group in groups[rank]]
            messages += sum(frame_capacity(codec, len(group.rows)) for group in of_node)
            sums += frame_capacity(self._dense(codec.dim)) if of_node else 0
        return sums < messages

    def _send_sum(
        self, codec: Codec, keys: Keys, round: int, weights: np.ndarray | None, groups: list[list[Group]],
        window: Window, stride: int,
    ) -> None:  # fmt: skip
        """Leader: Σ w_i C(V_i) over the node's clients to the server."""
        if codec.dim not in self._sums:
            self._sums[codec.dim] = framed_zeros((1, codec.dim), self.dtype)
        total, row, dense = self._sums[codec.dim], self._server_row, self._dense(codec.dim)
        fold, spoken = self.fold(codec, total, weights, False), False
        for _, group, frame in self._frames(groups, window, stride):
            self.accumulate(codec, frame, len(frame), group, keys, round, fold)
            spoken = True
        self._release(groups)
        if not spoken:
            return
        sent = self.own_frame(dense, total, row.rows)
        assert sent is not None
        self.flags_sent |= self.flags_seen & FLAG_REQUEST
        nbytes = self.write_frame(dense, total, row.rows, row.clients, keys, round, sent, True)
        self.ledger.frame(UPLINK, (8 * total.nbytes, 0), nbytes, 1, BETWEEN_NODES)
        self.comm.wait(self.comm.isend(sent[:nbytes], 0, TAG_UP))
        self.clock.lap(SEND)

    # ---- down ---------------------------------------------------------------------------------------------------
    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        capacity, row = frame_capacity(codec), self._server_row
        self._settle(TAG_READ)
        self._complete()
        window = self._window("down", capacity)
        buf = self._part(window, self.leader)
        if self.is_server:
            nbytes = self.write_frame(codec, v, row.rows, row.clients, keys, round, buf)
            self.record_downlink(nbytes, 1, (len(self.mates), 0, len(self.leaders)), self.n_clients)
            self._send_to(self.leaders, buf[:nbytes])
        elif self.leads_node:
            nbytes = self.comm.recv(buf[:capacity], 0, TAG_DOWN)
            self.clock.lap(WAIT)
            self.ledger.frame(DOWNLINK, (8 * (nbytes - HEADER_NBYTES), 0), nbytes, 1, (len(self.mates), 0, 0))
        window.sync()
        for rank in self.mates if self.leads_node else ():
            self._tell(rank, TAG_POSTED)
            self._owed[rank, TAG_READ] = 1
        if not self.leads_node:
            self._hear(self.leader, TAG_POSTED)
            window.sync()
            nbytes = HEADER_NBYTES + declared_length(buf, capacity)
        self.clock.lap(SEND if self.is_server else WAIT)
        if into is not None:
            self.deliver(codec, buf, nbytes, keys, round, into, add, False)
        if not self.leads_node:
            self._tell(self.leader, TAG_READ)

    def finish(self) -> None:
        super().finish()
        self._settle(TAG_TAKEN)
        self._settle(TAG_READ)
        for window in self._windows.values():
            window.free()
        self._windows.clear()
        self._node.Free()


@exchanges.register("hierarchical:sum")
class SummingHierarchicalExchange(HierarchicalExchange):
    """HierarchicalExchange whose leaders send the sum of their node's messages where that is shorter; the sums have another order."""

    summary = "the same; a node sends the sum of its messages where that is shorter, so the last bits differ"
    summed = True

    @classmethod
    def create_for_warmup(cls, setting: ExchangeSetting, clients: np.ndarray, ranks: int) -> Exchange:
        return LocalSummingExchange(setting.n_clients, setting.dim, setting.dtype, clients=clients)


class LocalSummingExchange(LocalExchange):
    """One process whose sums pass through a dense frame as a leader's do: what a warm-up of `hierarchical:sum` compiles."""

    name = "hierarchical:sum"

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        super().gather(codec, V, keys, round, total, add_to, scale, active, weights, separate)
        if separate:
            return
        assert total is not None
        dense, row = dense_codec(codec.dim, self.n_clients, self.dtype), self._server_row
        buf = self.buffer(("sum",), frame_capacity(dense))
        nbytes = self.write_frame(dense, total, row.rows, row.clients, keys, round, buf)
        total[:] = 0
        self.read_frame(dense, buf, nbytes, row.rows, row.clients, np.ones(1, self.dtype), keys, round, total)


def dense_codec(dim: int, n_clients: int, dtype: np.dtype) -> Codec:
    """What a leader sends its node's sum with: all values, in the dtype of the computation."""
    return Identity().bind(dim, n_clients, dtype)
