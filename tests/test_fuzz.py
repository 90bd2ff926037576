"""A little of `scripts/fuzz`, and that it would see a fault."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzzing import Fault, Halves, Target, fuzz, mutate, targets, with_length

from mpicomp.compressors.codec import Codec


@pytest.mark.night
@pytest.mark.full(reason="80 s; golden frames, wire_hostile and the other tests of this file stay")
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


GUIDED = """
import random, sys
sys.path.insert(0, sys.argv[1])
import guided
import instrument
from mpicomp.compressors import compressors

explorer = guided.Explorer(guided.Target(compressors.create("sign").bind(40, 3, "float32")))
explorer.target.frames = explorer.target.frames[:1]
assert explorer.blocks_of_encoder_frames > 2, "no block of a decoder is counted"
for number in range(400):
    explorer.step(random.Random(number), explorer.target.frames, True)
seen = {instrument.BLOCKS[b] for b in explorer.seen.nonzero()[0]}
assert any(place.startswith("sign.py") for place in seen), seen
after = int((explorer.seen > 0).sum())
print(explorer.blocks_of_encoder_frames, after, len(explorer.corpus), explorer.counts["refused"])
"""


@pytest.mark.night
@pytest.mark.full(reason="compiles all decoders anew, with counters")
@pytest.mark.process
def test_the_guided_fuzzer_sees_what_compiled_decoders_run():
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", GUIDED, folder], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, corpus, refused = map(int, done.stdout.split())
    assert after > before and corpus > 1 and 0 < refused < 400, done.stdout
