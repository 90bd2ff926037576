"""From the name of an exchange, and the number of ranks, to its class."""

from __future__ import annotations

from ..errors import ConfigError
from .base import Exchange, exchanges
from .local import LocalExchange

AUTO = "auto"  # p2p over several processes


def exchange_kind(name: str, ranks: int, own: type[Exchange] | None = None) -> type[Exchange]:
    """The class of the exchange of a run over so many ranks. One process runs in-process, whatever exchange over MPI is named.

    Parameters
    ----------
    name : in the registry, or "auto". own : a class in its place.

    Raises
    ------
    ConfigError : an unknown name, or an exchange of one process over several.
    """
    kind = own or exchanges["p2p" if name == AUTO else name]
    if ranks == 1:
        return LocalExchange if kind.over_mpi else kind
    if not kind.over_mpi:
        raise ConfigError(
            f"«exchange={kind.name!r}» runs in one process, but {ranks} were started; use p2p or collective, or start one"
        )
    return kind
