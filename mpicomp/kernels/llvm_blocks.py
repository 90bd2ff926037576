"""The functions of `blocks` in LLVM's instructions for vectors of 16 or 64 entries: what Numba's own vectorising does not find.

Results that are one bit an entry are stored as the processor compares them, without a byte for each in between; products of which only the
upper half is wanted take half the instructions; bytes are picked out of two registers at once. On processors with shorter vectors LLVM
splits the blocks; the bits are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .llvm import (
    DOUBLES,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    WIDE,
    WORDS,
    Bits,
    Dithers,
    Strata,
    address_of,
    bytes_of,
    constant,
    converted,
    fused,
    kernel_intrinsic,
    places,
    prefetch,
    splat,
    unary,
    values_of,
)  # fmt: skip
from .sizes import AHEAD, BLOCK, CACHE_LINE, PAIR, PARTIAL_SUMS


def _norm_blocks(order: int) -> Callable[..., Any]:
    def norm_blocks(
        typing: Any, x: Any, other: Any, factor: Any, blocks: Any, partial_sums: Any, signs: Any, pos: Any
    ) -> Any:
        """`blocks.signs_of_blocks` and its sisters; all sums stay in registers meanwhile."""
        size, packed, added = x.dtype.bitwidth // 8 * PARTIAL_SUMS, signs != types.none, factor != types.none

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64, wide = ir.IntType(64), ir.VectorType(ir.DoubleType(), PARTIAL_SUMS)
            kind = wide if x.dtype == types.float64 else ir.VectorType(ir.FloatType(), PARTIAL_SUMS)

            def place(number: int, byte: Any, kind: Any) -> Any:
                return address_of(context, builder, signature.args[number:], [args[number], byte], kind)

            def block_of(number: int, byte: Any) -> Any:
                for line in range(0, size, CACHE_LINE) if packed else ():
                    ahead = builder.add(byte, i64(AHEAD * size // PARTIAL_SUMS + line))
                    prefetch(builder, place(number, ahead, ir.IntType(8)))
                return builder.load(place(number, byte, kind), align=1)

            def times_factor(block: Any) -> Any:
                lanes_of = ir.Constant(ir.VectorType(ir.IntType(32), PARTIAL_SUMS), None)
                first = builder.insert_element(ir.Constant(kind, ir.Undefined), args[2], ir.IntType(32)(0))
                return builder.fmul(builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes_of), block)

            address = place(4, i64(0), wide)
            sums = cgutils.alloca_once_value(builder, builder.load(address, align=1))
            with cgutils.for_range(builder, args[3]) as loop:
                byte = builder.mul(loop.index, i64(size))
                block = block_of(0, byte)
                if added:
                    block = builder.fadd(block, times_factor(block_of(1, byte)))
                    builder.store(block, place(0, byte, kind), align=1)
                elif other != types.none:
                    block = builder.fsub(block, block_of(1, byte))
                if packed:
                    below = builder.fcmp_ordered("<", block, ir.Constant(kind, None))
                    word = place(5, builder.add(args[6], builder.mul(loop.index, i64(PARTIAL_SUMS // 8))), i64)
                    builder.store(builder.bitcast(below, i64), word, align=1)
                if order:
                    block = block if kind == wide else builder.fpext(block, wide)
                    power = builder.fmul(block, block) if order == 2 else _absolute(builder, block, wide)
                    builder.store(builder.fadd(builder.load(sums), power), sums)
            builder.store(builder.load(sums), address, align=1)

        return types.void(x, other, factor, types.intp, partial_sums, signs, types.intp), generate

    return kernel_intrinsic(norm_blocks)


signs_of_blocks, add_absolute_blocks, add_square_blocks = (_norm_blocks(order) for order in range(3))


def _absolute(builder: Any, block: Any, kind: ir.VectorType) -> Any:
    function = ir.FunctionType(kind, [kind])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.fabs.v{PARTIAL_SUMS}f64"), [block]
    )


@kernel_intrinsic
def ends_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, n: Any, place: Any, slope: Any, half: Any, margin: Any, common: Any, key: Any,
    buf: Any, pos: Any, clear: Any,
) -> Any:  # fmt: skip
    """`blocks.ends_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (_, first, count, clients, own_place, steep, offset, doubt, shared, private, _, byte, _) = args
        place_of = places(context, builder, signature, args)
        strata = Strata(builder, clients, own_place)
        slopes = splat(builder, builder.fmul(steep, strata.scale))
        bounds = [builder.fsub(sign, offset) for sign in (doubt, builder.fneg(doubt))]
        above, below = (splat(builder, builder.fmul(bound, strata.scale)) for bound in bounds)
        shifts, fractions = (Dithers(builder, k, builder.lshr(first, I64(1))) for k in (shared, private))
        with cgutils.for_range(builder, count) as loop:
            for (done, drawn), (_, own) in zip(shifts.blocks(loop), fractions.blocks(loop), strict=True):
                threshold = strata.thresholds(drawn, own)
                values = converted(builder, values_of(builder, place_of, x.dtype, builder.add(first, done)), FLOATS)
                excess = fused(builder, slopes, values, builder.fneg(threshold))
                at = builder.lshr(done, I64(3))
                for number, begin, limit in ((10, byte, above), (12, I64(0), below)):
                    word = builder.bitcast(builder.fcmp_ordered(">", excess, limit), I16)
                    builder.store(word, place_of(number, builder.add(begin, at), I16), align=1)

    arguments = x, types.intp, types.intp, types.uint32, types.uint32, *[types.float32] * 3, types.uint64, types.uint64
    return types.void(*arguments, buf, types.intp, clear), generate


@kernel_intrinsic
def lattice_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, element: Any, n: Any, place: Any, inverse: Any, slope: Any, base: Any, spread: Any,
    margin: Any, common: Any, offsets: Any, key: Any, codes: Any, at: Any, doubts: Any,
) -> Any:  # fmt: skip
    """`blocks.lattice_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, element, clients, own_place, *numbers, shared, moved, private, _, to, _ = args
        place_of = places(context, builder, signature, args)
        strata, one = Strata(builder, clients, own_place), constant(FLOATS, 1.0)
        share = builder.fdiv(ir.FloatType()(-1.0), builder.fmul(strata.scale, builder.uitofp(clients, ir.FloatType())))
        scales, slopes, bases, widths, doubt, shares = (splat(builder, number) for number in (*numbers, share))
        sure = builder.fsub(constant(FLOATS, 0.5), doubt)
        half = builder.lshr(element, I64(1))
        drawn = Dithers(builder, shared, half), Dithers(builder, private, half), Bits(builder, moved, element)
        with cgutils.for_range(builder, count) as loop:
            for (done, shift), (_, own), (_, offset) in zip(*(words.blocks(loop) for words in drawn), strict=True):
                values = converted(builder, values_of(builder, place_of, x.dtype, builder.add(first, done)), FLOATS)
                values = builder.fmul(values, scales)
                for bound, beyond in ((one, ">"), (builder.fneg(one), "<")):
                    values = builder.select(builder.fcmp_ordered(beyond, values, bound), bound, values)
                above = builder.add(builder.lshr(offset, constant(WORDS, 8)), constant(WORDS, 1))
                points = fused(builder, slopes, values, fused(builder, widths, builder.sitofp(above, FLOATS), bases))
                points = fused(builder, shares, strata.thresholds(shift, own), points)
                upper = unary(builder, "ceil", points)
                found = builder.trunc(builder.fptosi(upper, WORDS), ir.VectorType(I16, BLOCK))
                byte = builder.mul(builder.add(to, done), I64(2))
                builder.store(found, place_of(14, byte, found.type), align=1)
                distance = builder.fsub(builder.fsub(upper, points), constant(FLOATS, 0.5))
                unsure = builder.fcmp_unordered(">", unary(builder, "fabs", distance), sure)
                builder.store(builder.bitcast(unsure, I16), place_of(16, builder.lshr(done, I64(3)), I16), align=1)

    arguments = x, *[types.intp] * 3, types.uint32, types.uint32, *[types.float32] * 5, *[types.uint64] * 3
    return types.void(*arguments, codes, types.intp, doubts), generate


@kernel_intrinsic
def powers_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, key: Any, buf: Any, exponents: Any, signs: Any
) -> Any:
    """`blocks.powers_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, private, _, exponent, sign = args
        place_of = places(context, builder, signature, args)
        dithers = Dithers(builder, private, builder.lshr(first, I64(1)))
        with cgutils.for_range(builder, count) as loop:
            fields = []
            for here, dither in dithers.blocks(loop):
                values = values_of(builder, place_of, x.dtype, builder.add(first, here))
                bits = builder.bitcast(converted(builder, values, FLOATS), WORDS)
                # twice the magnitude and twice as many random bits: without the sign, the exponent ends at the upper end
                twice = builder.add(bits, bits)
                draw = builder.lshr(dither, constant(WORDS, 8))
                # the largest power of two stays, and so do infinity and NaN
                below = builder.icmp_unsigned("<", twice, constant(WORDS, 254 << 24))
                fields.append(builder.select(below, builder.add(twice, draw), twice))
                negative = builder.bitcast(builder.icmp_signed("<", bits, constant(WORDS, 0)), I16)
                at = builder.add(sign, builder.lshr(here, I64(3)))
                builder.store(negative, place_of(4, at, I16), align=1)
            powers, done = bytes_of(builder, fields, 3), builder.mul(loop.index, I64(PAIR))
            builder.store(powers, place_of(4, builder.add(exponent, done), powers.type), align=1)

    return types.void(x, types.intp, types.intp, types.uint64, buf, types.intp, types.intp), generate


@kernel_intrinsic
def wide_powers_of_blocks(typing: Any, x: Any, start: Any, pairs: Any, key: Any, buf: Any, low: Any, top: Any) -> Any:
    """`blocks.wide_powers_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, private, _, begin, _ = args
        place_of = places(context, builder, signature, args)
        dithers = Dithers(builder, private, builder.lshr(first, I64(1)))
        with cgutils.for_range(builder, count) as loop:
            fields = []
            for here, dither in dithers.blocks(loop):
                values = values_of(builder, place_of, x.dtype, builder.add(first, here))
                bits = builder.bitcast(converted(builder, values, DOUBLES), WIDE)
                draw = builder.shl(builder.zext(dither, WIDE), constant(WIDE, 20))
                magnitude = builder.and_(bits, constant(WIDE, 2**63 - 1))
                below = builder.icmp_unsigned("<", magnitude, constant(WIDE, 2046 << 52))
                field = builder.select(below, builder.add(bits, draw), bits)
                fields.append(builder.lshr(field, constant(WIDE, 52)))
            done = builder.mul(loop.index, I64(PAIR))
            for number, byte, at in ((4, 0, builder.add(begin, done)), (6, 1, done)):
                part = bytes_of(builder, fields, byte)
                builder.store(part, place_of(number, at, part.type), align=1)

    return types.void(x, types.intp, types.intp, types.uint64, buf, types.intp, top), generate


@kernel_intrinsic
def levels_of_blocks(
    typing: Any, x: Any, start: Any, pairs: Any, scale: Any, limit: Any, key: Any, binary: Any, levels: Any, codes: Any, at: Any
) -> Any:  # fmt: skip
    """`blocks.levels_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, first, count, steep, most, private, fine, middle, _, begin = args
        size = codes.dtype.bitwidth // 8
        place_of = places(context, builder, signature, args)
        dithers, slopes = Dithers(builder, private, first), splat(builder, steep)
        precision = splat(builder, builder.trunc(fine, I32))
        lost = builder.sub(constant(WORDS, 32), precision)
        with cgutils.for_range(builder, count) as loop:
            done, sums = builder.mul(loop.index, I64(PAIR)), []
            for here, dither in dithers.blocks(loop):
                value = builder.fmul(slopes, values_of(builder, place_of, x.dtype, builder.add(first, here)))
                if limit != types.none:
                    upper = splat(builder, most)
                    lower = builder.fneg(upper)
                    value = builder.select(builder.fcmp_ordered(">", value, lower), value, lower)
                    value = builder.select(builder.fcmp_ordered("<", value, upper), value, upper)
                shift = constant(WORDS, 8) if size == 1 else lost
                sums.append(builder.add(builder.fptosi(value, WORDS), builder.lshr(dither, shift)))
            if size == 1:
                found = [bytes_of(builder, sums, 3)]
            else:
                kind = ir.VectorType(I16, BLOCK)
                found = [builder.trunc(builder.ashr(total, precision), kind) for total in sums]
            kind, offset = found[0].type, builder.trunc(middle, found[0].type.element)
            offsets = splat(builder, offset, kind.count)
            for block, part in enumerate(found):
                byte = builder.mul(builder.add(begin, builder.add(done, I64(block * BLOCK))), I64(size))
                builder.store(builder.add(part, offsets), place_of(8, byte, kind), align=1)

    number = x.dtype
    cut = types.none if limit == types.none else number
    arguments = x, types.intp, types.intp, number, cut, types.uint64, types.intp, types.intp, codes, types.intp
    return types.void(*arguments), generate


@kernel_intrinsic
def nibbles_of_blocks(typing: Any, fields: Any, count: Any, out: Any) -> Any:
    """`blocks.nibbles_of_blocks`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = 4 * BLOCK
        raw, pairs = ir.VectorType(I8, size), ir.VectorType(I16, size // 2)
        even = ir.Constant(ir.VectorType(I32, size), list(range(0, 2 * size, 2)))
        four = ir.Constant(pairs, [4] * (size // 2))
        place_of = places(context, builder, signature, args)
        with cgutils.for_range(builder, args[1]) as loop:
            at, both = builder.mul(loop.index, I64(size)), []
            for part in (0, 1):
                byte = builder.add(builder.add(at, at), I64(part * size))
                two = builder.bitcast(builder.load(place_of(0, byte, raw), align=1), pairs)
                both.append(builder.bitcast(builder.or_(two, builder.lshr(two, four)), raw))
            builder.store(builder.shuffle_vector(*both, even), place_of(2, at, raw), align=1)

    return types.void(fields, types.intp, out), generate
