"""Messages that are cut off, altered, or cut into slices: what decoding them must do, and must not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..errors import WireError
from .faults import text_of
from .messages import GUARD, Messages

TRIES = 60
_FIRST = np.zeros(1, np.int64)


def check_damaged(messages: Messages) -> None:
    """A message that is truncated, too long or altered is refused by a WireError, or gives some vector; nothing else happens."""
    rng, x = messages.rng, messages.vectors()[:1]
    message = messages.encode(x[0], messages.key()) if messages.simple else messages.block(x, clients=_FIRST)[0]
    full = len(message)
    lengths = range(full) if full <= TRIES else np.unique(rng.integers(0, full, TRIES))
    for length in lengths:
        _attempt(messages, message[:length], f"truncated to {length} of {full} bytes")
    _attempt(messages, np.append(message, np.uint8(0)), "with one byte too many")
    for _ in range(TRIES if full else 0):
        altered = message.copy()
        altered[rng.integers(0, min(full, rng.choice([4, 16, full])), rng.integers(1, 4))] ^= np.uint8(
            1 << rng.integers(8)
        )
        _attempt(messages, altered, "with altered bits")
        _attempt(messages, rng.integers(0, 256, full).astype(np.uint8), "of random bytes")


def _attempt(messages: Messages, message: np.ndarray, what: str) -> None:
    """Decode it twice, with other bytes behind it: the same must come."""
    outcomes: list[bytes] = []
    for tail in (0x00, 0xFF):
        try:
            if messages.simple:
                outcomes.append(messages.decode(message, messages.key(), tail).tobytes())
            else:  # in the middle of a frame, as the kernels see it
                outcomes.append(messages.unblock(message, clients=_FIRST, tail=tail).tobytes())
        except WireError as error:
            outcomes.append(str(error).encode())
        except AssertionError as error:
            raise AssertionError(f"{error} It was a message {what}.") from None
        except Exception as error:
            messages.fail(
                f"decode raised {text_of(error)} for a message {what}",
                "Check the message's length and its fields first, and raise mpicomp.WireError where they make no sense",
            )
    if outcomes[0] != outcomes[1]:
        messages.fail(
            f"decode reads past the end: what it gives for a message {what} depends on the bytes behind it",
            "Read buf[:len(buf)] only, and raise mpicomp.WireError where that is too short",
        )


def check_cutting(messages: Messages) -> None:
    """A codec that says how its messages are cut: the parts decode to the same bits as the whole."""
    codec, n = messages.codec, messages.n
    if codec.cutting is None or messages.dense:
        return
    V, keys = messages.vectors(), messages.keys(0)
    data, _ = messages.block(V)
    weights, rows = np.linspace(0.5, 1.5, n).astype(messages.dtype), np.zeros(n, np.int64)
    whole = np.full((1, messages.d), 0.5, messages.dtype)
    codec.decode_add(data, 0, len(data), rows, messages.clients, weights, keys, whole)
    steps = messages.d // codec.cutting.alignment + 1
    for pieces in range(4):
        inner = np.sort(messages.rng.integers(0, steps, pieces)) * codec.cutting.alignment
        bounds = np.concatenate([[0], inner, [messages.d]])
        joined = np.full((1, messages.d), 0.5, messages.dtype)
        for (lo, hi), part in zip(pairwise(bounds.tolist()), _parts(messages, data, bounds), strict=True):
            if lo == hi:
                continue
            reader = codec.part(lo, hi)
            try:
                reader.decode_add(part, 0, len(part), rows, messages.clients, weights, keys, joined[:, lo:hi])
            except WireError as error:
                messages.fail(
                    f"the part of coordinates [{lo}, {hi}) cannot be read: {error}", "See Cutting", bounds=bounds
                )
        if joined.tobytes() != whole.tobytes():
            messages.fail(
                "cutting the messages into slices and decoding the parts does not give the bits of the whole",
                "See Cutting: a part reads as a message for its slice; or leave `cutting` out",
                bounds=bounds.tolist(),
            )


def _parts(messages: Messages, data: np.ndarray, bounds: np.ndarray) -> list[np.ndarray]:
    codec, n = messages.codec, messages.n
    rooms = np.array([n * codec.part(lo, hi).max_nbytes if lo < hi else 0 for lo, hi in pairwise(bounds.tolist())])
    first = np.concatenate([[0], np.cumsum(rooms + 16)[:-1]]).astype(np.int64)
    out, places = np.full(int(np.sum(rooms + 16)), GUARD, np.uint8), first.copy()
    end = codec.cut(data, 0, messages.clients, messages.keys(0), bounds, out, places)
    inside = all(np.all(out[p:f + r + 16] == GUARD) for p, f, r in zip(places, first, rooms, strict=True))  # fmt: skip
    if end != len(data) or np.any(places - first > rooms) or not inside:
        messages.fail(
            "cutting reads or writes more bytes than it may", "See Cutting.part_nbytes", bounds=bounds.tolist()
        )
    return [out[a:b] for a, b in zip(first, places, strict=True)]
