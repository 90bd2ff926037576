"""A process group of torch.distributed (gloo) in place of an MPI communicator: for jobs that torchrun starts."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..errors import ConfigError, RankFailure
from ..wire import HEADER_NBYTES, declared_nbytes
from .ledger import Ledger
from .messages import bytes_of
from .patient import PatientComm


class _Receive:
    """A receive that is under way."""

    def __init__(self, work: Any, buf: np.ndarray, source: int):
        self.work, self.buf, self.source = work, buf, source


class GroupComm(PatientComm):
    """The calls that the exchanges p2p, sharded, sliced and allreduce make, over gloo.

    A gloo group of its own is made, whatever the backend of `group`, so that no message meets one of the caller's. Collective.

    Parameters
    ----------
    group : a process group, of which this process is a rank. ledger : where the bytes are entered.

    Raises
    ------
    ConfigError : torch.distributed has not been initialised.
    """

    sums_in_a_ring = True

    def __init__(self, group: Any, ledger: Ledger | None = None):
        if not dist.is_initialized():
            raise ConfigError("torch.distributed is not initialised; call torch.distributed.init_process_group first")
        ranks = dist.get_process_group_ranks(group)
        self._group = dist.new_group(ranks, backend="gloo")
        self._global = ranks
        self.rank, self.size = dist.get_rank(self._group), len(ranks)
        self.ledger, self.purpose, self.now = ledger or Ledger(), "setup", time.perf_counter

    # ---- point to point ---------------------------------------------------------------------------------------------
    def isend(self, buf: np.ndarray, dest: int, tag: int = 0) -> Any:
        self.ledger.handed(self.purpose, "gloo isend", buf.nbytes)
        return dist.isend(torch.from_numpy(bytes_of(buf)), self._global[dest], self._group, tag)

    def irecv(self, buf: np.ndarray, source: int, tag: int = 0) -> Any:
        memory = bytes_of(buf)
        return _Receive(dist.irecv(torch.from_numpy(memory), self._global[source], self._group, tag), memory, source)

    def wait(self, request: Any) -> int:
        """Every message is a frame, whose header tells its length: gloo does not."""
        receive = request if isinstance(request, _Receive) else None
        if receive:
            self._wait(receive.work, f"rank {receive.source}")
            return HEADER_NBYTES + declared_nbytes(receive.buf)
        self._wait(request, "the receiver")
        return 0

    def _wait(self, work: Any, who: str) -> None:
        try:
            work.wait(timedelta(seconds=self.timeout))
        except RuntimeError as error:
            raise RankFailure(
                f"rank {self.rank} waits in call {self.call + 1} of the aggregator for {self.timeout:g} s at most: {who} has not made this "
                f"call, or is gone ({error})"
            ) from None

    # ---- collectives ------------------------------------------------------------------------------------------------
    def bcast(self, buf: np.ndarray, root: int = 0) -> None:
        self.ledger.handed(self.purpose, "gloo broadcast", buf.nbytes if self.rank == root else 0)
        dist.broadcast(torch.from_numpy(bytes_of(buf)), self._global[root], self._group)

    def allreduce_sum(self, values: np.ndarray) -> None:
        self.ledger.handed(self.purpose, "gloo all_reduce", values.nbytes)
        work = dist.all_reduce(torch.from_numpy(values), group=self._group, async_op=True)
        self._wait(work, "some rank")

    def sum_into(self, values: np.ndarray, total: np.ndarray) -> None:
        total[:] = values
        self.allreduce_sum(total)

    def bcast_json(self, value: Any, root: int = 0) -> Any:
        box = [value]
        dist.broadcast_object_list(box, self._global[root], self._group)
        return box[0]

    def gather_json(self, value: Any) -> list[Any] | None:
        table: list[Any] = [None] * self.size
        dist.all_gather_object(table, value, self._group)
        return table if self.rank == 0 else None

    def barrier(self) -> None:
        dist.barrier(self._group)

    def meet(self) -> None:
        dist.barrier(self._group)

    def free(self) -> None:
        dist.destroy_process_group(self._group)
        self._group = None  # with the last reference go gloo's threads, which must not outlive the interpreter

    @property
    def nodes(self) -> np.ndarray:
        if "_nodes" not in self.__dict__:
            names: list[Any] = [None] * self.size
            dist.all_gather_object(names, socket.gethostname(), self._group)
            self._nodes = np.array([names.index(name) for name in names])
        return self._nodes
