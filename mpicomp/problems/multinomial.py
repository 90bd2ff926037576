"""Multinomial logistic regression: softmax over linear functions of the features."""

from __future__ import annotations

from typing import TypedDict

from ..data import Data
from .base import problems
from .linear_model import Test
from .mlp import MLP


class MultinomialOptions(TypedDict, total=False):
    """All options of `Multinomial` but the data."""

    clients: int
    partition: str
    reg: float
    test: Test
    seed: int
    features: int | None
    label: str | int | None
    zero_based: bool | None
    scale: str | None


@problems.register("multinomial")
class Multinomial(MLP):
    """f_i(x) = (1/N_i) Σ_r −log softmax(Wᵀa_r + b)_{y_r} + (λ/2)‖x‖², x = (W, b): W row by row, a row for each feature.

    The network of `mlp` without hidden layers, on features as they are. With its smoothness constants (docs/explanation/smoothness.md),
    so that steps come from the theory.

    Parameters
    ----------
    data, clients, partition, reg, test, seed, features, label, zero_based, scale : as for `mlp`, but nothing is scaled unless asked for.

    References
    ----------
    Böhning 1992, "Multinomial logistic regression algorithm", for the bound ½ on the Hessians by the logits.
    """

    summary = "multinomial logistic regression, with biases: (1/N_i) Σ −log softmax(Wᵀa + b)_y + (λ/2)‖x‖²"
    scaled = "none"

    def __init__(
        self,
        data: Data = "digits",
        clients: int = 20,
        partition: str = "shuffled",
        reg: float = 0.0,
        test: Test = None,
        seed: int = 0,
        features: int | None = None,
        label: str | int | None = None,
        zero_based: bool | None = None,
        scale: str | None = None,
    ):
        super().__init__(data, clients, partition, 0, "relu", reg, test, seed, features, label, zero_based, scale)
