"""A thread that exchanges the buckets in their order, each as soon as its tensors are there, while the caller computes others."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from ..cluster.comm import mpi_initialized
from ..errors import AggregationError, ConfigError, EnvironmentMismatch, MpicompError
from .bucket import Bucket
from .tensors import Structure, check_shape


class Caller(Protocol):
    """What the thread asks of its aggregator."""

    structure: Structure

    def begin(self) -> None: ...

    def fill_tensor(self, bucket: Bucket, name: str, array: Any) -> None: ...

    def exchange_bucket(self, bucket: Bucket, failed: bool, scale: float) -> bool: ...


class Background:
    """The thread of an aggregator.

    The order of the buckets is fixed, so no two ranks wait for each other, whatever the order in which their gradients come.

    Attributes
    ----------
    open : something was started that has not been waited for.
    """

    def __init__(self, aggregator: Caller, buckets: list[Bucket]):
        if mpi_initialized():
            from mpi4py import MPI

            if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
                raise EnvironmentMismatch(
                    "start needs an MPI that several threads may call (MPI_THREAD_MULTIPLE); this one was started without; use mean"
                )
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
        self._ending = False

    def start(self, name: str, value: Any) -> Future[np.ndarray]:
        agg = self.aggregator
        if not self.open:
            self._reset()
            agg.begin()
            for bucket in self.buckets:
                bucket.given.V, bucket.given.change = bucket.given.own, None
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
            number = self._number[name]
            bucket = self.buckets[number]
            if value is not None:
                check_shape(tensor, value)
            agg.fill_tensor(bucket, name, value)
            part = bucket.given.own[0, bucket.places[name]]
            if not np.isfinite(part).all():
                at = int(np.flatnonzero(~np.isfinite(part))[0])
                raise ConfigError(f"{tensor.called} holds {part[at]} at entry {at}")
        except (MpicompError, TypeError, ValueError, KeyError) as error:
            self._errors.append(str(error))
            if number < 0 or name in self._futures:
                future.set_exception(AggregationError(str(error)))
                return future
            bucket.given.own[0, bucket.places[name]] = 0
        with self._changed:
            self._futures[name] = future
            self._missing[number].discard(name)
            self._changed.notify_all()
        return future

    def wait(self) -> tuple[bool, str]:
        """Wait for all buckets; returns whether some rank's vectors cannot be used, and what is wrong with this one's."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            while self._done < len(self._missing) and self._failure is None:
                self._changed.wait()
        self.open = False
        if self._failure is not None:
            raise self._failure
        return self._flagged, "; ".join(self._errors)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        agg = self.aggregator
        while True:
            with self._changed:
                while not self._closing and not self._ready():
                    self._changed.wait()
                if self._closing:
                    return
                number = self._done
                missing = list(self._missing[number])
            bucket = self.buckets[number]
            try:
                for name in missing:  # not started: zeros
                    bucket.given.own[0, bucket.places[name]] = 0
                self._flagged |= agg.exchange_bucket(bucket, bool(self._errors), 1.0)
            except BaseException as error:
                with self._changed:
                    self._failure = error
                    self._fail(error)
                    self._changed.notify_all()
                continue
            for name in bucket.places:
                future = self._futures.get(name)
                if future is not None:
                    future.set_result(bucket.result[0, bucket.places[name]])
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def _ready(self) -> bool:
        if not self.open or self._failure is not None or self._done >= len(self._missing):
            return False
        return not self._missing[self._done] or self._ending

    def _fail(self, error: BaseException) -> None:
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
