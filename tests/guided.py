"""The coverage-guided fuzzer of `scripts/fuzz`: a mutated message is kept, and mutated in its turn, when it makes a decoder run a block
that its codec had not run, or more often than before (in AFL's steps: 1, 2, 3, 4, 8, 16, 32, 128 times)."""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time
from collections import Counter

import instrument
import numpy as np

instrument.install()

from fuzzing import Fault, Target, draws, mutate, targets  # noqa: E402  (after the kernels' decorators are replaced)

STEPS = np.zeros(256, np.uint8)  # how often a block ran -> one bit
for bit, least in enumerate((1, 2, 3, 4, 8, 16, 32, 128)):
    STEPS[least:] = 1 << bit


class Explorer:
    """A codec's corpus, and what its decoder has run so far: a bit for each block and step."""

    def __init__(self, target: Target):
        self.target, self.corpus = target, []
        self.seen = np.zeros(len(instrument.HITS), np.uint8)
        self.counts: Counter = Counter()
        for frame in target.frames:
            if not self.run(frame):
                raise Fault(f"{target.codec!r} refuses what its encoder wrote")
            self.learns(frame)
        self.blocks_of_encoder_frames = int(np.count_nonzero(self.seen))

    def run(self, frame: bytes) -> bool:
        """Decode; HITS then shows which blocks ran."""
        instrument.HITS[:] = 0
        return self.target.accepts(frame)

    def learns(self, frame: bytes) -> bool:
        """Whether the last decoding showed something new; the frame is then kept."""
        ran = STEPS[instrument.HITS]
        new = bool(np.any(ran & ~self.seen))
        if new:
            self.seen |= ran
            self.corpus.append(frame)
        return new

    def step(self, rng: random.Random, everything: list[bytes], guided: bool) -> None:
        """One mutated frame; that which is accepted must be refused when it is a byte longer or shorter."""
        # the youngest half of the corpus as often as the rest
        corpus = self.corpus if guided else self.target.frames
        frame = rng.choice(corpus[len(corpus) // 2 :] if rng.random() < 0.5 else corpus)
        mutated = mutate(frame, corpus if rng.random() < 0.5 else everything, rng)
        accepted = self.run(mutated)
        self.counts["accepted" if accepted else "refused"] += 1
        self.learns(mutated)
        if accepted:
            self.target.check(mutated)


def explore(messages: int, seconds: float, seed: int, guided: bool) -> list[Explorer]:
    """So many messages, or as many as the time allows. Raises Fault."""
    explorers = [Explorer(target) for target in targets()]
    everything = [frame for explorer in explorers for frame in explorer.target.frames]
    for number, rng in draws(messages, seconds, seed):
        explorers[number % len(explorers)].step(rng, everything, guided)
    return explorers


def main() -> None:
    """The command line of `scripts/fuzz`."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=10**6)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--blind", action="store_true", help="mutate only what the encoders wrote, for comparison")
    options = parser.parse_args()
    checked = os.environ.get("NUMBA_BOUNDSCHECK") == "1"
    print(f"seed {options.seed}, array bounds {'checked' if checked else 'NOT checked'}", flush=True)
    faulthandler.enable()
    start = time.monotonic()
    try:
        explorers = explore(options.messages, options.seconds, options.seed, not options.blind)
    except Fault as fault:
        sys.exit(f"FAULT (seed {options.seed}): {fault}")
    for e in explorers:
        print(
            f"{e.counts['refused']:>8} refused {e.counts['accepted']:>8} accepted, blocks {e.blocks_of_encoder_frames:>4} -> "
            f"{np.count_nonzero(e.seen):>4}, corpus {len(e.corpus):>4}  {e.target.codec!r}"
        )
    total, ran = sum(e.counts.total() for e in explorers), np.bitwise_or.reduce([e.seen for e in explorers])
    before = sum(e.blocks_of_encoder_frames for e in explorers)
    print(
        f"{total} messages for {len(explorers)} codecs in {time.monotonic() - start:.0f} s with compiling: no fault; "
        f"{np.count_nonzero(ran)} of the kernels' {len(instrument.BLOCKS)} blocks ran (the encoders' among them), "
        f"{before} -> {sum(np.count_nonzero(e.seen) for e in explorers)} summed over the codecs, "
        f"{sum(len(e.corpus) for e in explorers)} frames in the corpora"
    )


if __name__ == "__main__":
    main()
