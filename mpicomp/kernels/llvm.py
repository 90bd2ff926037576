"""What the kernels in LLVM's own instructions (`llvm_words`, `llvm_blocks`) are made of: addresses, vectors, and random words.

Numba calls the function `generate` of an intrinsic with a `builder`, whose methods append one instruction each to the kernel's code.
Nothing here computes; it writes code that does. What that code computes, `intrinsics` and `blocks` say in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from .sizes import AHEAD, BLOCK, CACHE_LINE, PAIR

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
WORDS, WIDE = (ir.VectorType(kind, BLOCK) for kind in (I32, I64))
FLOATS, DOUBLES = ir.VectorType(ir.FloatType(), BLOCK), ir.VectorType(ir.DoubleType(), BLOCK)
_GAMMA = 0x9E3779B9  # as in `random.state32`


def kernel_intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of kernels that is given as LLVM instructions; callers leave out the first argument."""
    return cast(Callable[..., Any], intrinsic(function))


def address_of(context: Any, builder: Any, kinds: Any, args: Any, kind: ir.Type) -> Any:
    """A pointer to a `kind` in the array that is the first argument, as many bytes after its beginning as the second says."""
    array = context.make_array(kinds[0])(context, builder, args[0])
    start = builder.bitcast(array.data, I8.as_pointer())
    return builder.bitcast(builder.gep(start, [args[1]]), kind.as_pointer())


def prefetch(builder: Any, address: Any) -> None:
    """Have the cache line of an address brought from memory."""
    kind = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(prefetch, [address, I32(0), I32(3), I32(1)])  # to read, into the nearest cache, data


def places(context: Any, builder: Any, signature: Any, args: Any) -> Callable[[int, Any, Any], Any]:
    """place_of(number, at, kind): a pointer to a `kind` in the array that is argument `number`, `at` bytes after its beginning."""
    return lambda number, at, kind: address_of(context, builder, signature.args[number:], [args[number], at], kind)


def splat(builder: Any, value: Any, lanes: int = BLOCK) -> Any:
    """A vector with `value`, a number of the kernel, in every lane."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), None))


def constant(kind: ir.VectorType, value: Any) -> ir.Constant:
    """A constant vector with `value` in every lane."""
    return ir.Constant(kind, [value] * BLOCK)


class Dithers:
    """`random.dither32` of one pair of blocks after the other, from a part of a vector that begins at element `first`."""

    def __init__(self, builder: Any, key: Any, first: Any):
        self.builder = builder
        self.high = splat(builder, builder.trunc(builder.lshr(key, I64(32)), I32))
        state = builder.add(builder.mul(builder.trunc(first, I32), I32(_GAMMA)), builder.trunc(key, I32))
        steps = ir.Constant(WORDS, [lane * _GAMMA & 0xFFFFFFFF for lane in range(BLOCK)])
        self.states = cgutils.alloca_once_value(builder, builder.add(splat(builder, state), steps))

    def blocks(self, loop: Any) -> Iterator[tuple[Any, Any]]:
        """(how many entries of the loop came before, dithers) of the two blocks of its next pair; once in the loop."""
        done = self.builder.mul(loop.index, I64(PAIR))
        for block, dithers in enumerate(self._next()):
            yield self.builder.add(done, I64(block * BLOCK)), dithers

    def _next(self) -> list[Any]:
        builder, words, half = self.builder, self._drawn(), constant(WORDS, 16)
        return [words, builder.or_(builder.shl(words, half), builder.lshr(words, half))]

    def _drawn(self) -> Any:
        """`random.draw32` of the next sixteen states."""
        builder, states = self.builder, self.builder.load(self.states)
        builder.store(builder.add(states, constant(WORDS, BLOCK * _GAMMA & 0xFFFFFFFF)), self.states)

        def xorshift(x: Any, shift: int) -> Any:
            return builder.xor(x, builder.lshr(x, constant(WORDS, shift)))

        x = builder.mul(xorshift(states, 16), constant(WORDS, 0x21F0AAAD))
        x = builder.mul(builder.add(xorshift(x, 15), self.high), constant(WORDS, 0xD35A2D97))
        return xorshift(x, 15)


class Bits(Dithers):
    """`random.bits32` of one entry after the other, from element `first` on."""

    def _next(self) -> list[Any]:
        return [self._drawn(), self._drawn()]


class Strata:
    """The places (place + ⌊dither32(common, j) n / 2³²⌋) mod n of one client among n in coordinate after coordinate."""

    def __init__(self, builder: Any, clients: Any, place: Any):
        self.builder, self.wide = builder, builder.zext(clients, I64)
        self.here, self.there = splat(builder, place), splat(builder, builder.sub(place, clients))
        # of n: as many binary digits of a fraction fit beside its places into 31 bits
        self.digits = builder.sub(builder.ctlz(builder.sub(clients, I32(1)), ir.IntType(1)(0)), I32(1))
        power = builder.shl(builder.add(self.digits, I32(127)), I32(23))
        self.scale = builder.bitcast(power, ir.FloatType())  # 2 to the power of `digits`

    def thresholds(self, drawn: Any, own: Any) -> Any:
        """(S + own/2³²) · scale as float32, for the dithers `drawn` of what the clients share and `own` of the client."""
        builder = self.builder
        shift = _upper_products(builder, drawn, self.wide)
        up, down = builder.add(shift, self.here), builder.add(shift, self.there)
        shift = builder.select(builder.icmp_unsigned("<", up, down), up, down)  # modulo n: the smaller one
        return builder.sitofp(_joined(builder, shift, own, splat(builder, self.digits)), FLOATS)


def bytes_of(builder: Any, vectors: list[Any], number: int) -> Any:
    """Byte `number` (0 is the lowest) of each lane of two vectors of integers, one after the other."""
    size = vectors[0].type.element.width // 8
    raw = [builder.bitcast(vector, ir.VectorType(I8, BLOCK * size)) for vector in vectors]
    lanes = [size * lane + number for lane in range(2 * BLOCK)]
    return builder.shuffle_vector(*raw, ir.Constant(ir.VectorType(I32, 2 * BLOCK), lanes))


def _upper_products(builder: Any, words: Any, factor: Any) -> Any:
    """The upper halves of words · factor; `factor` is a 64-bit number below 2**32."""
    wide, undefined = ir.VectorType(I64, BLOCK // 2), ir.Constant(WORDS, ir.Undefined)

    def pick(a: Any, b: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, BLOCK), lanes))

    factors = splat(builder, factor, BLOCK // 2)
    low = ir.Constant(wide, [0xFFFFFFFF] * (BLOCK // 2))
    odd = pick(words, undefined, [lane | 1 for lane in range(BLOCK)])

    def times_factor(part: Any) -> Any:
        return builder.bitcast(builder.mul(builder.and_(builder.bitcast(part, wide), low), factors), WORDS)

    return pick(
        times_factor(words), times_factor(odd), [lane + BLOCK if lane & 1 else lane | 1 for lane in range(BLOCK)]
    )


def _joined(builder: Any, high: Any, low: Any, count: Any) -> Any:
    """The lowest bits of `high` before the `count` highest bits of `low`, 0 < count < 32; the same count in every lane."""
    kind = ir.FunctionType(WORDS, [WORDS] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshl.v{BLOCK}i32"), [high, low, count]
    )


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once or twice, whichever the processor does faster."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{BLOCK}f32"), [a, b, c])


def unary(builder: Any, name: str, value: Any) -> Any:
    """An instruction of LLVM's on a block of float32."""
    kind = ir.FunctionType(FLOATS, [FLOATS])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{BLOCK}f32"), [value])


def values_of(builder: Any, place_of: Any, dtype: Any, entry: Any) -> Any:
    """The block of the first argument from `entry` on, in its own type; what comes later is requested from memory."""
    size = dtype.bitwidth // 8
    byte = builder.mul(entry, I64(size))
    for line in range(0, BLOCK * size, CACHE_LINE):
        prefetch(builder, place_of(0, builder.add(byte, I64(AHEAD * size + line)), I8))
    return builder.load(place_of(0, byte, FLOATS if size == 4 else DOUBLES), align=1)


def converted(builder: Any, values: Any, kind: Any) -> Any:
    """A block of floating-point numbers as float32 or float64."""
    if values.type == kind:
        return values
    return builder.fptrunc(values, kind) if kind == FLOATS else builder.fpext(values, kind)
