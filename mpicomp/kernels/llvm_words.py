"""The functions of `intrinsics` in LLVM's instructions.

Numba widens what is done with two uint32 to 64 bits. A cast back makes it right again but not fast: LLVM may then keep the whole
chain 64 bits wide, and the processor does half as many at once, products in several steps. These stay 32 bits wide.

Words are read from and written to arrays at any byte without the view that the plain form takes, which costs 20 ns: as much as the
work on a hundred entries.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from .llvm import address_of, kernel_intrinsic, prefetch


@kernel_intrinsic
def add32(typing: Any, a: Any, b: Any) -> Any:
    """`intrinsics.add32`."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.add(*args)


@kernel_intrinsic
def sub32(typing: Any, a: Any, b: Any) -> Any:
    """`intrinsics.sub32`."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.sub(*args)


@kernel_intrinsic
def mul32(typing: Any, a: Any, b: Any) -> Any:
    """`intrinsics.mul32`."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.mul(*args)


@kernel_intrinsic
def xorshift32(typing: Any, x: Any, shift: Any) -> Any:
    """`intrinsics.xorshift32`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.xor(args[0], builder.lshr(*args))

    return types.uint32(types.uint32, types.uint32), generate


@kernel_intrinsic
def exchanged32(typing: Any, x: Any) -> Any:
    """`intrinsics.exchanged32`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = ir.Constant(ir.IntType(32), 16)
        return builder.or_(builder.shl(args[0], half), builder.lshr(args[0], half))

    return types.uint32(types.uint32), generate


@kernel_intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """`intrinsics.bits_of`."""
    word = types.uint32 if value == types.float32 else types.uint64
    return word(value), lambda context, builder, signature, args: builder.bitcast(
        args[0], context.get_value_type(signature.return_type)
    )


@kernel_intrinsic
def float_of(typing: Any, word: Any) -> Any:
    """`intrinsics.float_of`."""
    value = types.float32 if word == types.uint32 else types.float64
    return value(word), lambda context, builder, signature, args: builder.bitcast(
        args[0], context.get_value_type(signature.return_type)
    )


@kernel_intrinsic
def next_above(typing: Any, value: Any) -> Any:
    """`intrinsics.next_above`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32 if value == types.float32 else 64)
        return builder.bitcast(builder.add(builder.bitcast(args[0], word), word(1)), args[0].type)

    return value(value), generate


@kernel_intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """`intrinsics.trailing_zeros`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), generate


@kernel_intrinsic
def ones(typing: Any, word: Any) -> Any:
    """`intrinsics.ones`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@kernel_intrinsic
def load_word(typing: Any, array: Any, byte: Any, word: Any) -> Any:
    """`intrinsics.load_word`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(word.instance_type)
        return builder.load(address_of(context, builder, signature.args, args, kind), align=1)

    return word.instance_type(array, types.intp, word), generate


@kernel_intrinsic
def store_word(typing: Any, array: Any, byte: Any, word: Any) -> Any:
    """`intrinsics.store_word`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], address_of(context, builder, signature.args, args, args[2].type), align=1)

    return types.void(array, types.intp, word), generate


@kernel_intrinsic
def nonzero_bytes(typing: Any, array: Any, byte: Any) -> Any:
    """`intrinsics.nonzero_bytes`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        block = builder.load(address_of(context, builder, signature.args, args, kind), align=1)
        return builder.bitcast(builder.icmp_unsigned("!=", block, ir.Constant(kind, None)), ir.IntType(64))

    return types.uint64(array, types.intp), generate


@kernel_intrinsic
def fetch_byte(typing: Any, array: Any, byte: Any) -> Any:
    """`intrinsics.fetch_byte`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch(builder, address_of(context, builder, signature.args, args, ir.IntType(8)))

    return types.void(array, types.intp), generate
