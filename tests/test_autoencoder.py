"""The linear autoencoder against its formula, and by differences."""

from __future__ import annotations

import numpy as np
import pytest

from mpicomp.data import images
from mpicomp.errors import ConfigError, DataError
from mpicomp.problems.autoencoder import Autoencoder


def parts(problem: Autoencoder, seed: int = 0) -> np.ndarray:
    """The images as they are cut for clients that differ: (n + 1, size, p)."""
    rows = images("digits")[0].reshape(-1, 64)
    size = len(rows) // (problem.n_clients + 1)
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[order[: size * (problem.n_clients + 1)]].reshape(problem.n_clients + 1, size, 64)


def test_loss_is_the_mean_error_of_the_clients_images_and_the_gradient_is_its_own():
    problem = Autoencoder(clients=4, width=3, reg=0.2)
    x = problem.paper_start()
    D, E = x[: 64 * 3].reshape(64, 3), x[64 * 3 :].reshape(3, 64)
    for i, mine in enumerate(parts(problem)[1:]):
        error = np.mean(np.sum((mine @ E.T @ D.T - mine) ** 2, axis=1)) + 0.1 * np.sum((D @ E - np.eye(64)) ** 2)
        assert problem.loss(i, x) == pytest.approx(error, rel=1e-12)
        g, v, h = np.empty(problem.dim), np.random.default_rng(i).standard_normal(problem.dim), 1e-5
        problem.gradient(i, x, g)
        assert (problem.loss(i, x + h * v) - problem.loss(i, x - h * v)) / (2 * h) == pytest.approx(g @ v, rel=1e-6)


def test_a_block_at_one_point_or_at_many_has_the_bits_of_single_clients():
    problem = Autoencoder(clients=5, width=2)
    block, x = problem.block(np.array([1, 3, 4]), np.float64), problem.paper_start()
    together, apart, alone = np.empty((3, problem.dim)), np.empty((3, problem.dim)), np.empty(problem.dim)
    block.gradients(x[None], together)
    block.gradients(np.tile(x, (3, 1)), apart)
    assert np.array_equal(together, apart)
    for row, i in enumerate((1, 3, 4)):
        problem.gradient(i, x, alone)
        assert np.array_equal(together[row], alone)


def test_homogeneity_makes_clients_equal():
    moments = [Autoencoder(clients=6, homogeneity=p).moments for p in (0.0, 0.5, 1.0)]
    spread = [float(np.sum(np.var(m, axis=0))) for m in moments]  # expected: V, (1 − p̂²) V, 0
    assert spread[2] < 1e-20 and 0.5 < spread[1] / spread[0] < 0.95


def test_wrong_options_are_refused():
    for options, message in (
        ({"width": 0}, "width=0"),
        ({"homogeneity": 1.5}, "homogeneity=1.5"),
        ({"reg": -1.0}, "reg=-1"),
        ({"clients": 1797}, "too few for 1797 clients"),
    ):
        with pytest.raises(ConfigError, match=message):
            Autoencoder(**options)
    with pytest.raises(DataError, match="mushrooms"):
        Autoencoder(data="mushrooms")
