"""What a method asks of its exchange in a round, recorded in one process: operations, the lengths of their messages, and what they cost.

A run gives the same bits for any exchange and any number of ranks, so the messages of one process are those of all of them. Only where
messages are cut (`sharded`, `sliced`) do their parts depend on the number of ranks; that many slices are made in one process, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..runtime import (
    COMPUTE,
    HEADER_NBYTES,
    STEP,
    Codec,
    Composition,
    Compressor,
    Config,
    Identity,
    LocalExchange,
    LocalShardedExchange,
    LocalSlicedExchange,
    Plan,
    Session,
    alignment_of,
    build_problem,
    exchange_setting,
)

GATHER, BROADCAST, SCATTER, TALK = "gather", "broadcast", "scatter", "talk"
WARM = 2  # rounds that are not recorded


@dataclass(frozen=True)
class Cost:
    """Seconds: of a frame, and of each client's message in it."""

    frame: float = 0.0
    message: float = 0.0

    def of(self, messages: float, frames: float = 1.0) -> float:
        """Seconds of so many messages in so many frames."""
        return self.frame * frames + self.message * messages


@dataclass(frozen=True)
class Operation:
    """One call of the exchange.

    Attributes
    ----------
    kind : GATHER, BROADCAST or SCATTER; TALK, where the servers of slices agree on something.
    dim : of its vectors. capacity : bytes of the longest message. itemsize : bytes of a value on the wire.
    fixed : all messages have that length. whole : every server has all of its vectors. separate : the server keeps a row for each client.
    dense : its vectors are arrays that are sent as they lie in memory. absorbs : the clients add the decoded messages to their state.
    lengths : int64, bytes of each client's message, shape (n,) or where messages are cut (n, servers); of a broadcast of shape (1,) or
        (1, servers); of a TALK what each server says.
    active : bool, shape (n,), the clients that take part; None for all.
    encode, decode, absorb : of a frame and message, seconds: where it is written, on a server, on a worker.
    """

    kind: str
    dim: int
    capacity: int
    itemsize: int
    fixed: bool
    whole: bool
    separate: bool
    dense: bool
    absorbs: bool
    lengths: np.ndarray
    active: np.ndarray | None = None
    encode: Cost = Cost()
    decode: Cost = Cost()
    absorb: Cost = Cost()

    def spread(self, n: int, capacity: int) -> Operation:
        """The operation of n clients: those beyond the recorded ones repeat them, with messages as much longer as the longest may be."""
        if self.kind == TALK:
            return self
        lengths = self.lengths
        if self.kind != BROADCAST:
            lengths = lengths[np.arange(n) % len(lengths)]
        if capacity != self.capacity:
            lengths = np.minimum(np.rint(lengths * (capacity / max(self.capacity, 1))), capacity).astype(np.int64)
        active = None if self.active is None else self.active[np.arange(n) % len(self.active)]
        return replace(self, lengths=lengths, active=active, capacity=capacity)


@dataclass
class Round:
    """The operations of a round, and what lies beside them, seconds: a client's gradients, and the server's step."""

    operations: list[Operation] = field(default_factory=list)
    compute: float = 0.0
    step: float = 0.0


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
        codec, dense = now.codec, isinstance(V, np.ndarray)
        dense = dense and codec.codec_id == Identity.codec_id and codec.wire_dtype == V.dtype
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


class Recorder:
    """Records the rounds of a configuration.

    Parameters
    ----------
    config : of the run. rounds : how many are recorded, after WARM that are not.

    Attributes
    ----------
    problem, composition : of the configuration.
    """

    def __init__(self, config: Config, rounds: int):
        self.config = replace(config, rounds=rounds + WARM, exchange="auto", out=None, resume=None, trace=None)
        self.count = rounds
        self.problem = build_problem(self.config)
        self.composition = Composition(self.config, self.problem)
        self.step_size = self.composition.step_size(self.config.step)
        self._timed: list[Round] | None = None
        self._codecs: dict[tuple[int, int], Codec] = {}

    def rounds(self, exchange: str, ranks: int) -> list[Round]:
        """The rounds of a run by this exchange on so many ranks, with what their parts cost on this machine.

        Raises
        ------
        ConfigError : the exchange cannot carry the method's messages.
        """
        costs = self._costs()
        setting = exchange_setting(self.config, self.problem, self.composition, None)
        chosen = self._sliced(exchange, ranks) if exchange in SLICED else Recording.create(setting)
        noted = self._run(chosen)[0]
        return [self._priced(operations, timed) for operations, timed in zip(noted, costs, strict=True)]

    def _sliced(self, exchange: str, ranks: int) -> Any:
        """An exchange of this process that cuts messages for so many servers."""
        setting = exchange_setting(self.config, self.problem, self.composition, None)
        options: dict[str, Any] = {"servers": ranks, "weights": setting.weights, "clock": setting.clock}
        if exchange == "sharded":
            options["alignment"] = alignment_of(setting.codecs(), setting.downlink_codecs())
        return SLICED[exchange](setting.n_clients, setting.dim, setting.dtype, **options)

    def filled(self, exchange: str, ranks: int) -> list[bool]:
        """Of each slice of so many, whether it has coordinates."""
        return (np.diff(self._sliced(exchange, ranks).bounds) > 0).tolist()

    def capacity(self, operation: Operation, n: int) -> int:
        """Bytes of an operation's longest message where there are n clients: some compressors share their work among them."""
        codec = self._codecs.get((operation.dim, operation.capacity))
        compressor = None if codec is None else codec.compressor
        if codec is None or n == self.problem.n_clients or not isinstance(compressor, Compressor):
            return operation.capacity
        return compressor.bind(operation.dim, n, codec.wire_dtype).max_nbytes

    @staticmethod
    def _priced(operations: list[Operation], timed: Round) -> Round:
        prices = iter(timed.operations)
        found = []
        for operation in operations:
            if operation.kind == TALK:
                found.append(operation)
            else:
                price = next(prices)
                found.append(replace(operation, encode=price.encode, decode=price.decode, absorb=price.absorb))
        return Round(found, timed.compute, timed.step)

    def _costs(self) -> list[Round]:
        """What the rounds cost in one process: frames of one client and frames of all tell a frame's cost and a message's."""
        if self._timed is None:
            setting = exchange_setting(self.config, self.problem, self.composition, None)
            apart = self._run(Recording.create(setting))[0]
            setting = exchange_setting(self.config, self.problem, self.composition, None)
            together, compute, step = self._run(Grouped.create(setting))
            n = self.problem.n_clients
            kinds: dict[tuple, list[tuple[Cost, Cost, Cost]]] = {}
            for alone, joint in zip(apart, together, strict=True):
                for a, b in zip(alone, joint, strict=True):
                    messages = 1 if a.kind == BROADCAST else n
                    costs = tuple(
                        _split(one.message, all_.message, messages)
                        for one, all_ in ((a.encode, b.encode), (a.decode, b.decode), (a.absorb, b.absorb))
                    )
                    kinds.setdefault(_kind(a), []).append(costs)  # type: ignore[arg-type]
            medians = {key: _medians(costs) for key, costs in kinds.items()}
            self._timed = [
                Round(
                    [
                        replace(
                            o, encode=medians[_kind(o)][0], decode=medians[_kind(o)][1], absorb=medians[_kind(o)][2]
                        )
                        for o in operations
                    ],
                    compute / n,
                    step,
                )
                for operations in apart
            ]
        return self._timed

    def _run(self, exchange: Any) -> tuple[list[list[Operation]], float, float]:
        """The operations of each round; medians of the seconds that gradients and steps took in one."""
        session = Session(self.config, self.problem, self.composition.parts(self.step_size), exchange, self.step_size)
        found, spent = [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(self.count + WARM):
                exchange.begin()
                before = exchange.clock.seconds.copy()
                exchange.clock.start_round()
                session.round(t)
                exchange.clock.end_round()
                self._codecs.update(exchange.codecs)
                if t >= WARM:
                    found.append(exchange.noted)
                    spent.append(exchange.clock.seconds - before)
        compute, step = np.median(np.array(spent)[:, [COMPUTE, STEP]], axis=0)
        return found, float(compute), float(step)


def _kind(operation: Operation) -> tuple:
    """Operations of one kind cost the same."""
    return operation.kind, operation.dim, operation.capacity, operation.fixed, operation.dense


def _split(alone: float, joint: float, messages: int) -> Cost:
    """From seconds a message in frames of one, and of all: a message m and a frame f with f + m = alone, f/messages + m = joint."""
    if messages < 2:
        return Cost(frame=alone)
    frame = max(alone - joint, 0.0) * messages / (messages - 1)
    return Cost(min(frame, alone), max(alone - frame, 0.0))


def _medians(costs: list[tuple[Cost, Cost, Cost]]) -> list[Cost]:
    parts = [[(cost.frame, cost.message) for cost in row] for row in costs]
    return [Cost(*map(float, pair)) for pair in np.median(np.array(parts), axis=0)]
