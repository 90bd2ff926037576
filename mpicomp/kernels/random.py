"""Keyed, counter-based random numbers: any rank can recreate any number without communication.

A number is a function of (seed, stream, round, client, element); there is no sequential generator anywhere in a run.

Two strengths are used. Keys, of which a message needs one, pass through the 64-bit finaliser of SplitMix64 (Steele, Lea and
Flood 2014, Stafford's variant 13) once for each part of the key. Elements, of which a message may need one per coordinate, pass
through a 32-bit multiply-xorshift permutation (Wellons's lowest-bias constants) keyed before and in the middle by the two halves
of the message key: two multiplications that processors do sixteen at a time, where Philox4x32-10 needs five wide ones a word.
Rounding takes one such word for two coordinates (`dither32`).
`tests/test_random.py` checks uniformity, avalanche, and independence between neighbouring keys and elements.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from . import njit
from .intrinsics import add32, exchanged32, mul32, xorshift32

_GAMMA = np.uint32(0x9E3779B9)  # 2**32 / golden ratio


class Stream(IntEnum):
    """What a random number is for. Numbers of two streams are independent. The values are part of the format: never reuse one."""

    UPLINK_SHARED = 1
    UPLINK_PRIVATE = 2
    DOWNLINK_SHARED = 3
    DOWNLINK_PRIVATE = 4
    UPLINK_COIN = 5
    DOWNLINK_COIN = 6
    MINIBATCH = 7
    PARTICIPATION = 8
    PARTITION = 9
    INIT = 10
    PROBLEM = 11
    TEST = 12
    ORACLE_COIN = 13
    GRADIENT = 14
    BUCKET = 15


class Keys(NamedTuple):
    """The two keys of one exchange: `shared` is the same for all clients, `private` is hashed with the client's index."""

    shared: np.uint64
    private: np.uint64


def derive(seed: int, stream: int, round: int = 0, client: int = 0) -> np.uint64:
    """The 64-bit key of (seed, stream, round, client)."""
    return np.uint64(_derive(seed & (2**63 - 1), int(stream), round, client))


def uplink_keys(seed: int, round: int) -> Keys:
    """Keys of the uplink messages of a round."""
    return _keys(seed, _UPLINK, round)


def downlink_keys(seed: int, round: int) -> Keys:
    """Keys of the downlink messages of a round."""
    return _keys(seed, _DOWNLINK, round)


def numbered_keys(keys: Keys, number: int) -> Keys:
    """The keys of the draw with this number among those of one direction and round; number 0 has the keys themselves."""
    if number == 0:
        return keys
    both = np.array(keys, np.uint64)
    _number_both(both, number)
    return Keys(both[0], both[1])


# Plain numbers, and keys that come out of an array: an enumeration, or a conversion to uint64, would take as long as the derivation.
_UPLINK = int(Stream.UPLINK_SHARED), int(Stream.UPLINK_PRIVATE)
_DOWNLINK = int(Stream.DOWNLINK_SHARED), int(Stream.DOWNLINK_PRIVATE)


def _keys(seed: int, streams: tuple[int, int], round: int) -> Keys:
    keys = np.empty(2, np.uint64)
    _derive_both(seed & (2**63 - 1), streams[0], streams[1], round, keys)
    return Keys(keys[0], keys[1])


@njit
def mix64(z):
    """SplitMix64 step: adds the golden gamma, then mixes. A bijection of 64-bit integers."""
    z = np.uint64(z) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit
def client_key(private, client):
    """The key of one client's message from the private key of the exchange."""
    return mix64(np.uint64(private) ^ (np.uint64(np.int64(client)) * np.uint64(0xD1342543DE82EF95)))


def exchange_private(client_private: int | np.uint64, client: int) -> np.uint64:
    """The private key of the exchange from that of one client's message: the inverse of `client_key`."""
    z, mask = int(client_private), 2**64 - 1
    for shift, factor in ((31, 0x319642B2D24D8EC3), (27, 0x96DE1B173F119089), (30, 1)):
        y = z
        for _ in range(64 // shift):
            y = z ^ (y >> shift)
        z = y * factor & mask
    z = (z - 0x9E3779B97F4A7C15) & mask
    return np.uint64(z ^ (client * 0xD1342543DE82EF95 & mask))


@njit
def _derive(seed, stream, round, client):
    key = mix64(mix64(mix64(np.uint64(seed)) ^ np.uint64(stream)) ^ np.uint64(round))
    return client_key(key, client)


@njit
def _derive_both(seed, stream, other, round, out):
    out[0], out[1] = _derive(seed, stream, round, 0), _derive(seed, other, round, 0)


@njit
def _number_both(keys, number):
    for k in range(2):
        keys[k] = mix64(mix64(keys[k]) ^ (np.uint64(np.int64(number)) * np.uint64(0x8CB92BA72F3D8DD7)))


@njit
def bits32(key, element):
    """32 random bits for an element (0 <= element < 2**32) of the message with this key."""
    return draw32(key, state32(key, element))


@njit
def state32(key, element):
    """What `draw32` needs to know of an element; that of the next one is larger by the golden ratio, modulo 2**32."""
    return add32(mul32(np.uint32(element), _GAMMA), np.uint32(key & np.uint64(0xFFFFFFFF)))


@njit
def draw32(key, state):
    """The 32 random bits of the element with this state."""
    high = np.uint32(key >> np.uint64(32))
    x = mul32(xorshift32(state, np.uint32(16)), np.uint32(0x21F0AAAD))
    x = mul32(add32(xorshift32(x, np.uint32(15)), high), np.uint32(0xD35A2D97))
    return xorshift32(x, np.uint32(15))


@njit
def shifted(key, elements):
    """The key with which each element draws what it draws with `key` so many elements further on; elements >= 0."""
    low = add32(np.uint32(key & np.uint64(0xFFFFFFFF)), mul32(np.uint32(elements), _GAMMA))
    return np.uint64(key) & np.uint64(0xFFFFFFFF00000000) | np.uint64(low)


@njit
def dither32(key, entry, first=0):
    """32 random bits with which entry `entry` of a vector, or of the part of a vector that begins at element `first`, is rounded.

    Of each 32 entries the first 16 take a word each, and the other 16 the same words with their halves exchanged: rounding is half as
    dear. Each dither is uniform, and those of different keys are independent, which is all that lack of bias, variance and correlation
    over the clients rest on: they are sums over the coordinates. The upper 16 bits of two dithers from one word are independent, too.
    """
    word = bits32(key, first + ((entry >> 5 << 4) | (entry & 15)))
    return exchanged32(word) if entry & 16 else word


@njit
def fraction32(bits):
    """32 random bits as a float32 uniform on {0, 2**-24, ..., 1 - 2**-24}."""
    # signed, since older processors convert no unsigned integers
    return np.float32(np.int32(bits >> np.uint32(8))) * np.float32(5.9604645e-08)


@njit
def uniform32(key, element):
    """A float32 uniform on {0, 2**-24, ..., 1 - 2**-24}."""
    return fraction32(bits32(key, element))


@njit
def bits64(key, index):
    """64 strongly mixed random bits; for the few numbers that decide a whole message."""
    return mix64(np.uint64(key) ^ mix64(np.uint64(np.int64(index))))


@njit
def uniform64(key, index):
    """A float64 uniform on the multiples of 2**-53 in [0, 1)."""
    return np.float64(bits64(key, index) >> np.uint64(11)) * 1.1102230246251565e-16


@njit
def below(key, index, n):
    """An integer uniform on {0, ..., n-1}, 1 <= n < 2**32 (its bias is below n / 2**53)."""
    return np.int64(uniform64(key, index) * n)


@njit
def normal(key, index):
    """A standard normal number (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform64(key, 2 * index)))
    return radius * np.cos(2.0 * np.pi * uniform64(key, 2 * index + 1))


@njit
def permutation(key, out):
    """Fill `out` (int64, shape (n,)) with a uniform permutation of 0..n-1 (Fisher and Yates)."""
    n = out.shape[0]
    for i in range(n):
        out[i] = i
    for i in range(n - 1, 0, -1):
        j = below(key, i, i + 1)
        out[i], out[j] = out[j], out[i]


@njit
def fill_uniform(key, out):
    """Fill `out` (float, shape (n,)) with uniforms on [0, 1)."""
    for i in range(out.shape[0]):
        out[i] = uniform64(key, i)


@njit
def fill_normal(key, out):
    """Fill `out` (float, shape (n,)) with standard normal numbers."""
    for i in range(out.shape[0]):
        out[i] = normal(key, i)
