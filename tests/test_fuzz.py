"""A little of `scripts/fuzz`, and that it would see a fault."""

from __future__ import annotations

import random

import numpy as np
import pytest
from fuzzing import Fault, Halves, Target, fuzz, mutate, targets, with_length

from mpicomp.compressors.base import Codec


def test_no_decoder_is_fooled():
    counts = fuzz(targets(), 15_000, 8.0, seed=1)
    assert all(count["refused"] for count in counts.values() if count.total() > 20)


def test_mutations_reach_the_decoders():
    target = Target(Halves().bind(12, 3, np.float64))
    frames = [mutate(target.frames[0], target.frames, random.Random(number)) for number in range(300)]
    assert len(set(frames)) > 250 and frames[7] == mutate(target.frames[0], target.frames, random.Random(7))
    assert np.mean([frame == with_length(frame) for frame in frames]) > 0.5


def bad(decode) -> Target:
    """A user's codec with another decoder, called for the whole block."""
    codec = Halves().bind(12, 3, np.float64)

    def wrong(buf, pos, end, rows, clients, weights, shared, private, out, wire):
        return decode(codec._decode(buf, pos, end, rows, clients, weights, shared, private, out, wire), end, out, buf)

    args = (codec.compressor, codec.codec_id, codec.dim, codec.n_clients, codec.wire_dtype, codec.max_nbytes)
    return Target(Codec(*args, codec._encode, wrong))


def any_length(answer, end, out, buf):
    return end if answer >= 0 else answer


def outside(answer, end, out, buf):
    out[-1, 0] += 1
    return answer


def beyond(answer, end, out, buf):
    return answer + 0 * buf[end]


@pytest.mark.parametrize(
    ("decode", "words"), [(any_length, "and"), (outside, "outside of its rows"), (beyond, "IndexError")]
)
def test_a_fault_is_seen(decode, words):
    target = bad(decode)
    with pytest.raises(Fault, match=words):
        for number in range(50):
            target.check(target.frames[number % 3])
            target.check(mutate(target.frames[0], target.frames, random.Random(number)))
