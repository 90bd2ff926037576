"""What a codec is: a compressor bound to a dimension, a number of clients and a wire dtype, as kernels for blocks of messages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import lcm
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import WireError
from ..kernels.cutting import cut_fields, fields_nbytes
from ..kernels.random import Keys, client_key, fill_normal, fill_uniform, permutation, uplink_keys
from ..kernels.status import BAD_COUNT, BAD_INDEX, BAD_MODE, BAD_PADDING, BAD_VALUE, TRUNCATED
from .agreement import Agreement, Norm

USER_CODEC = 255
TWO_WINDOWS = 128  # added to the codec's number where a vector is rotated in two windows, not padded
WHY = {
    TRUNCATED: "the message ends before its content does",
    BAD_INDEX: "an index is out of range or out of order",
    BAD_MODE: "the coding named in the message does not exist, or not any more",
    BAD_COUNT: "the number of entries is out of range",
    BAD_PADDING: "bits that must be zero are not",
    BAD_VALUE: "a field holds a value that no encoder writes",
}


class Described(Protocol):
    """What a codec knows of the compressor that it comes from."""

    @property
    def name(self) -> str: ...

    @property
    def spec(self) -> str: ...

    @property
    def deterministic(self) -> bool: ...

    @property
    def carries_nan(self) -> bool: ...


class MessageKey(NamedTuple):
    """The randomness of one message, for compressors written to the simple contract.

    `shared` is the same for all clients of the round, `private` belongs to this client alone; both sides of the wire have both.
    The numbers that it draws depend on nothing else: the same key gives the same numbers.
    """

    shared: np.uint64
    private: np.uint64
    client: int
    n_clients: int

    @classmethod
    def of(cls, keys: Keys, client: int = 0, n_clients: int = 1) -> MessageKey:
        """The key of one client's message from the keys of the exchange."""
        return cls(keys.shared, np.uint64(client_key(keys.private, client)), int(client), int(n_clients))

    @classmethod
    def seeded(cls, seed: int, client: int = 0, n_clients: int = 1, round: int = 0) -> MessageKey:
        """The key of the first message that a client sends in a round of a run with this seed."""
        return cls.of(uplink_keys(seed, round), client, n_clients)

    def uniform(self, size: int, shared: bool = False) -> np.ndarray:
        """float64 uniforms on [0, 1), shape (size,)."""
        out = np.empty(size)
        fill_uniform(self.shared if shared else self.private, out)
        return out

    def normal(self, size: int, shared: bool = False) -> np.ndarray:
        """float64 standard normal numbers, shape (size,)."""
        out = np.empty(size)
        fill_normal(self.shared if shared else self.private, out)
        return out

    def permutation(self, n: int, shared: bool = False) -> np.ndarray:
        """A uniform permutation of 0..n-1, int64, shape (n,)."""
        out = np.empty(n, np.int64)
        permutation(self.shared if shared else self.private, out)
        return out


class Cutting(NamedTuple):
    """How a codec's messages are cut into parts for consecutive slices of coordinates, each of which has a server of its own.

    Decoding the parts of a message into slices gives the same bits as decoding the message.

    Attributes
    ----------
    kernel : jitted `f(buf, pos, clients, shared, private, bounds, out, places, *args) -> pos`; at `pos` are the messages of `clients`, one
        after the other. Slice s is [bounds[s], bounds[s+1]); its part of a message goes to `out` at `places[s]`, which moves on. An
        empty slice has none.
    args : further arguments of the kernel.
    part_nbytes : width of a slice ↦ a bound on the bytes of a part.
    alignment : bounds are multiples of it, but for the last one, d.
    offset : the last of the codec's own arguments is the index of the first coordinate: 0 for whole messages, lo for parts. Otherwise
        a part reads as a message for a vector of the slice's width.
    separable : encoding a slice of a vector gives the part of the whole vector's message, once the numbers of `agreement` are there.
    grid : slices that are encoded begin at multiples of it, which is a multiple of `alignment`.
    agreement : what those who have the slices of a vector find out together, so that each can encode its own; None for nothing.
    repeated_bits : those of the bits that the papers count which every part of a message has again.
    """

    kernel: Callable[..., int]
    args: tuple
    part_nbytes: Callable[[int], int]
    alignment: int = 8
    offset: bool = False
    separable: bool = False
    grid: int = 8
    agreement: Agreement | None = None
    repeated_bits: int = 0

    def encoded_on(self, grid: int, norm: Norm | None = None, repeated_bits: int = 0) -> Cutting:
        """The same for a codec that also encodes slices: those that begin at multiples of `grid`, and of what `norm` asks for.

        norm : of the whole vector, which slices agree on; None for nothing. repeated_bits : see the attribute.
        """
        whole = grid if norm is None else lcm(grid, norm.grid)
        return self._replace(separable=True, grid=whole, agreement=norm, repeated_bits=repeated_bits)


class Difference(NamedTuple):
    """The vectors V − state, not formed: for codecs that form them as they encode (`Codec.takes_difference`).

    V, state : shape (m, dim), of one dtype, C-contiguous. work : of the same shape and dtype, scratch.
    """

    V: np.ndarray
    state: np.ndarray
    work: np.ndarray


class Sum(NamedTuple):
    """state + factor · V, which becomes the state as it is encoded (`Codec.takes_sum`): an error memory with what is new.

    state, V : shape (m, dim), of one dtype, C-contiguous. factor : the product is rounded before it is added.
    """

    state: np.ndarray
    V: np.ndarray
    factor: float


class Codec:
    """A compressor bound to a dimension, a number of clients and a wire dtype: all that is needed to write and read messages.

    Parameters
    ----------
    compressor : the compressor it comes from.
    codec_id : number written in the frame header.
    dim, n_clients, wire_dtype : what it is bound to.
    max_nbytes : no message is longer than this, bytes.
    encode_kernel : jitted `f(V, rows, clients, shared, private, buf, pos, tally, *args) -> pos`; writes for each j the message of
        client `clients[j]`, which compresses `V[rows[j]]`, at `pos` and onwards, and adds to `tally` (int64, shape (2,)) the
        payload bits and, of those, the bits that the papers count (values, signs, levels, norms; no indices).
    decode_kernel : jitted `f(buf, pos, end, rows, clients, weights, shared, private, out, *args) -> pos`; reads the messages back and
        adds `weights[j] * message_j` to `out[rows[j]]`. Returns a negative code where the bytes make no sense; it never
        reads at or after `end` and never writes outside `out`.
    args : further arguments of both kernels; the first is an empty array of the wire dtype.
    scale : factor that the receiver applies, for the contractive form C/(1+ω) of an unbiased compressor.
    fixed : every message has exactly max_nbytes bytes (so that collectives need no lengths).
    round_maximum : float64, shape (1,): the largest number that `measure` finds for the vectors of a round, which all ends must know before
        messages are written or read; None where there is none. `Link` sees to it.
    difference_kernel : jitted `f(V, state, work, rows, …)`, the rest as for `encode_kernel`; writes the messages of V − state, the same to
        the bit, in fewer passes over memory; None where there is none.
    sum_kernel : jitted `f(state, V, factor, rows, …)`, likewise for state += factor · V, which it adds to the rows that it encodes.
    measure : f(V, rows, clients, keys) -> float64 array, a number that the wire dtype holds for each message that `encode` would write.
    cutting : how messages are cut into slices; None where they cannot be.
    given : one of `args`, without entries: in the codec of a part it has a row for each row that is encoded, the numbers that `agreement`
        found; None where there is no agreement.

    Attributes
    ----------
    whole : its vectors (of another dimension than the model) are not cut: every server has all of them. `Link` sets it.
    """

    def __init__(
        self,
        compressor: Described,
        codec_id: int,
        dim: int,
        n_clients: int,
        wire_dtype: np.dtype,
        max_nbytes: int,
        encode_kernel: Callable[..., int],
        decode_kernel: Callable[..., int],
        args: tuple = (),
        scale: float = 1.0,
        fixed: bool = False,
        round_maximum: np.ndarray | None = None,
        measure: Callable[..., np.ndarray] | None = None,
        difference_kernel: Callable[..., int] | None = None,
        sum_kernel: Callable[..., int] | None = None,
        cutting: Cutting | None = None,
        given: np.ndarray | None = None,
    ):
        self.given = given
        self.round_maximum, self.measure, self.cutting, self.whole = round_maximum, measure, cutting, False
        self.compressor, self.codec_id = compressor, codec_id
        self.dim, self.n_clients, self.wire_dtype = dim, n_clients, np.dtype(wire_dtype)
        self.max_nbytes, self.scale, self.fixed = max_nbytes, scale, fixed
        self._encode, self._decode = encode_kernel, decode_kernel
        self._encode_difference, self._encode_sum = difference_kernel, sum_kernel
        self.args = (np.empty(0, self.wire_dtype), *args)

    def scaled(self, scale: float) -> Codec:
        """The same codec, its decoded vectors multiplied by `scale`."""
        codec = copy.copy(self)
        codec.scale *= scale
        return codec

    def part(self, lo: int, hi: int) -> Codec:
        """The codec of the parts for coordinates [lo, hi). It encodes only where `cutting.separable`, after `give`."""
        assert self.cutting is not None
        codec = copy.copy(self)
        codec.dim, codec.max_nbytes = hi - lo, self.cutting.part_nbytes(hi - lo)
        codec.fixed = self.fixed and self.cutting.kernel is cut_fields
        if self.cutting.offset:
            codec.args = (*codec.args[:-1], lo)
        if self.given is not None:
            given = np.zeros((self.n_clients, *self.given.shape[1:]), self.given.dtype)
            codec.args, codec.given = tuple(given if a is self.given else a for a in codec.args), given
        return codec

    def give(self, numbers: np.ndarray) -> None:
        """What the slices of the vectors to be encoded next agreed on: a row for each row, in the codec of a part."""
        assert self.given is not None
        self.given[: len(numbers)] = numbers

    def cut(
        self, buf: np.ndarray, pos: int, clients: np.ndarray, keys: Keys, bounds: np.ndarray, out: np.ndarray, places: np.ndarray
    ) -> int:  # fmt: skip
        """Cut the messages of `clients` that `encode` wrote at `pos`; returns the position after them. See `Cutting`."""
        assert self.cutting is not None
        return self.cutting.kernel(
            buf, pos, clients, keys.shared, keys.private, bounds, out, places, *self.cutting.args
        )

    def twin(self) -> Codec | None:
        """The same codec with scratch space of its own, for another thread; None for a compressor written to the simple contract."""
        if self.codec_id == USER_CODEC:
            return None
        codec = copy.copy(self)
        codec.args = _own(self.args, self.common)
        return codec

    def checked_maximum(self, value: float) -> float:
        """A value for `round_maximum` that has arrived: not negative, not infinite; NaN where a vector is not finite.

        Raises
        ------
        WireError : it is one that nobody sends.
        """
        if value < 0 or np.isinf(value):
            raise WireError(f"corrupted {self.compressor.name} maximum: {value} is not the size of a vector")
        return float(value)

    @property
    def common(self) -> tuple[np.ndarray, ...]:
        """The arrays among `args` that all threads must see as they are: what is written there between messages says how to code them."""
        return tuple(array for array in (self.round_maximum, self.given) if array is not None)

    @property
    def takes_difference(self) -> bool:
        """`encode` takes a Difference."""
        return self._encode_difference is not None

    @property
    def takes_sum(self) -> bool:
        """`encode` takes a Sum."""
        return self._encode_sum is not None

    def encode(
        self,
        V: np.ndarray | Difference | Sum,
        rows: np.ndarray,
        clients: np.ndarray,
        keys: Keys,
        buf: np.ndarray,
        pos: int,
        tally: np.ndarray,
    ) -> int:
        """Write one message per entry of `rows`; returns the position after the last one.

        Parameters
        ----------
        V : float32 or float64, shape (m, dim), C-contiguous, or a Difference or Sum; rows, clients : int64, shape (r,).
        buf : uint8 with room for r * max_nbytes from `pos` on; tally : int64, shape (2,), added to.
        """
        rest = rows, clients, keys.shared, keys.private, buf, pos, tally, *self.args
        if isinstance(V, Difference):
            assert self._encode_difference is not None, f"{self!r} takes no Difference"
            return self._encode_difference(*V, *rest)
        if isinstance(V, Sum):
            assert self._encode_sum is not None, f"{self!r} takes no Sum"
            return self._encode_sum(*V, *rest)
        return self._encode(V, *rest)

    def decode_add(
        self,
        buf: np.ndarray,
        pos: int,
        end: int,
        rows: np.ndarray,
        clients: np.ndarray,
        weights: np.ndarray,
        keys: Keys,
        out: np.ndarray,
    ) -> int:
        """out[rows[j]] += weights[j] * message_j for every message between `pos` and `end`. `weights` has `out`'s dtype and already
        includes `scale`.

        Raises
        ------
        WireError : the bytes are not what this codec writes, or bytes are left over.
        """
        got = self._decode(buf, pos, end, rows, clients, weights, keys.shared, keys.private, out, *self.args)
        if got < 0:
            raise WireError(f"corrupted {self.compressor.name} message: {WHY.get(got, f'code {got}')}")
        if got != end:
            raise WireError(f"{self.compressor.name} messages end at byte {got}, the frame at byte {end}")
        return got

    def __repr__(self) -> str:
        return f"<Codec {self.compressor!r} dim={self.dim} n_clients={self.n_clients} {self.wire_dtype}>"


def _own(args: tuple, kept: tuple[np.ndarray, ...]) -> tuple:
    """Copies of the arrays in a tuple, or in tuples in it, but for `kept`. None may be a view of another: the copies would part."""

    def own(a: Any) -> Any:
        if isinstance(a, tuple):
            return _own(a, kept)
        return a.copy() if isinstance(a, np.ndarray) and not any(a is k for k in kept) else a

    return tuple(own(a) for a in args)


def cut_by_fields(
    head: int = 0, unit: int = 0, bucket: int = 1, width: int = 0, alignment: int = 8, separable: bool = False
) -> Cutting:
    """How messages of a head, a unit for each bucket of entries, and entries of a fixed number of bits are cut."""
    layout = head, unit, bucket, width
    return Cutting(cut_fields, layout, lambda count: fields_nbytes(count, *layout), alignment, separable=separable)
