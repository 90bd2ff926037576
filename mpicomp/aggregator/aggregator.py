"""The aggregator: the mean of the ranks' vectors, compressed on the way up and down, in a loop of one's own.

It is a round of a run without its problem and optimizer: the same mechanisms, exchanges, keys and ledger, and the same bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster.clock import COMPUTE, PHASES, WAIT, Clock
from ..cluster.counts import checked_communicator
from ..cluster.ledger import Ledger, describe
from ..cluster.patient import PatientComm
from ..errors import AggregationError, ConfigError, RankFailure
from ..exchanges.base import Exchange, exchanges
from ..exchanges.kinds import AUTO, exchange_kind
from ..kernels.cache import cache_use
from ..kernels.rows import finite_rows
from .background import Background
from .bucket import ONE_ROW, TWO_POINTS, Bucket, Vector
from .dense import DenseBucket
from .rules import Group, Rule, described, grouped, held, split
from .state import load_arrays, saved_arrays
from .tensors import Structure, as_numpy, check_writable, copy_in, copy_out, not_finite, told

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

_WEIGHTS = 1e-30, 1e30
_LONG = 5.0  # seconds of compiling that are worth a word


@dataclass(frozen=True)
class Report:
    """What one call cost on this rank.

    Attributes
    ----------
    call : number of the call, from 0 on. phases : seconds by phase (compute, encode, send, wait, decode, step).
    traffic : int64, shape (2, 9), the ledger's table of this call.
    """

    call: int
    phases: np.ndarray
    traffic: np.ndarray

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase."""
        return {name: float(value) for name, value in zip(PHASES, self.phases, strict=True)}

    @cached_property
    def bytes(self) -> dict[str, dict[str, Any]]:
        """What this rank handed over, by direction: payload, header, message, and by level (shared_memory, intra_node, inter_node)."""
        return describe(self.traffic)


class Aggregator:
    """The weighted mean of the ranks' vectors, on every rank, through compressed messages.

    Every rank is a worker with one vector, as in an Allreduce. With an exchange that has a server (p2p, collective, hierarchical) rank 0
    is the server and has no vector; it makes the same calls, with None.

    All ranks make the same calls in the same order. What cannot be averaged (NaN, a tensor of another shape) is told to all of them: they
    raise the same AggregationError, and nothing has been sent or remembered of that call, so that the loop may go on. (With `start` the
    buckets that were sent before the error have been.)

    Parameters
    ----------
    comm : an mpi4py communicator; or a process group of torch.distributed, whose ranks then exchange by gloo; None for this process alone.
    like : what later values look like: an array, a PyTorch tensor, a list or dict of them, or a dimension (float64). Float16, bfloat16 and
        float32 are summed and remembered in float32.
    uplink : `MECHANISM[@option=value,...][:COMPRESSOR]`, for instance "ef21:topk:fraction=0.01", "diana:natural", "powersgd:rank=2".
    downlink : the same for the way down, or "dense".
    exchange : a name or a class; "auto" is allreduce where nothing is compressed, else sliced.
    seed : of all random numbers; with the same seed a loop gives the same bits.
    rules : pairs (pattern, mechanism or compressor) in order; the first whose pattern speaks of a tensor holds. A pattern is a name with
        wildcards, `ndim<2`, `size>=1000`, or a function of name and shape. Such a tensor is compressed by itself; the others are
        compressed together, as one vector.
    weighted : each rank gives a weight with its vector, for instance its number of samples.
    bucket_nbytes : tensors are exchanged in buckets of about so many bytes, from the last to the first, so that `start` can send the first
        bucket while later gradients are computed; None for one bucket.
    timeout : seconds to wait for the other ranks.

    Attributes
    ----------
    last : a Report of the last call; before the first its `call` is −1.
    calls : number of calls made. weighted : as given.

    >>> import numpy as np
    >>> agg = Aggregator(None, np.zeros(4), uplink="ef21:topk:k=1")
    >>> agg.mean(np.array([1.0, 2.0, 3.0, 4.0]))
    array([0., 0., 0., 4.])

    Raises
    ------
    ConfigError : options that cannot work, or ranks that were given other ones; on all ranks.
    """

    def __init__(
        self,
        comm: MPIComm | Any | None,
        like: Any,
        *,
        uplink: str = "direct",
        downlink: str = "dense",
        exchange: type[Exchange] | str = AUTO,
        seed: int = 0,
        rules: Sequence[Rule] = (),
        weighted: bool = False,
        bucket_nbytes: int | None = None,
        timeout: float = 300.0,
    ):
        group = type(comm).__module__.startswith("torch.")  # a process group of torch.distributed
        if not group:
            checked_communicator(comm)
        self.structure = Structure(like)
        self._seed, self.weighted, self._bucket_nbytes, self._timeout = seed, weighted, bucket_nbytes, timeout
        self._exchange = exchange
        self.calls = 0
        self.interrupted = ""  # by what a call was, so that messages of it may still be under way
        self._closed = False
        self._late = ""  # what was found wrong while others exchanged
        self._ledger = Ledger()
        self.last = Report(-1, np.zeros(len(PHASES)), np.zeros_like(self._ledger.traffic))
        self._previous: dict[str, np.ndarray] | None = None  # the point of the last call
        self._point: dict[str, np.ndarray] | None = None  # of this one
        self._background: Background | None = None
        self._clock = Clock(time.perf_counter)
        self._comm: PatientComm | None = None
        if group:
            from ..cluster.group import GroupComm  # it imports PyTorch, which is there where a group is

            self._comm = GroupComm(comm, self._ledger)
        elif comm is not None and comm.Get_size() > 1:
            self._comm = PatientComm(comm, self._ledger, by_node=self._named_kind(exchange, comm.Get_size()).by_node)
        self._rank, self._size = (0, 1) if self._comm is None else (self._comm.rank, self._comm.size)
        if comm is not None and not group:
            self._rank = comm.Get_rank()
        if self._comm is not None:
            self._comm.timeout = timeout
            self._comm.purpose = "round"
        self._set_up(uplink, downlink, tuple(rules))

    @staticmethod
    def _named_kind(exchange: type[Exchange] | str, ranks: int) -> type[Exchange]:
        """The class that was named or given; for auto, that of a run without further knowledge."""
        name, own = (exchange, None) if isinstance(exchange, str) else (AUTO, exchange)
        return exchange_kind(name, ranks, own)

    # ---- making the buckets -----------------------------------------------------------------------------------------
    def _set_up(self, uplink: str, downlink: str, rules: tuple[Rule, ...]) -> None:
        error = ""
        try:
            split(uplink)
            if not self._timeout > 0:
                raise ConfigError(f"timeout={self._timeout}: it is a number of seconds above 0")
            groups = grouped(self.structure.tensors, uplink, rules, self._bucket_nbytes)
            compared = described(rules), [f"{held(t, rules)} for {t.called}" for t in self.structure.tensors]
        except Exception as found:
            error, groups, compared = told(found), [], ([], [])
        alike = [self.structure.described(), uplink, downlink, *compared]
        self._compare(error, [*alike, self._seed, self.weighted, self._bucket_nbytes, str(self._exchange)])
        buckets: list[Vector] = []
        for number, group in enumerate(groups):
            if self._comm is not None and self._exchange == AUTO and group.is_plain and downlink == "dense":
                buckets.append(DenseBucket(group, self._comm, self._clock, self._ledger))
                continue
            refused: list[str] = []
            kinds = self._kinds(group, downlink)
            for kind in kinds:
                try:
                    buckets.append(self._bucket(group, downlink, kind, number))
                    break
                except ConfigError as why:
                    if len(kinds) == 1:
                        raise
                    refused.append(f"{kind.name}: {why}")
            else:
                raise ConfigError(
                    f"exchange='auto' has none for uplink={uplink!r}, downlink={downlink!r} and {sum(t.size for t in group.tensors)} "
                    f"coordinates on {self._size} ranks; {'; '.join(refused)}; name another, for instance exchange='p2p', and give topk "
                    "and randk a fraction= in place of k=, which counts in each slice"
                )
        self.uplink, self.downlink, self.rules = uplink, downlink, rules
        self.exchange = "+".join(dict.fromkeys(bucket.exchange_name for bucket in buckets))
        self._buckets = buckets
        self._bucket_of = {name: bucket for bucket in buckets for name in bucket.places}
        self.hosts = buckets[0].hosts
        self._warm_up()

    def _warm_up(self) -> None:
        """Compile and load what the calls will need, on all ranks at once, before the first of them waits for another."""
        began, before = time.perf_counter(), sum(use.compiled for use in cache_use())
        for number, bucket in enumerate(self._buckets):
            if isinstance(bucket, Bucket):
                kind, clients = type(bucket.exchange), bucket.exchange.n_clients
                Bucket(
                    bucket.group, self.downlink, kind, None, clients, self._seed, number, Clock(time.perf_counter), alone=self._size
                ).warm_up()  # fmt: skip
        seconds, compiled = time.perf_counter() - began, sum(use.compiled for use in cache_use()) - before
        if compiled and seconds > _LONG:
            logging.getLogger("mpicomp").warning(
                "rank %d: %d kernels were compiled or waited for in %.0f s, and are kept; `mpicomp warmup --all-codecs` does it beforehand",
                self._rank, compiled, seconds,
            )  # fmt: skip
        if self._comm is not None:
            self._comm.meet()  # asleep: another rank may need the processor to compile

    def _bucket(self, group: Group, downlink: str, kind: type[Exchange], number: int) -> Bucket:
        clients = self._size if kind.serves_everywhere else max(self._size - 1, 1)
        return Bucket(group, downlink, kind, self._comm, clients, self._seed, number, self._clock)

    def _kinds(self, group: Group, downlink: str) -> list[type[Exchange]]:
        """The classes of exchange for a group: the first that can carry its messages is taken."""
        if self._exchange != AUTO or self._size == 1:
            return [self._named_kind(self._exchange, self._size)]
        if group.is_dense and (downlink == "dense" or not group.is_plain):
            return [exchanges["allreduce"]]
        return [exchanges["sliced"], exchanges["sharded"]]

    def _compare(self, error: str, described: list[Any]) -> None:
        """Raises ConfigError on all ranks where one has an error, or was given something else than rank 0."""
        table = self._table(described, error)
        (first, reference), others = table[0], table[1:]
        for rank, own in others:
            if own == reference:
                continue
            if own[0] != reference[0]:
                raise ConfigError(f"rank {rank} has {_difference(own[0], reference[0])} on rank {first}")
            mine, theirs = next((a, b) for a, b in zip(own, reference, strict=True) if a != b)
            if isinstance(mine, list) and len(mine) == len(theirs):
                mine, theirs = next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)
            raise ConfigError(f"rank {rank} was given {mine!r} where rank {first} was given {theirs!r}")

    def set(
        self, *, uplink: str | None = None, downlink: str | None = None, rules: Sequence[Rule] | None = None
    ) -> None:
        """Go on with other mechanisms or compressors; all ranks call it alike, between two calls.

        What a mechanism remembers stays where the new one is of the same kind, for instance another compressor of EF21, and the same
        tensors share its messages; else it begins anew.
        """
        self._check_usable()
        if self._background is not None:
            self._check_between("set")
            self._background.close()
            self._background = None
        before = [(bucket, bucket.arrays()) for bucket in self._buckets]
        self._set_up(
            uplink if uplink is not None else self.uplink,
            downlink if downlink is not None else self.downlink,
            tuple(rules) if rules is not None else self.rules,
        )
        kept: set[Vector] = set()
        for new in self._buckets:
            for old, arrays in before:
                if old.places != new.places or old.dtype != new.dtype or not new.serves_as(old):
                    continue
                for way, mine in new.parts().items():
                    if type(mine) is not type(old.parts().get(way)):
                        continue
                    kept |= {new} if way == "uplink" else set()
                    for name, array in new.arrays().items():
                        saved = arrays.get(name)
                        if name.startswith(way) and saved is not None and saved.shape == array.shape:
                            array[...] = saved
        for old, _ in before:
            old.finish()
        if any(bucket.two_points and bucket not in kept for bucket in self._buckets):
            self._forget_points()

    def _forget_points(self) -> None:
        """Mechanisms of two points begin anew, with the gradient itself for the next change: their memory is of the last point."""
        self._previous = None
        for bucket in self._buckets:
            if bucket.two_points:
                bucket.restart()

    # ---- the mean ---------------------------------------------------------------------------------------------------
    def mean(self, value: Any = None, *, weight: float | None = None, at: Any = None) -> Any:
        """The mean of all ranks' `value`, in new arrays of its shapes and dtypes.

        Parameters
        ----------
        value : as `like`; None in a dict or list for a tensor without a gradient, which counts as zeros. Or a function of a point that
            gives it, for uplinks that evaluate at two points (marina): it is called with `at`, and with the point of the last call, and
            is to draw the same samples both times.
        weight : this rank's weight, 0 or from 1e-30 to 1e30, where the aggregator is `weighted`.
        at : the point, as `like`.

        Raises
        ------
        AggregationError : some rank's value cannot be used: it is not finite, of another shape, or has another set of tensors.
        RankFailure : a rank has not made this call for `timeout` seconds.
        """
        return self._means(self._call(value, weight, at))

    def _means(self, arrays: dict[str, Any]) -> Any:
        """The means in new arrays, as those that were given, or as `like`."""
        results = {}
        for tensor in self.structure.tensors:
            bucket = self._bucket_of.get(tensor.name)
            if bucket is not None and bucket.target is not None:
                results[tensor.name] = bucket.target.reshape(tensor.shape)
                continue
            results[tensor.name] = out = self.structure.fresh(tensor, arrays.get(tensor.name))
            copy_out(out, tensor, self._mean_of(tensor.name))
        return self.structure.put_together(results)

    def mean_(self, value: Any, *, weight: float | None = None, at: Any = None) -> Any:
        """As `mean`, in place: the arrays of `value` become the mean, and are worth nothing after an error.

        A tensor that is None or sparse there gets a new array; returns them all. Arrays that share memory overwrite each other.
        """
        arrays = self._call(value, weight, at, in_place=True)
        for tensor in self.structure.tensors:
            bucket = self._bucket_of.get(tensor.name)
            if bucket is not None and bucket.target is not None:
                continue
            if getattr(arrays.get(tensor.name), "is_sparse", tensor.name not in arrays):
                arrays[tensor.name] = self.structure.fresh(tensor, None)
            copy_out(arrays[tensor.name], tensor, self._mean_of(tensor.name))
        return self.structure.put_together(arrays)

    def _mean_of(self, name: str) -> np.ndarray:
        bucket = self._bucket_of.get(name)
        return np.empty(0, np.float32) if bucket is None else bucket.result[0, bucket.places[name]]

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigError("the aggregator is closed; make another one")
        if self.interrupted:
            raise RankFailure(
                f"call {self.calls + 1} of the aggregator was interrupted ({self.interrupted}), and other ranks may have gone on; make "
                "another one on all ranks, and load a state that was saved"
            )

    def _call(self, value: Any, weight: float | None, at: Any, in_place: bool = False) -> dict[str, Any]:
        self._check_usable()
        self._check_between("mean")
        self.begin()
        self._point = self._previous
        arrays: dict[str, Any] = {}
        error, cause, self._late = "", None, ""
        try:
            evaluate = value if callable(value) and not hasattr(value, "shape") else None
            if self.hosts and value is not None:
                taken = self.structure.taken(evaluate(at) if evaluate else value)
                arrays = dict(taken)
                if in_place:
                    for name, array in taken.items():
                        check_writable(self.structure.named(name), array)
                self._fill(arrays)
                if evaluate:
                    self._two_points(evaluate, at)
                elif any(bucket.two_points for bucket in self._buckets):
                    raise ConfigError(TWO_POINTS)
            elif self.hosts:
                raise ConfigError("mean got None: this rank has a vector to give")
            elif value is not None and evaluate is None:
                arrays = self.structure.taken(value)
            self._check_weight(weight)
        except Exception as found:  # also of the caller's function: the other ranks wait for this one
            error, cause = told(found), found
        self._clock.lap(COMPUTE)
        error = error or self._not_finite(dense=False)
        if in_place:  # the sums will take the vectors' places
            error = error or self._not_finite(dense=True)
        try:
            if any(isinstance(bucket, Bucket) for bucket in self._buckets) and self._anybody(bool(error)):
                self._raise(error, cause)  # before anything is sent or remembered
            scale = self._scale(0.0 if error or weight is None else weight)
            flagged = False
            for bucket in self._buckets:
                bucket.target = None
                if isinstance(bucket, DenseBucket) and bucket.given.V is not bucket.given.own and not error:
                    bucket.target = bucket.given.V if in_place else np.empty_like(bucket.given.V)
                flagged |= self.exchange_bucket(bucket, bool(error), scale)
            self.end(flagged, error or self._late, cause)
        except AggregationError:
            raise
        except BaseException as found:  # Ctrl-C, too: the next call would take messages under way for its own
            self.interrupted = told(found)
            raise
        self._previous = self._point
        return arrays

    def begin(self) -> None:
        """A call begins now; for `start`'s thread."""
        self._clock.start_round()
        self._before = self._clock.seconds.copy(), self._ledger.traffic.copy()
        if self._comm is not None:
            self._comm.call = self.calls

    def _fill(self, arrays: dict[str, Any]) -> None:
        """The caller's arrays into the buckets' vectors; an array that is one already is taken as it lies."""
        for bucket in self._buckets:
            bucket.given.clear()
            if len(bucket.tensors) == 1:
                array = arrays.get(bucket.tensors[0].name)
                if isinstance(array, np.ndarray) and array.dtype == bucket.dtype and array.flags.carray:
                    bucket.given.V = array.reshape(1, -1)
                    continue
            for tensor in bucket.tensors:
                self.fill_tensor(bucket, tensor.name, arrays.get(tensor.name))

    def fill_tensor(self, bucket: Vector, name: str, array: Any) -> None:
        """For `start`'s thread: one tensor into its bucket's vector; None counts as zeros."""
        flat = bucket.given.own[0, bucket.places[name]]
        if array is None:
            flat[:] = 0
        else:
            copy_in(flat, self.structure.named(name), array)

    def _two_points(self, evaluate: Callable[[Any], Any], at: Any) -> None:
        """Let the uplinks ask for the change since the last call's point, and remember this one."""
        point = {name: np.array(as_numpy(array)) for name, array in self.structure.taken(at).items()}
        if len(point) < len(self.structure.tensors):
            raise ConfigError("mean got a function without a point; give the point, agg.mean(gradient, at=params)")
        previous, self._point = self._previous, point
        found: dict[str, Any] = {}

        def change(bucket: Vector) -> np.ndarray:
            other = np.zeros((1, bucket.dim), bucket.dtype)
            try:
                if previous is not None and not found and not self._late:
                    found.update(self.structure.taken(evaluate(self._as_given(previous, at))))
                for tensor in bucket.tensors:
                    if tensor.name in found:
                        copy_in(other[0, bucket.places[tensor.name]], tensor, found[tensor.name])
                np.multiply(other, bucket.dtype.type(bucket.given.scale), out=other)
                np.subtract(bucket.given.V, other, out=other)
                if not finite_rows(other, ONE_ROW):
                    raise ConfigError("the gradient at the point before is not finite")
            except Exception as error:
                self._late = self._late or f"at the point before, {told(error)}"
            if self._late:
                bucket.refuse()
                other[:] = 0
            return other

        for bucket in self._buckets:
            bucket.given.change = lambda bucket=bucket: change(bucket)

    def _as_given(self, point: dict[str, np.ndarray], at: Any) -> Any:
        """A remembered point, as the caller has points."""
        like, arrays = self.structure.taken(at), {}
        for tensor in self.structure.tensors:
            arrays[tensor.name] = self.structure.fresh(tensor, like.get(tensor.name))
            copy_out(arrays[tensor.name], tensor, point[tensor.name].reshape(-1))
        return self.structure.put_together(arrays)

    def _check_weight(self, weight: float | None) -> None:
        if self.weighted and self.hosts:
            if weight is None or not 0 <= weight < np.inf:
                raise ConfigError(f"weight={weight}: the aggregator is weighted, so each rank gives a number ≥ 0")
            if weight and not _WEIGHTS[0] <= weight <= _WEIGHTS[1]:  # a sum in float32 would lose it
                raise ConfigError(f"weight={weight}: a weight is 0, or from {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}")
        elif weight is not None and not self.weighted:
            raise ConfigError(f"weight={weight}: make the aggregator with weighted=True to give weights")

    def _scale(self, weight: float) -> float:
        """What this rank's vectors are multiplied by, so that the plain mean is the weighted one."""
        if not self.weighted:
            return 1.0
        mean = self._buckets[0].mean_weight(weight, self.calls)
        return weight / mean if mean > 0 else 0.0

    def _not_finite(self, dense: bool) -> str:
        """What is not finite of this rank's vectors. A dense sum shows it by itself, so those are looked at afterwards."""
        for bucket in self._buckets if self.hosts else ():
            if isinstance(bucket, DenseBucket) == dense and not bucket.given.is_finite():
                return self._where_not_finite(bucket)
        return ""

    @staticmethod
    def _where_not_finite(bucket: Vector) -> str:
        found = (not_finite(tensor, bucket.given.V[0, bucket.places[tensor.name]]) for tensor in bucket.tensors)
        return next(filter(None, found), "")

    def exchange_bucket(self, bucket: Vector, failed: bool, scale: float) -> bool:
        """One bucket's exchange; returns whether some rank's vector cannot be used. For `start`'s thread."""
        given = bucket.given
        if failed:  # what goes in its place is finite, and of the right shape
            given.V = given.own
            given.own[:] = 0
            given.change = lambda: given.own
        elif scale != 1.0 and self.hosts:
            given.scale = scale
            with np.errstate(over="ignore"):
                np.multiply(given.V, bucket.dtype.type(scale), out=given.own)
            given.V = given.own
            if scale > 1.0 and not given.is_finite():
                given.own[:], failed = 0, True
                self._late = f"a weight of {scale:g} times the mean takes the vector above the largest number"
        return bucket.exchange_mean(self.calls, failed)

    def _anybody(self, failed: bool) -> bool:
        """Some rank says so: one number that is summed over all."""
        if self._comm is None:
            return failed
        total = np.zeros(1)
        self._comm.sum_into(np.array([float(failed)]), total)
        self._clock.lap(WAIT)
        return bool(total[0] > 0)

    def compare(self, described: str, remedy: str, error: str = "") -> None:
        """All ranks give the same text, or all raise ConfigError, which says whose differs, and the remedy. Collective.

        error : what is wrong on this rank, where something is; then all ranks raise it.
        """
        table = self._table(described, error)
        for rank, text in table:
            if text != table[0][1]:
                raise ConfigError(f"rank {rank} has {text}, and rank {table[0][0]} has {table[0][1]}; {remedy}")

    def _table(self, own: Any, error: str) -> list[tuple[int, Any]]:
        """(rank, what it gives) of all ranks, on all of them; own : of this rank, as JSON. Collective.

        Raises
        ------
        ConfigError : some rank has an error; on all ranks.
        """
        for rank, _, text in (table := self._all_ranks(own, error)):
            if text:
                raise ConfigError(text if self._comm is None else f"rank {rank}: {text}")
        return [(rank, given) for rank, given, _ in table]

    def _all_ranks(self, *own: Any) -> list[list[Any]]:
        """Of each rank its number and what it gives, as JSON, on all ranks. Collective."""
        row = [self._rank, *own]
        return [row] if self._comm is None else list(self._comm.bcast_json(self._comm.gather_json(row)))

    def end(self, flagged: bool, error: str, cause: BaseException | None = None) -> None:
        """A call ends; raises AggregationError where some rank could not give its vectors. For `start`'s thread."""
        seconds, traffic = self._before
        self.last = Report(self.calls, self._clock.seconds - seconds, self._ledger.traffic - traffic)
        self.calls += 1
        if not flagged:
            if error:  # found after the last bucket had gone
                raise AggregationError(f"call {self.calls}: rank {self._rank}: {error}")
            return
        self._forget_points()
        self._raise(error or self._not_finite(dense=True), cause)

    def _raise(self, error: str, cause: BaseException | None) -> None:
        said = [f"rank {rank}: {text}" for rank, text in self._all_ranks(error) if text]
        raise AggregationError(f"call {self.calls}: " + ("; ".join(said) or "a sum is not finite")) from cause

    # ---- while gradients are computed -------------------------------------------------------------------------------
    def start(self, name: str, value: Any) -> Future[np.ndarray]:
        """Give one tensor; its bucket is exchanged by a thread of its own as soon as it is complete, and those before it are done.

        The future is done when the tensor's mean is there, flat, until the next call. `wait` (or `finish`) ends the call.
        """
        if self.weighted:
            raise ConfigError(
                "start cannot weigh vectors, whose weights all ranks need beforehand; use mean(value, weight=...)"
            )
        self._check_usable()
        if any(bucket.two_points for bucket in self._buckets):
            raise ConfigError(f"uplink={self.uplink!r} needs gradients at two points; use mean with a function")
        if self._background is None:
            self._background = Background(self, self._buckets)
        return self._background.start(name, value)

    def wait(self) -> Any:
        """Wait for all that was started, and return the means as `like`; tensors that were not started count as zeros.

        Raises as `mean`.
        """
        self.finish().result()
        return self._means({})

    def finish(self) -> Future[None]:
        """As `wait`, without waiting: the future is done when the call has ended, with the error that `wait` would raise."""
        if self._background is None or not self._background.open:
            raise ConfigError("finish was called and nothing has been started")
        return self._background.finish()

    # ---- state ------------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """What this rank remembers, by tensor: arrays, or PyTorch's tensors where `like` has such. Each rank saves its own."""
        self._check_between("state_dict")
        point = self._previous or {}
        return saved_arrays(self._facts(), self.calls, self.structure.torch, self._buckets, point)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that this rank's `state_dict` gave, in a job of as many ranks; then all bits are as without the interruption.

        Raises
        ------
        ConfigError : it is another rank's, of other tensors, mechanisms, seed or exchange; nothing has been changed.
        """
        self._check_usable()
        self._check_between("load_state_dict")
        self.calls, point = load_arrays(self._facts(), state, self._buckets)
        self._previous = point or None

    def _check_between(self, what: str) -> None:
        if self._background is not None and self._background.open:
            raise ConfigError(f"{what} was called between start and wait; call wait first")

    def _facts(self) -> dict[str, Any]:
        """What has to be alike where a state is loaded."""
        return {
            "rank": self._rank,
            "size": self._size,
            "exchange": self.exchange,
            "seed": self._seed,
            "uplink": self.uplink,
            "downlink": self.downlink,
            "rules": described(self.rules),
            "bucket_nbytes": self._bucket_nbytes or 0,
            "tensors": sorted(self.structure.described()),
        }

    def close(self) -> None:
        """Give the communicator and the thread back; collective. The aggregator is of no use afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._background is not None:
            self._background.close()
            self._background = None
        if self.interrupted:  # what is under way may never end
            return
        for bucket in self._buckets:
            bucket.finish()
        if self._comm is not None:
            self._comm.free()
            self._comm = None


def _difference(mine: list[list[Any]], theirs: list[list[Any]]) -> str:
    """The first tensor in which two ranks differ."""
    for own, other in zip(mine, theirs, strict=False):
        if own != other:
            return f"tensor {own[0]!r} of shape {tuple(own[1])} ({own[2]}), not {other[0]!r} of shape {tuple(other[1])} ({other[2]}) as"
    return f"{len(mine)} tensors, not {len(theirs)} as"
