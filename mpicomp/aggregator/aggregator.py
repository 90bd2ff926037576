"""The aggregator: the mean of the ranks' vectors, compressed on the way up and down, in a loop of one's own.

It is a round of a run without its problem and optimizer: the same mechanisms, exchanges, keys and ledger, and the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster.clock import COMPUTE, PHASES, WAIT, Clock
from ..cluster.counts import checked_communicator
from ..cluster.ledger import Ledger
from ..cluster.patient import PatientComm
from ..errors import AggregationError, ConfigError, RankFailure
from ..exchanges.base import Exchange
from ..exchanges.kinds import AUTO
from ..streams import be_silent
from .background import Background
from .bucket import TWO_POINTS, Bucket, Vector
from .buckets import BucketMaker, named_kind, take_over
from .dense import DenseBucket
from .points import TwoPoints
from .ranks import Ranks
from .report import Report
from .rules import Rule, described, grouped, held, split
from .state import load_arrays, saved_arrays
from .tensors import Structure, check_writable, copy_in, copy_out, not_finite, told

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

_WEIGHTS = 1e-30, 1e30


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
        self.structure = Structure(like)
        self._seed, self.weighted, self._bucket_nbytes, self._timeout = seed, weighted, bucket_nbytes, timeout
        self.calls = 0
        self.interrupted = ""  # by what a call was, so that messages of it may still be under way
        self._closed = False
        self._late = ""  # what was found wrong while others exchanged
        self._ledger = Ledger()
        self.last = Report(-1, np.zeros(len(PHASES)), np.zeros_like(self._ledger.traffic))
        self._points = TwoPoints(self.structure)
        self._background: Background | None = None
        self._clock = Clock(time.perf_counter)
        opened, rank = _opened(comm, exchange, self._ledger, timeout)
        if rank > 0:
            be_silent()
        self.ranks = Ranks(opened, rank)
        self._maker = BucketMaker(exchange, opened, seed, self._clock, self._ledger)
        self._set_up(uplink, downlink, tuple(rules))

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
        self.ranks.compare_options(
            [*alike, self._seed, self.weighted, self._bucket_nbytes, str(self._maker.exchange)], error
        )
        self._buckets = self._maker.make(groups, uplink, downlink)
        self.uplink, self.downlink, self.rules = uplink, downlink, rules
        self.exchange = "+".join(dict.fromkeys(bucket.exchange_name for bucket in self._buckets))
        self._bucket_of = {name: bucket for bucket in self._buckets for name in bucket.places}
        self.hosts = self._buckets[0].hosts
        self._maker.warm_up(self._buckets, downlink, self.ranks.rank)

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
        kept = take_over(self._buckets, before)
        for old, _ in before:
            old.finish()
        if any(bucket.two_points and bucket not in kept for bucket in self._buckets):
            self._points.forget(self._buckets)

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
        self._points.begin()
        self._late = ""
        arrays: dict[str, Any] = {}
        error, cause = "", None
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
                    self._points.give(evaluate, at, self._buckets)
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
            if any(isinstance(bucket, Bucket) for bucket in self._buckets):
                failed = self.ranks.any(bool(error))
                self._clock.lap(WAIT)
                if failed:  # before anything is sent or remembered
                    self.ranks.fail(self.calls, error, cause)
            scale = self._scale(0.0 if error or weight is None else weight)
            flagged = False
            for bucket in self._buckets:
                bucket.target = None
                if isinstance(bucket, DenseBucket) and bucket.given.V is not bucket.given.own and not error:
                    bucket.target = bucket.given.V if in_place else np.empty_like(bucket.given.V)
                flagged |= self.exchange_bucket(bucket, bool(error), scale)
            self.end(flagged, error or self._points.error or self._late, cause)
        except AggregationError:
            raise
        except BaseException as found:  # Ctrl-C, too: the next call would take messages under way for its own
            self.interrupted = told(found)
            raise
        self._points.end()
        return arrays

    def begin(self) -> None:
        """A call begins now; for `start`'s thread."""
        self._clock.start_round()
        self._before = self._clock.seconds.copy(), self._ledger.traffic.copy()
        if self.ranks.comm is not None:
            self.ranks.comm.call = self.calls

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
                given.change = lambda: given.own
                self._late = f"a weight of {scale:g} times the mean takes the vector above the largest number"
        return bucket.exchange_mean(self.calls, failed)

    def compare(self, described: str, remedy: str, error: str = "") -> None:
        """All ranks give the same text, or all raise ConfigError, which says whose differs, and the remedy. Collective.

        error : what is wrong on this rank, where something is; then all ranks raise it.
        """
        (first, reference), *others = self.ranks.table(described, error)
        for rank, text in others:
            if text != reference:
                raise ConfigError(f"rank {rank} has {text}, and rank {first} has {reference}; {remedy}")

    def end(self, flagged: bool, error: str, cause: BaseException | None = None) -> None:
        """A call ends; raises AggregationError where some rank could not give its vectors. For `start`'s thread."""
        seconds, traffic = self._before
        self.last = Report(self.calls, self._clock.seconds - seconds, self._ledger.traffic - traffic)
        self.calls += 1
        if not flagged:
            if error:  # found after the last bucket had gone
                raise AggregationError(f"call {self.calls}: rank {self.ranks.rank}: {error}")
            return
        self._points.forget(self._buckets)
        self.ranks.fail(self.calls, error or self._not_finite(dense=True), cause)

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
        point = self._points.previous or {}
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
        self._points.previous = point or None

    def _check_between(self, what: str) -> None:
        if self._background is not None and self._background.open:
            raise ConfigError(f"{what} was called between start and wait; call wait first")

    def _facts(self) -> dict[str, Any]:
        """What has to be alike where a state is loaded."""
        return {
            "rank": self.ranks.rank,
            "size": self.ranks.size,
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
        if self.ranks.comm is not None:
            self.ranks.comm.free()
            self.ranks.comm = None


def _opened(
    comm: MPIComm | Any | None, exchange: type[Exchange] | str, ledger: Ledger, timeout: float
) -> tuple[PatientComm | None, int]:
    """The communicator, None for one process; and this process's rank."""
    group = type(comm).__module__.startswith("torch.")  # a process group of torch.distributed
    opened: PatientComm
    if group:
        from ..cluster.group import GroupComm  # it imports PyTorch, which is there where a group is

        opened = GroupComm(comm, ledger)
    else:
        checked_communicator(comm)
        if comm is None or comm.Get_size() == 1:
            return None, 0
        opened = PatientComm(comm, ledger, by_node=named_kind(exchange, comm.Get_size()).by_node)
    opened.timeout, opened.purpose = timeout, "round"
    return opened, opened.rank
