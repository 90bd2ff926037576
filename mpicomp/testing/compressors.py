"""The conformance suite of compressors, for anybody's compressor."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from ..compressors import Compressor, compressors
from ..errors import ConfigError, MpicompError
from .damage import check_cutting, check_damaged
from .faults import fail
from .messages import UNTOUCHED, Messages, name_of
from .promises import check_ab, check_constants, check_homogeneous, check_promises

KEYS = 40  # among so many a random compressor writes two messages that differ
LARGEST_DRAWN = 64  # promises are checked by draws up to this dimension
VECTORS = 5


def check_compressor(
    compressor: Compressor | str,
    *,
    dims: Sequence[int] = (1, 2, 7, 8, 64, 1000),
    dtypes: Sequence[str] = ("float32", "float64"),
    n_clients: int = 4,
    finite: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> None:
    """Check that a compressor keeps the contract and its own promises.

    Sizes, round trips (by hand, as in a run, through `compress`), keys, dtypes of the wire, odd inputs, damaged messages, cutting.
    And by draws the declared class with its constants ω, α, (A, B), θ, each mean to five standard errors.
    With the same arguments the verdict is the same.

    Parameters
    ----------
    compressor : an object, or its text ("topk:k=10").
    dims : dimensions d; those that its options do not fit are left out. The promises are checked by draws for d ≤ 64 (the smallest d else).
    dtypes : "float32", "float64": of vectors and wire. n_clients : n.
    finite : the compressor takes only vectors without NaN and Inf, and says so; then it is not asked what becomes of them.
    draws : of C(x), for each of five vectors. seed : of vectors and keys.

    Raises
    ------
    AssertionError : the first fault, with the input that shows it, and what to do.

    >>> from mpicomp.testing import check_compressor
    >>> check_compressor("topk:k=3", draws=100)
    """
    chosen: Compressor = compressors.create(compressor) if isinstance(compressor, str) else compressor
    found = [_bound(chosen, d, n_clients, dtypes, seed) for d in dims]
    fitting = [bound for bound in found if isinstance(bound, list)]
    if not fitting:
        fail(
            name_of(chosen),
            {"dims": list(dims)},
            f"its options fit none of the dimensions; {found[-1]}",
            "Give others as dims",
        )
    used = [bound for bound in fitting if not any(messages.dense for messages in bound)]
    if not used:
        fail(
            name_of(chosen), {"dims": list(dims)},
            "its messages are not shorter than the vectors in any of these dimensions, so that a run sends the vectors themselves",
            "Let max_nbytes(d, dtype) be smaller than d · dtype.itemsize − 4, or give larger dims",
        )  # fmt: skip
    with np.errstate(all="ignore"):
        _check_all(chosen, used, finite, draws)


def _check_all(compressor: Compressor, used: list[list[Messages]], finite: bool, draws: int) -> None:
    """All checks, for the dimensions in which a run sends messages."""
    random = False
    for bound in used:
        for messages in bound:
            check_constants(messages)
            random |= _check_keys(messages)
            _check_one_message(messages)
            _check_block(messages)
            _check_odd_inputs(messages, finite)
            check_homogeneous(messages)
            check_damaged(messages)
            check_cutting(messages)
    largest = used[-1][0]
    if not random and not compressor.deterministic and largest.d > 1:
        largest.fail(f"{KEYS} keys gave the same message", "Set deterministic = True, or draw from the key")
    drawn = [bound for bound in used if bound[0].d <= LARGEST_DRAWN] or used[:1]
    for bound in drawn:
        for messages in bound:
            check_promises(messages, draws, VECTORS if messages is bound[-1] else 1)
            check_ab(messages, max(8, draws // messages.n))


def _bound(compressor: Compressor, d: int, n: int, dtypes: Sequence[str], seed: int) -> list[Messages] | ConfigError:
    """Its messages in each dtype, or why its options do not fit d."""
    try:
        bound = [Messages(compressor, d, n, dtype, seed) for dtype in dtypes]
    except ConfigError as error:
        return error
    for messages in bound:
        dense = d * messages.dtype.itemsize
        if messages.codec.max_nbytes > dense:
            messages.fail(
                f"max_nbytes of its codec is {messages.codec.max_nbytes}, more than the {dense} bytes of the vector",
                "Where that is so, let bind return mpicomp.compressor('identity').bind(...)",
            )
    return bound


def _check_keys(messages: Messages) -> bool:
    """The same key, the same bytes, whatever was encoded before; returns whether other keys gave others."""
    x, y = messages.vectors()[:1].repeat(2, axis=0)[0], messages.vectors()[-1]
    encode, key = messages.encode, messages.key()
    first = encode(x, key)
    encode(y, messages.key(round=1))
    again, fresh = (
        encode(x, key),
        Messages(copy.deepcopy(messages.compressor), messages.d, messages.n, messages.dtype.name, messages.seed).encode(
            x, key
        ),
    )
    if not first.tobytes() == again.tobytes() == fresh.tobytes():
        messages.fail(
            "the same vector and key gave two different messages",
            "A compressor has no state, and its randomness comes only from the key (key.uniform, key.normal, key.permutation)",
        )
    others = [
        encode(x, messages.key(client, round)) for round in range(KEYS // messages.n) for client in range(messages.n)
    ]
    differ = any(first.tobytes() != other.tobytes() for other in others)
    if differ and messages.compressor.deterministic:
        messages.fail(
            "deterministic is declared, but the message depends on the key",
            "Set deterministic = False, or draw no random numbers",
        )
    return differ or any(
        messages.read(first, key).tobytes()
        != messages.read(other, messages.key(i % messages.n, i // messages.n)).tobytes()
        for i, other in enumerate(others)
    )


def _check_one_message(messages: Messages) -> None:
    """Round trips by hand: encode and decode, compress and decompress, apply."""
    key, compressor = messages.key(client=messages.n - 1), messages.compressor
    for x in messages.vectors():
        message = messages.encode(x, key)
        y = messages.read(message, key)
        if y.tobytes() != messages.decode(message, key, before=-3 * UNTOUCHED).tobytes():
            messages.fail(
                "decode leaves entries of out as they were", "Fill all of out, for instance by out[:] = 0 first"
            )
        if not np.all(np.isfinite(y)):
            messages.fail(
                "a finite vector is decoded as one with NaN or Inf",
                "Check the formula for overflow and division by zero",
            )
        _check_dtype_of_values(messages, x, y, message)
        by_bytes, applied = compressor.decompress(compressor.compress(x, key)), compressor.apply(x, key)
        for what, other in (("decompress(compress(x))", by_bytes), ("apply(x)", applied)):
            if other.dtype != x.dtype or other.tobytes() != y.tobytes():
                messages.fail(
                    f"{what} is not what decode gives for the message of encode", "Leave these methods as they are"
                )


def _check_dtype_of_values(messages: Messages, x: np.ndarray, y: np.ndarray, message: np.ndarray) -> None:
    """In a float32 message there are no float64 forms of the vector's or the decoded vector's entries."""
    if messages.dtype != np.float32 or messages.codec.round_maximum is not None:
        return
    data = message.tobytes()
    values = np.unique(np.concatenate([x, y]))[:256]
    for value in values[values != 0]:
        if float(value).hex().count("0") < 12 and np.float64(value).tobytes() in data:
            messages.fail(
                f"the message of {len(data)} bytes holds the entry {value:.6g} as float64, where the wire's values are float32",
                "Write values in x.dtype: x.astype(x.dtype), not x.astype(float) or np.float64",
            )


def _check_block(messages: Messages) -> None:
    """The messages of all clients in a frame are those by hand, and decode to the same vectors."""
    V, codec = messages.vectors(), messages.codec
    data, tally = messages.block(V, 1)
    Y = messages.unblock(data, 1)
    if tally[0] != 8 * len(data) or not 0 <= tally[1] <= tally[0]:
        messages.fail(
            f"the tally counts {tally[0]} bits, {tally[1]} of them values, for {len(data)} bytes",
            "Count all bits that are written, and at most those as values",
        )
    if codec.fixed and len(data) != messages.n * codec.max_nbytes:
        messages.fail(
            f"its codec says that all messages have {codec.max_nbytes} bytes, {messages.n} of them have {len(data)}",
            "Set fixed=False, or let max_nbytes be the length",
        )
    for client in range(messages.n if codec.round_maximum is None else 0):
        key = messages.key(client, 1)
        message = messages.encode(V[client], key)
        alone, _ = messages.block(V[client : client + 1], 1, messages.clients[client : client + 1])
        head = len(alone) - len(message) if messages.simple else 0  # its length is written before it
        if alone[head:].tobytes() != message.tobytes() or messages.read(message, key).tobytes() != Y[client].tobytes():
            messages.fail(
                f"client {client}'s message in a frame is not the one that encode gives by hand, or decodes to another vector",
                "Encode and decode must depend on their arguments alone; where bind is defined, leave encode and decode as they are",
            )


def _check_odd_inputs(messages: Messages, finite: bool) -> None:
    """Zeros, numbers that are not finite, very large and very small ones."""
    kind = messages.dtype.type
    compressor = messages.compressor
    keeps_zero = compressor.unbiased or compressor.contractive or compressor.homogeneous
    for zero in (0.0, -0.0) if keeps_zero else ():
        if np.any(messages.sent(np.full((messages.n, messages.d), zero, messages.dtype)) != 0):
            messages.fail("the zero vector is not decoded as zero", "Mind the division by a norm of zero")
    for scale in (1e30, 1e-30, 1e-40):
        messages.sent(kind(scale) * messages.vectors())
    for bad in () if finite else (np.nan, np.inf, -np.inf):
        _check_not_finite(messages, bad)


def _check_not_finite(messages: Messages, bad: float) -> None:
    """Where half of a vector (or all of it) is NaN or Inf, some message of many tells, or is refused."""
    for share in (1, 2):
        for round in range(1 if share == 1 else 60):
            V = messages.vectors()
            V[:, messages.rng.permutation(messages.d)[: -(-messages.d // share)]] = bad
            try:
                data, _ = messages.block(V, round)
                Y = messages.unblock(data, round)
            except AssertionError as fault:
                if isinstance(fault.__context__, MpicompError | ValueError | ArithmeticError):
                    return  # refused in so many words
                raise
            except (MpicompError, ValueError, ArithmeticError):
                return
            if not np.all(np.isfinite(Y)):
                break
        else:
            messages.fail(
                f"a vector with {bad} in {'every entry' if share == 1 else 'half of its entries'} is decoded as a finite one",
                "Let NaN and Inf arrive, so that a run that diverges is noticed (mind that NaN compares as smaller than nothing), or raise",
            )
