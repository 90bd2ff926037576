"""Integer instructions that Python has no word for.

Numba widens what is done with two uint32 to 64 bits. A cast back makes it right again but not fast: LLVM may then keep the whole
chain 64 bits wide, and the processor does half as many at once, products in several steps. These stay 32 bits wide.

Words are read from and written to arrays at any byte, lowest byte first. A view of the array would do the same but costs 20 ns: as
much as the work on a hundred entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import lean

PARTIAL_SUMS = 64  # partial sums of a norm
AHEAD = 2048  # entries: what is that far away is on its way from memory while an array is passed through,
PIECE = 256  # so many at a time
CACHE_LINE = 64  # bytes


def kernel_intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of kernels that is given as LLVM instructions; callers leave out the first argument."""
    return cast(Callable[..., Any], intrinsic(function))


@kernel_intrinsic
def add32(typing: Any, a: Any, b: Any) -> Any:
    """a + b modulo 2**32, of two uint32."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.add(*args)


@kernel_intrinsic
def sub32(typing: Any, a: Any, b: Any) -> Any:
    """a − b modulo 2**32, of two uint32."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.sub(*args)


@kernel_intrinsic
def mul32(typing: Any, a: Any, b: Any) -> Any:
    """a · b modulo 2**32, of two uint32."""
    return types.uint32(types.uint32, types.uint32), lambda context, builder, signature, args: builder.mul(*args)


@kernel_intrinsic
def xorshift32(typing: Any, x: Any, shift: Any) -> Any:
    """x ^ (x >> shift), of two uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.xor(args[0], builder.lshr(*args))

    return types.uint32(types.uint32, types.uint32), generate


@kernel_intrinsic
def exchanged32(typing: Any, x: Any) -> Any:
    """A uint32 with its halves exchanged."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = ir.Constant(ir.IntType(32), 16)
        return builder.or_(builder.shl(args[0], half), builder.lshr(args[0], half))

    return types.uint32(types.uint32), generate


@kernel_intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """The bits of a float32 or float64 as a uint32 or uint64."""
    word = types.uint32 if value == types.float32 else types.uint64
    return word(value), lambda context, builder, signature, args: builder.bitcast(
        args[0], context.get_value_type(signature.return_type)
    )


@kernel_intrinsic
def float_of(typing: Any, word: Any) -> Any:
    """The inverse of `bits_of`."""
    value = types.float32 if word == types.uint32 else types.float64
    return value(word), lambda context, builder, signature, args: builder.bitcast(
        args[0], context.get_value_type(signature.return_type)
    )


@kernel_intrinsic
def next_above(typing: Any, value: Any) -> Any:
    """The next larger number of the same type, of a positive finite one or zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(32 if value == types.float32 else 64)
        return builder.bitcast(builder.add(builder.bitcast(args[0], word), word(1)), args[0].type)

    return value(value), generate


@kernel_intrinsic
def trailing_zeros(typing: Any, word: Any) -> Any:
    """The number of the lowest bit that is set in a uint64 (64 if none is), as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.int64(types.uint64), generate


@kernel_intrinsic
def ones(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@kernel_intrinsic
def load_word(typing: Any, array: Any, byte: Any, word: Any) -> Any:
    """The number of type `word` (np.uint8 to np.uint64) in the bytes of a contiguous array from `byte` on. The caller has checked that
    they are there.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(word.instance_type)
        return builder.load(address_of(context, builder, signature.args, args, kind), align=1)

    return word.instance_type(array, types.intp, word), generate


@kernel_intrinsic
def store_word(typing: Any, array: Any, byte: Any, word: Any) -> Any:
    """Write the number `word` into the bytes of a contiguous array from `byte` on. The caller has checked that they are there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], address_of(context, builder, signature.args, args, args[2].type), align=1)

    return types.void(array, types.intp, word), generate


@kernel_intrinsic
def nonzero_bytes(typing: Any, array: Any, byte: Any) -> Any:
    """A uint64: bit b says whether byte number `byte` + b of a contiguous array is not zero. The caller has checked that all are there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        block = builder.load(address_of(context, builder, signature.args, args, kind), align=1)
        return builder.bitcast(builder.icmp_unsigned("!=", block, ir.Constant(kind, None)), ir.IntType(64))

    return types.uint64(array, types.intp), generate


def _norm_blocks(order: int) -> Callable[..., Any]:
    def norm_blocks(typing: Any, x: Any, other: Any, factor: Any, blocks: Any, lanes: Any, signs: Any, pos: Any) -> Any:
        """lanes[l] += |x_j|, or x_j², for j = l, l + n, …, (blocks − 1)n + l with n = PARTIAL_SUMS; all sums stay in registers meanwhile.

        Where `signs` is an array and not None, bit j from its byte `pos` on says whether x_j < 0. Where `other` is an array and not
        None, of the same type as x, x − other takes the place of x; where `factor` is a number, too, of their dtype, x becomes
        x + factor · other, the product rounded before it is added.
        """
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

        return types.void(x, other, factor, types.intp, lanes, signs, types.intp), generate

    return kernel_intrinsic(norm_blocks)


signs_of_blocks, add_absolute_blocks, add_square_blocks = (_norm_blocks(order) for order in range(3))


def _absolute(builder: Any, block: Any, kind: ir.VectorType) -> Any:
    function = ir.FunctionType(kind, [kind])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.fabs.v{PARTIAL_SUMS}f64"), [block]
    )


def address_of(context: Any, builder: Any, kinds: Any, args: Any, kind: ir.Type) -> Any:
    """A pointer to a `kind` in the array that is the first argument, as many bytes after its beginning as the second says."""
    array = context.make_array(kinds[0])(context, builder, args[0])
    start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(start, [args[1]]), kind.as_pointer())


def prefetch(builder: Any, address: Any) -> None:
    i32 = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, i32, i32, i32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(prefetch, [address, i32(0), i32(3), i32(1)])  # to read, into the nearest cache, data


@kernel_intrinsic
def _fetch(typing: Any, array: Any, byte: Any) -> Any:
    """Have the cache line with that byte of a contiguous array brought from memory, if there is one; returns at once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch(builder, address_of(context, builder, signature.args, args, ir.IntType(8)))

    return types.void(array, types.intp), generate


@lean
def fetch(x, start, stop):
    """Have x[start:stop] brought from memory while other work is done; what lies behind the array's end does no harm."""
    for byte in range(start * x.itemsize, stop * x.itemsize, CACHE_LINE):
        _fetch(x, byte)


@lean
def fetch_entry(x, index):
    """Have the cache line with x[index] brought from memory."""
    _fetch(x, index * x.itemsize)
