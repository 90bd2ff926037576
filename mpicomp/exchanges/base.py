"""The contract of an exchange: how frames get from the clients to the server and back. One module each implements it.

Every rank calls the same method with the same codec and round; what it does depends on the rank's role. In all of them the server
adds the clients' messages in client order, so that a run is the same bit for bit for any exchange and any number of ranks.
(`hierarchical:sum` alone adds them in another order, and says so.)

There is one server, rank 0, or (`sharded`) every rank serves a slice of the coordinates. Server arrays then have the slice's columns:
wherever d is said of an array that a server holds, read `served_dim`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import DECODE, ENCODE, Clock
from ..cluster.ledger import BETWEEN_NODES, DOWNLINK, IN_MEMORY, IN_NODE, UPLINK, Ledger
from ..cluster.placement import Placement
from ..cluster.threads import CodecThreads
from ..compressors import Codec, Compressor
from ..compressors.codec import Difference, Sum
from ..compressors.identity import Identity
from ..errors import ConfigError, WireError
from ..kernels.random import Keys
from ..registry import Registry
from ..wire import (
    CONTROL_FLAGS,
    HEADER_NBYTES,
    MAX_FRAME_NBYTES,
    MAX_LONG_MESSAGES,
    SHORT,
    check_header,
    dtype_flag,
    frame_around,
    read_header,
    write_header,
)

if TYPE_CHECKING:
    from ..cluster.comm import Comm

# What a codec is to encode: an array, or vectors that are formed as they are encoded; None on a rank that holds none.
Vectors: TypeAlias = np.ndarray | Difference | Sum | None

GROUP_NBYTES = 1 << 22  # a frame holds as many clients as fit in 4 MiB, and at least one


exchanges: Registry[Exchange] = Registry("exchange", "mpicomp.exchanges")


class Group(NamedTuple):
    """The clients of one frame: their rows in the hosting rank's blocks, their indices, and as many zeros (row 0 of a shared sum)."""

    rows: np.ndarray
    clients: np.ndarray
    zeros: np.ndarray

    def only(self, active: np.ndarray) -> Group:
        """The clients that are active; `active` is bool, shape (n,)."""
        mask = active[self.clients]
        return Group(self.rows[mask], self.clients[mask], self.zeros[mask])


class Fold(NamedTuple):
    """What the server does with the clients' messages.

    Attributes
    ----------
    total : overwritten; shape (1, k) for the weighted sum, (n, k) where each client's message goes to its own row.
    weights : shape (n,), in the dtype of `total`.
    separate : each client's message goes to its own row, unweighted.
    """

    total: np.ndarray
    weights: np.ndarray
    separate: bool


class Plan:
    """How a codec's messages are put into frames, for every rank.

    Attributes
    ----------
    groups : of each rank, one for each frame. largest : the number of messages in the largest. frame_nbytes : bytes that it may take.
    places : int64, shape (size,): where each rank's frame begins on the server, when all are received side by side.
    lengths : int64, shape (size,): of the frames when everybody speaks and all messages have their greatest length.
    """

    def __init__(self, codec: Codec, placement: Placement, one_frame: bool):
        capacity = codec.max_nbytes
        per_group = placement.n_clients if one_frame else max(1, (GROUP_NBYTES - HEADER_NBYTES) // max(capacity, 1))
        self.groups: list[list[Group]] = []
        for rank in range(placement.size):
            first = int(placement.first[rank])
            ranges = [(low, high) for low, high in placement.groups(rank, per_group)]
            self.groups.append(
                [Group(np.arange(a - first, b - first), np.arange(a, b), np.zeros(b - a, np.int64)) for a, b in ranges]
            )
        self.largest = max((len(g.clients) for groups in self.groups for g in groups), default=1)
        self.frame_nbytes = frame_capacity(codec, self.largest)
        self.places = np.maximum(np.arange(placement.size) - 1, 0) * self.frame_nbytes
        self.lengths = np.array([self.length(codec, groups) for groups in self.groups])

    @staticmethod
    def length(codec: Codec, groups: list[Group]) -> int:
        """Bytes of a frame with the clients of these groups, all messages of the greatest length; 0 for nobody."""
        messages = sum(len(group.clients) for group in groups)
        return HEADER_NBYTES + messages * codec.max_nbytes if messages else 0


def frame_capacity(codec: Codec, messages: int = 1) -> int:
    """Bytes that a frame of so many messages may take.

    Raises
    ------
    ConfigError : more than a frame can hold.
    """
    nbytes = HEADER_NBYTES + messages * codec.max_nbytes
    if nbytes > MAX_FRAME_NBYTES or (nbytes > SHORT and messages > MAX_LONG_MESSAGES):
        one = HEADER_NBYTES + codec.max_nbytes <= MAX_FRAME_NBYTES
        remedy = "use «exchange='p2p'», whose frames are short, or more workers" if one else "compress it in parts"
        raise ConfigError(
            f"a frame of {messages} {codec.compressor.name} message(s) of dimension {codec.dim} may take {nbytes} bytes, more than "
            f"one can hold ({MAX_FRAME_NBYTES}, and {MAX_LONG_MESSAGES} messages from {SHORT} on); {remedy}"
        )
    return nbytes


@dataclass(frozen=True)
class ExchangeSetting:
    """What an exchange may know of the run that it is made for.

    Attributes
    ----------
    comm : the run's ranks; None for one process. n_clients, dim : n, d. dtype : of states and sums.
    weights : float64, shape (n,): w_i of the weighted mean. clock : charges the phases.
    codecs : the codecs that are known beforehand, of the method's compressors. downlink_codecs : those of them that write downlinks.
    """

    comm: Comm | None
    n_clients: int
    dim: int
    dtype: np.dtype
    weights: np.ndarray
    clock: Clock
    codecs: Callable[[], list[Codec]] = list
    downlink_codecs: Callable[[], list[Codec]] = list


class Exchange(ABC):
    """What all exchanges share: roles, buffers, encoding into frames and decoding out of them.

    Class attributes
    ----------------
    name : in the registry. summary : one line.
    over_mpi : it connects several processes; otherwise it is for one.
    serves_everywhere : every rank hosts clients and serves (a slice, or a model of its own); otherwise rank 0 serves and hosts nobody.
    by_node : it wants its ranks numbered node by node.
    survives_deaths : what is left of its ranks can go on after one has died (`on_failure="continue"`).
    one_frame : all messages of a rank travel in a single frame.

    Parameters
    ----------
    placement, rank : who hosts whom, and who this is. dim : d. dtype : of states and sums.
    weights : float64, shape (n,): w_i of the weighted mean.
    """

    name: ClassVar[str] = "user"
    summary: ClassVar[str] = ""
    over_mpi: ClassVar[bool] = True
    serves_everywhere: ClassVar[bool] = False
    by_node: ClassVar[bool] = False
    survives_deaths: ClassVar[bool] = True
    one_frame: ClassVar[bool] = False

    def __init__(
        self,
        placement: Placement,
        rank: int,
        dim: int,
        dtype: DTypeLike,
        weights: np.ndarray,
        ledger: Ledger,
        clock: Clock,
    ):
        self.placement, self.rank, self.dim = placement, rank, dim
        self.dtype: np.dtype = np.dtype(dtype)
        self.weights, self.ledger, self.clock = np.asarray(weights, np.float64), ledger, clock
        self.n_clients = placement.n_clients
        self.clients = placement.clients(rank)
        self.served = slice(0, dim)
        self.nodes = np.zeros(placement.size, np.int64)
        self._plans: dict[Codec, Plan] = {}
        self._buffers: dict[tuple, np.ndarray] = {}
        self._scaled: dict[tuple, np.ndarray] = {}
        self._tally = np.zeros(2, np.int64)
        self.threads = CodecThreads()  # a run gives it more threads
        self.flags_sent = self.flags_seen = 0  # control flags: of this rank's frames, and of those that it read
        self._server_row = Group(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))

    # ---- making one ---------------------------------------------------------------------------------------------
    @classmethod
    def place(cls, n_clients: int, size: int) -> Placement:
        """Which of `size` ranks hosts which clients.

        Raises
        ------
        ConfigError : too few clients, or too few ranks.
        """
        if not cls.over_mpi:
            return Placement.single(n_clients)
        return (Placement.everywhere if cls.serves_everywhere else Placement.star)(n_clients, size)

    @classmethod
    @abstractmethod
    def create(cls, setting: ExchangeSetting) -> Exchange:
        """The exchange of a run, on this rank."""

    @classmethod
    def create_for_warmup(cls, setting: ExchangeSetting, clients: np.ndarray, ranks: int) -> Exchange | None:
        """An exchange of this process alone that calls the kernels which one over so many ranks will call; None for a LocalExchange.

        clients : consecutive ones, which it hosts.
        """
        return None

    # ---- roles --------------------------------------------------------------------------------------------------
    @property
    def is_root(self) -> bool:
        """This rank gives the orders, evaluates and keeps the record."""
        return self.rank == 0

    @property
    def is_server(self) -> bool:
        """This rank holds the model and the estimates, or its slice `served` of them."""
        return self.rank == 0

    @property
    def served_dim(self) -> int:
        """Number of coordinates that this rank serves, if it is a server."""
        return self.served.stop - self.served.start

    @property
    def is_worker(self) -> bool:
        """This rank hosts clients."""
        return len(self.clients) > 0

    @property
    def workers(self) -> list[int]:
        """The ranks that host clients, in client order."""
        return self.placement.workers

    # ---- the contract -------------------------------------------------------------------------------------------
    def bind(self, compressor: Compressor, wire_dtype: DTypeLike) -> Codec:
        """The codec with which vectors of dimension d travel here."""
        return compressor.bind(self.dim, self.n_clients, wire_dtype)

    def check(self, codec: Codec, uplink: bool) -> None:  # noqa: B027 - most exchanges carry everything
        """Raises ConfigError where this exchange cannot carry the codec's messages in this direction."""

    @abstractmethod
    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        """Uplink. Each client i sends C(V_i); on the server total = Σ w_i C(V_i), on the workers add_to_i += scale · C(V_i).

        Parameters
        ----------
        V : on workers, shape (m, k), k the codec's dimension. add_to : on workers, shape (m, k), or None.
        total : on the server, overwritten; shape (1, k), or (n, k) with `separate`.
        keys : of the messages' random numbers, the same on all ranks.
        active : bool, shape (n,), the same on all ranks: only these clients send; None for all.
        weights : float64, shape (n,): in place of the run's.
        separate : row i of `total` becomes client i's message (zero where it is silent). The server then holds O(nk) numbers.
        """

    @abstractmethod
    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        """Downlink, one message for all: into = C(v), on the workers and (where `into` is given) on the server.

        Parameters
        ----------
        v : on the server, shape (1, d). into : shape (1, d), None on a server that keeps no copy.
        add : into += C(v) instead.
        """

    @abstractmethod
    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        """Downlink, one message for each client: on the workers into_i = C_i(v), or C_i(v_i).

        Parameters
        ----------
        v : on the server, shape (1, d), or (n, d) with a row for each client. into : on the workers, shape (m, d).
        mirror : on the server, shape (n, d), or None: mirror_i = C_i(v_i), as client i decodes it.
        active : bool, shape (n,), the same on all ranks: only these clients are sent to, the other rows stay as they are; None for all.
            Every rank gets a frame.
        add : into_i and mirror_i are added to instead.
        """

    @abstractmethod
    def broadcast_model(self, x: np.ndarray) -> None:
        """Evaluation only: the `x` of the rank that leads overwrites everybody's."""

    def assemble(self, x: np.ndarray) -> np.ndarray:
        """Evaluation only: the model, shape (1, d), on the rank that leads; put together from what each rank serves of it.

        x : this rank's part of the model, shape (1, served_dim).
        """
        return x

    @abstractmethod
    def chain(self, vector: np.ndarray, add: Callable[[np.ndarray], None]) -> None:
        """Evaluation only: `add(vector)` on each worker in client order, each going on from the previous one's result; the rank that leads
        ends up with the final `vector`. The order of additions is thus the same for any placement."""

    @abstractmethod
    def gather_rows(self, row: np.ndarray) -> np.ndarray | None:
        """Evaluation only: every rank's `row` (float64), stacked by rank, on the rank that leads; None elsewhere."""

    def finish(self) -> None:  # noqa: B027 - most exchanges leave nothing under way
        """After the last round: complete whatever is still under way, and give back what is not only this process's."""

    # ---- shared machinery ---------------------------------------------------------------------------------------
    def plan(self, codec: Codec) -> Plan:
        """The codec's plan, made once."""
        plan = self._plans.get(codec)
        if plan is None:
            plan = self._plans[codec] = Plan(codec, self.placement, self.one_frame)
        return plan

    def buffer(self, name: tuple, nbytes: int) -> np.ndarray:
        """A buffer that lives as long as the run; it grows when a larger codec comes."""
        buf = self._buffers.get(name)
        if buf is None or buf.nbytes < nbytes:
            buf = self._buffers[name] = np.zeros(nbytes, np.uint8)
        return buf

    def drop_buffers(self) -> None:
        """Give the buffers back; those that are needed again are made again."""
        self._buffers.clear()

    def scaled_weights(self, scale: float) -> np.ndarray:
        """The weights of all clients times `scale`, in the dtype of the sums."""
        key = ("weights", scale)
        if key not in self._scaled:
            self._scaled[key] = (self.weights * scale).astype(self.dtype)
        return self._scaled[key]

    def factors(self, count: int, scale: float) -> np.ndarray:
        """`count` times `scale`, in the dtype of the states."""
        key = ("factors", count, scale)
        if key not in self._scaled:
            self._scaled[key] = np.full(count, scale, self.dtype)
        return self._scaled[key]

    def write_frame(
        self,
        codec: Codec,
        V: Vectors,
        rows: np.ndarray,
        clients: np.ndarray,
        keys: Keys,
        round: int,
        buf: np.ndarray,
        encoded: bool = False,
    ) -> int:
        """Encode one message per client into `buf`, unless the values are there already; returns the frame's length.

        The tally of its bits is left in `self._tally`.
        """
        if encoded:
            assert isinstance(V, np.ndarray)
            self._tally[:], end = 8 * V.nbytes, HEADER_NBYTES + V.nbytes
        else:
            assert V is not None
            self._tally[:] = 0
            end = self.threads.encode(codec, V, rows, clients, keys, buf, HEADER_NBYTES, self._tally)
        write_header(
            buf, codec.codec_id, dtype_flag(codec.wire_dtype) | self.flags_sent, round, len(rows), end - HEADER_NBYTES
        )
        self.clock.lap(ENCODE)
        return end

    def read_frame(
        self, codec: Codec, buf: np.ndarray, nbytes: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, keys: Keys,
        round: int, out: np.ndarray,
    ) -> None:  # fmt: skip
        """Check a frame and add its messages to the rows of `out`."""
        header = read_header(buf, nbytes)
        check_header(header, codec=codec.codec_id, wire_dtype=codec.wire_dtype, round=round, messages=len(rows))
        self.flags_seen |= header.flags & CONTROL_FLAGS
        self.threads.decode_add(codec, buf, HEADER_NBYTES, nbytes, rows, clients, weights, keys, out)
        self.clock.lap(DECODE)

    @staticmethod
    def own_frame(codec: Codec, array: Vectors, rows: np.ndarray) -> np.ndarray | None:
        """The frame around an array that needs no encoding: dense messages of all its rows in its own dtype; None otherwise."""
        if (
            not isinstance(array, np.ndarray)
            or codec.codec_id != Identity.codec_id
            or codec.wire_dtype != array.dtype
            or len(rows) != len(array)
        ):
            return None
        return frame_around(array)

    def measure(
        self, codec: Codec, v: Vectors, rows: np.ndarray, clients: np.ndarray, keys: Keys, round: int
    ) -> np.ndarray:
        """Server: `codec.measure` of its vectors, whole also where this rank has a slice of them."""
        assert codec.measure is not None
        return codec.measure(v, rows, clients, keys)

    def deliver(
        self,
        codec: Codec,
        buf: np.ndarray,
        nbytes: int,
        keys: Keys,
        round: int,
        into: np.ndarray | None,
        add: bool,
        there: bool,
    ) -> None:
        """A broadcast has arrived in `buf`, which (`there`) may be the frame around `into` itself."""
        assert into is not None
        if not add and codec.codec_id == Identity.codec_id and codec.scale == 1.0:
            header = read_header(buf, nbytes)
            check_header(header, codec=codec.codec_id, wire_dtype=codec.wire_dtype, round=round, messages=1)
            if header.length != into.size * codec.wire_dtype.itemsize:
                raise WireError(f"a broadcast of {header.length} bytes for {into.size} values of {codec.wire_dtype}")
            self.flags_seen |= header.flags & CONTROL_FLAGS
            if not there:
                into[0] = buf[HEADER_NBYTES:nbytes].view(codec.wire_dtype)
            self.clock.lap(DECODE)
            return
        if not add:
            into[:] = 0
        self.absorb(codec, buf, nbytes, self._server_row, keys, round, into)

    def speaking(self, plan: Plan, rank: int, active: np.ndarray | None) -> list[Group]:
        """The rank's groups, without the clients that are silent; a group of which nobody speaks sends no frame."""
        if active is None:
            return plan.groups[rank]
        return [group for group in (g.only(active) for g in plan.groups[rank]) if len(group.clients)]

    def addressed(self, plan: Plan, rank: int, active: np.ndarray | None) -> list[Group]:
        """As `speaking`; but a rank of which nobody is active gets one frame without messages, so that it hears the round's orders."""
        groups = self.speaking(plan, rank, active)
        return groups if groups or active is None else [group.only(active) for group in plan.groups[rank][:1]]

    def fold(self, codec: Codec, total: np.ndarray | None, weights: np.ndarray | None, separate: bool) -> Fold:
        """Server: clear `total` and say how messages are added to it."""
        assert total is not None
        total[:] = 0
        if separate:
            scaled = self.factors(self.n_clients, codec.scale)
        elif weights is None:
            scaled = self.scaled_weights(codec.scale)
        else:
            scaled = (weights * codec.scale).astype(self.dtype)
        self.clock.lap(DECODE)
        return Fold(total, scaled, separate)

    def accumulate(
        self, codec: Codec, buf: np.ndarray, nbytes: int, group: Group, keys: Keys, round: int, fold: Fold
    ) -> None:
        """Server: total += Σ w_i C(V_i) over the frame of a group, in client order."""
        low, high = int(group.clients[0]), int(group.clients[-1]) + 1
        consecutive = high - low == len(group.clients)
        weights = fold.weights[low:high] if consecutive else fold.weights[group.clients]
        target = group.clients if fold.separate else group.zeros
        self.read_frame(codec, buf, nbytes, target, group.clients, weights, keys, round, fold.total)

    def absorb(
        self,
        codec: Codec,
        buf: np.ndarray,
        nbytes: int,
        group: Group,
        keys: Keys,
        round: int,
        into: np.ndarray,
        scale: float = 1.0,
    ) -> None:
        """Worker: into_i += scale · C(V_i) for the clients of a frame."""
        weights = self.factors(len(group.rows), codec.scale * scale)
        self.read_frame(codec, buf, nbytes, group.rows, group.clients, weights, keys, round, into)

    def set_rows(
        self,
        codec: Codec,
        buf: np.ndarray,
        nbytes: int,
        group: Group,
        keys: Keys,
        round: int,
        into: np.ndarray | None,
        add: bool,
    ) -> None:
        """Worker: into_i = C(V_i) for the clients of a frame, or with `add` into_i += C(V_i)."""
        assert into is not None
        if not add:
            into[group.rows] = 0
        self.absorb(codec, buf, nbytes, group, keys, round, into)

    def write_scattered(
        self,
        codec: Codec,
        v: np.ndarray | None,
        group: Group,
        keys: Keys,
        round: int,
        buf: np.ndarray,
        mirror: np.ndarray | None,
        add: bool,
    ) -> int:
        """Server: the frame with a message for each client of a group; returns its length."""
        assert v is not None
        rows = group.zeros if len(v) == 1 else group.clients
        nbytes = self.write_frame(codec, v, rows, group.clients, keys, round, buf)
        if mirror is not None:
            own = group._replace(rows=group.clients)
            self.set_rows(codec, buf, nbytes, own, keys, round, mirror, add)
        return nbytes

    def level(self, rank: int) -> tuple[int, ...]:
        """The way from here to another rank: one receiver at that level of the ledger."""
        if rank == self.rank:
            return IN_MEMORY
        return IN_NODE if self.nodes[rank] == self.nodes[self.rank] else BETWEEN_NODES

    @cached_property
    def to_workers(self) -> tuple[int, ...]:
        """How many workers are reached from here at each level."""
        return tuple(np.sum([self.level(rank) for rank in self.workers], axis=0).tolist())

    def record_uplink(self, nbytes: int, messages: int, extra: int = 0) -> None:
        """Enter an uplink frame to the server in the ledger; `extra` bytes travelled beside it (lengths)."""
        self.ledger.frame(UPLINK, self._tally, nbytes + extra, messages, self.level(0))

    def record_downlink(
        self, nbytes: int, messages: int, by_level: tuple[int, ...], clients: int = 1, extra: int = 0
    ) -> None:
        """Enter a downlink frame in the ledger: sent to ranks, `by_level` of them, charged by the papers for `clients` clients."""
        self.ledger.frame(DOWNLINK, self._tally, nbytes + extra, messages, by_level, clients)
