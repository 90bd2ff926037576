"""A thread that exchanges the buckets in their order, each as soon as its tensors are there, while the caller computes others."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from ..cluster.comm import refuse_single_thread
from ..errors import AggregationError, ConfigError
from .bucket import Vector
from .tensors import Structure, check_shape, not_finite, told


class Caller(Protocol):
    """What the thread asks of its aggregator."""

    structure: Structure
    interrupted: str

    def begin(self) -> None: ...

    def fill_tensor(self, bucket: Vector, name: str, array: Any) -> None: ...

    def exchange_bucket(self, bucket: Vector, failed: bool, scale: float) -> bool: ...

    def end(self, flagged: bool, error: str) -> None: ...


class Background:
    """The thread of an aggregator.

    The order of the buckets is fixed, so no two ranks wait for each other, whatever the order in which their gradients come.

    Attributes
    ----------
    open : something was started that has not been waited for.
    """

    def __init__(self, aggregator: Caller, buckets: list[Vector]):
        refuse_single_thread()
        self.aggregator, self.buckets = aggregator, buckets
        self._number = {name: number for number, bucket in enumerate(buckets) for name in bucket.places}
        self.open = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._reset()

    def _reset(self) -> None:
        self._missing = [set(bucket.places) for bucket in self.buckets]
        self._futures: dict[str, Future[np.ndarray]] = {}
        self._errors: list[str] = []
        self._failure: BaseException | None = None
        self._done = 0
        self._flagged = False
        self._ended: Future[None] | None = None

    def start(self, name: str, value: Any) -> Future[np.ndarray]:
        agg = self.aggregator
        if not self.open:
            self._reset()
            agg.begin()
            for bucket in self.buckets:
                bucket.target = None
                bucket.given.clear()
            self.open = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mpicomp-aggregator", daemon=True)
                self._thread.start()
        future: Future[np.ndarray] = Future()
        number = -1
        try:
            tensor = agg.structure.named(name)
            if name in self._futures:
                raise ConfigError(f"tensor {name!r} was started twice in one call; call wait in between")
            if tensor.size == 0:  # no bucket has it
                future.set_result(np.empty(0, tensor.dtype))
                return future
            number = self._number[name]
            bucket = self.buckets[number]
            if value is not None:
                check_shape(tensor, value)
            agg.fill_tensor(bucket, name, value)
            if wrong := not_finite(tensor, bucket.given.own[0, bucket.places[name]]):
                raise ConfigError(wrong)
        except Exception as error:
            self._errors.append(told(error))
            if number < 0 or name in self._futures:
                future.set_exception(AggregationError(told(error)))
                return future
            bucket.given.own[0, bucket.places[name]] = 0
        with self._changed:
            self._futures[name] = future
            self._missing[number].discard(name)
            self._changed.notify_all()
        return future

    def finish(self) -> Future[None]:
        """No more tensors come in this call; the future is done when it has ended, with the error that all ranks raise."""
        ended: Future[None] = Future()
        with self._changed:
            self._ended = ended
            self._changed.notify_all()
        return ended

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        left: list[Future[Any]] = [*self._futures.values(), *([self._ended] if self._ended is not None else [])]
        for future in left:
            if not future.done():
                future.set_exception(ConfigError("the aggregator was closed before its call had ended"))
        self.open = False

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closing and not self._ready():
                    self._changed.wait()
                if self._closing:
                    return
                number, failure = self._done, self._failure
            if failure is not None:
                self._stop(failure)
                continue
            try:
                if number < len(self.buckets):
                    self._exchange(number)
                    continue
                self.aggregator.end(self._flagged, self._said())
            except BaseException as error:
                if not isinstance(error, AggregationError):
                    self.aggregator.interrupted = told(error)
                for future in self._futures.values():
                    if not future.done():
                        future.set_exception(error)
                self._stop(error)
                continue
            self._stop(None)

    def _said(self) -> str:
        """What is wrong with this rank's vectors: the first of its errors, and how many more there are."""
        more = len(self._errors) - 1
        return (self._errors or [""])[0] + (f" (and {more} more)" if more > 0 else "")

    def _exchange(self, number: int) -> None:
        bucket = self.buckets[number]
        for name in self._missing[number]:  # not started: zeros
            bucket.given.own[0, bucket.places[name]] = 0
        self._flagged |= self.aggregator.exchange_bucket(bucket, bool(self._errors), 1.0)
        for name, place in bucket.places.items():
            if name in self._futures:
                self._futures[name].set_result(bucket.result[0, place])
        with self._changed:
            self._done += 1

    def _stop(self, error: BaseException | None) -> None:
        """The call has ended; its error goes to whoever asks for its end, now or later."""
        with self._changed:
            self._failure, ended = error, self._ended
            self.open = ended is None
        if ended is not None:
            ended.set_exception(error) if error else ended.set_result(None)

    def _ready(self) -> bool:
        if not self.open or (self._failure is not None and self._ended is None):
            return False
        if self._failure is not None or self._done == len(self.buckets):
            return self._ended is not None
        return not self._missing[self._done] or self._ended is not None
