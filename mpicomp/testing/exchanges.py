"""The conformance suite of exchanges, run on all ranks: whatever way the bytes take, the results are those of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..cluster.clock import Clock
from ..cluster.comm import Comm
from ..cluster.counts import checked_communicator
from ..cluster.ledger import UPLINK, Ledger
from ..compressors import Codec, compressors
from ..errors import ConfigError, MpicompError
from ..exchanges.base import Exchange, ExchangeSetting
from ..exchanges.local import LocalExchange
from ..kernels.random import Keys, downlink_keys, uplink_keys
from ..wire import FLAG_CHECKPOINT, FLAG_REQUEST
from .faults import text_of

CODECS = ("identity", "topk:k=5", "randk:k=20", "natural", "qsgd:bits=4", "sign", "permk")
SCALARS = 3  # of a few numbers beside the vectors, which are not cut


def check_exchange(
    kind: type[Exchange],
    comm: Any = None,
    *,
    codecs: Sequence[str] = CODECS,
    dim: int = 203,
    clients: int | None = None,
    dtype: str = "float64",
    exact: bool = True,
    seed: int = 0,
) -> None:
    """Check, on all ranks alike, that an exchange gives the results of one process, that orders travel, and that evaluation works.

    gather (weights, silent clients, own messages added, separate rows), broadcast and scatter (added or set, mirrored, silent clients),
    each with every codec that the exchange does not refuse by a ConfigError.

    Parameters
    ----------
    kind : the class. comm : an mpi4py communicator of at least two ranks; None for an exchange of one process.
    codecs : texts of compressors; the first must be carried up and down.
    dim : d. clients : n; two for each rank and one where None. dtype : of states and wire.
    exact : the same bits are expected; False for exchanges that add in another order, whose sums may differ by rounding.
    seed : of vectors and keys.

    Raises
    ------
    AssertionError : the first faults of any rank, the same message on all ranks. An exchange whose ranks wait for each other hangs:
        start it with a time-out.
    """
    checked_communicator(comm)
    ours = Comm(comm, by_node=kind.by_node) if comm is not None else None
    n = clients or (2 * ours.size + 1 if ours is not None else 5)
    faults: list[str] = []
    try:
        _Suite(kind, ours, n, dim, np.dtype(dtype), exact, seed, faults).check(codecs)
    except (MpicompError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if ours is not None and ours.size > 1:
            raise  # the other ranks may be waiting: let the launcher end them
        faults.append(text_of(error))
    if ours is not None:
        found = ours.gather_json(faults[:3])
        faults = ours.bcast_json([f"rank {r}: {fault}" for r, each in enumerate(found or []) for fault in each])
        ours.free()
    if faults:
        raise AssertionError(f"{kind.__name__} (d={dim}, n={n}, dtype={dtype}, seed={seed}): " + "; ".join(faults[:5]))


class _Suite:
    def __init__(
        self, kind: type[Exchange], comm: Comm | None, n: int, d: int, dtype: np.dtype, exact: bool, seed: int, faults: list[str]
    ):  # fmt: skip
        self.n, self.d, self.dtype, self.exact, self.seed, self.faults = n, d, dtype, exact, seed, faults
        self.rng = np.random.default_rng(seed)  # the same numbers on all ranks
        weights = self.rng.random(n) + 0.5
        self.weights = weights / weights.sum()
        self.comm = comm
        clock = Clock(time.perf_counter if comm is None else comm.now)
        self.bound: list[Codec] = []
        self.exchange = kind.create(ExchangeSetting(comm, n, d, dtype, self.weights, clock, lambda: list(self.bound)))
        self.reference = LocalExchange(n, d, dtype, self.weights, Ledger())
        self.round = 0

    def check(self, codecs: Sequence[str]) -> None:
        if self.comm is not None:
            self.comm.purpose = "round"
        for number, text in enumerate(codecs):
            codec = compressors.create(text).bind(self.d, self.n, self.dtype)
            for uplink, operations in ((True, self.uplinks), (False, self.downlinks)):
                try:
                    self.exchange.check(codec, uplink)
                    operations(codec, text)
                except ConfigError as refusal:
                    if number == 0:
                        self.faults.append(f"it refuses {text} {'up' if uplink else 'down'}: {refusal}")
        whole = compressors.create("identity").bind(SCALARS, self.n, self.dtype)
        whole.whole = True
        self.gather(whole, f"gather of {SCALARS} numbers beside the vectors")
        self.flags()
        self.exchange.finish()
        self.evaluation()

    # ---- comparing ------------------------------------------------------------------------------------------------
    def compare(self, what: str, found: np.ndarray | None, expected: np.ndarray, sums: bool = False) -> None:
        """The rank's array against the rows and columns that it should hold."""
        if found is None:
            return
        close = found.tobytes() == np.ascontiguousarray(expected).tobytes()
        if not self.exact and sums:
            close = np.allclose(found, expected, rtol=1e-4 if self.dtype == np.float32 else 1e-10, atol=1e-5)
        if not close:
            away = float(np.max(np.abs(found.astype(np.float64) - expected)))
            self.faults.append(f"{what} is not what one process computes (largest difference {away:.3g})")

    def next_keys(self, uplink: bool) -> Keys:
        self.round += 1
        return (uplink_keys if uplink else downlink_keys)(self.seed, self.round)

    def vectors(self, rows: int, columns: int | None = None) -> np.ndarray:
        return self.rng.standard_normal((rows, columns or self.d)).astype(self.dtype)

    def own(self, V: np.ndarray) -> np.ndarray | None:
        """The rows of this rank's clients; None where it hosts none."""
        return V[self.exchange.clients].copy() if self.exchange.is_worker else None

    def served(self, v: np.ndarray) -> np.ndarray | None:
        """The columns that this rank serves; None where it is no server."""
        return np.ascontiguousarray(v[:, self.exchange.served]) if self.exchange.is_server else None

    # ---- up ---------------------------------------------------------------------------------------------------------
    def uplinks(self, codec: Codec, text: str) -> None:
        silent = np.ones(self.n, bool)
        silent[::2] = False
        other = np.ascontiguousarray(self.weights[::-1])
        variants: list[tuple[str, dict[str, Any]]] = [
            ("", {}), (" with other weights", {"weights": other}), (" where every second client is silent", {"active": silent}),
            (" where only one client speaks", {"active": np.arange(self.n) == self.n - 1}), (" into separate rows", {"separate": True}),
        ]  # fmt: skip
        for name, options in variants:
            try:
                self.gather(codec, f"gather of {text}{name}", **options)
            except ConfigError:
                if not options:
                    raise

    def gather(self, codec: Codec, what: str, **options: Any) -> None:
        k, rows = codec.dim, self.n if options.get("separate") else 1
        V, states, keys = self.vectors(self.n, k), self.vectors(self.n, k), self.next_keys(True)
        expected, added = np.full((rows, k), 7.0, self.dtype), states.copy()
        self.reference.gather(codec, V, keys, self.round, expected, added, 0.5, **options)
        whole = codec.whole
        total: Any = np.full((rows, k), 7.0, self.dtype) if self.exchange.is_server else None
        if total is not None and not whole:
            total = self.served(total)
        mine = self.own(states)
        self.exchange.gather(codec, self.own(V), keys, self.round, total, mine, 0.5, **options)
        self.compare(what, total, expected if whole else expected[:, self.exchange.served], sums=True)
        if mine is not None:
            self.compare(f"{what}, added to the clients' own rows,", mine, added[self.exchange.clients])

    # ---- down -------------------------------------------------------------------------------------------------------
    def downlinks(self, codec: Codec, text: str) -> None:
        for add in (False, True):
            how = " added" if add else ""
            self.broadcast(codec, f"broadcast of {text}{how}", add)
        silent = np.arange(self.n) % 3 == 1
        for name, rows, options in (
            ("", 1, {}), (", a row for each client,", self.n, {}), (" added", self.n, {"add": True}),
            (" to some clients", 1, {"active": silent}),
        ):  # fmt: skip
            try:
                self.scatter(codec, f"scatter of {text}{name}", rows, **options)
            except ConfigError:
                return

    def broadcast(self, codec: Codec, what: str, add: bool) -> None:
        v, into, keys = self.vectors(1), self.vectors(1), self.next_keys(False)
        expected = into.copy()
        self.reference.broadcast(codec, v, keys, self.round, expected, add)
        self.exchange.broadcast(codec, self.served(v), keys, self.round, into, add)
        self.compare(what, into, expected)

    def scatter(self, codec: Codec, what: str, rows: int, **options: Any) -> None:
        v, into, mirror, keys = self.vectors(rows), self.vectors(self.n), self.vectors(self.n), self.next_keys(False)
        expected, mirrored = into.copy(), mirror.copy()
        self.reference.scatter(codec, v, keys, self.round, expected, mirrored, **options)
        mine, own_mirror = self.own(into), self.served(mirror)
        self.exchange.scatter(codec, self.served(v), keys, self.round, mine, own_mirror, **options)
        self.compare(f"{what}, mirrored on the server,", own_mirror, mirrored[:, self.exchange.served])
        if mine is not None:
            self.compare(what, mine, expected[self.exchange.clients])

    # ---- the rest ---------------------------------------------------------------------------------------------------
    def flags(self) -> None:
        """The server's orders reach the workers, a worker's request the server, by the frames of a round."""
        exchange, last = self.exchange, self.exchange.workers[-1]
        codec = compressors.create("identity").bind(self.d, self.n, self.dtype)
        exchange.flags_seen = 0
        exchange.flags_sent = FLAG_CHECKPOINT if exchange.is_root else FLAG_REQUEST if exchange.rank == last else 0
        self.gather(codec, "gather with flags")
        self.broadcast(codec, "broadcast with flags", False)
        exchange.flags_sent = 0
        alone = self.comm is None
        if exchange.is_root and not alone and not exchange.flags_seen & FLAG_REQUEST:
            self.faults.append(
                "the server does not see the flag that a worker sends (flags_sent): let frames carry them (write_frame, read_frame)"
            )
        if exchange.is_worker and not exchange.flags_seen & FLAG_CHECKPOINT and not (exchange.is_root and not alone):
            self.faults.append(
                "a worker does not see the flag that the server sends (flags_sent): let frames carry them (write_frame, read_frame)"
            )

    def evaluation(self) -> None:
        exchange = self.exchange
        if self.comm is not None:
            self.comm.purpose = "evaluation"
        model = self.vectors(1)
        x = model.copy() if exchange.is_root else np.zeros_like(model)
        exchange.broadcast_model(x)
        self.compare("broadcast_model", x, model)
        part = self.served(model)
        whole = exchange.assemble(np.zeros((1, 0), self.dtype) if part is None else part)
        if exchange.is_root:
            self.compare("assemble", whole, model)
        values, vector = self.rng.standard_normal(self.n) * 10.0 ** np.arange(self.n), np.zeros(2)
        exchange.chain(vector, _adder(values, exchange.clients))
        expected = np.zeros(2)
        _adder(values, np.arange(self.n))(expected)
        if exchange.is_root and vector.tobytes() != expected.tobytes():
            self.faults.append(
                "chain does not add the workers' parts in client order, or does not bring the sum to the root"
            )
        size = exchange.placement.size
        rows = exchange.gather_rows(np.array([exchange.rank, exchange.ledger.traffic[UPLINK].sum()], np.float64))
        if exchange.is_root:
            if rows is None or rows.shape != (size, 2) or not np.array_equal(rows[:, 0], np.arange(size)):
                self.faults.append("gather_rows does not give every rank's row, by rank, on the root")
            elif not rows[:, 1].sum() > 0:
                self.faults.append("no bytes were entered in the ledger (record_uplink, record_downlink)")


def _adder(values: np.ndarray, clients: np.ndarray) -> Callable[[np.ndarray], None]:
    def add(vector: np.ndarray) -> None:
        for i in clients:
            vector[0] += values[i]
            vector[1] += 1.0

    return add
