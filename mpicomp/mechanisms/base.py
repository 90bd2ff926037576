"""What a mechanism is: how a receiver tracks vectors that change from round to round, by messages that are compressed.

Two directions.
An **uplink** tracks on the server the weighted mean of the clients' vectors.
A **downlink** tracks on the clients a vector of the server's.
A mechanism is written once for all ranks, as the paper prints it: the lines of the clients under `if link.is_worker`, those of the
server under `if link.is_server`; one process that is both runs both.
Its state is declared in its class body (`mpicomp.state`); an array that a rank does not hold is None there.
**Both ends update from the decoded message**, never from what was meant to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from ..compressors import Codec, Compressor
from ..compressors.bit_mask import BitMask
from ..compressors.codec import Difference, Sum
from ..compressors.identity import Identity
from ..compressors.layers import LayeredCodec
from ..errors import ConfigError
from ..kernels.random import Keys, Stream, derive, downlink_keys, numbered_keys, uniform64, uplink_keys
from ..kernels.rows import add_scaled, finite_rows
from ..oracles.base import Oracle
from ..participation import Participation
from ..registry import Registry
from ..state import ClientState, CommonState, ServerClientState, ServerState, declared, held
from ..wire import FLAG_DIVERGED, framed_zeros

if TYPE_CHECKING:
    from ..exchanges.base import Exchange


class Link:
    """What a mechanism sees of the run: the exchange in its direction, the round's keys, sizes and scratch space.

    Parameters
    ----------
    exchange : moves the frames. seed : of the run. wire_dtype : of the values on the wire. uplink : the direction.
    participation : who speaks in which round; None for everybody.

    Attributes
    ----------
    served, served_dim : the coordinates that this rank is the server of, as a slice, and their number: all d, or with several
        servers a part of them. What a server does is elementwise, so that it need not know which; it takes `v[:, link.served]` of
        a vector that it knows as a client.
    """

    def __init__(
        self,
        exchange: Exchange,
        seed: int,
        wire_dtype: DTypeLike,
        uplink: bool,
        participation: Participation | None = None,
    ):
        self.participation = participation
        self.exchange, self.seed = exchange, seed
        self.wire_dtype: np.dtype = np.dtype(wire_dtype)
        self.dim, self.dtype, self.n_clients = exchange.dim, exchange.dtype, exchange.n_clients
        self.is_server, self.is_worker = exchange.is_server, exchange.is_worker
        self.served, self.served_dim = exchange.served, exchange.served_dim
        self.hosted, self.uplink = len(exchange.clients), uplink
        self._keys = uplink_keys if uplink else downlink_keys
        self._coin_stream = Stream.UPLINK_COIN if uplink else Stream.DOWNLINK_COIN
        self._scratch: dict[str, np.ndarray] = {}
        self._scalar: Codec | None = None
        self._hosted_rows, self._uncounted = np.arange(self.hosted), np.zeros(2, np.int64)
        self._round, self._next_draw = -1, 0

    def codec(self, compressor: Compressor, dim: int | None = None) -> Codec:
        """The compressor bound to this run's sizes, or to another dimension (a few scalars beside the vectors).

        Raises
        ------
        ConfigError : the exchange cannot carry its messages.
        """
        wire = self.wire_dtype
        codec = self.exchange.bind(compressor, wire) if dim is None else compressor.bind(dim, self.n_clients, wire)
        codec.whole = dim is not None
        self.exchange.check(codec, self.uplink)
        return codec

    def contractive_codec(self, compressor: Compressor) -> Codec:
        """The same for mechanisms whose theory wants a contractive compressor: an unbiased one enters as C/(1+ω)."""
        codec = self.codec(compressor)
        if isinstance(codec, LayeredCodec):
            return codec.contractive()
        if compressor.unbiased and not compressor.contractive:
            codec = codec.scaled(1.0 / (1.0 + compressor.omega(self.dim, self.n_clients)))
        return codec

    def values(self, dim: int | None = None) -> Codec:
        """The codec of vectors that travel as they are, in the wire dtype; `dim` values, or d."""
        return self.codec(Identity(), dim)

    def bits(self, dim: int = 1) -> Codec:
        """The codec of bit masks: `dim` entries, each sent as one bit, 1 where it is not zero."""
        return self.codec(BitMask(), dim)

    def scratch(self, name: str, rows: int) -> np.ndarray:
        """An array (rows, d) for intermediate results of a worker; mechanisms of one run share it by name."""
        return self._array(name, rows, self.dim)

    def server_scratch(self, name: str, rows: int) -> np.ndarray:
        """The same for a server: (rows, served_dim)."""
        return self._array(name, rows, self.served_dim)

    def _array(self, name: str, rows: int, columns: int) -> np.ndarray:
        array = self._scratch.get(name)
        if array is None or array.shape != (rows, columns):
            array = self._scratch[name] = framed_zeros((rows, columns), self.dtype)
        return array

    def keys(self, round: int, draw: int = 0) -> Keys:
        """The keys of this direction's messages in a round; each draw of the round has its own."""
        return numbered_keys(self._keys(self.seed, round), draw)

    def _drawn(self, codec: Codec, round: int, draw: int | None, peek: bool = False) -> Keys:
        """The keys of the next exchange, or of the draw that it names. Messages that are not random take no draw."""
        if round != self._round:
            self._round, self._next_draw = round, 0
        if draw is None:
            draw = self._next_draw
            if not (peek or codec.compressor.deterministic):
                self._next_draw += 1
        return self.keys(round, draw)

    def coin(self, p: float, round: int) -> bool:
        """The round's coin, the same on all ranks: heads with probability p."""
        return bool(uniform64(derive(self.seed, self._coin_stream, round), 0) < p)

    def reached(self, round: int, start: int) -> bool:
        """Whether a method's later stage, which begins with round `start`, has begun. A warm-up sees both stages."""
        return round >= start

    def active(self, round: int) -> np.ndarray | None:
        """Who speaks in this round: bool, shape (n,), or None for everybody."""
        return None if self.participation is None else self.participation.active(round)

    def compressed(
        self, codec: Codec, V: np.ndarray, round: int, out: np.ndarray, draw: int | None = None
    ) -> np.ndarray:
        """out_i = C_i(V_i) for the hosted clients, as the next exchange or the named draw would carry it; nothing is sent."""
        keys, rows = self._drawn(codec, round, draw, peek=True), self._hosted_rows
        buf = self.exchange.buffer(("compressed",), self.hosted * codec.max_nbytes)
        end = codec.encode(V, rows, self.exchange.clients, keys, buf, 0, self._uncounted)
        out[:] = 0
        factors = self.exchange.factors(self.hosted, codec.scale)
        codec.decode_add(buf, 0, end, rows, self.exchange.clients, factors, keys, out)
        return out

    def difference(self, codec: Codec, V: np.ndarray, state: np.ndarray, name: str) -> np.ndarray | Difference:
        """V − state for a codec to encode: formed while it encodes, where it can, else before, in the scratch space of that name."""
        work = self._array(name, *V.shape)
        if codec.takes_difference:
            return Difference(V, state, work)
        return np.subtract(V, state, out=work)

    def sum(self, codec: Codec, state: np.ndarray, V: np.ndarray, factor: float) -> np.ndarray | Sum:
        """state += factor · V for a codec to encode: while it encodes, where it can, else at once. Every row is to be encoded once."""
        if codec.takes_sum:
            return Sum(state, V, factor)
        add_scaled(state, V, factor)
        return state

    # ---- the exchange's calls, with this link's keys ------------------------------------------------------------
    # The exchanges of a round that carry random messages are numbered: the first has draw 0, the second draw 1, and so on, the same on
    # all ranks. So no two of them share random bits, unless one asks by `draw` for those of another.
    def gather(
        self, codec: Codec, V: np.ndarray | Difference | Sum | None, round: int, total: np.ndarray | None,
        add_to: np.ndarray | None = None, scale: float = 1.0, *, active: np.ndarray | None = None,
        weights: np.ndarray | None = None, separate: bool = False, draw: int | None = None,
    ) -> None:  # fmt: skip
        """Each client i sends C(V_i). On the server total = Σ w_i C(V_i); on the workers add_to_i += scale · C(V_i).

        Parameters
        ----------
        V : on workers, shape (m, k), k the codec's dimension; None elsewhere.
        total : on the server, overwritten; shape (1, k), or (n, k) with `separate`; None elsewhere.
        add_to : on workers, shape (m, k), or None; on other ranks it is not looked at.
        active : bool, shape (n,), the same on all ranks: only these clients send; None for all.
        weights : float64, shape (n,): in place of the run's.
        separate : row i of `total` becomes client i's message (zero where it is silent). The server then holds O(nk) numbers.
        draw : number of the random draw; None for one that no other exchange of the round has.
        """
        if not isinstance(codec, Codec):
            raise TypeError(
                f"gather takes a codec, got {codec!r}: bind it in prepare, self.codec = self.link.codec(compressor)"
            )
        keys = self._drawn(codec, round, draw)
        if not codec.compressor.carries_nan and self.is_worker:
            self._look_at(V, active)
        if codec.round_maximum is not None:
            self._maximum_of_clients(codec, V, keys, round, active)
        self.exchange.gather(codec, V, keys, round, total, add_to, scale, active, weights, separate)

    def broadcast(
        self, codec: Codec, v: np.ndarray | Difference | Sum | None, round: int, into: np.ndarray | None, *, add: bool = False,
        draw: int | None = None,
    ) -> None:  # fmt: skip
        """One message for all: into = C(v) on the workers, and on the server where it gives an array.

        Parameters
        ----------
        v : on the server, shape (1, k); None elsewhere. into : shape (1, k), or None.
        add : into += C(v) instead. draw : as for `gather`.
        """
        keys = self._drawn(codec, round, draw)
        if codec.round_maximum is not None:
            self._maximum_of_server(codec, v, _FIRST, keys, round)
        self.exchange.broadcast(codec, v, keys, round, into, add)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None, *,
        add: bool = False, active: np.ndarray | None = None, draw: int | None = None,
    ) -> None:  # fmt: skip
        """A message for each client: on the workers into_i = C_i(v), or C_i(v_i).

        Parameters
        ----------
        v : on the server, shape (1, k), or (n, k) with a row for each client; None elsewhere.
        into : on workers, shape (m, k). Rows of clients that are not active stay as they are.
        mirror : on the server, shape (n, k), or None: mirror_i = C_i(v_i), as client i decodes it.
        add : into_i and mirror_i are added to instead.
        active : bool, shape (n,), the same on all ranks: only these clients are sent to; None for all.
        draw : as for `gather`.
        """
        keys = self._drawn(codec, round, draw)
        if codec.round_maximum is not None:
            self._maximum_of_server(codec, v, np.arange(self.n_clients), keys, round)
        self.exchange.scatter(codec, v, keys, round, into, mirror, active, add)

    def _look_at(self, V: np.ndarray | Difference | Sum | None, active: np.ndarray | None) -> None:
        """Have this rank's frames say that a vector is not finite, where its message would not show it."""
        parts = [] if V is None else [V.V, V.state] if isinstance(V, Difference | Sum) else [V]
        rows = self._hosted_rows if active is None else np.flatnonzero(active[self.exchange.clients])
        if not all(finite_rows(part, rows) for part in parts):
            self.exchange.flags_sent |= FLAG_DIVERGED

    # The number that some codecs need on all ends beforehand: an exchange of its own, one value each way.
    def _maximum_of_clients(self, codec: Codec, V: Any, keys: Keys, round: int, active: np.ndarray | None) -> None:
        """Uplink: each client sends its number, the server sends back the largest."""
        own = None
        if self.is_worker:
            assert codec.measure is not None
            own = self._column(codec.measure(V, self._hosted_rows, self.exchange.clients, keys))
        table = np.zeros((self.n_clients, 1), self.dtype) if self.is_server else None
        scalar = self._scalar_codec()
        self.exchange.gather(scalar, own, keys, round, table, separate=True, active=active)
        self._send_maximum(codec, np.max(table, axis=0, keepdims=True) if table is not None else None, keys, round)

    def _maximum_of_server(self, codec: Codec, v: Any, clients: np.ndarray, keys: Keys, round: int) -> None:
        """Downlink: the server sends the number of its vector, the largest of those for its messages to these clients."""
        largest = None
        if self.is_server:
            rows = clients if len(v) > 1 else np.zeros_like(clients)
            values = self.exchange.measure(codec, v, rows, clients, keys, round)
            largest = np.max(self._column(values), axis=0, keepdims=True)
        self._send_maximum(codec, largest, keys, round)

    def _column(self, values: np.ndarray) -> np.ndarray:
        """What a codec measures, a column in this run's dtype, not rounded down."""
        column = values.astype(self.dtype)
        column = np.where(column < values, np.nextafter(column, self.dtype.type(np.inf)), column)
        return np.where(np.isfinite(column), column, self.dtype.type(np.nan))[:, None]

    def _send_maximum(self, codec: Codec, value: np.ndarray | None, keys: Keys, round: int) -> None:
        received = np.zeros((1, 1), self.dtype)
        self.exchange.broadcast(self._scalar_codec(), value, keys, round, received)
        assert codec.round_maximum is not None
        codec.round_maximum[0] = codec.checked_maximum(received[0, 0])

    def _scalar_codec(self) -> Codec:
        if self._scalar is None:
            self._scalar = self.values(1)
        return self._scalar


_FIRST = np.zeros(1, np.int64)


class Mechanism:
    """State handling that both directions share.

    Attributes
    ----------
    name : under which `--uplink` and `--downlink` of a custom composition know it.
    link : the exchange in the mechanism's direction; there from `prepare` on.
    mean : scratch space for a sum of messages, shape (1, served_dim), on the server.
    """

    name: ClassVar[str] = "user"
    link: Link
    mean: np.ndarray

    def start(self, link: Link) -> None:
        """Bind to a run: allocate the declared state, all zero, and bind the compressor. Override `prepare`, not this."""
        self.link = link
        mean: Any = np.zeros((1, link.served_dim), link.dtype) if link.is_server else None
        self.mean = mean
        rows = {ClientState: link.hosted, ServerState: 1, ServerClientState: link.n_clients}
        for kind, count in rows.items():
            here, columns = (link.is_worker, link.dim) if kind is ClientState else (link.is_server, link.served_dim)
            for state in declared(self, kind):
                setattr(self, state.name, state.zeros(count, columns, link.dtype) if here and state.allocate else None)
        for state in declared(self, CommonState):
            setattr(self, state.name, None)
        self.prepare()

    def prepare(self) -> None:
        """Bind compressors and make scratch space; called by `start`."""

    def state(self) -> dict[str, np.ndarray]:
        """The declared arrays that this rank holds, by name."""
        return held(self)


class Uplink(Mechanism):
    """How the server tracks the weighted mean of the clients' gradients. Define `transmit`, and `prepare` to bind compressors.

    Attributes
    ----------
    takes_change : it asks the oracle for differences between two points, beginning with states of zero and the gradient itself.
    """

    takes_change: ClassVar[bool] = False

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        """One round: returns the gradient estimate on the server, shape (1, served_dim); what workers return is not looked at.

        oracle : of this rank's clients. A rank without clients has one that cannot be asked.
        """
        raise NotImplementedError(f"{type(self).__name__} must define transmit(oracle, round)")


class Downlink(Mechanism):
    """How the clients track the server's model, or with a replicated optimizer its gradient estimate. Define `begin` and `transmit`.

    Attributes
    ----------
    mirrored : the server, too, needs what the clients decode (the optimizer is replicated); set before `start`.
    silent : it sends nothing, since every rank has the vector already.
    """

    mirrored: bool = False
    silent: ClassVar[bool] = False

    def begin(self, v: np.ndarray, /) -> np.ndarray:
        """All sides know the first vector, shape (1, d): x⁰, or zero for gradients. Returns the clients' copies, shape (1, d) or (m, d)."""
        raise NotImplementedError(f"{type(self).__name__} must define begin(v)")

    def transmit(self, v: np.ndarray, round: int, /) -> np.ndarray:
        """One round: the server has the new vector v, shape (1, served_dim), which is None elsewhere; returns the clients' copies."""
        raise NotImplementedError(f"{type(self).__name__} must define transmit(v, round)")


uplinks: Registry[Uplink] = Registry("uplink", "mpicomp.mechanisms")
downlinks: Registry[Downlink] = Registry("downlink", "mpicomp.mechanisms")


def probability(p: float, what: str) -> float:
    """Check a probability from the options.

    Raises
    ------
    ConfigError : p is not in (0, 1].
    """
    if not 0 < p <= 1:
        raise ConfigError(f"{what}: p={p} is not in (0, 1]")
    return float(p)
