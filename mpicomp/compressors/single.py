"""One message at a time through a codec, whose kernels handle blocks of them."""

from __future__ import annotations

import numpy as np

from ..errors import WireError
from ..kernels.random import Keys, exchange_private
from .codec import Codec, MessageKey

_ROW, _MAXIMUM = np.zeros(1, np.int64), np.dtype(np.float64)


def _head(codec: Codec) -> int:
    """Bytes before the message: of the number that the clients of a run share beforehand, where the codec has one."""
    return 0 if codec.round_maximum is None else _MAXIMUM.itemsize


def _addressed(codec: Codec, key: MessageKey) -> tuple[Keys, np.ndarray, int]:
    """The keys of the exchange, the client, and where the message begins."""
    return Keys(key.shared, exchange_private(key.private, key.client)), np.array([key.client]), _head(codec)


def capacity(codec: Codec) -> int:
    """No message is longer, bytes."""
    return _head(codec) + codec.max_nbytes


def encode(codec: Codec, x: np.ndarray, out: np.ndarray, key: MessageKey) -> int:
    """Write the message for x, shape (d,), into `out` (uint8); returns its length in bytes."""
    keys, client, head = _addressed(codec, key)
    V = np.ascontiguousarray(x).reshape(1, -1)
    if codec.round_maximum is not None and codec.measure is not None:
        codec.round_maximum[0] = codec.measure(V, _ROW, client, keys)[0]
        out[:head] = codec.round_maximum.view(np.uint8)
    return codec.encode(V, _ROW, client, keys, out, head, np.zeros(2, np.int64))


def decode(codec: Codec, buf: np.ndarray, out: np.ndarray, key: MessageKey) -> None:
    """Fill `out`, shape (d,), with the vector that the message `buf` stands for.

    Raises
    ------
    WireError : the bytes are not what the codec writes.
    """
    keys, client, head = _addressed(codec, key)
    if len(buf) < head:
        raise WireError(f"truncated {codec.compressor.name} message")
    if codec.round_maximum is not None:
        codec.round_maximum[0] = codec.checked_maximum(buf[:head].copy().view(_MAXIMUM)[0])
    out[:] = 0
    codec.decode_add(buf, head, len(buf), _ROW, client, np.full(1, codec.scale, out.dtype), keys, out.reshape(1, -1))
