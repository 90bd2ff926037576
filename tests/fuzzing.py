"""Mutated messages for every decoder: what no encoder wrote must be refused, never crash, never be read or written beyond its ends.

`scripts/fuzz` (guided.py) runs this by the million with array bounds checked, `test_fuzz.py` a little. (seed, number) fixes a message.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpicomp.compressors import Codec, Compressor, compressors
from mpicomp.compressors.bit_mask import BitMask
from mpicomp.errors import WireError
from mpicomp.kernels.random import uplink_keys
from mpicomp.wire import HEADER_NBYTES, check_header, dtype_flag, read_header, write_header

GOLDEN = Path(__file__).parent / "golden" / "generate.py"
ROUND, CANARY, HANG_SECONDS = 17, 123.0, 60
KEYS = uplink_keys(2024, ROUND)


class Fault(AssertionError):
    """A decoder did what it must not; says with which message."""


class Halves(Compressor):
    """A user's compressor of the simple contract: the first values, as many as the message is long."""

    name = "halves"

    def max_nbytes(self, d, dtype):
        return 4 * d

    def encode(self, x, out, key):
        kept = x[: x.size // 2].astype(np.float32)
        out[: kept.nbytes] = kept.view(np.uint8)
        return kept.nbytes

    def decode(self, buf, out, key):
        if buf.size % 4:
            raise WireError(f"halves: {buf.size} bytes are no float32 values")
        out[:] = 0
        with np.errstate(invalid="ignore"):  # signalling NaN
            out[: buf.size // 4] = np.frombuffer(buf.tobytes(), np.float32)


@dataclass
class Target:
    """A codec, frames that its encoder wrote, and where they are decoded to: n rows between rows that nobody may touch."""

    codec: Codec
    frames: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        n, d = self.codec.n_clients, self.codec.dim
        self.clients, self.rows, self.weights = np.arange(n), np.arange(1, n + 1), np.ones(n)
        self.out = np.full((n + 2, d), CANARY)
        generator = np.random.default_rng(1)
        for V in (generator.standard_normal((n, d)), np.zeros((n, d)), generator.standard_normal((n, d)).round(0)):
            if self.codec.codec_id == compressors["integers"].codec_id:
                V = np.clip(V.round(0), -1, 1)
            if self.codec.codec_id == BitMask.codec_id:
                V = (V > 0).astype(float)
            self.frames.append(self._frame(np.ascontiguousarray(V)))

    def _frame(self, V: np.ndarray) -> bytes:
        codec, buf = self.codec, np.zeros(HEADER_NBYTES + self.codec.n_clients * self.codec.max_nbytes + 8, np.uint8)
        if codec.round_maximum is not None and codec.measure is not None:
            codec.round_maximum[0] = codec.measure(V, self.clients, self.clients, KEYS).max()
        end = codec.encode(V, self.clients, self.clients, KEYS, buf, HEADER_NBYTES, np.zeros(2, np.int64))
        write_header(buf, codec.codec_id, dtype_flag(codec.wire_dtype), ROUND, len(self.clients), end - HEADER_NBYTES)
        return buf[:end].tobytes()

    def accepts(self, frame: bytes) -> bool:
        """Receive a frame as an exchange does; its array ends where the frame ends. False where it is refused.

        Raises
        ------
        Fault : anything but an answer or a WireError, or rows beside the target are not as they were.
        """
        codec, buf = self.codec, np.frombuffer(bytearray(frame), np.uint8)
        self.out[1:-1] = 0
        try:
            header = read_header(buf, len(frame))
            check_header(
                header, codec=codec.codec_id, wire_dtype=codec.wire_dtype, round=ROUND, messages=len(self.clients)
            )
            codec.decode_add(buf, HEADER_NBYTES, len(frame), self.rows, self.clients, self.weights, KEYS, self.out)
            answer = True
        except WireError:
            answer = False
        except Exception as error:
            raise Fault(f"{codec!r}: {type(error).__name__}: {error}; frame {frame.hex()}") from error
        if not (np.all(self.out[0] == CANARY) and np.all(self.out[-1] == CANARY)):
            raise Fault(f"{codec!r} wrote outside of its rows; frame {frame.hex()}")
        return answer

    def check(self, frame: bytes) -> bool:
        """`accepts`; and a frame that is accepted is refused when it is a byte longer or shorter."""
        if not self.accepts(frame):
            return False
        for other in (frame[:-1], frame + b"\0"):
            if len(other) >= HEADER_NBYTES and self.accepts(with_length(other)):
                raise Fault(
                    f"{self.codec!r} accepts frames of {len(frame)} and {len(other)} bytes; frame {frame.hex()}"
                )
        return True


class PartTarget(Target):
    """The parts of messages for coordinates [16, 40), where these are less than all; `whole` is the codec of the messages."""

    def __init__(self, whole: Codec):
        self.whole = whole
        super().__init__(whole.part(16, min(40, whole.dim)))

    def _frame(self, V: np.ndarray) -> bytes:
        whole = self.whole
        V = np.ascontiguousarray(np.resize(V, (whole.n_clients, whole.dim)))
        buf, clients = np.zeros(whole.n_clients * whole.max_nbytes + 8, np.uint8), self.clients
        whole.encode(V, clients, clients, KEYS, buf, 0, np.zeros(2, np.int64))
        bounds = np.array([0, 16, min(40, whole.dim), whole.dim])
        room = whole.n_clients * (whole.max_nbytes + 64) + HEADER_NBYTES
        parts, places = np.zeros(3 * room, np.uint8), np.arange(3) * room + HEADER_NBYTES
        whole.cut(buf, 0, clients, KEYS, bounds, parts, places)
        frame = parts[room : places[1]]
        write_header(
            frame, whole.codec_id, dtype_flag(whole.wire_dtype), ROUND, len(clients), len(frame) - HEADER_NBYTES
        )
        return frame.tobytes()


def targets() -> list[Target]:
    """Every codec of the golden frames, ef21+'s flag, and a user's compressor, in both wire precisions; and parts."""
    spec = importlib.util.spec_from_file_location("golden_generate", GOLDEN)
    assert spec is not None and spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    cases = [(compressors.create(text), d, n) for text, d, n in golden.CASES] + [(BitMask(), 1, 5), (Halves(), 12, 3)]
    codecs = [compressor.bind(d, n, wire) for compressor, d, n in cases for wire in ("float32", "float64")]
    longer = [
        compressor.bind(max(d, 77), n, wire) for compressor, d, n in cases[:-2] for wire in ("float32", "float64")
    ]
    parts = [PartTarget(codec) for codec in longer if codec.cutting is not None and 16 % codec.cutting.alignment == 0]
    return [*map(Target, codecs), *parts]


def with_length(frame: bytes) -> bytes:
    """The frame with the length in its header put right, so that the mutation reaches the decoder."""
    return frame[:12] + (len(frame) - HEADER_NBYTES).to_bytes(4, "little") + frame[HEADER_NBYTES:]


def mutate(frame: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to three mutations behind the header, whose length is then put right; in one of eight cases of the header too."""
    message = bytearray(frame[HEADER_NBYTES:])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind, size = rng.randrange(8), len(message)
        if kind == 0 or not message:
            message += rng.randbytes(rng.choice((1, 2, 4, 8, 64)))
        elif kind <= 2:
            for _ in range(rng.choice((1, 1, 2, 8))):
                message[rng.randrange(size)] ^= 1 << rng.randrange(8)
        elif kind == 3:
            message[rng.randrange(min(size, 8))] = rng.choice((0, 1, 31, 32, 33, 127, 128, 255, rng.randrange(256)))
        elif kind == 4:
            width = rng.choice((1, 2, 4, 8))
            at = rng.randrange(size)
            message[at : at + width] = rng.choice((0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)).to_bytes(
                width, "little"
            )
        elif kind == 5:
            del message[rng.randrange(size) :]
        elif kind == 6:
            at, width = rng.randrange(size), rng.choice((1, 2, 4, 8))
            del message[at : at + width]
        else:
            other = rng.choice(others)[HEADER_NBYTES:]
            message[rng.randrange(size) :] = other[rng.randrange(len(other) + 1) :]
    mutated = bytearray(with_length(frame[:HEADER_NBYTES] + bytes(message)))
    if rng.randrange(8) == 0:
        mutated[rng.randrange(HEADER_NBYTES)] = rng.randrange(256)
    return bytes(mutated)


def draws(messages: int, seconds: float, seed: int) -> Iterator[tuple[int, random.Random]]:
    """Number and generator of so many messages, or as many as the time allows. A decoder that hangs ends the process, with a traceback."""
    deadline = time.monotonic() + seconds
    for number in range(messages):
        if number % 1024 == 0:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            if time.monotonic() > deadline:
                break
        yield number, random.Random(seed * 2**40 + number)
    faulthandler.cancel_dump_traceback_later()


def fuzz(everything: list[Target], messages: int, seconds: float, seed: int) -> dict[str, Counter]:
    """Check so many mutated frames, or as many as the time allows; returns how many were refused and accepted, by codec.

    Raises
    ------
    Fault : names the codec, what it did and the frame.
    """
    counts = {}
    every_frame = [frame for target in everything for frame in target.frames]
    for target in everything:
        if not all(target.check(frame) for frame in target.frames):
            raise Fault(f"{target.codec!r} refuses what its encoder wrote")
        counts[repr(target.codec)] = Counter()
    for number, rng in draws(messages, seconds, seed):
        target = everything[number % len(everything)]
        others = target.frames if rng.random() < 0.5 else every_frame
        accepted = target.check(mutate(rng.choice(target.frames), others, rng))
        counts[repr(target.codec)]["accepted" if accepted else "refused"] += 1
    return counts
