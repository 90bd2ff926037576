"""One-shot distributed mean estimation for sweeps: what `--problem mean --method dcgd --rounds 1` does, many times."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..runtime import Compressor, Link, LocalExchange


def mean_errors(
    compressor: Compressor, vectors: np.ndarray, draws: int, seed: int = 0, wire_dtype: DTypeLike | None = None
) -> np.ndarray:
    """‖mean C_i(a_i) − mean a_i‖² for each of many rounds.

    Parameters
    ----------
    vectors : the a_i, float, shape (n, d). draws : number of rounds, whose keys are those of rounds 0, 1, ... of a run
        with this seed.
    wire_dtype : of the values that travel, `vectors`' own by default.

    Returns
    -------
    float64, shape (draws,). √(mean of it) is the root mean square error, √(that/d) the error of a coordinate.

    >>> import mpicomp as mc
    >>> a = np.random.default_rng(0).random((10, 100))
    >>> bool(mean_errors(mc.compressor("cq"), a, 20).mean() < mean_errors(mc.compressor("iq"), a, 20).mean())
    True
    """
    V = np.ascontiguousarray(vectors)
    n, d = V.shape
    link = Link(LocalExchange(n, d, V.dtype), seed, wire_dtype or V.dtype, uplink=True)
    codec, total, mean = link.codec(compressor), np.zeros((1, d), V.dtype), V.mean(axis=0)
    errors = np.empty(draws)
    for t in range(draws):
        link.gather(codec, V, t, total)
        errors[t] = np.sum(np.square(total[0] - mean), dtype=np.float64)
    return errors
