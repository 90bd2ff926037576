"""Frames that nobody writes: scales that are negative or infinite, broadcasts that are too short, lengths that lie."""

from __future__ import annotations

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors.base import _HEAD, compressors
from mpicomp.compressors.identity import Identity
from mpicomp.errors import WireError
from mpicomp.exchanges.local import LocalExchange
from mpicomp.kernels.random import uplink_keys
from mpicomp.wire import (
    FLAG_LONG,
    HEADER_NBYTES,
    MAX_LONG_MESSAGES,
    check_header,
    declared_nbytes,
    framed_zeros,
    read_header,
    write_header,
)

D = 512
SCALED = {  # spec: the byte at which a scale begins
    "sign": 0, "sign:norm=l2": 0, "ternary": 0, "qsgd:bits=4": 0, "qsgd:bits=12": 0, "qsgd:bits=4,bucket=64,norm=max": 0,
    "qsgd:bits=4,bucket=64,norm=max,entropy=true": 0, "dynamic": 1, "natural-dithering": 0, "eden": 0, "eden:bits=2": 0, "drive": 0,
    "drive:scale=mse": 0, "cq": 0, "cq:levels=5": 0, "cq:levels=16,entropy=true": 0, "cq:rotate=true": 0, "iq:levels=4": 0,
    "permk-cq": 0, "cq:radius=common": 0, "randk:fraction=0.5,values=4": 0, "permk:values=sign": 0,
    "uniform": 0, "uniform:bits=2,rounding=nearest": 0,
}  # fmt: skip
UNSCALED = {"identity", "topk", "chunked-topk", "randk", "permk", "natural", "integers", "cast"}
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


def message(spec, dtype, x=None):
    """The bytes of a message behind its head, and the head."""
    compressor = mc.compressor(spec)
    if x is None:
        x = np.random.default_rng(0).normal(size=D).astype(dtype)
    data = compressor.compress(x, mc.MessageKey.seeded(0, 1, 3))
    return compressor, bytearray(data), _HEAD.size


def scale_of(spec, dtype) -> np.dtype:
    return np.dtype("float64") if "radius=common" in spec else np.dtype(dtype)  # the number that all share beforehand


def test_every_compressor_has_a_row():
    own = {name for name in compressors if compressors[name].__module__.startswith("mpicomp.")}
    assert own == {spec.partition(":")[0] for spec in SCALED} | UNSCALED


@BOTH
@pytest.mark.parametrize("spec", SCALED)
@pytest.mark.parametrize("scale", [-1.0, -np.inf, np.inf, -1e-30])
def test_scales_that_no_encoder_writes_are_refused(spec, dtype, scale):
    compressor, data, head = message(spec, dtype)
    assert len(data) - head < D * np.dtype(dtype).itemsize
    at, kind = head + SCALED[spec], scale_of(spec, dtype)
    kept = np.frombuffer(bytes(data[at : at + kind.itemsize]), kind)[0]
    assert kept > 0
    data[at : at + kind.itemsize] = np.array([scale], kind).tobytes()
    with pytest.raises(WireError, match=r"a value that no encoder writes|not the size of a vector"):
        compressor.decompress(bytes(data))


@BOTH
@pytest.mark.parametrize("spec", SCALED)
def test_a_scale_of_nan_is_that_of_a_vector_that_is_not_finite(spec, dtype):
    """The last bucket's too; and no encoder writes an infinite one."""
    for value in (np.nan, np.inf, -np.inf):
        x = np.random.default_rng(0).normal(size=D).astype(dtype)
        x[-1] = value
        if spec.startswith(("permk", "randk")):  # which send a part of the entries
            x[::100] = value
        with np.errstate(all="ignore"):
            compressor, data, head = message(spec, dtype, x)
            assert not np.isfinite(compressor.decompress(bytes(data))).all()
        at, kind = head + SCALED[spec], scale_of(spec, dtype)
        assert not np.isinf(np.frombuffer(bytes(data[at : at + kind.itemsize]), kind)[0])


@BOTH
def test_a_later_bucket_is_looked_at_too(dtype):
    compressor, data, head = message("qsgd:bits=4,bucket=64,norm=max", dtype)
    size = np.dtype(dtype).itemsize
    data[head + 7 * size : head + 8 * size] = np.array([-1], dtype).tobytes()
    with pytest.raises(WireError, match="a value that no encoder writes"):
        compressor.decompress(bytes(data))


@BOTH
def test_vectors_of_zeros_have_a_scale_that_passes(dtype):
    for spec in SCALED:
        compressor, data, _ = message(spec, dtype, np.zeros(D, dtype))
        decoded = compressor.decompress(bytes(data))
        assert np.all(decoded == 0), spec


@pytest.mark.parametrize(
    "spec, byte",
    [("qsgd:levels=5", 255), ("integers:levels=5", 255), ("natural-dithering:levels=5", 255), ("ternary", 250)],
)
def test_fields_that_no_encoder_writes_are_refused(spec, byte):
    compressor, data, head = message(
        spec, "float32", np.round(np.random.default_rng(0).normal(size=D)).astype(np.float32)
    )
    at = head + (0 if spec.startswith("integers") else 4)
    data[at : at + 8] = bytes([byte]) * 8
    with pytest.raises(WireError, match="a value that no encoder writes"):
        compressor.decompress(bytes(data))


def test_trits_beyond_the_last_entry_must_be_zero():
    compressor, data, _ = message("ternary", "float32")  # 512 = 5 · 102 + 2
    data[-1] = 9
    with pytest.raises(WireError, match="a value that no encoder writes"):
        compressor.decompress(bytes(data))


def test_a_bit_mask_has_no_bits_beyond_its_entries():
    from mpicomp.compressors.bit_mask import BitMask

    data = bytearray(BitMask().compress(np.ones(3)))
    assert np.array_equal(BitMask().decompress(bytes(data)), np.ones(3))
    data[-1] |= 8
    with pytest.raises(WireError, match="bits that must be zero are not"):
        BitMask().decompress(bytes(data))


# ---- broadcasts ----------------------------------------------------------------------------------------------------------
def frame_of(count, dtype="float64") -> np.ndarray:
    nbytes = count * np.dtype(dtype).itemsize
    frame = np.zeros(HEADER_NBYTES + nbytes, np.uint8)
    write_header(frame, Identity.codec_id, 1 if dtype == "float64" else 0, 3, 1, nbytes)
    frame[HEADER_NBYTES:] = np.full(count, 7.0, dtype).view(np.uint8)
    return frame


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_broadcast_of_another_number_of_values_is_refused(count, add):
    exchange = LocalExchange(2, 5)
    codec, into = Identity().bind(5, 2), np.full((1, 5), 3.0)
    frame = frame_of(count)
    with pytest.raises(WireError):
        exchange.deliver(codec, frame, len(frame), uplink_keys(0, 3), 3, into, add, False)
    if not add:
        assert np.all(into == 3.0)


@pytest.mark.parametrize("there", [False, True])
def test_a_broadcast_of_as_many_values_is_delivered(there):
    exchange, codec = LocalExchange(2, 5), Identity().bind(5, 2)
    into = framed_zeros((1, 5), np.dtype(np.float64))
    frame = frame_of(5)
    exchange.deliver(codec, frame, len(frame), uplink_keys(0, 3), 3, into, False, there)
    assert np.all(into == (0.0 if there else 7.0))
    with pytest.raises(WireError, match="a broadcast of 32 bytes for 5 values"):
        short = frame_of(4)
        exchange.deliver(codec, short, len(short), uplink_keys(0, 3), 3, into, False, there)


def test_bytes_that_are_no_whole_values_are_refused():
    exchange, codec = LocalExchange(2, 5), Identity().bind(5, 2)
    frame = np.zeros(HEADER_NBYTES + 39, np.uint8)
    write_header(frame, Identity.codec_id, 1, 3, 1, 39)
    with pytest.raises(WireError, match="a broadcast of 39 bytes for 5 values"):
        exchange.deliver(codec, frame, len(frame), uplink_keys(0, 3), 3, np.zeros((1, 5)), False, False)


# ---- long frames -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("length", [0, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**40 + 7, 2**48 - 1])
@pytest.mark.parametrize("messages", [1, 300, MAX_LONG_MESSAGES])
def test_lengths_and_messages_come_back(length, messages):
    frame = np.zeros(HEADER_NBYTES, np.uint8)
    write_header(frame, 4, 1, 9, messages, length)
    assert bool(frame[3] & FLAG_LONG) == (length >= 2**32) and declared_nbytes(frame) == length
    header = read_header(frame, HEADER_NBYTES + length)
    assert (header.length, header.messages, header.round, header.codec) == (length, messages, 9, 4)
    check_header(header, codec=4, wire_dtype=np.dtype(np.float64), round=9, messages=messages)
    with pytest.raises(WireError, match="frame of wrong length"):
        read_header(frame, HEADER_NBYTES + length + 1)


def test_a_long_frame_that_is_short_is_refused():
    frame = np.zeros(HEADER_NBYTES, np.uint8)
    write_header(frame, 4, 0, 9, 1, 0)
    frame[3] |= FLAG_LONG
    with pytest.raises(WireError, match="says it is long, and is not"):
        read_header(frame, HEADER_NBYTES)
