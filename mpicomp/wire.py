"""The layout of what travels: one frame per rank and exchange, a 16-byte header and then the clients' messages, back to back.

Header, little-endian (`docs/reference/wire.md` describes it, and every codec's message, byte by byte):

=====  ====  ==========================================================================================
bytes  type  meaning
=====  ====  ==========================================================================================
0      u8    magic, 0xC5
1      u8    version of the format, 1
2      u8    codec: number of the compressor that wrote the messages (0 identity, 1 topk, ...)
3      u8    flags: bit 0 values are float64 (else float32); bit 1 stop; bit 2 checkpoint; bit 3 please stop; bit 4 diverged; bit 5 long
4-7    u32   round
8-11   u32   number of messages in the frame; in a long one only bytes 8-9 (u16), and bytes 10-11 are bits 32 to 47 of the length
12-15  u32   number of bytes that follow the header, modulo 2**32
=====  ====  ==========================================================================================
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from .errors import WireError

MAGIC = 0xC5
VERSION = 1
HEADER_NBYTES = 16
SHORT = 2**32  # more bytes are a long frame's
MAX_FRAME_NBYTES = HEADER_NBYTES + 2**48 - 1
MAX_LONG_MESSAGES = 2**16 - 1

FLAG_FLOAT64 = 1
FLAG_STOP = 2
FLAG_CHECKPOINT = 4
FLAG_REQUEST = 8  # a worker asks the server to stop; bits 1 and 2 are the server's orders, for the end of this round
FLAG_DIVERGED = (
    16  # a number is not finite: said by a worker whose message would not show it, and with FLAG_STOP by the server
)
CONTROL_FLAGS = FLAG_STOP | FLAG_CHECKPOINT | FLAG_REQUEST | FLAG_DIVERGED
FLAG_LONG = 32  # the length has 48 bits
_KNOWN_FLAGS = FLAG_FLOAT64 | CONTROL_FLAGS | FLAG_LONG

_HEADER = struct.Struct("<BBBBIII")


class Header(NamedTuple):
    """A decoded frame header."""

    codec: int
    flags: int
    round: int
    messages: int
    length: int

    @property
    def wire_dtype(self) -> np.dtype:
        """dtype of the values in the frame."""
        return np.dtype(np.float64 if self.flags & FLAG_FLOAT64 else np.float32)


_ROOM = 64  # bytes before a framed array, so that its values are aligned


def framed_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros with room for a frame header right before them, so that the array can be sent as it lies in memory."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(_ROOM + nbytes, np.uint8)[_ROOM:].view(dtype).reshape(shape)


def frame_around(array: np.ndarray) -> np.ndarray | None:
    """The frame (uint8, header and values) whose values are the memory of an array from `framed_zeros`; None for other arrays."""
    base = array.base
    if base is None or base.dtype != np.uint8 or base.nbytes != _ROOM + array.nbytes or not array.flags.c_contiguous:
        return None
    return base[_ROOM - HEADER_NBYTES :]


def dtype_flag(wire_dtype: np.dtype) -> int:
    """The header flag of a wire dtype."""
    return FLAG_FLOAT64 if wire_dtype == np.float64 else 0


def write_header(frame: np.ndarray, codec: int, flags: int, round: int, messages: int, length: int) -> None:
    """Write the header into the first 16 bytes of `frame` (uint8)."""
    if length >= SHORT:
        assert messages <= MAX_LONG_MESSAGES, "see frame_capacity"
        flags, messages, length = flags | FLAG_LONG, messages | length >> 32 << 16, length % SHORT
    _HEADER.pack_into(frame.data, 0, MAGIC, VERSION, codec, flags, round & 0xFFFFFFFF, messages, length)


def declared_nbytes(frame: np.ndarray) -> int:
    """The length that the header declares, of what follows it, unchecked."""
    _, _, _, flags, _, messages, length = _HEADER.unpack_from(frame.data, 0)
    return length | messages >> 16 << 32 if flags & FLAG_LONG else length


def read_header(frame: np.ndarray, nbytes: int) -> Header:
    """Read and check the header of a frame of which `nbytes` bytes arrived.

    Raises
    ------
    WireError : the frame is truncated, or of another magic, version or length, or has unknown flags.
    """
    if nbytes < HEADER_NBYTES:
        raise WireError(f"truncated frame: {nbytes} bytes, a header alone has {HEADER_NBYTES}")
    magic, version, codec, flags, round, messages, length = _HEADER.unpack_from(frame.data, 0)
    if magic != MAGIC:
        raise WireError(f"not a frame: first byte 0x{magic:02x}, expected 0x{MAGIC:02x}")
    if version != VERSION:
        raise WireError(f"frame of version {version}; this build reads version {VERSION}")
    if flags & ~_KNOWN_FLAGS:
        raise WireError(f"frame with unknown flags 0x{flags:02x}")
    if flags & FLAG_LONG:
        messages, length, upper = messages & MAX_LONG_MESSAGES, declared_nbytes(frame), messages >> 16
        if not upper:
            raise WireError("a frame that says it is long, and is not")
    if HEADER_NBYTES + length != nbytes:
        raise WireError(f"frame of wrong length: the header declares {HEADER_NBYTES + length} bytes, {nbytes} arrived")
    return Header(codec, flags, round, messages, length)


def check_header(header: Header, *, codec: int, wire_dtype: np.dtype, round: int, messages: int) -> None:
    """Compare a header with what the receiver expects.

    Raises
    ------
    WireError : the codec, wire dtype, round or number of messages differs.
    """
    if header.codec != codec:
        raise WireError(f"frame of codec {header.codec}, expected codec {codec}")
    if header.wire_dtype != wire_dtype:
        raise WireError(f"frame holds {header.wire_dtype} values, expected {wire_dtype}")
    if header.round != round & 0xFFFFFFFF:
        raise WireError(f"frame of round {header.round}, expected round {round}")
    if header.messages != messages:
        raise WireError(f"frame holds {header.messages} messages, expected {messages}")
