"""Compressors written to the simple contract: three methods on one vector, called once per message."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, WireError
from ..kernels.random import client_key
from ..kernels.status import TRUNCATED
from .codec import USER_CODEC, Codec, Described, MessageKey


class Simple(Described, Protocol):
    """The three methods; see `Compressor`."""

    def max_nbytes(self, d: int, dtype: np.dtype) -> int: ...

    def encode(self, x: np.ndarray, out: np.ndarray, key: MessageKey) -> int: ...

    def decode(self, buf: np.ndarray, out: np.ndarray, key: MessageKey) -> None: ...


def simple_capacity(compressor: Simple, dim: int, wire_dtype: np.dtype) -> int:
    """`max_nbytes` of a compressor written to the simple contract.

    Raises
    ------
    ConfigError : it is not a number of bytes, or the method does not take (d, dtype).
    """
    if len(inspect.signature(compressor.max_nbytes).parameters) < 2:
        raise ConfigError(
            f"{type(compressor).__name__}.max_nbytes must take (d, dtype): dtype is that of the values on the wire, which are to be "
            "written in x.dtype"
        )
    capacity = compressor.max_nbytes(dim, wire_dtype)
    if not isinstance(capacity, int | np.integer) or capacity < 0:
        raise ConfigError(f"{compressor!r}: max_nbytes({dim}, {wire_dtype}) is {capacity!r}, not a number of bytes")
    if capacity >= 2**32 - 4:
        raise ConfigError(
            f"{compressor!r}: messages of {capacity} bytes have no length that fits the 4 bytes before them; compress in parts"
        )
    return int(capacity)


def looped(compressor: Simple, dim: int, n_clients: int, wire_dtype: np.dtype, capacity: int) -> Codec:
    """A codec that calls the simple contract once per message; each message is preceded by its length (u32)."""
    scratch = np.empty(dim, wire_dtype)

    def encode(
        V: np.ndarray, rows: np.ndarray, clients: np.ndarray, shared: Any, private: Any, buf: np.ndarray, pos: int,
        tally: np.ndarray, _wire: np.ndarray,
    ) -> int:  # fmt: skip
        for row, client in zip(rows, clients, strict=True):
            key = MessageKey(shared, np.uint64(client_key(private, client)), int(client), n_clients)
            x = V[row].astype(wire_dtype, copy=False).view()
            x.flags.writeable = False
            try:
                written = compressor.encode(x, buf[pos + 4 : pos + 4 + capacity], key)
            except Exception as error:
                error.add_note(
                    f"in encode of {compressor!r}, whose max_nbytes({dim}, {wire_dtype}) is {capacity}; x is read-only"
                )
                raise
            if not isinstance(written, int | np.integer):
                raise WireError(f"{compressor!r}: encode returned {written!r}, not the length of the message in bytes")
            nbytes = int(written)
            if not 0 <= nbytes <= capacity:
                raise WireError(
                    f"{compressor!r} wrote {nbytes} bytes, its max_nbytes({dim}, {wire_dtype}) is {capacity}"
                )
            buf[pos : pos + 4].view(np.uint32)[0] = nbytes
            tally += 8 * (4 + nbytes), 8 * nbytes
            pos += 4 + nbytes
        return pos

    def decode(
        buf: np.ndarray, pos: int, end: int, rows: np.ndarray, clients: np.ndarray, weights: np.ndarray, shared: Any, private: Any,
        out: np.ndarray, _wire: np.ndarray,
    ) -> int:  # fmt: skip
        for row, client, weight in zip(rows, clients, weights, strict=True):
            if pos + 4 > end:
                return TRUNCATED
            nbytes = int(buf[pos : pos + 4].view(np.uint32)[0])
            pos += 4
            if nbytes > capacity or pos + nbytes > end:
                return TRUNCATED
            key = MessageKey(shared, np.uint64(client_key(private, client)), int(client), n_clients)
            message = buf[pos : pos + nbytes].view()
            message.flags.writeable = False
            compressor.decode(message, scratch, key)
            out[row] += np.multiply(scratch, weight, dtype=np.result_type(scratch, out))
            pos += nbytes
        return pos

    return Codec(compressor, USER_CODEC, dim, n_clients, wire_dtype, capacity + 4, encode, decode)
