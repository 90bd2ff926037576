"""Loops over blocks of sixteen entries, given as LLVM vectors: what Numba's own vectorising does not find.

Results that are one bit an entry are stored as the processor compares them, without a byte for each in between; products of which only the
upper half is wanted take half the instructions. On processors with shorter vectors LLVM splits the blocks; the bits are the same.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .lanes import AHEAD, CACHE_LINE, address_of, kernel_intrinsic, prefetch

BLOCK = 16  # entries
_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_WORDS, _FLOATS = ir.VectorType(_I32, BLOCK), ir.VectorType(ir.FloatType(), BLOCK)
_GAMMA = 0x9E3779B9  # as in `random.state32`


def _splat(builder: Any, value: Any) -> Any:
    """A vector with `value`, a number of the kernel, in every lane."""
    kind = ir.VectorType(value.type, BLOCK)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, BLOCK), None))


def _all(kind: ir.VectorType, value: Any) -> ir.Constant:
    """A constant vector with `value` in every lane."""
    return ir.Constant(kind, [value] * BLOCK)


def _first_states(builder: Any, key: Any, start: Any) -> Any:
    """`random.state32` of the entries start, start + 1, …"""
    low = builder.trunc(key, _I32)
    first = builder.add(builder.mul(builder.trunc(start, _I32), _I32(_GAMMA)), low)
    steps = ir.Constant(_WORDS, [lane * _GAMMA & 0xFFFFFFFF for lane in range(BLOCK)])
    return builder.add(_splat(builder, first), steps)


def _drawn(builder: Any, states: Any, high: Any) -> Any:
    """`random.draw32`; `high` is the upper half of the key in every lane."""

    def xorshift(x: Any, shift: int) -> Any:
        return builder.xor(x, builder.lshr(x, _all(_WORDS, shift)))

    x = builder.mul(xorshift(states, 16), _all(_WORDS, 0x21F0AAAD))
    x = builder.mul(builder.add(xorshift(x, 15), high), _all(_WORDS, 0xD35A2D97))
    return xorshift(x, 15)


def _upper_products(builder: Any, words: Any, factor: Any) -> Any:
    """The upper halves of words · factor; `factor` is a 64-bit number below 2**32."""
    wide, undefined = ir.VectorType(_I64, BLOCK // 2), ir.Constant(_WORDS, ir.Undefined)

    def pick(a: Any, b: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, BLOCK), lanes))

    first = builder.insert_element(ir.Constant(wide, ir.Undefined), factor, _I32(0))
    factors = builder.shuffle_vector(
        first, ir.Constant(wide, ir.Undefined), ir.Constant(ir.VectorType(_I32, BLOCK // 2), None)
    )
    low = ir.Constant(wide, [0xFFFFFFFF] * (BLOCK // 2))
    odd = pick(words, undefined, [lane | 1 for lane in range(BLOCK)])

    def times_factor(part: Any) -> Any:
        return builder.bitcast(builder.mul(builder.and_(builder.bitcast(part, wide), low), factors), _WORDS)

    return pick(
        times_factor(words), times_factor(odd), [lane + BLOCK if lane & 1 else lane | 1 for lane in range(BLOCK)]
    )


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once or twice, whichever the processor does faster."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{BLOCK}f32"), [a, b, c])


def _values(builder: Any, place_of: Any, dtype: Any, entry: Any) -> Any:
    """The block of the first argument from `entry` on, in float32; what comes later is requested from memory."""
    size = dtype.bitwidth // 8
    byte = builder.mul(entry, _I64(size))
    for line in range(0, BLOCK * size, CACHE_LINE):
        prefetch(builder, place_of(0, builder.add(byte, _I64(AHEAD * size + line)), ir.IntType(8)))
    if size == 4:
        return builder.load(place_of(0, byte, _FLOATS), align=1)
    return builder.fptrunc(builder.load(place_of(0, byte, ir.VectorType(ir.DoubleType(), BLOCK)), align=1), _FLOATS)


@kernel_intrinsic
def ends_of_blocks(
    typing: Any, x: Any, start: Any, blocks: Any, n: Any, place: Any, slope: Any, half: Any, margin: Any, common: Any, key: Any,
    buf: Any, pos: Any, clear: Any,
) -> Any:  # fmt: skip
    """For j = start, …, start + 16 · blocks − 1, with S_j = (place + ⌊bits32(common, j) n / 2³²⌋) mod n and γ_j = bits32(key, j)/2³²:

    t_j = slope · x_j + half − (S_j + γ_j); the bits t_j > margin go to `buf` from byte `pos` on, the bits t_j > −margin to `clear` from its
    first byte on, first entry in the lowest bit. t_j is computed in float32 with an error below 8n · 2⁻²⁴.

    Types
    -----
    n, place : uint32, place < n <= 2**16; slope, half, margin : float32; common, key : uint64; x : float32 or float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (_, first, count, clients, own_place, steep, offset, doubt, shared, private, _, byte, _) = args

        def place_of(number: int, at: Any, kind: Any) -> Any:
            return address_of(context, builder, signature.args[number:], [args[number], at], kind)

        n_wide = builder.zext(clients, _I64)
        here, there = _splat(builder, own_place), _splat(builder, builder.sub(own_place, clients))
        highs = [_splat(builder, builder.trunc(builder.lshr(k, _I64(32)), _I32)) for k in (shared, private)]
        states = [cgutils.alloca_once_value(builder, _first_states(builder, k, first)) for k in (shared, private)]
        slopes, bound = _splat(builder, steep), _splat(builder, doubt)
        middle = _splat(builder, builder.fsub(offset, ir.Constant(ir.FloatType(), 0.5)))
        with cgutils.for_range(builder, count) as loop:
            drawn = []
            for state, high in zip(states, highs, strict=True):
                now = builder.load(state)
                drawn.append(_drawn(builder, now, high))
                builder.store(builder.add(now, _all(_WORDS, BLOCK * _GAMMA & 0xFFFFFFFF)), state)
            shift = _upper_products(builder, drawn[0], n_wide)
            up, down = builder.add(shift, here), builder.add(shift, there)
            shift = builder.select(builder.icmp_unsigned("<", up, down), up, down)  # modulo n: the smaller one
            fraction = builder.sitofp(builder.xor(drawn[1], _all(_WORDS, 1 << 31)), _FLOATS)  # γ − ½, signed
            threshold = _fused(builder, fraction, _all(_FLOATS, 2.0**-32), builder.sitofp(shift, _FLOATS))
            values = _values(builder, place_of, x.dtype, builder.add(first, builder.mul(loop.index, _I64(BLOCK))))
            above = builder.fsub(_fused(builder, slopes, values, middle), threshold)
            at = builder.mul(loop.index, _I64(BLOCK // 8))
            for number, begin, limit in ((10, byte, bound), (12, _I64(0), builder.fneg(bound))):
                word = builder.bitcast(builder.fcmp_ordered(">", above, limit), _I16)
                builder.store(word, place_of(number, builder.add(begin, at), _I16), align=1)

    arguments = x, types.intp, types.intp, types.uint32, types.uint32, *[types.float32] * 3, types.uint64, types.uint64
    return types.void(*arguments, buf, types.intp, clear), generate


@kernel_intrinsic
def powers_of_blocks(
    typing: Any, x: Any, start: Any, blocks: Any, key: Any, buf: Any, exponents: Any, signs: Any
) -> Any:
    """For j = start, …, start + 16 · blocks − 1: x_j in float32, rounded at random to a power of two as `compressors.natural` says.

    The exponents go to `buf` from byte `exponents` on, the signs, one bit each, from byte `signs` on, first entry in the lowest bit.

    Types
    -----
    key : uint64; x : float32 or float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, private, _, exponent, sign = args

        def place_of(number: int, at: Any, kind: Any) -> Any:
            return address_of(context, builder, signature.args[number:], [args[number], at], kind)

        high = _splat(builder, builder.trunc(builder.lshr(private, _I64(32)), _I32))
        state = cgutils.alloca_once_value(builder, _first_states(builder, private, first))
        with cgutils.for_range(builder, count) as loop:
            now, done = builder.load(state), builder.mul(loop.index, _I64(BLOCK))
            builder.store(builder.add(now, _all(_WORDS, BLOCK * _GAMMA & 0xFFFFFFFF)), state)
            bits = builder.bitcast(_values(builder, place_of, x.dtype, builder.add(first, done)), _WORDS)
            # twice the magnitude and twice as many random bits: without the sign, the exponent ends at the upper end
            twice = builder.add(bits, bits)
            draw = builder.lshr(_drawn(builder, now, high), _all(_WORDS, 8))
            # the largest power of two stays, and so do infinity and NaN
            below = builder.icmp_unsigned("<", twice, _all(_WORDS, 254 << 24))
            field = builder.select(below, builder.add(twice, draw), twice)
            powers = builder.trunc(builder.lshr(field, _all(_WORDS, 24)), ir.VectorType(ir.IntType(8), BLOCK))
            builder.store(powers, place_of(4, builder.add(exponent, done), powers.type), align=1)
            negative = builder.bitcast(builder.icmp_signed("<", bits, _all(_WORDS, 0)), _I16)
            at = builder.add(sign, builder.udiv(done, _I64(8)))
            builder.store(negative, place_of(4, at, _I16), align=1)

    return types.void(x, types.intp, types.intp, types.uint64, buf, types.intp, types.intp), generate
