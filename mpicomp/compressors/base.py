"""What a compressor is: how one vector becomes bytes, and what its theory promises.

Two contracts. The **simple** one is three methods on one vector, `max_nbytes`, `encode`, `decode`: enough for a user's own
compressor, which then runs in every method and exchange. The **block** contract is two jitted kernels that handle all messages
of a rank in one call; the built-in compressors implement that one, and get the simple one for nothing.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..errors import ConfigError, TheoryError, WireError
from ..kernels.cutting import cut_fields, fields_nbytes
from ..kernels.random import Keys, client_key, fill_normal, fill_uniform, permutation
from ..kernels.status import BAD_COUNT, BAD_INDEX, BAD_MODE, BAD_PADDING, BAD_VALUE, TRUNCATED
from ..registry import Registry, format_spec

compressors: Registry[type[Compressor]] = Registry("compressor", "mpicomp.compressors")

_WHY = {
    TRUNCATED: "the message ends before its content does",
    BAD_INDEX: "an index is out of range or out of order",
    BAD_MODE: "the index coding named in the message does not exist",
    BAD_COUNT: "the number of entries is out of range",
    BAD_PADDING: "bits that must be zero are not",
    BAD_VALUE: "a field holds a value that no encoder writes",
}
USER_CODEC = 255


class MessageKey(NamedTuple):
    """The randomness of one message, for compressors written to the simple contract.

    `shared` is the same for all clients of the round, `private` belongs to this client alone; both sides of the wire have both.
    """

    shared: np.uint64
    private: np.uint64
    client: int
    n_clients: int

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
    separable : encoding a slice of a vector gives the part of the whole vector's message.
    """

    kernel: Callable[..., int]
    args: tuple
    part_nbytes: Callable[[int], int]
    alignment: int = 8
    offset: bool = False
    separable: bool = False


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
    whole : its vectors (of another dimension than the model) are not cut: every server has all of them. `Link` sets it.
    """

    def __init__(
        self,
        compressor: Compressor,
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
    ):
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
        """The codec of the parts for coordinates [lo, hi). It encodes only where `cutting.separable`."""
        assert self.cutting is not None
        codec = copy.copy(self)
        codec.dim, codec.max_nbytes = hi - lo, self.cutting.part_nbytes(hi - lo)
        if self.cutting.offset:
            codec.args, codec.fixed = (*self.args[:-1], lo), False
        return codec

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

    @property
    def common(self) -> tuple[np.ndarray, ...]:
        """The arrays among `args` that all threads must see as they are: what is written there between messages says how to code them."""
        return () if self.round_maximum is None else (self.round_maximum,)

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
            raise WireError(f"corrupted {self.compressor.name} message: {_WHY.get(got, f'code {got}')}")
        if got != end:
            raise WireError(f"{self.compressor.name} messages end at byte {got}, the frame at byte {end}")
        return got

    def __repr__(self) -> str:
        return f"<Codec {self.compressor!r} dim={self.dim} n_clients={self.n_clients} {self.wire_dtype}>"


class Compressor:
    """Base class of all compressors. Stateless: its randomness comes only from the key.

    Attributes (of the class; of the object where an option decides)
    ----------------------------------------------------------------
    unbiased : E C(x) = x, with variance E‖C(x) − x‖² ≤ ω‖x‖².
    contractive : E‖C(x) − x‖² ≤ (1 − α)‖x‖² without any scaling.
    deterministic : the message depends on the vector alone.
    homogeneous : C(tx) = tC(x) for t > 0, given the same random draw.
    nonexpansive : a contractive compressor with E‖C(x)‖² ≤ ‖x‖². (C/(1+ω) of an unbiased C always is.)
    shared_randomness : the messages of different clients are correlated through the shared key.
    paper : where it comes from.
    """

    name: ClassVar[str] = "user"
    codec_id: ClassVar[int] = USER_CODEC
    summary: ClassVar[str] = ""
    formulas: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    unbiased: bool = False
    contractive: bool = False
    deterministic: bool = False
    homogeneous: bool = True
    shared_randomness: bool = False
    nonexpansive: bool = False

    @property
    def same_for_all(self) -> bool:
        """All clients' messages for one vector are equal, so that a broadcast can replace a scatter."""
        return self.deterministic

    # ---- theory -------------------------------------------------------------------------------------------------
    def omega(self, d: int, n: int = 1) -> float:
        """ω of the unbiased class U(ω). Raises TheoryError where the compressor is biased."""
        raise TheoryError(f"{self!r} has no ω: it is biased; use a method for contractive compressors, such as ef21")

    def alpha(self, d: int, n: int = 1) -> float:
        """α of the contractive class B(α). An unbiased compressor has α = 1/(1+ω), reached by C/(1+ω)."""
        if self.unbiased:
            return 1.0 / (1.0 + self.omega(d, n))
        raise TheoryError(f"{self!r} has no α that holds for all vectors; choose the step size yourself")

    def ab(self, d: int, n: int) -> tuple[float, float]:
        """(A, B) of E‖mean C_i(a_i) − mean a_i‖² ≤ A mean‖a_i‖² − B‖mean a_i‖² (Szlendak, Tyurin and Richtárik 2022, Def. 2)."""
        return self.omega(d, n) / n, 0.0

    def theta(self, d: int, n: int) -> float:
        """θ of E‖mean C_i(v) − v‖² ≤ θ‖v‖², all clients compressing the same v (Gruntkowska, Tyurin and Richtárik 2024)."""
        A, B = self.ab(d, n)
        return max(A - B, 0.0)

    def gradient_variance(self, d: int, n: int, constants: Any) -> float:
        """V of E‖mean C_i(a_i) − mean a_i‖² ≤ V‖x − y‖² for a_i = ∇f_i(x) − ∇f_i(y).

        V = (A−B) L₊² + B L±², or θL² where L± = 0: then all a_i are equal.
        constants : the problem's smoothness, with attributes L, L_plus, L_pm, L_max.
        """
        A, B = self.ab(d, n)
        V = max((A - B) * constants.L_plus**2 + B * constants.L_pm**2, 0.0)
        return min(V, self.theta(d, n) * constants.L**2) if constants.L_pm == 0 else V

    def bias_variance(self, d: int, n: int) -> tuple[float, float]:
        """(β, A): mean C_i(a_i) − mean a_i has an expectation of squared norm ≤ β mean‖a_i‖², and a variance ≤ A mean‖a_i‖²."""
        return (0.0, self.ab(d, n)[0]) if self.unbiased else (1.0 - self.alpha(d, n), 0.0)

    def density(self, d: int, n: int = 1) -> float:
        """ζ, the expected length of a message in units of a 32-bit value: the number of values that a sparsifier keeps."""
        return min(self.bind(d, n, np.float32).max_nbytes / 4.0, float(d))

    # ---- the simple contract ------------------------------------------------------------------------------------
    def max_nbytes(self, d: int) -> int:
        """No message for a vector of dimension d is longer than this, bytes."""
        raise NotImplementedError(f"{type(self).__name__} must define max_nbytes(d)")

    def encode(self, x: np.ndarray, out: np.ndarray, key: MessageKey) -> int:
        """Write the message for x (shape (d,)) into `out` (uint8) and return its length in bytes."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(x, out, key)")

    def decode(self, buf: np.ndarray, out: np.ndarray, key: MessageKey) -> None:
        """Fill `out` (shape (d,)) with the vector that the message `buf` (uint8) stands for."""
        raise NotImplementedError(f"{type(self).__name__} must define decode(buf, out, key)")

    # ---- the block contract -------------------------------------------------------------------------------------
    def bind(self, dim: int, n_clients: int, wire_dtype: Any = np.float64) -> Codec:
        """The codec for vectors of dimension `dim` from `n_clients` clients.

        Raises
        ------
        ConfigError : the options do not fit the dimension (for instance k > dim).
        """
        return _looped(self, dim, n_clients, np.dtype(wire_dtype))

    def apply(self, x: np.ndarray, key: MessageKey | None = None, wire_dtype: Any = None) -> np.ndarray:
        """C(x): encode x (shape (d,)) and decode it again. For looking at a compressor; a run never calls this.

        >>> import mpicomp as mc, numpy as np
        >>> mc.compressor("topk:k=1").apply(np.array([1.0, -3.0, 2.0]))
        array([ 0., -3.,  0.])
        """
        x = np.ascontiguousarray(x)
        key = key or MessageKey(np.uint64(0), np.uint64(0), 0, 1)
        codec = self.bind(x.size, key.n_clients, wire_dtype or x.dtype)
        buf, out = np.zeros(codec.max_nbytes + 8, np.uint8), np.zeros((1, x.size), x.dtype)
        row, client = np.zeros(1, np.int64), np.array([key.client])
        keys = Keys(key.shared, key.private)
        if codec.round_maximum is not None and codec.measure is not None:
            codec.round_maximum[0] = codec.measure(x.reshape(1, -1), row, client, keys)[0]
        end = codec.encode(x.reshape(1, -1), row, client, keys, buf, 0, np.zeros(2, np.int64))
        codec.decode_add(buf, 0, end, row, client, np.ones(1, x.dtype), keys, out)
        return out[0]

    # ---- text ---------------------------------------------------------------------------------------------------
    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        if type(self).__init__ is object.__init__:
            return {}
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        return {p.name: getattr(self, p.name) for p in parameters if getattr(self, p.name) != p.default}

    @property
    def spec(self) -> str:
        """The text that the command line takes for this compressor."""
        return format_spec(self.name, self.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


def _own(args: tuple, kept: tuple[np.ndarray, ...]) -> tuple:
    """Copies of the arrays in a tuple, or in tuples in it, but for `kept`. None may be a view of another: the copies would part."""

    def own(a: Any) -> Any:
        if isinstance(a, tuple):
            return _own(a, kept)
        return a.copy() if isinstance(a, np.ndarray) and not any(a is k for k in kept) else a

    return tuple(own(a) for a in args)


def count_of(owner: Compressor, k: int | None, fraction: float | None, dim: int) -> int:
    """The number of kept coordinates from the options `k` or `fraction` of a sparsifier.

    Raises
    ------
    ConfigError : both or neither given, k outside 1..dim, or fraction outside (0, 1].
    """
    if (k is None) == (fraction is None):
        raise ConfigError(
            f"{owner.name} takes either k or fraction, for example {owner.name}:k=10 or {owner.name}:fraction=0.01"
        )
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"{owner.name}: fraction={fraction} is outside (0, 1]")
        return max(1, int(fraction * dim))
    assert k is not None
    if not isinstance(k, int) or not 1 <= k <= dim:
        raise ConfigError(f"{owner.name}: k={k} must be an integer from 1 to the dimension, {dim}")
    return k


def cut_by_fields(
    head: int = 0, unit: int = 0, bucket: int = 1, width: int = 0, alignment: int = 8, separable: bool = False
) -> Cutting:
    """How messages of a head, a unit for each bucket of entries, and entries of a fixed number of bits are cut."""
    layout = head, unit, bucket, width
    return Cutting(cut_fields, layout, lambda count: fields_nbytes(count, *layout), alignment, separable=separable)


def _looped(compressor: Compressor, dim: int, n_clients: int, wire_dtype: np.dtype) -> Codec:
    """A codec that calls the simple contract once per message; each message is preceded by its length (u32)."""
    capacity = compressor.max_nbytes(dim)
    scratch = np.empty(dim)

    def encode(V, rows, clients, shared, private, buf, pos, tally, _wire):
        for row, client in zip(rows, clients, strict=True):
            key = MessageKey(shared, np.uint64(client_key(private, client)), int(client), n_clients)
            nbytes = int(compressor.encode(V[row], buf[pos + 4 : pos + 4 + capacity], key))
            if not 0 <= nbytes <= capacity:
                raise WireError(f"{compressor!r} wrote {nbytes} bytes, its max_nbytes({dim}) is {capacity}")
            buf[pos : pos + 4].view(np.uint32)[0] = nbytes
            tally += 8 * (4 + nbytes), 8 * nbytes
            pos += 4 + nbytes
        return pos

    def decode(buf, pos, end, rows, clients, weights, shared, private, out, _wire):
        for row, client, weight in zip(rows, clients, weights, strict=True):
            if pos + 4 > end:
                return TRUNCATED
            nbytes = int(buf[pos : pos + 4].view(np.uint32)[0])
            pos += 4
            if nbytes > capacity or pos + nbytes > end:
                return TRUNCATED
            key = MessageKey(shared, np.uint64(client_key(private, client)), int(client), n_clients)
            compressor.decode(buf[pos : pos + nbytes], scratch, key)
            out[row] += weight * scratch
            pos += nbytes
        return pos

    return Codec(compressor, compressor.codec_id, dim, n_clients, wire_dtype, capacity + 4, encode, decode)
