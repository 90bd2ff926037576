"""The short names of the library: registering your own parts, building a compressor from text, and who hosts what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cluster.counts import checked_communicator
from .compressors import Compressor, compressors
from .exchanges.base import Exchange, exchanges
from .exchanges.kinds import exchange_kind
from .mechanisms.base import downlinks, uplinks
from .methods import methods
from .optimizers import optimizers
from .problems import problems

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

register_compressor = compressors.register
register_downlink = downlinks.register
register_exchange = exchanges.register
register_method = methods.register
register_optimizer = optimizers.register
register_problem = problems.register
register_uplink = uplinks.register


def compressor(text: str, **options: float | str | None) -> Compressor:
    """A compressor from its text, for instance `compressor("topk:k=10")` or `compressor("topk", k=10)`.

    Raises
    ------
    ConfigError : an unknown name or option, or a value that the option cannot have.
    """
    return compressors.create(text, **options)


def hosted_clients(n_clients: int, comm: MPIComm | None = None, exchange: type[Exchange] | str = "auto") -> range:
    """The clients that this rank hosts in a run with `comm` and `exchange`. A problem is asked for these alone.

    Parameters
    ----------
    n_clients : n. comm : an mpi4py communicator; None for one process, which hosts everybody.
    exchange : as for `run`. With a star (p2p, collective, hierarchical) rank 0 is the server and hosts nobody; so it is with "auto", unless
        the problem says `holds_all`, and may then be asked for any client.

    >>> hosted_clients(20)
    range(0, 20)

    Raises
    ------
    ConfigError : an unknown exchange, too few clients for so many ranks, or a communicator that no run can use.
    """
    checked_communicator(comm)
    rank, size = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())
    name, own = (exchange, None) if isinstance(exchange, str) else ("auto", exchange)
    first = exchange_kind(name, size, own).place(n_clients, size).first
    return range(int(first[rank]), int(first[rank + 1]))
