"""The short names of the library: registering your own parts, building a compressor from text, and who hosts what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from .cluster.counts import checked_communicator
from .compressors import Compressor, compressors
from .exchanges.base import Exchange, exchanges
from .exchanges.kinds import exchange_kind
from .mechanisms.base import downlinks, uplinks
from .methods import methods
from .optimizers import optimizers
from .problems import Problem, problems

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

    from .problems.linear_model import ClassifierOptions, LinearOptions
    from .problems.matrix_factorization import FactorizationOptions
    from .problems.multinomial import MultinomialOptions

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


def _from_arrays(name: str, A: Any, b: Any, options: Mapping[str, Any]) -> Problem:
    return problems.build(name, {"data": (A, b), **options})


def logistic(A: Any, b: Any, **options: Unpack[ClassifierOptions]) -> Problem:
    """Logistic regression on arrays, for `run(problem=...)`: f_i(x) = mean of log(1 + exp(−y aᵀx)) over client i's rows, + λ Σ x²/(1 + x²).

    Parameters
    ----------
    A : features, shape (N, d): an array, a sparse matrix of SciPy, or a data frame of numbers.
    b : labels, shape (N,): two different numbers or texts, of which the lower means −1; of more, see `positive`.
    options : clients=20, partition="contiguous", reg=0.1 (λ), regularizer="nonconvex", "ridge" or "none", seed=0, bias=False,
        scale="maxabs", "unit" or "largest", positive (one label against the rest), test=0.2 or a pair (A, b) for test loss and accuracy.

    Raises
    ------
    DataError : shapes that do not fit, an entry that is not finite, labels of one kind; names the entry.
    ConfigError : an unknown option, or a value that it cannot have.

    >>> import numpy as np
    >>> A = np.random.default_rng(0).normal(size=(40, 3))
    >>> problem = logistic(A, np.sign(A[:, 0]), clients=4, reg=0.01, regularizer="ridge")
    >>> problem.dim, problem.n_clients
    (3, 4)
    """
    return _from_arrays("logistic", A, b, options)


def least_squares(A: Any, b: Any, **options: Unpack[LinearOptions]) -> Problem:
    """Least squares on arrays: f_i(x) = mean of (aᵀx − y)² over client i's rows, + (λ/2)‖x‖²; with reg=λ ridge regression.

    Parameters and errors are those of `logistic`; labels are numbers, reg is 0 and regularizer "ridge" unless given; of the test there is
    the loss.
    """
    return _from_arrays("least_squares", A, b, options)


def huber(A: Any, b: Any, delta: float = 1.0, **options: Unpack[LinearOptions]) -> Problem:
    """Huber regression on arrays: residuals count quadratically up to delta, linearly beyond. Otherwise as `least_squares`, with ½ before
    the squares."""
    return _from_arrays("huber", A, b, {"delta": delta, **options})


def smoothed_hinge(A: Any, b: Any, width: float = 1.0, **options: Unpack[ClassifierOptions]) -> Problem:
    """A support vector machine on arrays: the hinge max(0, 1 − y aᵀx), smoothed over `width`, + (λ/2)‖x‖². Otherwise as `logistic`."""
    return _from_arrays("smoothed_hinge", A, b, {"width": width, **options})


def multinomial(A: Any, b: Any, **options: Unpack[MultinomialOptions]) -> Problem:
    """Multinomial logistic regression on arrays, for any number of classes: numbers or texts.

    Parameters and errors are those of `logistic`; reg is 0 and ridge, partition is "shuffled", and 0.2 of the rows are for the test unless
    `test` says otherwise.
    """
    return _from_arrays("multinomial", A, b, options)


def matrix_factorization(A: Any, **options: Unpack[FactorizationOptions]) -> Problem:
    """Factors of a matrix of which some entries are known: the mean over client i's entries of (u_rᵀv_c − a_rc)², + (λ/2)(‖U‖² + ‖V‖²).

    Parameters
    ----------
    A : shape (N, d): a sparse matrix of SciPy, whose stored entries are known, or an array, whose entries other than 0 are.
    options : rank=8, clients=20, partition="contiguous" (of the rows), reg=0 (λ), seed=0, test=0.2 (share of the entries).

    Raises
    ------
    DataError : an entry that is not finite, a client without entries. ConfigError : as for `logistic`.
    """
    return _from_arrays("matrix_factorization", A, np.zeros(A.shape[0] if hasattr(A, "shape") else len(A)), options)
