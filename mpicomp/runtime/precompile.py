"""Filling the kernel cache of this host before a run: for one configuration, or for every compressor in every precision."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..compressors import Compressor, compressors
from ..compressors.base import EXAMPLE_CLIENTS, EXAMPLE_DIM, example
from ..compressors.codec import Difference, Sum
from ..exchanges.kinds import exchange_kind
from ..kernels.cache import Use, cache_use, usable_directory
from ..kernels.random import downlink_keys, uplink_keys
from .config import Config
from .session import Composition, build_problem
from .warmup import warm_up

PRECISIONS = (("float32", "float32"), ("float64", "float64"), ("float64", "float32"))  # of the states, on the wire


@dataclass(frozen=True)
class Precompiled:
    """What a warm-up found and did.

    Attributes
    ----------
    uses : the kernels called, how often each was loaded and compiled. seconds : it took. directory : of the cache; None where there is
    none, and each process compiles in memory.
    """

    uses: list[Use]
    seconds: float
    directory: Path | None

    @property
    def compiled(self) -> int:
        """How many kernels were compiled, each signature by itself."""
        return sum(use.compiled for use in self.uses)

    @property
    def loaded(self) -> int:
        """How many were in the cache."""
        return sum(use.loaded for use in self.uses)


def precompile(config: Config, every_codec: bool = False) -> Precompiled:
    """Compile what is not in the cache yet, in this process, without MPI.

    Parameters
    ----------
    config : the kernels of this run, its data, its theory. every_codec : all compressors in all precisions too.

    Raises
    ------
    UserError : the configuration cannot run.
    """
    start = time.perf_counter()
    problem = build_problem(config)
    composition = Composition(config, problem)
    step_size, everybody = composition.step_size(config.step), np.arange(problem.n_clients)
    warm_up(config, problem, composition, step_size, exchange_kind(config.exchange, 2), 2, everybody, True)
    if every_codec:
        for name in compressors:
            for dtype, wire in PRECISIONS:
                _exercise(example(name), dtype, wire)
    return Precompiled(cache_use(), time.perf_counter() - start, usable_directory()[0])


def _exercise(compressor: Compressor, dtype: str, wire: str) -> None:
    """Encode two clients' vectors, also as differences and sums, and decode and add them up."""
    codec = compressor.bind(EXAMPLE_DIM, EXAMPLE_CLIENTS, wire)
    vectors = np.random.default_rng(0).standard_normal((2, EXAMPLE_DIM)).astype(dtype)
    rows, buf = np.arange(2), np.zeros(2 * codec.max_nbytes, np.uint8)
    kinds: list[Any] = [vectors]
    kinds += [Difference(vectors, vectors.copy(), vectors.copy())] if codec.takes_difference else []
    kinds += [Sum(vectors.copy(), vectors, 0.5)] if codec.takes_sum else []
    for keys, kind in [(uplink_keys(0, 0), kind) for kind in kinds] + [(downlink_keys(0, 0), vectors)]:
        if codec.round_maximum is not None and codec.measure is not None:
            codec.round_maximum[0] = codec.measure(vectors, rows, rows, keys).max()
        end = codec.encode(kind, rows, rows, keys, buf, 0, np.zeros(2, np.int64))
        codec.decode_add(buf, 0, end, rows, rows, np.ones(2, dtype), keys, np.zeros_like(vectors))
