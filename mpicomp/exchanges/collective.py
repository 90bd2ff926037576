"""Exchange by collectives: Gatherv up, Bcast or Scatterv down. Lengths travel beside a frame only where a codec's may vary."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import SEND, WAIT, Clock
from ..cluster.comm import Comm
from ..compressors import Codec
from ..kernels.random import Keys
from ..wire import HEADER_NBYTES, declared_nbytes, read_header
from .base import Group, Plan, Vectors, exchanges, frame_capacity
from .mpi import MPIExchange

_LENGTH_NBYTES = 8
_NOTHING = np.empty(0, np.uint8)


@exchanges.register("collective")
class CollectiveExchange(MPIExchange):
    """One frame per rank and exchange; the MPI library chooses how the bytes travel."""

    summary = "Gatherv up, Bcast or Scatterv down: the MPI library chooses how the bytes travel"
    one_frame = True

    def __init__(self, comm: Comm, n_clients: int, dim: int, dtype: DTypeLike, weights: np.ndarray, clock: Clock):
        super().__init__(comm, n_clients, dim, dtype, weights, clock)
        self._length = np.zeros(1, np.int64)
        self._lengths = np.zeros(self.placement.size, np.int64)

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        groups = [self.speaking(plan, rank, active) for rank in range(self.placement.size)]
        group = groups[self.rank][0] if groups[self.rank] else None
        frame, nbytes = _NOTHING, 0
        if group is not None:
            own = self.own_frame(codec, V, group.rows)
            frame = self.buffer(("up",), plan.frame_nbytes) if own is None else own
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, frame, own is not None)
            self.record_uplink(nbytes, len(group.rows), 0 if codec.fixed else _LENGTH_NBYTES)
        lengths, displacements = self._uplink_lengths(codec, plan, groups, nbytes), plan.places
        room = plan.frame_nbytes * len(self.workers)
        if self.is_server:
            fold = self.fold(codec, total, weights, separate)
            everything = self.buffer(("from all",), room)
            self.comm.gatherv(_NOTHING, everything, lengths, displacements, room=room)
            self.clock.lap(WAIT)
            for rank in self.workers:
                for speaking in groups[rank]:
                    start, length = int(displacements[rank]), int(lengths[rank])
                    self.accumulate(codec, everything[start : start + length], length, speaking, keys, round, fold)
            return
        self.comm.gatherv(frame[:nbytes], None, lengths, displacements, room=room)
        self.clock.lap(SEND)
        if add_to is not None and group is not None:
            self.absorb(codec, frame, nbytes, group, keys, round, add_to, scale)

    def _uplink_lengths(self, codec: Codec, plan: Plan, groups: list[list[Group]], nbytes: int) -> np.ndarray:
        """The length of every rank's frame: known where the codec's messages are of fixed length, gathered otherwise."""
        if codec.fixed:
            everybody = all(own is whole for own, whole in zip(groups, plan.groups, strict=True))
            return plan.lengths if everybody else np.array([plan.length(codec, own) for own in groups])
        self._length[0] = nbytes
        self.comm.gather(self._length, self._lengths if self.is_server else None)
        return self._lengths

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        capacity, group = frame_capacity(codec), self._server_row
        source = v if self.is_server else into if not add and codec.scale == 1.0 else None
        own = self.own_frame(codec, source, group.rows)
        buf = self.buffer(("broadcast",), capacity) if own is None else own
        nbytes = capacity
        if self.is_server:
            nbytes = self.write_frame(codec, v, group.rows, group.clients, keys, round, buf, own is not None)
            self.record_downlink(nbytes, 1, self.to_workers, self.n_clients)
        if not codec.fixed:  # the header first: it says how much follows
            self.comm.bcast(buf[:HEADER_NBYTES])
            nbytes = HEADER_NBYTES + declared_length(buf, capacity)
            self.comm.bcast(buf[HEADER_NBYTES:nbytes])
        else:
            self.comm.bcast(buf[:nbytes])
        self.clock.lap(SEND if self.is_server else WAIT)
        if into is not None:
            there = own is not None and not self.is_server
            self.deliver(codec, buf, nbytes, keys, round, into, add, there)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        plan = self.plan(codec)
        groups = [self.addressed(plan, rank, active) for rank in range(self.placement.size)]
        displacements, everything = plan.places, None
        room = plan.frame_nbytes * len(self.workers)
        if self.is_server:
            everything = self.buffer(("to all",), room)
            self._lengths[:] = 0
            for rank in self.workers:
                for group in groups[rank]:
                    start = int(displacements[rank])
                    frame = everything[start : start + plan.frame_nbytes]
                    nbytes = self.write_scattered(codec, v, group, keys, round, frame, mirror, add)
                    self.record_downlink(nbytes, len(group.rows), self.level(rank), extra=_LENGTH_NBYTES)
                    self._lengths[rank] = nbytes
        places = np.arange(self.placement.size) * _LENGTH_NBYTES
        sizes = np.where(np.arange(self.placement.size) > 0, _LENGTH_NBYTES, 0)
        mine = self._length.view(np.uint8)[: sizes[self.rank]]
        self.comm.scatterv(self._lengths.view(np.uint8), sizes, places, mine)
        nbytes = int(self._length[0]) if self.is_worker else 0
        counts = self._lengths if self.is_server else np.zeros(self.placement.size, np.int64)
        frame = self.buffer(("down",), plan.frame_nbytes)[:nbytes] if self.is_worker else _NOTHING
        self.comm.scatterv(everything, counts, displacements, frame, room=room)
        self.clock.lap(SEND if self.is_server else WAIT)
        if nbytes:
            self.set_rows(codec, frame, nbytes, groups[self.rank][0], keys, round, into, add)


def declared_length(buf: np.ndarray, capacity: int) -> int:
    """The length that a frame's header declares, checked against the room there is."""
    nbytes = declared_nbytes(buf)
    read_header(buf, HEADER_NBYTES + min(nbytes, capacity - HEADER_NBYTES))
    return nbytes
