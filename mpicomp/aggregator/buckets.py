"""The buckets of an aggregator: which exchange each of them has, their warm-up, and what one set of them takes over from another."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from ..cluster.clock import Clock
from ..cluster.ledger import Ledger
from ..cluster.patient import PatientComm
from ..errors import ConfigError
from ..exchanges.base import Exchange, exchanges
from ..exchanges.kinds import AUTO, exchange_kind
from ..kernels.cache import cache_use
from .bucket import Bucket, Vector
from .dense import DenseBucket
from .rules import Group

_LONG = 5.0  # seconds of compiling that are worth a word


def named_kind(exchange: type[Exchange] | str, ranks: int) -> type[Exchange]:
    """The class that was named or given; for auto, that of a run without further knowledge."""
    name, own = (exchange, None) if isinstance(exchange, str) else (AUTO, exchange)
    return exchange_kind(name, ranks, own)


class BucketMaker:
    """Makes the buckets of groups of tensors.

    Parameters
    ----------
    exchange : as the aggregator's. comm : None for one process. seed : of all random numbers. clock, ledger : the aggregator's.
    """

    def __init__(
        self, exchange: type[Exchange] | str, comm: PatientComm | None, seed: int, clock: Clock, ledger: Ledger
    ):
        self.exchange, self.comm, self.seed, self.clock, self.ledger = exchange, comm, seed, clock, ledger
        self.size = 1 if comm is None else comm.size

    def make(self, groups: list[Group], uplink: str, downlink: str) -> list[Vector]:
        """A bucket for each group, with the first kind of exchange that can carry its messages.

        Raises
        ------
        ConfigError : no exchange can.
        """
        buckets: list[Vector] = []
        for number, group in enumerate(groups):
            if self.comm is not None and self.exchange == AUTO and group.is_plain and downlink == "dense":
                buckets.append(DenseBucket(group, self.comm, self.clock, self.ledger))
                continue
            refused: list[str] = []
            kinds = self._kinds(group, downlink)
            for kind in kinds:
                try:
                    clients = self.size if kind.serves_everywhere else max(self.size - 1, 1)
                    buckets.append(Bucket(group, downlink, kind, self.comm, clients, self.seed, number, self.clock))
                    break
                except ConfigError as why:
                    if len(kinds) == 1:
                        raise
                    refused.append(f"{kind.name}: {why}")
            else:
                raise ConfigError(
                    f"exchange='auto' has none for uplink={uplink!r}, downlink={downlink!r} and {sum(t.size for t in group.tensors)} "
                    f"coordinates on {self.size} ranks; {'; '.join(refused)}; name another, for instance exchange='p2p', and give topk "
                    "and randk a fraction= in place of k=, which counts in each slice"
                )
        return buckets

    def _kinds(self, group: Group, downlink: str) -> list[type[Exchange]]:
        """The classes of exchange for a group, the best first."""
        if self.exchange != AUTO or self.size == 1:
            return [named_kind(self.exchange, self.size)]
        if group.is_dense and (downlink == "dense" or not group.is_plain):
            return [exchanges["allreduce"]]
        return [exchanges["sliced"], exchanges["sharded"]]

    def warm_up(self, buckets: list[Vector], downlink: str, rank: int) -> None:
        """Compile and load what the calls will need, on all ranks at once, before the first of them waits for another."""
        began, before = time.perf_counter(), sum(use.compiled for use in cache_use())
        for number, bucket in enumerate(buckets):
            if isinstance(bucket, Bucket):
                kind, clients = type(bucket.exchange), bucket.exchange.n_clients
                clock = Clock(time.perf_counter)
                Bucket(bucket.group, downlink, kind, None, clients, self.seed, number, clock, alone=self.size).warm_up()
        seconds, compiled = time.perf_counter() - began, sum(use.compiled for use in cache_use()) - before
        if compiled and seconds > _LONG:
            logging.getLogger("mpicomp").warning(
                "rank %d: %d kernels were compiled or waited for in %.0f s, and are kept; `mpicomp warmup --all-codecs` does it beforehand",
                rank, compiled, seconds,
            )  # fmt: skip
        if self.comm is not None:
            self.comm.meet()  # asleep: another rank may need the processor to compile


def take_over(new: list[Vector], old: Sequence[tuple[Vector, dict[str, np.ndarray]]]) -> set[Vector]:
    """What mechanisms remember, from old buckets into new ones of the same tensors, where the mechanism is of the same kind.

    old : with their arrays. Returns the new buckets whose uplink is of the old kind.
    """
    kept: set[Vector] = set()
    for bucket in new:
        for before, arrays in old:
            if before.places != bucket.places or before.dtype != bucket.dtype or not bucket.serves_as(before):
                continue
            for way, mine in bucket.parts().items():
                if type(mine) is not type(before.parts().get(way)):
                    continue
                kept |= {bucket} if way == "uplink" else set()
                for name, array in bucket.arrays().items():
                    saved = arrays.get(name)
                    if name.startswith(way) and saved is not None and saved.shape == array.shape:
                        array[...] = saved
    return kept
