"""A communication hook for DistributedDataParallel: gradients are averaged by an Aggregator while backward goes on."""

# No `from __future__ import annotations` here: DistributedDataParallel looks at the hook's annotations.
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any

from ..aggregator import Aggregator
from ..errors import ConfigError
from .library import torch

dist = torch.distributed


class CommState:
    """What `hook` needs to know, for `ddp.register_comm_hook(CommState(aggregator), hook)`.

    What mechanisms remember belongs to parameters, so that DDP may rebuild its buckets.

    Parameters
    ----------
    aggregator : one made with `like=dict(model.named_parameters())`, all of which are trained.

    Raises
    ------
    ConfigError : the aggregator was made for something else than a dict of parameters, or for one rank of many.
    """

    def __init__(self, aggregator: Aggregator):
        parameters = aggregator.structure.parameters
        if not parameters:
            raise ConfigError(
                "make the aggregator for parameters by name: Aggregator(comm, dict(model.named_parameters()))"
            )
        if aggregator.ranks.size == 1 and dist.is_initialized() and dist.get_world_size() > 1:
            raise ConfigError(
                f"the aggregator is of one rank, the process group has {dist.get_world_size()}; make it with dist.group.WORLD or an mpi4py "
                "communicator, after torch.distributed.init_process_group"
            )
        self.aggregator = aggregator
        self.names = {id(parameter): name for name, parameter in parameters.items()}


def hook(state: CommState, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The mean of a bucket's gradients; see `torch.nn.parallel.DistributedDataParallel.register_comm_hook`."""
    agg = state.aggregator
    result: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    gradients, buffer = bucket.gradients(), bucket.buffer()
    try:
        names = [state.names[id(parameter)] for parameter in bucket.parameters()]
    except KeyError:
        raise ConfigError(
            "DDP reduces a parameter that the aggregator was not made for; make it with dict(model.named_parameters())"
        ) from None
    waiting: list[Future[Any]] = [agg.start(name, gradient) for name, gradient in zip(names, gradients, strict=True)]
    if bucket.is_last():
        waiting.append(agg.finish())
    left, lock = len(waiting), threading.Lock()
    failed: list[BaseException] = []

    def arrived(number: int, future: Future[Any]) -> None:
        nonlocal left
        error = future.exception()
        if error is None and number < len(gradients):
            try:
                gradients[number].copy_(torch.from_numpy(future.result()).view_as(gradients[number]))
            except Exception as found:  # the future would keep it, and backward wait for ever
                error = found
        with lock:
            if error is not None:
                failed.append(error)
            left -= 1
            last = left == 0
        if not last:
            return
        if failed:
            exception: Any = failed[-1]
            result.set_exception(exception)
        else:
            result.set_result(buffer)

    for number, future in enumerate(waiting):
        future.add_done_callback(partial(arrived, number))
    return result
