"""Exchanges of one process that note what they are asked for, how long each message is, and how long it takes to write and to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..runtime import HEADER_NBYTES, Codec, LocalExchange, LocalShardedExchange, LocalSlicedExchange, Plan
from .operations import BROADCAST, GATHER, SCATTER, TALK, Cost, Operation


@dataclass
class _Noted:
    """An operation that is under way."""

    codec: Codec
    frames: list[tuple[list[int], int]] = field(default_factory=list)
    parts: list[list[int]] = field(default_factory=list)
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))  # of encode, decode, absorb
    counts: np.ndarray = field(default_factory=lambda: np.zeros(3))


class _Talk:
    """An agreement that notes how long each thing is that a server says."""

    def __init__(self, agreement: Any, steps: list[list[int]]):
        self._agreement, self._steps = agreement, steps

    def talk(self, v: np.ndarray, own: int, slices: int) -> Iterator[np.ndarray]:
        talk, step = self._agreement.talk(v, own, slices), 0
        said = next(talk)
        while True:
            if step == len(self._steps):
                self._steps.append([])
            self._steps[step].append(said.nbytes)
            step += 1
            heard = yield said
            try:
                said = talk.send(heard)
            except StopIteration as end:
                return end.value


class Recording(LocalExchange):
    """An exchange of one process that notes what it is asked for. `apart` : each client has a frame of its own."""

    apart = True

    def begin(self) -> None:
        """Note from here on."""
        self.noted: list[Operation] = []
        self.codecs: dict[tuple[int, int], Codec] = {}

    noted: list[Operation]
    _now: _Noted | None = None

    def plan(self, codec: Codec) -> Plan:
        plan = super().plan(codec)
        if self.apart and len(plan.groups[0]) < self.n_clients:
            clients = [np.array([i]) for i in range(self.n_clients)]
            plan.groups[0] = [type(plan.groups[0][0])(i, i, np.zeros(1, np.int64)) for i in clients]
        return plan

    # ---- operations -------------------------------------------------------------------------------------------------
    def gather(self, codec, V, keys, round, total, add_to=None, scale=1.0, active=None, weights=None, separate=False):  # type: ignore[no-untyped-def]
        self._now = _Noted(codec)
        super().gather(codec, V, keys, round, total, add_to, scale, active, weights, separate)
        self._end(GATHER, V, active, separate, add_to is not None)

    def broadcast(self, codec, v, keys, round, into, add=False):  # type: ignore[no-untyped-def]
        self._now = _Noted(codec)
        super().broadcast(codec, v, keys, round, into, add)
        self._end(BROADCAST, v, None, False, False)

    def scatter(self, codec, v, keys, round, into, mirror=None, active=None, add=False):  # type: ignore[no-untyped-def]
        self._now = _Noted(codec)
        super().scatter(codec, v, keys, round, into, mirror, active, add)
        self._end(SCATTER, v, active, False, False)

    def _end(self, kind: str, V: Any, active: np.ndarray | None, separate: bool, absorbs: bool) -> None:
        now, self._now = self._now, None
        assert now is not None
        codec = now.codec
        dense = isinstance(V, np.ndarray) and self.own_frame(codec, V, np.arange(len(V))) is not None
        self.codecs[codec.dim, codec.max_nbytes] = codec
        costs = [Cost(message=s / c if c else 0.0) for s, c in zip(now.seconds, now.counts, strict=True)]
        lengths, wire = self._lengths(kind, now), codec.wire_dtype.itemsize
        shape = codec.dim, codec.max_nbytes, wire, codec.fixed, codec.whole, separate, dense, absorbs
        self.noted.append(Operation(kind, *shape, lengths, None if active is None else active.copy(), *costs))

    def _lengths(self, kind: str, now: _Noted) -> np.ndarray:
        lengths = np.zeros(1 if kind == BROADCAST else self.n_clients, np.int64)
        for clients, nbytes in now.frames:
            if clients:
                lengths[clients[0]] = nbytes - HEADER_NBYTES
        return lengths

    # ---- frames, and the seconds that they take ---------------------------------------------------------------------
    def _timed(self, phase: int, messages: int, seconds: float) -> None:
        if self._now is not None:
            self._now.seconds[phase] += seconds
            self._now.counts[phase] += messages

    def write_frame(self, codec, V, rows, clients, keys, round, buf, encoded=False):  # type: ignore[no-untyped-def]
        began = self.clock.now()
        nbytes = super().write_frame(codec, V, rows, clients, keys, round, buf, encoded)
        self._timed(0, len(rows), self.clock.now() - began)
        if self._now is not None:
            self._now.frames.append((clients.tolist(), nbytes))
        return nbytes

    def accumulate(self, codec, buf, nbytes, group, keys, round, fold):  # type: ignore[no-untyped-def]
        began = self.clock.now()
        super().accumulate(codec, buf, nbytes, group, keys, round, fold)
        self._timed(1, len(group.rows), self.clock.now() - began)

    def absorb(self, codec, buf, nbytes, group, keys, round, into, scale=1.0):  # type: ignore[no-untyped-def]
        began = self.clock.now()
        super().absorb(codec, buf, nbytes, group, keys, round, into, scale)
        self._timed(2, len(group.rows), self.clock.now() - began)

    def deliver(self, codec, buf, nbytes, keys, round, into, add, there):  # type: ignore[no-untyped-def]
        began, before = self.clock.now(), self._now.counts[2] if self._now is not None else 0
        super().deliver(codec, buf, nbytes, keys, round, into, add, there)
        if self._now is not None and self._now.counts[2] == before:  # it was only copied
            self._timed(2, 1, self.clock.now() - began)


class Grouped(Recording):
    """The same with as many clients in a frame as fit, as in a run of one process."""

    apart = False


class _Slices(Recording):
    """What the recordings of slices share."""

    bounds: np.ndarray

    def write_parts(self, codec, V, group, keys, round, name, capacity):  # type: ignore[no-untyped-def]
        written = super().write_parts(codec, V, group, keys, round, name, capacity)  # type: ignore[misc]
        if self._now is not None:
            self._now.parts.append([int(group.clients[0]), *(len(frame) for frame in written[2])])
        return written

    def talk(self, agreement, codec, v, round):  # type: ignore[no-untyped-def]
        steps: list[list[int]] = []
        found = super().talk(_Talk(agreement, steps), codec, v, round)  # type: ignore[misc]
        for said in steps:
            lengths = np.array(said, np.int64)
            self.noted.append(
                Operation(TALK, codec.dim, int(lengths.max()), 8, False, False, False, False, False, lengths)
            )
        return found

    def _lengths(self, kind: str, now: _Noted) -> np.ndarray:
        servers = len(self.bounds) - 1
        rows = 1 if kind == BROADCAST else self.n_clients
        lengths = np.zeros((rows, servers), np.int64)
        if now.codec.whole and kind == BROADCAST:
            return lengths  # every server has it: nothing travels
        for client, *frames in now.parts:
            lengths[client] = np.maximum(np.array(frames) - HEADER_NBYTES, 0)
        if not now.parts:
            filled = np.diff(self.bounds) > 0
            places = np.flatnonzero(filled)
            taken: dict[int, int] = {}
            for clients, nbytes in now.frames:
                if clients:  # each client's slices come in their order
                    k = taken.get(clients[0], 0)
                    taken[clients[0]] = k + 1
                    lengths[clients[0], places[k]] = nbytes - HEADER_NBYTES
        return lengths


class SlicedRecording(_Slices, LocalSlicedExchange):
    """Notes the messages of every slice, each compressed for itself."""


class ShardedRecording(_Slices, LocalShardedExchange):
    """Notes the parts that messages are cut into."""


SLICED: dict[str, type[Any]] = {"sharded": ShardedRecording, "sliced": SlicedRecording}
