"""Values in few bits, from the text of docs/reference/wire.md and docs/derivations/few-bits.md, in plain NumPy."""

from __future__ import annotations

import numpy as np

from mpicomp.kernels.random import uniform64


def buckets(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def are_sent_exactly(count: int, bits: int, bucket: int, wire: np.dtype) -> bool:
    """Where values in few bits, scales included, are not shorter."""
    if bits in (0, 16):
        return bits == 0
    scales = -(-count // bucket) * (1 if bits == 1 else 2)
    return scales * wire.itemsize + -(-count * bits // 8) >= count * wire.itemsize


def nearest_sign(v: np.ndarray) -> np.ndarray:
    return np.where(v < 0, -1, 1) * np.abs(v).mean()


def nearest_magnitudes(v: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of the nearest of 2^(b−1) magnitudes from the smallest to the largest, and the line through them by least squares."""
    a, steps = np.abs(v), 2 ** (bits - 1) - 1
    width = (a.max() - a.min()) / steps
    q = np.minimum(np.floor((a - a.min()) / width + 0.5), steps) if width > 0 else np.zeros(v.size)
    unit = a.max() or 1.0
    if np.ptp(q) == 0:
        low, step = (a / unit).mean(), 0.0
    else:
        low, step = np.linalg.lstsq(np.column_stack([np.ones(v.size), q]), a / unit, rcond=None)[0]
        if low < 0:
            low, step = 0.0, q @ (a / unit) / (q @ q)
    return np.where(v < 0, -1, 1) * (low + q * step) * unit


def nearest_bfloat16(v: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(v.astype(np.float32))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent).astype(float)


def nearest(v: np.ndarray, bits: int, bucket: int, wire: np.dtype) -> np.ndarray:
    """What arrives for the values v of one message, rounded to the nearest."""
    v = v.astype(float)
    if are_sent_exactly(v.size, bits, bucket, wire):
        return v
    if bits == 16:
        return nearest_bfloat16(v)
    quantize = nearest_sign if bits == 1 else lambda part: nearest_magnitudes(part, bits)
    return np.concatenate([quantize(v[part]) for part in buckets(v.size, bucket)])


def at_random(v: np.ndarray, bits: int, bucket: int, wire: np.dtype, key: np.uint64) -> np.ndarray:
    """What arrives for the values v of one message, rounded with the numbers of a key."""
    v = v.astype(float)
    u = np.array([uniform64(key, i) for i in range(v.size)])
    if are_sent_exactly(v.size, bits, bucket, wire):
        return v
    if bits == 16:
        spacing = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(v), 1e-300))), -126) - 7)
        place = np.abs(v) / spacing
        return np.sign(v) * (np.floor(place) + (u < place % 1)) * spacing
    out, steps = np.empty(v.size), 2 ** (bits - 1) - 1
    for part in buckets(v.size, bucket):
        a = np.abs(v[part])
        if bits == 1:
            out[part] = np.where(u[part] < (1 + v[part] / (a.max() or 1.0)) / 2, 1, -1) * a.max()
            continue
        width = (a.max() - a.min()) / steps
        place = (a - a.min()) / width if width > 0 else np.zeros(a.size)
        q = np.minimum(np.floor(place) + (u[part] < place % 1), steps)
        out[part] = np.where(v[part] < 0, -1, 1) * (a.min() + q * width)
    return out


def assert_values(coding, v: np.ndarray, y: np.ndarray, wire: np.dtype) -> None:
    """Decoded values against those that were sent: equal to the oracle's, or, rounded at random, one of those that may come out."""
    if not coding.stochastic or are_sent_exactly(v.size, coding.bits, coding.bucket, wire):
        expected = nearest(v, 0 if coding.stochastic else coding.bits, coding.bucket, wire)
        np.testing.assert_allclose(y, expected, rtol=3e-6, atol=3e-6 * np.abs(v).max())
        return
    v, y = v.astype(float), y.astype(float)
    if coding.bits == 16:
        assert (np.abs(y - v) <= 2.0**-7 * np.abs(v)).all()
        return
    for part in buckets(v.size, coding.bucket):
        a, slack = np.abs(v[part]), 1e-5 * np.abs(v[part]).max()
        if coding.bits == 1:
            np.testing.assert_allclose(np.abs(y[part]), a.max(), rtol=1e-6)
        else:
            assert (np.abs(y[part] - v[part]) <= (a.max() - a.min()) / (2 ** (coding.bits - 1) - 1) + slack).all()
            assert (y[part] * v[part] >= 0).all() and (np.abs(y[part]) >= a.min() - slack).all()
