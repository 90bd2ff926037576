"""A compressor at one dimension and dtype, its messages written and read between guard bytes."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..compressors import Codec, Compressor, MessageKey
from ..compressors.identity import Identity
from ..errors import WireError
from ..kernels.random import Keys, uplink_keys
from .faults import fail, text_of

GUARD, SLACK = 0xAB, 4096  # bytes of this value lie around what may be written
UNTOUCHED = 7.0  # likewise for decoded values


def name_of(compressor: Compressor) -> str:
    """Its repr, where its options can be told."""
    try:
        return repr(compressor)
    except AttributeError:
        return type(compressor).__name__


class Messages:
    """A compressor bound to a dimension, a number of clients and a wire dtype.

    Parameters
    ----------
    compressor : what is checked. d, n, dtype : dimension, number of clients, dtype of vectors and wire. seed : of keys and vectors.

    Attributes
    ----------
    dense : a run sends the vectors themselves in place of messages, because those are not shorter.
    simple : the compressor is written to the simple contract.

    Raises
    ------
    ConfigError : the compressor's options do not fit d.
    """

    def __init__(self, compressor: Compressor, d: int, n: int, dtype: str, seed: int):
        self.compressor, self.d, self.n, self.dtype, self.seed = compressor, d, n, np.dtype(dtype), seed
        self.codec: Codec = compressor.bind(d, n, self.dtype)
        self.simple = type(compressor).bind is Compressor.bind
        self.dense = self.codec.codec_id == Identity.codec_id and not isinstance(compressor, Identity)
        self.rng = np.random.default_rng([seed, d])
        self.clients = np.arange(n)

    def fail(self, fault: str, remedy: str = "", **case: Any) -> NoReturn:
        fail(name_of(self.compressor), {"d": self.d, "dtype": self.dtype, **case, "seed": self.seed}, fault, remedy)

    # ---- randomness and inputs ------------------------------------------------------------------------------------
    def keys(self, round: int) -> Keys:
        return uplink_keys(self.seed, round)

    def key(self, client: int = 0, round: int = 0) -> MessageKey:
        return MessageKey.of(self.keys(round), int(client), self.n)

    def vectors(self) -> np.ndarray:
        """A vector for each client, with a common and an own part, shape (n, d)."""
        return (self.rng.standard_normal((self.n, self.d)) + 0.5).astype(self.dtype)

    # ---- by hand --------------------------------------------------------------------------------------------------
    def encode(self, x: np.ndarray, key: MessageKey) -> np.ndarray:
        """The message that `compressor.encode` writes for x, shape (d,); it must keep to its room and leave x alone."""
        capacity = self.compressor.max_nbytes(self.d, self.dtype)
        room, given = np.full(16 + capacity + SLACK, GUARD, np.uint8), x.copy()
        given.flags.writeable = not self.simple  # compiled kernels have no form for read-only arrays
        try:
            nbytes = self.compressor.encode(given, room[16 : 16 + capacity], key)
        except Exception as error:
            self._explain(error, x, key, capacity)
        if not isinstance(nbytes, int | np.integer):
            self.fail(f"encode returned {nbytes!r}", "Return the message's length in bytes")
        if not 0 <= nbytes <= capacity:
            self._too_long(int(nbytes), capacity)
        if not (np.all(room[:16] == GUARD) and np.all(room[16 + capacity :] == GUARD)):
            self.fail(
                "encode wrote outside of its buffer, beside the max_nbytes that it was given",
                "Write to out[:nbytes] only",
            )
        if given.tobytes() != x.tobytes():
            self._writes_to_input()
        return room[16 : 16 + nbytes].copy()

    def decode(self, message: np.ndarray, key: MessageKey, tail: int = GUARD, before: float = UNTOUCHED) -> np.ndarray:
        """The vector that `compressor.decode` reads. Raises WireError where it does; other exceptions are the caller's affair.

        tail : value of the bytes after the message. before : what `out` holds at first.
        """
        buf = np.full(len(message) + 64, tail, np.uint8)
        buf[16 : 16 + len(message)] = message
        view = buf[16 : 16 + len(message)]
        if self.simple:
            view = view.view()
            view.flags.writeable = False
        out = np.full(self.d + 16, UNTOUCHED, self.dtype)
        out[8:-8] = before
        try:
            self.compressor.decode(view, out[8:-8], key)
        finally:
            if not (np.all(out[:8] == UNTOUCHED) and np.all(out[-8:] == UNTOUCHED)):
                self.fail("decode wrote outside of out", "Check lengths and indices before writing")
        return out[8:-8].copy()

    def read(self, message: np.ndarray, key: MessageKey) -> np.ndarray:
        """The vector of a message that is sound: whatever `decode` raises is a fault."""
        try:
            return self.decode(message, key)
        except AssertionError:
            raise
        except Exception as error:
            self.fail(
                f"decode raised {text_of(error)} for a message of {len(message)} bytes that encode wrote",
                "Let decode read exactly what encode writes, values in out.dtype",
            )

    def _explain(self, error: Exception, x: np.ndarray, key: MessageKey, capacity: int) -> NoReturn:
        """Why encode raised: it is tried again with a vector that can be written to, and with more room."""
        given, nbytes = x.copy(), -1
        room = np.zeros(16 * capacity + 64 * self.d + SLACK, np.uint8)
        try:
            nbytes = int(self.compressor.encode(given, room, key))
        except Exception as again:
            error = again
        if given.tobytes() != x.tobytes():
            self._writes_to_input()
        if nbytes > capacity:
            self._too_long(nbytes, capacity)
        if nbytes >= 0:
            self.fail(
                f"encode wrote beyond the {capacity} bytes that max_nbytes declares, and returned {nbytes}",
                "Write to out[:nbytes] only, and let max_nbytes(d, dtype) return the length of the longest message",
            )
        self.fail(f"encode raised {text_of(error)}", "It must take every vector of this dimension and dtype")

    def _writes_to_input(self) -> NoReturn:
        self.fail("encode writes to its input x", "Work on a copy: x belongs to the caller, and is read-only in a run")

    def _too_long(self, nbytes: int, capacity: int) -> NoReturn:
        self.fail(
            f"a message of {nbytes} bytes is longer than declared: max_nbytes is {capacity}",
            "Let max_nbytes(d, dtype) return the length of the longest message",
        )

    # ---- as a run does --------------------------------------------------------------------------------------------
    def block(self, V: np.ndarray, round: int = 0, clients: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(messages, tally) of the rows of V as a frame holds them, one for each client."""
        codec, clients = self.codec, self.clients if clients is None else clients
        m, keys = len(V), self.keys(round)
        capacity, rows = m * codec.max_nbytes, np.arange(len(V))
        buf, tally, before = np.full(16 + capacity + SLACK, GUARD, np.uint8), np.zeros(2, np.int64), V.tobytes()
        if codec.round_maximum is not None and codec.measure is not None:
            codec.round_maximum[0] = np.max(codec.measure(V, rows, clients, keys))
        try:
            end = codec.encode(V, rows, clients, keys, buf, 16, tally)
        except WireError as error:
            self.fail(str(error), "Let max_nbytes(d, dtype) return the length of the longest message")
        except Exception as error:
            self.fail(f"encode raised {text_of(error)}", "It must take every vector of this dimension and dtype")
        if end > 16 + capacity or not (np.all(buf[:16] == GUARD) and np.all(buf[16 + capacity :] == GUARD)):
            self.fail(
                f"{m} messages took {end - 16} bytes, and bytes beside their room of {capacity} were written: "
                "a message is longer than declared",
                "Let the codec's max_nbytes be the length of the longest message",
            )
        if V.tobytes() != before:
            self._writes_to_input()
        return buf[16:end].copy(), tally

    def unblock(
        self, data: np.ndarray, round: int = 0, clients: np.ndarray | None = None, tail: int = GUARD,
        dtype: np.dtype | None = None,
    ) -> np.ndarray:  # fmt: skip
        """The decoded vectors of a frame's messages, shape (m, d). Raises WireError where the codec does."""
        clients = self.clients if clients is None else clients
        m, kind = len(clients), dtype or self.dtype
        buf, out = np.full(len(data) + 64, tail, np.uint8), np.full((m + 2, self.d), UNTOUCHED, kind)
        buf[16 : 16 + len(data)] = data
        out[1:-1] = 0
        weights = np.full(m, self.codec.scale, kind)
        try:
            self.codec.decode_add(buf, 16, 16 + len(data), np.arange(1, m + 1), clients, weights, self.keys(round), out)
        finally:
            if not np.all(out[[0, -1]] == UNTOUCHED):
                self.fail("decoding wrote outside of the rows that it was given", "Check indices before writing")
        return out[1:-1]

    def sent(self, V: np.ndarray, round: int = 0) -> np.ndarray:
        """C_i(V_i) for every client, as a run's round gives it, shape (n, d)."""
        data, _ = self.block(V, round)
        try:
            return self.unblock(data, round)
        except AssertionError:
            raise
        except Exception as error:
            self.fail(
                f"decode raised {text_of(error)} for messages that encode wrote", "Let decode read what encode writes"
            )
