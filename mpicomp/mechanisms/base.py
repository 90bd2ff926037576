"""What a mechanism is: how a receiver tracks vectors that change from round to round, by messages that are compressed.

Two directions. An **uplink** tracks on the server the weighted mean of the clients' vectors; a **downlink** tracks on the clients a
vector of the server's. A mechanism is written once for all ranks, as the paper prints it: the lines of the clients under `if
link.is_worker`, those of the server under `if link.is_server`; one process that is both runs both. Its state is the arrays named
in `client_state`, `server_state` and their like. **Both ends update from the decoded message**, never from what was meant to be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ..compressors import Codec, Compressor
from ..compressors.base import Difference, Sum
from ..compressors.identity import Identity
from ..errors import ConfigError
from ..kernels.random import Keys, Stream, derive, downlink_keys, uniform64, uplink_keys
from ..kernels.rows import add_scaled
from ..participation import Participation
from ..registry import Registry
from ..wire import framed_zeros


class Oracle(Protocol):
    """How a worker's clients evaluate their gradients at their current points; all results have shape (m, d)."""

    def value(self) -> np.ndarray:
        """The clients' gradient estimates at the current points."""

    def full(self) -> np.ndarray:
        """The exact gradients at the current points."""

    def difference(self) -> np.ndarray:
        """Gradient estimates at the current points minus those at the previous ones, from the same samples."""


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
        self, exchange: Any, seed: int, wire_dtype: Any, uplink: bool, participation: Participation | None = None
    ):
        self.participation = participation
        self.exchange, self.seed, self.wire_dtype = exchange, seed, np.dtype(wire_dtype)
        self.dim, self.dtype, self.n_clients = exchange.dim, exchange.dtype, exchange.n_clients
        self.is_server, self.is_worker = exchange.is_server, exchange.is_worker
        self.served, self.served_dim = exchange.served, exchange.served_dim
        self.hosted, self.uplink = len(exchange.clients), uplink
        self._keys = uplink_keys if uplink else downlink_keys
        self._coin_stream = Stream.UPLINK_COIN if uplink else Stream.DOWNLINK_COIN
        self._scratch: dict[str, np.ndarray] = {}
        self._scalar: Codec | None = None
        self._hosted_rows, self._uncounted = np.arange(self.hosted), np.zeros(2, np.int64)

    def codec(self, compressor: Compressor, dim: int | None = None) -> Codec:
        """The compressor bound to this run's sizes, or to another dimension (a few scalars beside the vectors).

        Raises
        ------
        ConfigError : the exchange cannot carry its messages.
        """
        codec = compressor.bind(self.dim if dim is None else dim, self.n_clients, self.wire_dtype)
        codec.whole = dim is not None
        self.exchange.check(codec, self.uplink)
        return codec

    def contractive_codec(self, compressor: Compressor) -> Codec:
        """The same for mechanisms whose theory wants a contractive compressor: an unbiased one enters as C/(1+ω)."""
        codec = self.codec(compressor)
        if compressor.unbiased and not compressor.contractive:
            codec = codec.scaled(1.0 / (1.0 + compressor.omega(self.dim, self.n_clients)))
        return codec

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

    def keys(self, round: int) -> Keys:
        """The keys of this direction's messages in a round."""
        return self._keys(self.seed, round)

    def coin(self, p: float, round: int) -> bool:
        """The round's coin, the same on all ranks: heads with probability p."""
        return bool(uniform64(derive(self.seed, self._coin_stream, round), 0) < p)

    def reached(self, round: int, start: int) -> bool:
        """Whether a method's later stage, which begins with round `start`, has begun. (A warm-up sees both stages.)"""
        return round >= start

    def active(self, round: int) -> np.ndarray | None:
        """Who speaks in this round: bool, shape (n,), or None for everybody."""
        return None if self.participation is None else self.participation.active(round)

    def compressed(self, codec: Codec, V: np.ndarray, round: int, out: np.ndarray) -> np.ndarray:
        """out_i = C_i(V_i) for the hosted clients, as this round's messages would carry it; nothing is sent."""
        keys, rows = self.keys(round), self._hosted_rows
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

    # The exchange's calls with this link's keys.
    def gather(self, codec: Codec, V, round: int, total, into=None, into_scale: float = 1.0, **how: Any) -> None:
        """Exchange.gather; `how` may hold active, weights, separate."""
        if codec.round_maximum is not None:
            self._agree(codec, V, round, how.get("active"))
        self.exchange.gather(codec, V, self.keys(round), round, total, into, into_scale, **how)

    def broadcast(self, codec: Codec, v, round: int, into, overwrite: bool = False) -> None:
        """Exchange.broadcast."""
        if codec.round_maximum is not None:
            self._announce(codec, v, _FIRST, round)
        self.exchange.broadcast(codec, v, self.keys(round), round, into, overwrite)

    def scatter(self, codec: Codec, v, round: int, into, mirror=None, active=None) -> None:
        """Exchange.scatter."""
        if codec.round_maximum is not None:
            self._announce(codec, v, np.arange(self.n_clients), round)
        self.exchange.scatter(codec, v, self.keys(round), round, into, mirror, active)

    # The number that some codecs need on all ends beforehand: an exchange of its own, one value each way.
    def _agree(self, codec: Codec, V, round: int, active: np.ndarray | None) -> None:
        """Uplink: each client sends its number, the server sends back the largest."""
        own = self._measured(codec, V, self._hosted_rows, self.exchange.clients, round) if self.is_worker else None
        table = np.zeros((self.n_clients, 1), self.dtype) if self.is_server else None
        scalar = self._scalar_codec()
        self.exchange.gather(scalar, own, self.keys(round), round, table, separate=True, active=active)
        self._spread(codec, scalar, np.max(table, axis=0, keepdims=True) if table is not None else None, round)

    def _announce(self, codec: Codec, v, clients: np.ndarray, round: int) -> None:
        """Downlink: the server sends the number of its vector, the largest of those for its messages to these clients."""
        largest = None
        if self.is_server:
            rows = clients if len(v) > 1 else np.zeros_like(clients)
            largest = np.max(self._measured(codec, v, rows, clients, round), axis=0, keepdims=True)
        self._spread(codec, self._scalar_codec(), largest, round)

    def _measured(self, codec: Codec, V, rows: np.ndarray, clients: np.ndarray, round: int) -> np.ndarray:
        """What the codec measures, a column in this run's dtype, not rounded down."""
        values = codec.measure(V, rows, clients, self.keys(round))  # type: ignore[misc]
        column = values.astype(self.dtype)
        return np.where(column < values, np.nextafter(column, self.dtype.type(np.inf)), column)[:, None]

    def _spread(self, codec: Codec, scalar: Codec, value: np.ndarray | None, round: int) -> None:
        known = np.zeros((1, 1), self.dtype)
        self.exchange.broadcast(scalar, value, self.keys(round), round, known)
        codec.round_maximum[0] = known[0, 0]  # type: ignore[index]

    def _scalar_codec(self) -> Codec:
        if self._scalar is None:
            self._scalar = self.codec(Identity(), dim=1)
        return self._scalar


_FIRST = np.zeros(1, np.int64)


class Mechanism:
    """State handling that both directions share.

    Attributes
    ----------
    name : under which `--uplink` and `--downlink` of a custom composition know it.
    client_state : names of arrays of shape (m, d), one row for each hosted client, on the workers.
    server_state : names of arrays of shape (1, served_dim), on the server.
    server_rows : names of arrays of shape (n, served_dim), on the server: only for methods whose server cannot do without.
    common_state : names of arrays that server and workers hold alike; `prepare` or `begin` makes them.
    """

    name: ClassVar[str] = "user"
    client_state: ClassVar[tuple[str, ...]] = ()
    server_state: ClassVar[tuple[str, ...]] = ()
    server_rows: ClassVar[tuple[str, ...]] = ()
    common_state: ClassVar[tuple[str, ...]] = ()
    link: Link
    mean: Any

    if TYPE_CHECKING:  # the arrays named in client_state and server_state; None on a rank that does not hold them

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def start(self, link: Link) -> None:
        """Bind to a run: allocate the state, all zero, and bind the compressor. Override `prepare`, not this."""
        self.link = link
        self.mean = np.zeros((1, link.served_dim), link.dtype) if link.is_server else None
        for name in self.client_state:
            setattr(self, name, np.zeros((link.hosted, link.dim), link.dtype) if link.is_worker else None)
        for name in self.server_state:
            setattr(self, name, np.zeros((1, link.served_dim), link.dtype) if link.is_server else None)
        for name in self.server_rows:
            setattr(self, name, np.zeros((link.n_clients, link.served_dim), link.dtype) if link.is_server else None)
        self.prepare()

    def prepare(self) -> None:
        """Bind compressors; called by `start`."""

    def state(self) -> dict[str, np.ndarray]:
        """The state arrays that this rank holds, by name."""
        names = (*self.client_state, *self.server_state, *self.server_rows, *self.common_state)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Uplink(Mechanism):
    """Clients to server."""

    def transmit(self, oracle: Any, round: int) -> np.ndarray | None:
        """One round: returns the gradient estimate on the server, shape (1, served_dim). `oracle`: an Oracle on workers, else None."""
        raise NotImplementedError


class Downlink(Mechanism):
    """Server to clients.

    Attributes
    ----------
    mirrored : the server, too, needs what the clients decode (the optimizer is replicated); set before `start`.
    """

    mirrored: bool = False

    def begin(self, x: np.ndarray) -> np.ndarray:
        """All sides know the starting vector x⁰ (shape (1, d)); returns the clients' points, shape (1, d) or (m, d)."""
        raise NotImplementedError

    def transmit(self, x: np.ndarray | None, round: int) -> np.ndarray | None:
        """One round: the server has the new vector x (shape (1, served_dim)); returns the clients' points on the workers."""
        raise NotImplementedError


uplinks: Registry[type[Uplink]] = Registry("uplink", "mpicomp.mechanisms")
downlinks: Registry[type[Downlink]] = Registry("downlink", "mpicomp.mechanisms")


def probability(p: float, what: str) -> float:
    """Check a probability from the options.

    Raises
    ------
    ConfigError : p is not in (0, 1].
    """
    if not 0 < p <= 1:
        raise ConfigError(f"{what}: p={p} is not in (0, 1]")
    return float(p)
