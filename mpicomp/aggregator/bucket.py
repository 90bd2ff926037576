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
from ..kernels.random import Stream, derive
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


class Given(Oracle):
    """The vector that the caller has computed; a change between two points only where the caller can evaluate.

    Attributes
    ----------
    V : shape (1, d). change : V minus the gradient at the last call's point, from the same samples; None where it is not known.
    """

    def __init__(self, dim: int, dtype: np.dtype):
        self.dim = dim
        self.own = framed_zeros((1, dim), dtype)
        self.V = self.own
        self.change: Callable[[], np.ndarray] | None = None

    def value(self) -> np.ndarray:
        return self.V

    def full(self) -> np.ndarray:
        return self.value()

    def difference(self) -> np.ndarray:
        if self.change is None:
            raise ConfigError(
                "this uplink needs the gradients of the same samples at two points: give `mean` a function of the point, and the point, "
                "agg.mean(gradient, at=params)"
            )
        return self.change()


class Bucket:
    """The tensors of a group, as one vector that is exchanged in one go.

    Parameters
    ----------
    group : which tensors, and their uplink. downlink : text. kind : the class of the exchange. comm : None for one process.
    clients : n. seed : of the run. number : of the bucket; the first has the keys of a run with this seed.

    Attributes
    ----------
    result : the mean, shape (1, d), until the next exchange.

    Raises
    ------
    ConfigError : unknown names, options that do not fit, or an exchange that cannot carry the messages.
    """

    def __init__(
        self, group: Group, downlink: str, kind: type[Exchange], comm: Comm | None, clients: int, seed: int, number: int, clock: Clock
    ):  # fmt: skip
        self.tensors: list[Tensor] = group.tensors
        self.group, self.dtype = group, group.dtype
        ends = np.cumsum([tensor.size for tensor in self.tensors])
        self.dim = int(ends[-1])
        self.places = {t.name: slice(int(end) - t.size, int(end)) for t, end in zip(self.tensors, ends, strict=True)}
        seed = seed if number == 0 else int(derive(seed, Stream.BUCKET, number)) & (2**63 - 1)
        chosen = group.make_compressor()
        identity = compressors.create("identity")
        setting = Setting(
            self.dim, clients, 0, chosen or identity, identity, seed, wire_dtype=self.dtype.name, allow_unsafe=True
        )
        self.uplink: Uplink = build(uplinks, group.mechanism, setting, 1.0, chosen)
        self.downlink: Downlink = build(downlinks, downlink, setting, 1.0)
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

        def codecs() -> list[Codec]:
            parts = [vars(part).get("compressor") for part in (self.uplink, self.downlink)]
            return [c.bind(self.dim, clients, self.dtype) for c in parts if isinstance(c, Compressor)]

        weights = np.full(clients, 1.0 / clients)
        self.exchange = kind.create(ExchangeSetting(comm, clients, self.dim, self.dtype, weights, clock, codecs))
        self.clock, self.seed = clock, seed
        self.downlink.mirrored = True
        self.uplink.start(self._link(uplink=True))
        self.downlink.start(self._link(uplink=False))
        self.result = self.downlink.begin(np.zeros((1, self.dim), self.dtype))
        self.hosts = self.exchange.is_worker
        self.given = Given(self.dim, self.dtype)
        self._oracle: Oracle = self.given if self.hosts else NoClients()
        self._scalar = self.uplink.link.values(1)

    def _link(self, uplink: bool) -> Link:
        return Link(self.exchange, self.seed, self.dtype, uplink)

    def exchange_mean(self, call: int, flagged: bool) -> bool:
        """One round; returns whether any rank has said that its vector cannot be used.

        flagged : this rank says so.
        """
        exchange = self.exchange
        exchange.flags_seen, exchange.flags_sent = 0, FLAG_DIVERGED if flagged else 0
        g = self.uplink.transmit(self._oracle, call)
        exchange.flags_sent |= exchange.flags_seen & FLAG_DIVERGED  # a server passes it on
        self.result = self.downlink.transmit(g, call)
        self.clock.lap(STEP)
        return bool((exchange.flags_seen | exchange.flags_sent) & FLAG_DIVERGED)

    def mean_weight(self, weight: float, call: int) -> float:
        """The mean of the ranks' weights."""
        link = self.uplink.link
        own = np.full((1, 1), weight, self.dtype) if self.hosts else None
        total = np.zeros((1, 1), self.dtype) if link.is_server else None
        received = np.zeros((1, 1), self.dtype)
        link.gather(self._scalar, own, call, total)
        link.broadcast(self._scalar, total, call, received)
        return float(received[0, 0])

    # ---- state ------------------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that outlive a call, by way and name."""
        found: dict[str, Any] = {}
        for way, part in (("uplink", self.uplink), ("downlink", self.downlink)):
            for state in declared(part):
                found[f"{way}/{state.name}"] = vars(part).get(state.name)
        return {name: array for name, array in found.items() if array is not None}

    def by_tensor(self, name: str) -> bool:
        """The array has an entry for each entry of the tensors."""
        way, _, state_name = name.partition("/")
        part = self.uplink if way == "uplink" else self.downlink
        state = next(state for state in declared(part) if state.name == state_name)
        return isinstance(state, ClientState | CommonState) and self.arrays()[name].shape == (1, self.dim)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as a matrix: its first dimension, and all others together; a vector as one row."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, prod(shape) // rows
