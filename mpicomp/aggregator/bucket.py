"""One vector of an aggregator on its way: mechanisms, exchange and buffers of the tensors that share them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ..cluster.clock import STEP, Clock
from ..cluster.comm import Comm
from ..compressors import Codec, Compressor, compressors
from ..errors import ConfigError
from ..exchanges.base import Exchange, ExchangeSetting
from ..exchanges.local import LocalExchange
from ..kernels.random import Stream, derive
from ..kernels.rows import finite_rows
from ..mechanisms.base import Downlink, Link, Uplink, downlinks, uplinks
from ..mechanisms.no_downlink import NoDownlink
from ..mechanisms.powersgd import PowerSGDUplink
from ..methods.base import Setting
from ..methods.custom import build
from ..oracles import NoClients, Oracle
from ..state import ClientState, CommonState, declared
from ..wire import FLAG_DIVERGED, framed_zeros
from .rules import Group
from .tensors import Tensor

ONE_ROW = np.zeros(1, np.int64)
TWO_POINTS = (
    "this uplink needs the gradients of the same samples at two points: give `mean` a function of the point, and the point, "
    "agg.mean(gradient, at=params)"
)


class Given(Oracle):
    """The vector that the caller has computed; a change between two points only where the caller can evaluate.

    Attributes
    ----------
    V : shape (1, d), times `scale`.
    change : V minus the gradient at the last call's point, from the same samples; None where it is not known.
    """

    def __init__(self, dim: int, dtype: np.dtype):
        self.dim = dim
        self.own = framed_zeros((1, dim), dtype)
        self.change: Callable[[], np.ndarray] | None
        self.clear()

    def clear(self) -> None:
        """A call begins: what is given comes into an array of this object's own."""
        self.V, self.scale, self.change = self.own, 1.0, None

    def is_finite(self) -> bool:
        """No entry of V is NaN or Inf."""
        return bool(finite_rows(self.V, ONE_ROW))

    def value(self) -> np.ndarray:
        return self.V

    def full(self) -> np.ndarray:
        return self.value()

    def difference(self) -> np.ndarray:
        if self.change is None:
            raise ConfigError(TWO_POINTS)
        return self.change()


class Vector:
    """The tensors of a group, as one vector that is exchanged in one go.

    Attributes
    ----------
    places : of each tensor's entries, by name. given : what this rank has to give. hosts : it has something to give.
    result : the mean, shape (1, d), until the next exchange.
    target : where the mean is to go, for kinds that write it anywhere; None for an array of the bucket's own.
    exchange_name : how it travels.
    """

    given: Given
    hosts: bool
    result: np.ndarray
    target: np.ndarray | None = None
    exchange_name: str

    def __init__(self, group: Group):
        self.group, self.dtype = group, group.dtype
        self.tensors: list[Tensor] = group.tensors
        ends = np.cumsum([tensor.size for tensor in self.tensors])
        self.dim = int(ends[-1])
        self.places = {t.name: slice(int(end) - t.size, int(end)) for t, end in zip(self.tensors, ends, strict=True)}

    def exchange_mean(self, call: int, flagged: bool) -> bool:
        """One round; returns whether any rank has said that its vector cannot be used.

        flagged : this rank says so.
        """
        raise NotImplementedError

    def mean_weight(self, weight: float, call: int) -> float:
        """The mean of the ranks' weights."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that outlive a call, by way and name."""
        return {}

    def by_tensor(self, name: str) -> bool:
        """The array has an entry for each entry of the tensors."""
        return False

    def parts(self) -> dict[str, object]:
        """What remembers something, by way: "uplink", "downlink"."""
        return {}

    def finish(self) -> None:
        """Complete what is under way."""

    def refuse(self) -> None:
        """During an exchange, before this rank's vector is sent: have all ranks hear that it cannot be used."""

    def restart(self) -> None:
        """Forget what is remembered, on all ranks at once."""

    def serves_as(self, other: Vector) -> bool:
        """This rank is the server of the same coordinates as in another vector of the same tensors."""
        return True

    @property
    def two_points(self) -> bool:
        """The uplink asks for changes between two points."""
        return False


class Bucket(Vector):
    """A vector with an uplink, a downlink and an exchange.

    Parameters
    ----------
    group : which tensors, and their uplink. downlink : text. kind : the class of the exchange. comm : None for one process.
    clients : n. seed : of the run. number : of the bucket; the first has the keys of a run with this seed.
    alone : for the warm-up: this process by itself, with so many ranks in mind.

    Raises
    ------
    ConfigError : unknown names, options that do not fit, or an exchange that cannot carry the messages.
    """

    def __init__(
        self, group: Group, downlink: str, kind: type[Exchange], comm: Comm | None, clients: int, seed: int, number: int, clock: Clock,
        alone: int | None = None,
    ):  # fmt: skip
        super().__init__(group)
        self.exchange_name = kind.name
        seed = seed if number == 0 else int(derive(seed, Stream.BUCKET, number)) & (2**63 - 1)
        chosen = group.make_compressor()
        identity = compressors.create("identity")
        method_setting = Setting(
            self.dim, clients, 0, chosen or identity, identity, seed, wire_dtype=self.dtype.name, allow_unsafe=True
        )
        self.uplink: Uplink = build(uplinks, group.mechanism, method_setting, 1.0, chosen)
        self.downlink: Downlink = build(downlinks, downlink, method_setting, 1.0)
        if declared(self.downlink, ClientState):
            raise ConfigError(
                f"downlink {downlink!r} gives each client a vector of its own, and the mean is to be the same on all ranks; "
                "use dense, direct, ef14 or ef21-p"
            )
        if isinstance(self.uplink, PowerSGDUplink):
            self.downlink = NoDownlink()
            if self.uplink.rows is None:
                self.uplink.shapes = [_matrix(tensor.shape) for tensor in self.tensors if tensor.size]
        if getattr(self.uplink, "start_from", "") == "zero":
            raise ConfigError("start=zero sends nothing in the first call; use start=compressed or start=dense")

        def codecs(*ways: Uplink | Downlink) -> list[Codec]:
            chosen = [vars(way).get("compressor") for way in ways]
            return [c.bind(self.dim, clients, self.dtype) for c in chosen if isinstance(c, Compressor)]

        weights = np.full(clients, 1.0 / clients)
        setting = ExchangeSetting(
            comm, clients, self.dim, self.dtype, weights, clock, lambda: codecs(self.uplink, self.downlink),
            lambda: codecs(self.downlink),
        )  # fmt: skip
        self.exchange = kind.create(setting) if alone is None else _alone(kind, setting, alone)
        self.clock, self.seed = clock, seed
        self.downlink.mirrored = True
        self.restart()
        self.hosts = self.exchange.is_worker
        self.given = Given(self.dim, self.dtype)
        self._oracle: Oracle = self.given if self.hosts else NoClients()
        self._scalar = self.uplink.link.values(1)

    def _link(self, uplink: bool) -> Link:
        return Link(self.exchange, self.seed, self.dtype, uplink)

    def restart(self) -> None:
        self.uplink.start(self._link(uplink=True))
        self.downlink.start(self._link(uplink=False))
        self.result = self.downlink.begin(np.zeros((1, self.dim), self.dtype))

    def serves_as(self, other: Vector) -> bool:
        if not isinstance(other, Bucket):
            return True
        own, theirs = self.exchange, other.exchange
        mine, before = (getattr(exchange, "bounds", np.zeros(0)) for exchange in (own, theirs))
        return own.served == theirs.served and np.array_equal(mine, before)

    def refuse(self) -> None:
        self.exchange.flags_sent |= FLAG_DIVERGED

    @property
    def two_points(self) -> bool:
        return self.uplink.takes_change

    def warm_up(self) -> None:
        """Two rounds with numbers of no meaning, so that the kernels are compiled and loaded."""
        self.given.own[:] = 1.0
        self.given.own[:, ::2] = -0.5
        self.given.change = lambda: self.given.own
        for call in range(2):
            self.uplink.transmit(self._oracle, call)
            finite_rows(self.given.own, ONE_ROW)
            self.downlink.transmit(np.ones((1, self.exchange.served_dim), self.dtype), call)

    def exchange_mean(self, call: int, flagged: bool) -> bool:
        exchange = self.exchange
        exchange.flags_seen, exchange.flags_sent = 0, FLAG_DIVERGED if flagged else 0
        g = self.uplink.transmit(self._oracle, call)
        exchange.flags_sent |= exchange.flags_seen & FLAG_DIVERGED  # a server passes it on
        self.result = self.downlink.transmit(g, call)
        self.clock.lap(STEP)
        if not finite_rows(self.result, ONE_ROW):  # finite vectors, and a sum or a difference above the largest number
            self.restart()
            return True
        return bool((exchange.flags_seen | exchange.flags_sent) & FLAG_DIVERGED)

    def mean_weight(self, weight: float, call: int) -> float:
        link = self.uplink.link
        own = np.full((1, 1), weight, self.dtype) if self.hosts else None
        total = np.zeros((1, 1), self.dtype) if link.is_server else None
        received = np.zeros((1, 1), self.dtype)
        link.gather(self._scalar, own, call, total)
        link.broadcast(self._scalar, total, call, received)
        return float(received[0, 0])

    # ---- state ------------------------------------------------------------------------------------------------------
    def parts(self) -> dict[str, object]:
        return {"uplink": self.uplink, "downlink": self.downlink}

    def finish(self) -> None:
        self.exchange.finish()

    def arrays(self) -> dict[str, np.ndarray]:
        found: dict[str, Any] = {}
        for way, part in self.parts().items():
            for state in declared(part):
                found[f"{way}/{state.name}"] = vars(part).get(state.name)
        return {name: array for name, array in found.items() if array is not None}

    def by_tensor(self, name: str) -> bool:
        way, _, state_name = name.partition("/")
        part = self.parts()[way]
        state = next(state for state in declared(part) if state.name == state_name)
        return isinstance(state, ClientState | CommonState) and self.arrays()[name].shape == (1, self.dim)


def _alone(kind: type[Exchange], setting: ExchangeSetting, ranks: int) -> Exchange:
    """An exchange of this process with one client, which calls the kernels that `kind` will call on so many ranks."""
    client = np.zeros(1, np.int64)
    own = kind.create_for_warmup(setting, client, ranks)
    return own or LocalExchange(setting.n_clients, setting.dim, setting.dtype, clients=client)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as a matrix: its first dimension, and all others together; a vector as one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, prod(shape) // rows
