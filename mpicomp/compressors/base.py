"""What a compressor is: how one vector becomes bytes, and what its theory promises.

There are two contracts, and a compressor implements one of them.
The **simple** one is three methods on one vector, `max_nbytes`, `encode`, `decode`: enough for a compressor of one's own.
The **block** contract is `bind`, which returns two jitted kernels that handle all messages of a rank in one call (`Codec`): the built-in
compressors implement that one, and have the three methods for nothing.

Every compressor works by hand, without MPI: `compress(x)` gives bytes, `decompress(data)` the vector.
"""

from __future__ import annotations

import inspect
import struct
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import ConfigError, TheoryError, WireError
from ..kernels.sizes import PLACES
from ..registry import Registry, format_spec
from . import single
from .codec import USER_CODEC, Codec, MessageKey
from .simple import looped, simple_capacity
from .vectors import vector_of

UNLIMITED = 2**48  # entries: more than an exchange can carry
_MAGIC, _VERSION = 0xC6, 1
_HEAD = struct.Struct(
    "<BBBBIIQQQ"
)  # of a message of `compress`: codec, whether float64, client, n, d, the message's two keys


class Constants(Protocol):
    """What a compressor may ask of a problem's smoothness constants (`problems.Smoothness`)."""

    @property
    def L(self) -> float: ...

    @property
    def L_plus(self) -> float: ...

    @property
    def L_pm(self) -> float: ...

    @property
    def L_max(self) -> float: ...


compressors: Registry[Compressor] = Registry("compressor", "mpicomp.compressors")


class Compressor:
    """Base class of all compressors. Stateless: its randomness comes only from the key.

    Attributes (of the class; of the object where an option decides)
    ----------------------------------------------------------------
    unbiased : E C(x) = x, with variance E‖C(x) − x‖² ≤ ω‖x‖².
    contractive : E‖C(x) − x‖² ≤ (1 − α)‖x‖² without any scaling.
    deterministic : the message depends on the vector alone.
    homogeneous : C(tx) = tC(x) for t > 0, given the same random draw.
    nonexpansive : a contractive compressor with E‖C(x)‖² ≤ ‖x‖². (C/(1+ω) of an unbiased C always is.)
    carries_nan : a NaN or Inf that plays a part makes the decoded vector not finite. Otherwise vectors are looked at before they are sent,
        and a run stops where one is not finite.
    shared_randomness : the messages of different clients are correlated through the shared key.
    largest_dim : vectors of more entries are refused by `bind`.
    paper : where it comes from.
    experimental : why its constants stand on neither a published theorem nor a derivation in docs; empty where they do.
    """

    name: ClassVar[str] = "user"
    codec_id: ClassVar[int] = USER_CODEC
    largest_dim: ClassVar[int] = PLACES
    summary: ClassVar[str] = ""
    formulas: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    experimental: ClassVar[str] = ""
    unbiased: bool = False
    contractive: bool = False
    deterministic: bool = False
    homogeneous: bool = False
    carries_nan: bool = False
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

    def gradient_variance(self, d: int, n: int, constants: Constants) -> float:
        """V of E‖mean C_i(a_i) − mean a_i‖² ≤ V‖x − y‖² for a_i = ∇f_i(x) − ∇f_i(y).

        V = (A−B) L₊² + B L±², or θL² where L± = 0: then all a_i are equal.
        constants : the problem's smoothness.
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
    def max_nbytes(self, d: int, dtype: np.dtype) -> int:
        """No message for a vector of dimension d is longer than this, bytes. Where that is not below the dense size, d · dtype.itemsize,
        the vector itself is sent in place of messages."""
        return single.capacity(self._bound(d, 1, dtype))

    def encode(self, x: np.ndarray, out: np.ndarray, key: MessageKey) -> int:
        """Write the message for x into `out` and return its length in bytes.

        Parameters
        ----------
        x : shape (d,), read-only, in the dtype of the wire (float32 or float64): values are to be written in `x.dtype`.
        out : uint8, with room for max_nbytes(d, x.dtype).
        key : the message's random numbers.
        """
        return single.encode(self._bound(x.size, key.n_clients, x.dtype), x, out, key)

    def decode(self, buf: np.ndarray, out: np.ndarray, key: MessageKey) -> None:
        """Fill `out` (shape (d,), in the dtype of the wire) with the vector that the message `buf` (uint8, read-only) stands for.

        Raises
        ------
        WireError : the bytes are not what `encode` writes.
        """
        single.decode(self._bound(out.size, key.n_clients, out.dtype), buf, out, key)

    def _bound(self, d: int, n_clients: int, dtype: DTypeLike) -> Codec:
        if type(self).bind is Compressor.bind:
            raise NotImplementedError(f"{type(self).__name__} must define max_nbytes, encode and decode, or bind")
        return self.bind(d, n_clients, dtype)

    # ---- the block contract -------------------------------------------------------------------------------------
    def bind(self, dim: int, n_clients: int, wire_dtype: DTypeLike = np.float64) -> Codec:
        """The codec for vectors of dimension `dim` from `n_clients` clients, values travelling as `wire_dtype` (float32 or float64).

        Raises
        ------
        ConfigError : the options do not fit the dimension (for instance k > dim).
        """
        wire = self.wire_of(dim, wire_dtype)
        capacity = simple_capacity(self, dim, wire)
        if capacity + 4 > dim * wire.itemsize:  # with the length before it a message would be longer than the vector
            return compressors["identity"]().bind(dim, n_clients, wire)
        return looped(self, dim, n_clients, wire, capacity)

    def wire_of(self, dim: int, wire_dtype: DTypeLike) -> np.dtype:
        """The wire dtype, if messages can carry `dim` values of it: what `bind` begins with.

        Raises
        ------
        ConfigError : dim is not in 1..largest_dim, or the dtype is neither float32 nor float64.
        """
        if not 1 <= dim <= self.largest_dim:
            raise ConfigError(
                f"compressor {self.name!r} takes vectors of 1 to {self.largest_dim} entries, not of {dim}; identity, cast and sign "
                f"take up to {UNLIMITED}, and vectors can be compressed in parts"
            )
        wire = np.dtype(wire_dtype)
        if wire not in (np.float32, np.float64):
            raise ConfigError(f"wire_dtype={wire} cannot travel; allowed: float32, float64")
        return wire

    # ---- by hand ------------------------------------------------------------------------------------------------
    def apply(self, x: ArrayLike, key: MessageKey | None = None, wire_dtype: DTypeLike | None = None) -> np.ndarray:
        """C(x): encode x and decode it again.

        Parameters
        ----------
        x : d real numbers, as an array or a list; see `vector_of`. key : of the message; the same key gives the same random numbers.
        wire_dtype : of the values in the message; as x where None.

        >>> import mpicomp as mc
        >>> mc.compressor("topk:k=1").apply([1.0, -3.0, 2.0])
        array([ 0., -3.,  0.])

        Raises
        ------
        ConfigError : x is not a vector of real numbers.
        """
        x, key = vector_of(x), key or MessageKey.seeded(0)
        codec = self.bind(x.size, key.n_clients, wire_dtype or x.dtype)
        buf, out = np.zeros(single.capacity(codec), np.uint8), np.zeros(x.size, x.dtype)
        single.decode(codec, buf[: single.encode(codec, x, buf, key)], out, key)
        return out

    def compress(self, x: ArrayLike, key: MessageKey | None = None) -> bytes:
        """A message that says all that `decompress` needs: for files, sockets and tests. A run sends the same bytes without this head.

        Parameters
        ----------
        x : d real numbers, float32 or float64, or what `vector_of` converts; values travel in its dtype.
        key : of the message. Two messages with one key share their random numbers.

        >>> import mpicomp as mc
        >>> c = mc.compressor("topk:k=1")
        >>> c.decompress(c.compress([1.0, -3.0, 2.0]))
        array([ 0., -3.,  0.])

        Raises
        ------
        ConfigError : x is not a vector of real numbers, or the compressor's options do not fit its dimension.
        """
        x, key = vector_of(x), key or MessageKey.seeded(0)
        codec = self.bind(x.size, key.n_clients, x.dtype)
        buf = np.zeros(single.capacity(codec), np.uint8)
        nbytes = single.encode(codec, x, buf, key)
        head = _HEAD.pack(
            _MAGIC, _VERSION, codec.codec_id, x.dtype == np.float64, key.client, key.n_clients, x.size, int(key.shared), int(key.private)
        )  # fmt: skip
        return head + buf[:nbytes].tobytes()

    def decompress(self, data: bytes) -> np.ndarray:
        """The vector that a message of `compress` stands for, shape (d,), float32 or float64 as it was.

        Raises
        ------
        WireError : the bytes are not a message that this compressor wrote.
        """
        if len(data) < _HEAD.size:
            raise WireError(f"truncated message: {len(data)} bytes, its head alone has {_HEAD.size}")
        magic, version, codec_id, is_double, client, n_clients, d, shared, private = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION or is_double > 1 or not client < n_clients:
            raise WireError(f"not a message of version {_VERSION} that `compress` wrote")
        try:
            codec = self.bind(d, n_clients, np.float64 if is_double else np.float32)
        except ConfigError as error:
            raise WireError(
                f"a message for a vector of {d} entries, which {self.spec} cannot have written: {error}"
            ) from None
        if codec.codec_id != codec_id:
            raise WireError(f"a message of codec {codec_id}, {self.spec} has codec {codec.codec_id}")
        out, key = np.zeros(d, codec.wire_dtype), MessageKey(np.uint64(shared), np.uint64(private), client, n_clients)
        single.decode(codec, np.frombuffer(data, np.uint8)[_HEAD.size :], out, key)
        return out

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
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= dim:
        raise ConfigError(f"{owner.name}: k={k} must be an integer from 1 to the dimension, {dim}")
    return k


_EXAMPLES = ("", ":fraction=0.1", ":bits=4")  # the first that a compressor takes
EXAMPLE_DIM, EXAMPLE_CLIENTS = 4096, 4


def example(name: str) -> Compressor:
    """A compressor of this name, with options where it needs some, that can be bound to EXAMPLE_DIM and EXAMPLE_CLIENTS."""
    for options in _EXAMPLES:
        try:
            compressor = compressors.create(name + options)
            compressor.bind(EXAMPLE_DIM, EXAMPLE_CLIENTS)
        except ConfigError:
            continue
        return compressor
    raise ConfigError(f"compressor {name!r} can be made with none of {', '.join(_EXAMPLES)}")
