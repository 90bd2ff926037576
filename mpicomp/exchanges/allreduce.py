"""Exchange by MPI's Allreduce, the baseline of dense training: no server, every rank hosts clients and takes the step itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..cluster.clock import DECODE, WAIT, Clock
from ..cluster.comm import Comm
from ..cluster.ledger import BETWEEN_NODES, IN_NODE, UPLINK
from ..cluster.ring import RankSum
from ..compressors import Codec
from ..compressors.identity import Identity
from ..errors import ConfigError
from ..kernels.random import Keys
from ..wire import CONTROL_FLAGS
from .base import Vectors, exchanges
from .mpi import MPIExchange

_FLAGS = np.array([flag for flag in (1 << b for b in range(8)) if flag & CONTROL_FLAGS])


@exchanges.register("allreduce")
class AllreduceExchange(MPIExchange):
    """Each rank adds its own clients' vectors, in client order; the ranks' sums are added by MPI or round a ring, in an order of their own.

    So every rank is both: it hosts clients, and it is the server of a model of its own, the same on all ranks. Only dense vectors can be
    summed on the way: anything but the identity is refused. The trajectory equals the others' up to the order of the ranks' sums.

    One Allreduce of d values of the wire dtype carries an uplink, and behind them a value for each control flag, not zero where some
    rank says it. Nothing travels down. The ledger enters what each rank hands to MPI; how often the library sends it on is the
    library's choice (about twice, in and out of every rank), which the hosts' interfaces show. Where a ring moves less (`RankSum`), the
    ledger has the ring's bytes.
    """

    summary = "dense sums by MPI_Allreduce, no server; the baseline of dense training"
    serves_everywhere = True
    one_frame = True

    def __init__(self, comm: Comm, n_clients: int, dim: int, dtype: DTypeLike, weights: np.ndarray, clock: Clock):
        super().__init__(comm, n_clients, dim, dtype, weights, clock)
        self._sums: dict[tuple, np.ndarray] = {}
        self._adder = RankSum(comm, len(np.unique(self.nodes)))
        self._level = IN_NODE if self._adder.nodes == 1 else BETWEEN_NODES

    @property
    def is_server(self) -> bool:
        return True

    def gather(
        self, codec: Codec, V: Vectors, keys: Keys, round: int, total: np.ndarray | None, add_to: np.ndarray | None = None,
        scale: float = 1.0, active: np.ndarray | None = None, weights: np.ndarray | None = None, separate: bool = False,
    ) -> None:  # fmt: skip
        _only_dense(codec)
        if separate:
            raise ConfigError(f"this method's server needs every client's vector, which {_REMEDY}")
        plan, fold = self.plan(codec), self.fold(codec, total, weights, False)
        hosted = self.speaking(plan, self.rank, active)
        for group in hosted:
            own = self.own_frame(codec, V, group.rows)
            buf = self.buffer(("up",), plan.frame_nbytes) if own is None else own
            nbytes = self.write_frame(codec, V, group.rows, group.clients, keys, round, buf, own is not None)
            self.accumulate(codec, buf, nbytes, group, keys, round, fold)
            if add_to is not None:
                self.absorb(codec, buf, nbytes, group, keys, round, add_to, scale)
        self._sum(codec, fold.total, sum(len(group.rows) for group in hosted))

    def _sum(self, codec: Codec, total: np.ndarray, speaking: int) -> None:
        """The sum of all ranks' `total` replaces it, in the wire dtype; the ranks' control flags become everybody's."""
        key = (codec.dim, codec.wire_dtype)
        if key not in self._sums:
            self._sums[key] = np.zeros(codec.dim + len(_FLAGS), codec.wire_dtype)
        values = self._sums[key]
        values[: codec.dim] = total[0]
        values[codec.dim :] = (self.flags_sent & _FLAGS) > 0
        self._tally[:], nbytes = 8 * codec.dim * values.itemsize, self._adder.sent_nbytes(values)
        if self._adder.goes_round(values):
            self._tally[0] = 8 * nbytes
        self.ledger.frame(UPLINK, self._tally, nbytes, 1, self._level, speaking)
        self.clock.lap(DECODE)
        self._adder.add_up(values)
        self.clock.lap(WAIT)
        total[0] = values[: codec.dim]
        self.flags_seen |= int(_FLAGS[values[codec.dim :] > 0].sum())
        self.clock.lap(DECODE)

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        _only_dense(codec)
        if into is not None:
            assert isinstance(v, np.ndarray)
            into[:] = into + v if add else v
        self.clock.lap(DECODE)

    def scatter(
        self, codec: Codec, v: np.ndarray | None, keys: Keys, round: int, into: np.ndarray | None, mirror: np.ndarray | None = None,
        active: np.ndarray | None = None, add: bool = False,
    ) -> None:  # fmt: skip
        raise ConfigError(f"this method's server sends each client a message of its own, which {_REMEDY}")


_REMEDY = "«exchange='allreduce'» does not know; use p2p or collective"


def _only_dense(codec: Codec) -> None:
    if codec.codec_id != Identity.codec_id or codec.scale != 1.0:
        raise ConfigError(
            f"«exchange='allreduce'» sums dense vectors on the way, it cannot carry {codec.compressor.spec}; "
            "use «method='gd'» or «compressor='identity'», or another exchange"
        )
