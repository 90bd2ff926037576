"""Loops over pairs of blocks of sixteen entries, given as LLVM vectors: what Numba's own vectorising does not find.

The two blocks of a pair share their random words (`random.dither32`). Results that are one bit an entry are stored as the processor
compares them, without a byte for each in between; products of which only the upper half is wanted take half the instructions; bytes are
picked out of two registers at once. On processors with shorter vectors LLVM splits the blocks; the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .intrinsics import AHEAD, CACHE_LINE, address_of, kernel_intrinsic, prefetch

BLOCK, PAIR = 16, 32  # entries
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WORDS, _WIDE = (ir.VectorType(kind, BLOCK) for kind in (_I32, _I64))
_FLOATS, _DOUBLES = ir.VectorType(ir.FloatType(), BLOCK), ir.VectorType(ir.DoubleType(), BLOCK)
_GAMMA = 0x9E3779B9  # as in `random.state32`


def _places(context: Any, builder: Any, signature: Any, args: Any) -> Callable[[int, Any, Any], Any]:
    """place_of(number, at, kind): a pointer to a `kind` in the array that is argument `number`, `at` bytes after its beginning."""
    return lambda number, at, kind: address_of(context, builder, signature.args[number:], [args[number], at], kind)


def _splat(builder: Any, value: Any, lanes: int = BLOCK) -> Any:
    """A vector with `value`, a number of the kernel, in every lane."""
    kind = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_I32, lanes), None))


def _all(kind: ir.VectorType, value: Any) -> ir.Constant:
    """A constant vector with `value` in every lane."""
    return ir.Constant(kind, [value] * BLOCK)


class _Dithers:
    """`random.dither32` of one pair of blocks after the other, from a part of a vector that begins at element `first`."""

    def __init__(self, builder: Any, key: Any, first: Any):
        self.builder = builder
        self.high = _splat(builder, builder.trunc(builder.lshr(key, _I64(32)), _I32))
        state = builder.add(builder.mul(builder.trunc(first, _I32), _I32(_GAMMA)), builder.trunc(key, _I32))
        steps = ir.Constant(_WORDS, [lane * _GAMMA & 0xFFFFFFFF for lane in range(BLOCK)])
        self.states = cgutils.alloca_once_value(builder, builder.add(_splat(builder, state), steps))

    def blocks(self, loop: Any) -> Iterator[tuple[Any, Any]]:
        """(how many entries of the loop came before, dithers) of the two blocks of its next pair; once in the loop."""
        done = self.builder.mul(loop.index, _I64(PAIR))
        for block, dithers in enumerate(self._next()):
            yield self.builder.add(done, _I64(block * BLOCK)), dithers

    def _next(self) -> list[Any]:
        builder, words, half = self.builder, self._drawn(), _all(_WORDS, 16)
        return [words, builder.or_(builder.shl(words, half), builder.lshr(words, half))]

    def _drawn(self) -> Any:
        """`random.draw32` of the next sixteen states."""
        builder, states = self.builder, self.builder.load(self.states)
        builder.store(builder.add(states, _all(_WORDS, BLOCK * _GAMMA & 0xFFFFFFFF)), self.states)

        def xorshift(x: Any, shift: int) -> Any:
            return builder.xor(x, builder.lshr(x, _all(_WORDS, shift)))

        x = builder.mul(xorshift(states, 16), _all(_WORDS, 0x21F0AAAD))
        x = builder.mul(builder.add(xorshift(x, 15), self.high), _all(_WORDS, 0xD35A2D97))
        return xorshift(x, 15)


class _Bits(_Dithers):
    """`random.bits32` of one entry after the other, from element `first` on."""

    def _next(self) -> list[Any]:
        return [self._drawn(), self._drawn()]


class _Strata:
    """The places (place + ⌊dither32(common, j) n / 2³²⌋) mod n of one client among n in coordinate after coordinate."""

    def __init__(self, builder: Any, clients: Any, place: Any):
        self.builder, self.wide = builder, builder.zext(clients, _I64)
        self.here, self.there = _splat(builder, place), _splat(builder, builder.sub(place, clients))
        # of n: as many binary digits of a fraction fit beside its places into 31 bits
        self.digits = builder.sub(builder.ctlz(builder.sub(clients, _I32(1)), ir.IntType(1)(0)), _I32(1))
        power = builder.shl(builder.add(self.digits, _I32(127)), _I32(23))
        self.scale = builder.bitcast(power, ir.FloatType())  # 2 to the power of `digits`

    def thresholds(self, drawn: Any, own: Any) -> Any:
        """(S + own/2³²) · scale as float32, for the dithers `drawn` of what the clients share and `own` of the client."""
        builder = self.builder
        shift = _upper_products(builder, drawn, self.wide)
        up, down = builder.add(shift, self.here), builder.add(shift, self.there)
        shift = builder.select(builder.icmp_unsigned("<", up, down), up, down)  # modulo n: the smaller one
        return builder.sitofp(_joined(builder, shift, own, _splat(builder, self.digits)), _FLOATS)


def _bytes_of(builder: Any, vectors: list[Any], number: int) -> Any:
    """Byte `number` (0 is the lowest) of each lane of two vectors of integers, one after the other."""
    size = vectors[0].type.element.width // 8
    raw = [builder.bitcast(vector, ir.VectorType(_I8, BLOCK * size)) for vector in vectors]
    lanes = [size * lane + number for lane in range(2 * BLOCK)]
    return builder.shuffle_vector(*raw, ir.Constant(ir.VectorType(_I32, 2 * BLOCK), lanes))


def _upper_products(builder: Any, words: Any, factor: Any) -> Any:
    """The upper halves of words · factor; `factor` is a 64-bit number below 2**32."""
    wide, undefined = ir.VectorType(_I64, BLOCK // 2), ir.Constant(_WORDS, ir.Undefined)

    def pick(a: Any, b: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, BLOCK), lanes))

    factors = _splat(builder, factor, BLOCK // 2)
    low = ir.Constant(wide, [0xFFFFFFFF] * (BLOCK // 2))
    odd = pick(words, undefined, [lane | 1 for lane in range(BLOCK)])

    def times_factor(part: Any) -> Any:
        return builder.bitcast(builder.mul(builder.and_(builder.bitcast(part, wide), low), factors), _WORDS)

    return pick(
        times_factor(words), times_factor(odd), [lane + BLOCK if lane & 1 else lane | 1 for lane in range(BLOCK)]
    )


def _joined(builder: Any, high: Any, low: Any, count: Any) -> Any:
    """The lowest bits of `high` before the `count` highest bits of `low`, 0 < count < 32; the same count in every lane."""
    kind = ir.FunctionType(_WORDS, [_WORDS] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.fshl.v{BLOCK}i32"), [high, low, count]
    )


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once or twice, whichever the processor does faster."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{BLOCK}f32"), [a, b, c])


def _unary(builder: Any, name: str, value: Any) -> Any:
    """An instruction of LLVM's on a block of float32."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{BLOCK}f32"), [value])


def _values(builder: Any, place_of: Any, dtype: Any, entry: Any) -> Any:
    """The block of the first argument from `entry` on, in its own type; what comes later is requested from memory."""
    size = dtype.bitwidth // 8
    byte = builder.mul(entry, _I64(size))
    for line in range(0, BLOCK * size, CACHE_LINE):
        prefetch(builder, place_of(0, builder.add(byte, _I64(AHEAD * size + line)), _I8))
    return builder.load(place_of(0, byte, _FLOATS if size == 4 else _DOUBLES), align=1)


def _in(builder: Any, values: Any, kind: Any) -> Any:
    """A block of floating-point numbers as float32 or float64."""
    if values.type == kind:
        return values
    return builder.fptrunc(values, kind) if kind == _FLOATS else builder.fpext(values, kind)


@kernel_intrinsic
def ends_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, n: Any, place: Any, slope: Any, half: Any, margin: Any, common: Any, key: Any,
    buf: Any, pos: Any, clear: Any,
) -> Any:  # fmt: skip
    """For j = start, …, start + 32 · pairs − 1, with S_j = (place + ⌊dither32(common, j) n / 2³²⌋) mod n, γ_j = dither32(key, j)/2³²:

    t_j = slope · x_j + half − (S_j + γ_j); the bits t_j > margin go to `buf` from byte `pos` on, the bits t_j > −margin to `clear` from its
    first byte on, first entry in the lowest bit. t_j is computed in float32 with an error below 8n · 2⁻²⁴: of S_j + γ_j the first 31 bits
    are put together as an integer, in which S_j has as many as n needs, and `half` goes to the other side of the comparison.

    Types
    -----
    start : a multiple of 32. n, place : uint32, place < n <= 2**16; slope, half, margin : float32, slope < 2**90; common, key : uint64;
    x : float32 or float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (_, first, count, clients, own_place, steep, offset, doubt, shared, private, _, byte, _) = args
        place_of = _places(context, builder, signature, args)
        strata = _Strata(builder, clients, own_place)
        slopes = _splat(builder, builder.fmul(steep, strata.scale))
        bounds = [builder.fsub(sign, offset) for sign in (doubt, builder.fneg(doubt))]
        above, below = (_splat(builder, builder.fmul(bound, strata.scale)) for bound in bounds)
        shifts, fractions = (_Dithers(builder, k, builder.lshr(first, _I64(1))) for k in (shared, private))
        with cgutils.for_range(builder, count) as loop:
            for (done, drawn), (_, own) in zip(shifts.blocks(loop), fractions.blocks(loop), strict=True):
                threshold = strata.thresholds(drawn, own)
                values = _in(builder, _values(builder, place_of, x.dtype, builder.add(first, done)), _FLOATS)
                excess = _fused(builder, slopes, values, builder.fneg(threshold))
                at = builder.lshr(done, _I64(3))
                for number, begin, limit in ((10, byte, above), (12, _I64(0), below)):
                    word = builder.bitcast(builder.fcmp_ordered(">", excess, limit), _I16)
                    builder.store(word, place_of(number, builder.add(begin, at), _I16), align=1)

    arguments = x, types.intp, types.intp, types.uint32, types.uint32, *[types.float32] * 3, types.uint64, types.uint64
    return types.void(*arguments, buf, types.intp, clear), generate


@kernel_intrinsic
def lattice_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, element: Any, n: Any, place: Any, inverse: Any, slope: Any, base: Any, spread: Any,
    margin: Any, common: Any, offsets: Any, key: Any, codes: Any, at: Any, doubts: Any,
) -> Any:  # fmt: skip
    """codes[at + i] = ⌈t_i⌉ for i = 0, …, 32 · pairs − 1. With j = element + i, and S_j and γ_j as in `ends_of_blocks`,

        t_i = slope · x_{start + i} · inverse + base + spread · (⌊bits32(offsets, j)/2⁸⌋ + 1) − (S_j + γ_j)/n

    in float32, where the product x · inverse is cut to [−1, 1].

    Where t_i is nearer than `margin` to an integer, or NaN, a bit is set in `doubts`, first entry in the lowest bit. The error of t_i is
    below (6.5m + 5) · 2⁻²⁴ where slope ≤ m/2, base ≤ m, 2²⁴ spread ≤ 1 and |t_i| ≤ m.

    Types
    -----
    element : a multiple of 32. n, place : uint32, place < n <= 2**16; inverse, slope, base, spread, margin : float32; common, offsets, key
    : uint64; x : float32 or float64; codes : uint16; doubts : uint8.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, element, clients, own_place, *numbers, shared, moved, private, _, to, _ = args
        place_of = _places(context, builder, signature, args)
        strata, one = _Strata(builder, clients, own_place), _all(_FLOATS, 1.0)
        share = builder.fdiv(ir.FloatType()(-1.0), builder.fmul(strata.scale, builder.uitofp(clients, ir.FloatType())))
        scales, slopes, bases, widths, doubt, shares = (_splat(builder, number) for number in (*numbers, share))
        sure = builder.fsub(_all(_FLOATS, 0.5), doubt)
        half = builder.lshr(element, _I64(1))
        drawn = _Dithers(builder, shared, half), _Dithers(builder, private, half), _Bits(builder, moved, element)
        with cgutils.for_range(builder, count) as loop:
            for (done, shift), (_, own), (_, offset) in zip(*(words.blocks(loop) for words in drawn), strict=True):
                values = _in(builder, _values(builder, place_of, x.dtype, builder.add(first, done)), _FLOATS)
                values = builder.fmul(values, scales)
                for bound, beyond in ((one, ">"), (builder.fneg(one), "<")):
                    values = builder.select(builder.fcmp_ordered(beyond, values, bound), bound, values)
                above = builder.add(builder.lshr(offset, _all(_WORDS, 8)), _all(_WORDS, 1))
                points = _fused(builder, slopes, values, _fused(builder, widths, builder.sitofp(above, _FLOATS), bases))
                points = _fused(builder, shares, strata.thresholds(shift, own), points)
                upper = _unary(builder, "ceil", points)
                found = builder.trunc(builder.fptosi(upper, _WORDS), ir.VectorType(_I16, BLOCK))
                byte = builder.mul(builder.add(to, done), _I64(2))
                builder.store(found, place_of(14, byte, found.type), align=1)
                distance = builder.fsub(builder.fsub(upper, points), _all(_FLOATS, 0.5))
                unsure = builder.fcmp_unordered(">", _unary(builder, "fabs", distance), sure)
                builder.store(builder.bitcast(unsure, _I16), place_of(16, builder.lshr(done, _I64(3)), _I16), align=1)

    arguments = x, *[types.intp] * 3, types.uint32, types.uint32, *[types.float32] * 5, *[types.uint64] * 3
    return types.void(*arguments, codes, types.intp, doubts), generate


@kernel_intrinsic
def powers_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, key: Any, buf: Any, exponents: Any, signs: Any
) -> Any:
    """For j = start, …, start + 32 · pairs − 1: x_j in float32, rounded at random to a power of two as `compressors.natural` says.

    The exponents go to `buf` from byte `exponents` on, the signs, one bit each, from byte `signs` on, first entry in the lowest bit.

    Types
    -----
    start : a multiple of 32. key : uint64; x : float32 or float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, private, _, exponent, sign = args
        place_of = _places(context, builder, signature, args)
        dithers = _Dithers(builder, private, builder.lshr(first, _I64(1)))
        with cgutils.for_range(builder, count) as loop:
            fields = []
            for here, dither in dithers.blocks(loop):
                values = _values(builder, place_of, x.dtype, builder.add(first, here))
                bits = builder.bitcast(_in(builder, values, _FLOATS), _WORDS)
                # twice the magnitude and twice as many random bits: without the sign, the exponent ends at the upper end
                twice = builder.add(bits, bits)
                draw = builder.lshr(dither, _all(_WORDS, 8))
                # the largest power of two stays, and so do infinity and NaN
                below = builder.icmp_unsigned("<", twice, _all(_WORDS, 254 << 24))
                fields.append(builder.select(below, builder.add(twice, draw), twice))
                negative = builder.bitcast(builder.icmp_signed("<", bits, _all(_WORDS, 0)), _I16)
                at = builder.add(sign, builder.lshr(here, _I64(3)))
                builder.store(negative, place_of(4, at, _I16), align=1)
            powers, done = _bytes_of(builder, fields, 3), builder.mul(loop.index, _I64(PAIR))
            builder.store(powers, place_of(4, builder.add(exponent, done), powers.type), align=1)

    return types.void(x, types.intp, types.intp, types.uint64, buf, types.intp, types.intp), generate


@kernel_intrinsic
def wide_powers_of_blocks(typing: Any, x: Any, start: Any, pairs: Any, key: Any, buf: Any, low: Any, top: Any) -> Any:
    """`powers_of_blocks` in float64: the lower eight of the twelve bits of a field go to `buf` from byte `low` on, the others to `top`
    from its beginning on, a byte for each."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, private, _, begin, _ = args
        place_of = _places(context, builder, signature, args)
        dithers = _Dithers(builder, private, builder.lshr(first, _I64(1)))
        with cgutils.for_range(builder, count) as loop:
            fields = []
            for here, dither in dithers.blocks(loop):
                values = _values(builder, place_of, x.dtype, builder.add(first, here))
                bits = builder.bitcast(_in(builder, values, _DOUBLES), _WIDE)
                draw = builder.shl(builder.zext(dither, _WIDE), _all(_WIDE, 20))
                magnitude = builder.and_(bits, _all(_WIDE, 2**63 - 1))
                below = builder.icmp_unsigned("<", magnitude, _all(_WIDE, 2046 << 52))
                field = builder.select(below, builder.add(bits, draw), bits)
                fields.append(builder.lshr(field, _all(_WIDE, 52)))
            done = builder.mul(loop.index, _I64(PAIR))
            for number, byte, at in ((4, 0, builder.add(begin, done)), (6, 1, done)):
                part = _bytes_of(builder, fields, byte)
                builder.store(part, place_of(number, at, part.type), align=1)

    return types.void(x, types.intp, types.intp, types.uint64, buf, types.intp, top), generate


@kernel_intrinsic
def levels_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, scale: Any, limit: Any, key: Any, binary: Any, levels: Any, codes: Any, at: Any
) -> Any:  # fmt: skip
    """codes[at + i] = ⌊z + u⌋ + levels for i = 0, …, 32 · pairs − 1, where z = scale · x_{start + i} in units of 2⁻ᵇ, cut to an integer,
    u = dither32(key, i, start) without its lowest 32 − b bits, and b is `binary`.

    Types
    -----
    scale : of x's dtype; limit : of x's dtype, what is beyond ±limit after the product is cut off and NaN becomes −limit, or None.
    key : uint64. binary : 1 to 24; 24 where codes are uint8. codes : uint8 or uint16. x : float32 or float64.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, steep, most, private, fine, middle, _, begin = args
        size = codes.dtype.bitwidth // 8
        place_of = _places(context, builder, signature, args)
        dithers, slopes = _Dithers(builder, private, first), _splat(builder, steep)
        precision = _splat(builder, builder.trunc(fine, _I32))
        lost = builder.sub(_all(_WORDS, 32), precision)
        with cgutils.for_range(builder, count) as loop:
            done, sums = builder.mul(loop.index, _I64(PAIR)), []
            for here, dither in dithers.blocks(loop):
                value = builder.fmul(slopes, _values(builder, place_of, x.dtype, builder.add(first, here)))
                if limit != types.none:
                    upper = _splat(builder, most)
                    lower = builder.fneg(upper)
                    value = builder.select(builder.fcmp_ordered(">", value, lower), value, lower)
                    value = builder.select(builder.fcmp_ordered("<", value, upper), value, upper)
                shift = _all(_WORDS, 8) if size == 1 else lost
                sums.append(builder.add(builder.fptosi(value, _WORDS), builder.lshr(dither, shift)))
            if size == 1:
                found = [_bytes_of(builder, sums, 3)]
            else:
                kind = ir.VectorType(_I16, BLOCK)
                found = [builder.trunc(builder.ashr(total, precision), kind) for total in sums]
            kind, offset = found[0].type, builder.trunc(middle, found[0].type.element)
            offsets = _splat(builder, offset, kind.count)
            for block, part in enumerate(found):
                byte = builder.mul(builder.add(begin, builder.add(done, _I64(block * BLOCK))), _I64(size))
                builder.store(builder.add(part, offsets), place_of(8, byte, kind), align=1)

    number = x.dtype
    cut = types.none if limit == types.none else number
    arguments = x, types.intp, types.intp, number, cut, types.uint64, types.intp, types.intp, codes, types.intp
    return types.void(*arguments), generate


@kernel_intrinsic
def nibbles_of_blocks(typing: Any, fields: Any, count: Any, out: Any) -> Any:
    """out[i] = fields[2i] + 16 · fields[2i + 1] for i < 64 · count; the fields are below 16, both arrays uint8."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = 4 * BLOCK
        raw, pairs = ir.VectorType(_I8, size), ir.VectorType(_I16, size // 2)
        even = ir.Constant(ir.VectorType(_I32, size), list(range(0, 2 * size, 2)))
        four = ir.Constant(pairs, [4] * (size // 2))
        place_of = _places(context, builder, signature, args)
        with cgutils.for_range(builder, args[1]) as loop:
            at, both = builder.mul(loop.index, _I64(size)), []
            for part in (0, 1):
                byte = builder.add(builder.add(at, at), _I64(part * size))
                two = builder.bitcast(builder.load(place_of(0, byte, raw), align=1), pairs)
                both.append(builder.bitcast(builder.or_(two, builder.lshr(two, four)), raw))
            builder.store(builder.shuffle_vector(*both, even), place_of(2, at, raw), align=1)

    return types.void(fields, types.intp, out), generate
