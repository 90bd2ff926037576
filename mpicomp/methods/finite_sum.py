"""What the methods for f_i = (1/N_i) Σ_j f_ij share; where a problem has no such form, f_i counts as one sample."""

from __future__ import annotations

import numpy as np

from ..oracles import Minibatch, Oracle
from .base import Setting


def mean_samples(setting: Setting) -> float:
    """The mean of the N_i; 0 where f_i is not a finite sum."""
    problem = setting.problem
    if problem is None or setting.samples:
        return setting.samples
    return float(np.mean([problem.n_samples(i) for i in range(problem.n_clients)]))


def batch_size(setting: Setting) -> int:
    """Samples per client and round: --batch, or one."""
    return setting.batch or 1


def own_batch(setting: Setting) -> int:
    """`Method.own_batch` of the methods that are about samples: one, or 0 where f_i is not a finite sum and its gradient is exact."""
    return 1 if mean_samples(setting) else 0


def minibatch(oracle: Oracle, setting: Setting) -> Minibatch:
    """The run's minibatch oracle, or one of a single sample in place of the exact one."""
    if not setting.batch:
        return Minibatch(oracle.block, oracle.dim, 1, setting.seed)
    assert isinstance(oracle, Minibatch)
    return oracle


def sample_constant(setting: Setting) -> float:
    """𝓛 = √(mean 𝓛_i²), of the samples' gradient differences around their mean (`Problem.sample_smoothness`)."""
    assert setting.problem is not None
    return float(np.sqrt(np.mean(np.square(setting.problem.sample_smoothness()))))
