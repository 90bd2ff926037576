"""The functions of `blocks` that code symbols, in LLVM's instructions: sixteen states in a vector.

A step looks the symbol's frequency up, which for few symbols is a permutation of registers, lets 16 bits leave the states that are too
large, and divides. The quotient, below 2²¹, is found in float32, where it is wrong by one at most, and put right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .llvm import FLOATS, I16, I32, I64, WORDS, constant, kernel_intrinsic, places, splat
from .sizes import BLOCK, LANES
from .vectors import wanted

_HALVES, _FLAGS, _WIDE = (ir.VectorType(kind, BLOCK) for kind in (I16, ir.IntType(1), I64))
_BACKWARDS = ir.Constant(WORDS, list(range(BLOCK - 1, -1, -1)))
_ALL = ir.Constant(_FLAGS, [1] * BLOCK)
_REGISTER = 2 * BLOCK  # entries that one permutation of two registers chooses from


def _call(builder: Any, name: str, kind: ir.Type, *args: Any) -> Any:
    function = ir.FunctionType(kind, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


def _gathered(builder: Any, table: Any, indices: Any) -> Any:
    """Entries of a table of 32-bit words, of which `table` is the address, as a vector."""
    offsets = builder.shl(builder.zext(indices, _WIDE), constant(_WIDE, 2))
    addresses = builder.add(splat(builder, builder.ptrtoint(table, I64)), offsets)
    pointers = builder.inttoptr(addresses, ir.VectorType(I32.as_pointer(), BLOCK))
    undefined = ir.Constant(WORDS, ir.Undefined)
    return _call(builder, f"llvm.masked.gather.v{BLOCK}i32.v{BLOCK}p0", WORDS, pointers, I32(4), _ALL, undefined)


def _chosen(builder: Any, table: list[Any], indices: Any) -> Any:
    """The same of a table in registers."""
    name = "llvm.x86.avx512.vpermi2var.d.512"
    found = [_call(builder, name, WORDS, low, indices, high) for low, high in zip(table[::2], table[1::2], strict=True)]
    result = found[0]
    for part, other in enumerate(found[1:], 1):
        beyond = builder.icmp_unsigned(">=", indices, constant(WORDS, part * _REGISTER))
        result = builder.select(beyond, other, result)
    return result


def _counted(builder: Any, flags: Any) -> Any:
    """How many bytes the words of the lanes with a flag take."""
    return builder.shl(builder.zext(builder.ctpop(builder.bitcast(flags, I16)), I64), I64(1))


def _store_words(builder: Any, words: Any, flags: Any, address: Any) -> None:
    """Store the words of the lanes with a flag one after the other; where it is faster, other bytes of the block behind them, too."""
    if wanted():
        words = _call(
            builder, f"llvm.x86.avx512.mask.compress.v{BLOCK}i16", _HALVES, words, ir.Constant(_HALVES, None), flags
        )
        builder.store(words, address, align=1)
    else:
        _call(builder, f"llvm.masked.compressstore.v{BLOCK}i16", ir.VoidType(), words, address, flags)


def _load_words(builder: Any, flags: Any, address: Any) -> Any:
    """Words that stand one after the other, in the lanes with a flag, zeros in the others."""
    zeros = ir.Constant(_HALVES, None)
    if wanted():
        block = builder.load(address, align=1)
        return _call(builder, f"llvm.x86.avx512.mask.expand.v{BLOCK}i16", _HALVES, block, zeros, flags)
    return _call(builder, f"llvm.masked.expandload.v{BLOCK}i16", _HALVES, address, flags, zeros)


def _state_blocks(place_of: Callable[..., Any], number: int) -> list[Any]:
    """Where the states of argument `number` stand, sixteen at an address."""
    return [place_of(number, I64(4 * BLOCK * h), WORDS) for h in range(LANES // BLOCK)]


@kernel_intrinsic
def encode_groups(
    typing: Any, steps: Any, shares: Any, precision: Any, states: Any, symbols: Any, groups: Any, buf: Any, pos: Any
) -> Any:
    """`blocks.encode_groups`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, _, fine, _, _, count, _, begin = args
        place_of = places(context, builder, signature, args)
        size = symbols.dtype.bitwidth // 8
        kind, one = ir.VectorType(ir.IntType(8 * size), BLOCK), constant(WORDS, 1)
        shift = splat(builder, builder.trunc(fine, I32))
        room = builder.sub(constant(WORDS, 32), shift)
        where = cgutils.alloca_once_value(builder, begin)
        halves = range(LANES // BLOCK)
        lanes = [
            cgutils.alloca_once_value(builder, builder.load(place, align=1)) for place in _state_blocks(place_of, 3)
        ]

        def loop_over_groups(registers: int) -> None:
            tables = [
                [builder.load(place_of(n, I64(4 * BLOCK * r), WORDS), align=1) for r in range(registers)]
                for n in (0, 1)
            ]

            def looked_up(number: int, indices: Any) -> Any:
                if registers:
                    return _chosen(builder, tables[number], indices)
                return _gathered(builder, place_of(number, I64(0), I32), indices)

            with cgutils.for_range(builder, count) as loop:
                group = builder.sub(builder.sub(count, loop.index), I64(1))
                for h in reversed(halves):
                    byte = builder.mul(builder.add(builder.mul(group, I64(LANES)), I64(BLOCK * h)), I64(size))
                    coded = builder.zext(builder.load(place_of(4, byte, kind), align=1), WORDS)
                    step, inverse = looked_up(0, coded), builder.bitcast(looked_up(1, coded), FLOATS)
                    frequency, first = (
                        builder.and_(step, constant(WORDS, 0xFFFF)),
                        builder.lshr(step, constant(WORDS, 16)),
                    )
                    x, at = builder.load(lanes[h]), builder.load(where)
                    leaves = builder.icmp_unsigned(">=", x, builder.shl(frequency, room))
                    word, flags = (
                        builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), _BACKWARDS)
                        for v in (builder.trunc(x, _HALVES), leaves)
                    )
                    _store_words(builder, word, flags, place_of(6, at, _HALVES))
                    builder.store(builder.add(at, _counted(builder, leaves)), where)
                    x = builder.select(leaves, builder.lshr(x, constant(WORDS, 16)), x)
                    share = builder.fptoui(builder.fmul(builder.uitofp(x, FLOATS), inverse), WORDS)
                    rest = builder.sub(x, builder.mul(share, frequency))
                    below = builder.icmp_signed("<", rest, constant(WORDS, 0))
                    share = builder.select(below, builder.sub(share, one), share)
                    rest = builder.select(below, builder.add(rest, frequency), rest)
                    above = builder.icmp_signed(">=", rest, frequency)
                    share = builder.select(above, builder.add(share, one), share)
                    rest = builder.select(above, builder.sub(rest, frequency), rest)
                    builder.store(builder.add(builder.add(builder.shl(share, shift), rest), first), lanes[h])

        if wanted():
            length = context.make_array(steps)(context, builder, args[0]).nitems
            most = [builder.icmp_signed("<=", length, I64(r * BLOCK)) for r in (2, 4)]
            with builder.if_else(most[0]) as (few, more):
                with few:
                    loop_over_groups(2)
                with more, builder.if_else(most[1]) as (some, many):
                    with some:
                        loop_over_groups(4)
                    with many:
                        loop_over_groups(0)
        else:
            loop_over_groups(0)
        for lane, place in zip(lanes, _state_blocks(place_of, 3), strict=True):
            builder.store(builder.load(lane), place, align=1)
        return builder.load(where)

    return types.intp(steps, shares, types.intp, states, symbols, types.intp, buf, types.intp), generate


@kernel_intrinsic
def decode_groups(
    typing: Any, table: Any, precision: Any, states: Any, buf: Any, pos: Any, symbols: Any, at: Any, groups: Any
) -> Any:
    """`blocks.decode_groups`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, fine, _, _, begin, _, start, count = args
        place_of = places(context, builder, signature, args)
        size = symbols.dtype.bitwidth // 8
        kind, one = ir.VectorType(ir.IntType(8 * size), BLOCK), constant(WORDS, 1)
        shift = splat(builder, builder.trunc(fine, I32))
        twice, low = builder.add(shift, shift), builder.sub(builder.shl(one, shift), one)
        where, halves = cgutils.alloca_once_value(builder, begin), range(LANES // BLOCK)
        lanes = [
            cgutils.alloca_once_value(builder, builder.load(place, align=1)) for place in _state_blocks(place_of, 2)
        ]
        with cgutils.for_range(builder, count) as loop:
            group = builder.add(start, builder.mul(loop.index, I64(LANES)))
            for h in halves:
                x, here = builder.load(lanes[h]), builder.load(where)
                place = _gathered(builder, place_of(0, I64(0), I32), builder.and_(x, low))
                byte = builder.mul(builder.add(group, I64(BLOCK * h)), I64(size))
                builder.store(builder.trunc(builder.lshr(place, twice), kind), place_of(5, byte, kind), align=1)
                frequency = builder.add(builder.and_(builder.lshr(place, shift), low), one)
                x = builder.add(builder.mul(frequency, builder.lshr(x, shift)), builder.and_(place, low))
                lacks = builder.icmp_unsigned("<", x, constant(WORDS, 1 << 16))
                words = builder.zext(_load_words(builder, lacks, place_of(3, here, _HALVES)), WORDS)
                x = builder.select(lacks, builder.or_(builder.shl(x, constant(WORDS, 16)), words), x)
                builder.store(builder.add(here, _counted(builder, lacks)), where)
                builder.store(x, lanes[h])
        for lane, place in zip(lanes, _state_blocks(place_of, 2), strict=True):
            builder.store(builder.load(lane), place, align=1)
        return builder.load(where)

    return types.intp(table, types.intp, states, buf, types.intp, symbols, types.intp, types.intp), generate
