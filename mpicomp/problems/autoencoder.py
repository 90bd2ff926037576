"""A linear autoencoder of images, the nonconvex problem of the PermK and MARINA-P papers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..data import images
from ..errors import ConfigError
from ..kernels import autoencoder
from .base import SEED_BITS, Block, BlockProblem, problems


@problems.register("autoencoder")
class Autoencoder(BlockProblem):
    """f_i(D, E) = (1/N_i) Σ_r ‖D E a_r − a_r‖² + (λ/2)‖D E − I‖_F², D of shape (p, width), E of shape (width, p); x = (D, E) row by row.

    The images are shuffled and cut into n + 1 parts of equal size, what remains is left out; client i has part i, but for each image with
    probability `homogeneity` that of the same place in part 0. So 1 makes all clients equal. There is no smoothness constant (the
    function is quartic): steps are numbers.

    Parameters
    ----------
    data : name of an image set; p is its number of pixels. clients : n. width : of the code. reg : λ.
    homogeneity : p̂ in [0, 1].

    References
    ----------
    Szlendak, Tyurin, Richtárik 2021, "Permutation Compressors for Provably Faster Distributed Nonconvex Optimization"
    (arXiv 2110.03300), experiments; there MNIST, width 16.

    >>> Autoencoder(clients=10).dim
    2048
    """

    summary = "(1/N_i) Σ ‖D E a − a‖² + (λ/2)‖D E − I‖²: a linear autoencoder of images; homogeneity=0...1"

    holds_all = True

    def __init__(
        self,
        data: str = "digits",
        clients: int = 10,
        width: int = 16,
        reg: float = 0.0,
        homogeneity: float = 0.0,
        seed: int = 0,
    ):
        if width < 1 or clients < 1:
            raise ConfigError(
                f"problem 'autoencoder' needs width >= 1 and clients >= 1, got width={width}, clients={clients}"
            )
        if not (reg >= 0 and 0 <= homogeneity <= 1):
            raise ConfigError(
                f"problem 'autoencoder' needs reg >= 0 and homogeneity in [0, 1], got reg={reg}, homogeneity={homogeneity}"
            )
        pixels = images(data)[0]
        rows = pixels.reshape(len(pixels), -1)
        size = len(rows) // (clients + 1)
        if size < 1:
            raise ConfigError(
                f"{data} has {len(rows)} images, too few for {clients} clients and the part that they share"
            )
        rng = np.random.default_rng(seed & SEED_BITS)
        parts = rows[rng.permutation(len(rows))[: size * (clients + 1)]].reshape(clients + 1, size, -1)
        shared = rng.random((clients, size, 1)) < homogeneity
        mine = np.where(shared, parts[:1], parts[1:])
        self.data, self.width, self.reg, self.homogeneity, self.seed = data, width, reg, homogeneity, seed
        self.n_clients, self.pixels = clients, rows.shape[1]
        self.dim = 2 * self.pixels * width
        self.shapes = {"D": (self.pixels, width), "E": (width, self.pixels)}
        self._digest = hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=8).hexdigest()
        self.moments = 2.0 * mine.transpose(0, 2, 1) @ mine / size + reg * np.eye(self.pixels)

    def lower_bound(self) -> float | None:
        """0."""
        return 0.0

    def paper_start(self) -> np.ndarray:
        """Normal entries of variance 2/(p + width) (Glorot and Bengio 2010), by the seed."""
        spread = np.sqrt(2.0 / (self.pixels + self.width))
        return spread * np.random.default_rng([self.seed & SEED_BITS, 1]).standard_normal(self.dim)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "data": self.data,
            "width": self.width,
            "reg": self.reg,
            "homogeneity": self.homogeneity,
        }

    def digests(self, clients: np.ndarray) -> list[str]:
        return [self._digest] * len(clients)  # the images are dealt out by the seed

    def block(self, clients: np.ndarray, dtype: DTypeLike) -> AutoencoderBlock:
        return AutoencoderBlock(self, clients, np.dtype(dtype))


class AutoencoderBlock(Block):
    """Some clients of an `Autoencoder`; of their images only the matrices 2/N_i Σ a aᵀ + λI are kept."""

    def __init__(self, problem: Autoencoder, clients: np.ndarray, dtype: np.dtype):
        super().__init__(problem, clients, dtype)
        p = problem.pixels
        self._terms = problem.moments[self.clients].astype(dtype), problem.width
        self._work = np.empty((p, p), dtype), np.empty((p, p), dtype)

    def losses(self, W: np.ndarray, out: np.ndarray) -> None:
        autoencoder.losses(*self._terms, W, *self._work, out)

    def gradients(self, W: np.ndarray, out: np.ndarray) -> None:
        autoencoder.gradients(*self._terms, W, *self._work, out)
