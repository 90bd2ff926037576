"""Smoothness constants against pairs of points, some of them found by power iteration so that the largest curvature is met."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..errors import TheoryError
from ..problems import Block, Problem, Smoothness
from .faults import fail

ITERATIONS = 15
DISTANCES = (1e-2, 1.0, 10.0)
SLACK = 1.0 + 1e-6
SAMPLES = 200


class _Pairs:
    """Differences of gradients at pairs of points, against the constants."""

    def __init__(self, problem: Problem, clients: np.ndarray, everybody: bool, constants: Smoothness, seed: int):
        self.problem, self.clients, self.everybody, self.constants, self.seed = (
            problem,
            clients,
            everybody,
            constants,
            seed,
        )
        self.block: Block = problem.block(clients, np.float64)

    def gradients(self, W: np.ndarray) -> np.ndarray:
        out = np.zeros((len(self.clients), self.problem.dim))
        self.block.gradients(np.ascontiguousarray(W), out)
        return out

    def fail(self, name: str, found: float, stated: float, definition: str) -> NoReturn:
        fail(
            f"{type(self.problem).__name__} {self.problem.name!r}", {"seed": self.seed},
            f"smoothness() says {name} = {stated:.6g}, but a pair of points needs at least {found:.6g}: {definition}",
            "Let smoothness() return upper bounds; Smoothness.bounds(L_i) derives the rest from the L_i",
        )  # fmt: skip

    def hold(self, name: str, square: float, stated: float, distance: float, noise: float, definition: str) -> None:
        """square ≤ stated² distance², but for rounding."""
        if square > (stated * distance * SLACK + noise) ** 2:
            self.fail(name, np.sqrt(square) / distance, stated, definition)

    def together(self, x: np.ndarray, step: np.ndarray) -> np.ndarray:
        """All clients at x and at x + step: L_i, and where everybody is here L, L₊, L±. Returns the differences of gradients."""
        before, after = self.gradients(x[None]), self.gradients((x + step)[None])
        differences, distance, s = after - before, float(np.linalg.norm(step)), self.constants
        noise = 1e-13 * float(np.max(np.abs(before)) + np.max(np.abs(after))) * np.sqrt(len(x)) + 1e-14
        self._each(differences, np.full(len(self.clients), distance), noise)
        if self.everybody:
            mean = differences.mean(axis=0)
            self.hold("L", mean @ mean, s.L, distance, noise, "‖∇f(x) − ∇f(y)‖ ≤ L ‖x − y‖")
            squares = float(np.mean(np.sum(differences**2, axis=1)))
            self.hold("L_plus", squares, s.L_plus, distance, noise, "mean ‖∇f_i(x) − ∇f_i(y)‖² ≤ L_plus² ‖x − y‖²")
            variance = float(np.mean(np.sum((differences - mean) ** 2, axis=1)))
            self.hold(
                "L_pm", variance, s.L_pm, distance, noise,
                "mean ‖∇f_i(x) − ∇f_i(y)‖² − ‖∇f(x) − ∇f(y)‖² ≤ L_pm² ‖x − y‖²",
            )  # fmt: skip
        return differences

    def apart(self, x: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Each client at x and at x + its own step: L_i, and where everybody is here L_A and L_B."""
        before, after = self.gradients(x[None]), self.gradients(x + steps)
        differences, s = after - before, self.constants
        noise = 1e-13 * float(np.max(np.abs(before)) + np.max(np.abs(after))) * np.sqrt(len(x)) + 1e-14
        self._each(differences, np.linalg.norm(steps, axis=1), noise)
        if self.everybody:
            left = float(np.linalg.norm(differences.mean(axis=0)))
            mean = float(np.sum(steps.mean(axis=0) ** 2))
            right = np.sqrt(s.L_A**2 * float(np.mean(np.sum(steps**2, axis=1))) + s.L_B**2 * mean)
            if left > right * SLACK + noise:
                self.fail(
                    "L_A",
                    left / right * s.L_A if right else np.inf,
                    s.L_A,
                    f"so do L_A and L_B = {s.L_B:.6g} together, see Smoothness",
                )
        return differences

    def _each(self, differences: np.ndarray, distances: np.ndarray, noise: float) -> None:
        for i, difference, distance in zip(self.clients.tolist(), differences, distances.tolist(), strict=True):
            self.hold(
                f"L_i[{i}]",
                difference @ difference,
                float(self.constants.L_i[i]),
                distance,
                noise,
                "‖∇f_i(x) − ∇f_i(y)‖ ≤ L_i ‖x − y‖",
            )


def check_smoothness(problem: Problem, clients: np.ndarray, everybody: bool, points: int, seed: int) -> None:
    """The constants' definitions (`Smoothness`) at pairs of points, where the constants are known.

    Parameters
    ----------
    clients : increasing; only these are asked. everybody : they are all, so that constants of the mean can be checked.
    """
    try:
        constants = problem.smoothness()
    except TheoryError:
        return
    _check_numbers(problem, constants, seed)
    pairs, rng, d = _Pairs(problem, clients, everybody, constants, seed), np.random.default_rng([seed, 1]), problem.dim
    for number in range(points):
        x = rng.standard_normal(d) if number else np.zeros(d)
        for distance in DISTANCES:
            u, U = rng.standard_normal(d), rng.standard_normal((len(clients), d))
            pairs.together(x, distance * u / np.linalg.norm(u))
            pairs.apart(x, distance * U / np.linalg.norm(U, axis=1, keepdims=True))
            pairs.apart(x, distance * (U - U.mean(axis=0)))
        u, U = rng.standard_normal(d), rng.standard_normal((len(clients), d))
        for _ in range(ITERATIONS):  # towards the direction in which the mean, and each client, is most curved
            u = pairs.together(x, DISTANCES[0] * u / (np.linalg.norm(u) or 1.0)).mean(axis=0)
            U = pairs.apart(x, DISTANCES[0] * U / np.maximum(np.linalg.norm(U, axis=1, keepdims=True), 1e-300))
            if not np.any(u) or not np.all(np.any(U, axis=1)):
                break
        _towards_variance(pairs, x, rng)


def _towards_variance(pairs: _Pairs, x: np.ndarray, rng: np.random.Generator) -> None:
    """The direction in which the clients' curvatures differ most, from those of the client that is furthest from the mean."""
    u = rng.standard_normal(len(x))
    for _ in range(ITERATIONS if pairs.everybody else 0):
        differences = pairs.together(x, DISTANCES[0] * u / np.linalg.norm(u))
        deviations = differences - differences.mean(axis=0)
        u = deviations[np.argmax(np.sum(deviations**2, axis=1))]
        if np.linalg.norm(u) <= 1e-9 * np.linalg.norm(differences):
            return


def _check_numbers(problem: Problem, constants: Smoothness, seed: int) -> None:
    name = f"{type(problem).__name__} {problem.name!r}"
    if np.shape(constants.L_i) != (problem.n_clients,):
        fail(
            name,
            {"seed": seed},
            f"L_i has shape {np.shape(constants.L_i)}",
            f"Give one for each client, shape ({problem.n_clients},)",
        )
    values: dict[str, Any] = {key: getattr(constants, key) for key in ("L", "L_plus", "L_pm", "L_A", "L_B", "L_max")}
    for key, value in values.items():
        if not 0 <= value < np.inf:
            fail(name, {"seed": seed}, f"{key} is {value}", "Constants are finite numbers that are not negative")
    if constants.mu is not None and not 0 < constants.mu <= constants.L * SLACK:
        fail(name, {"seed": seed}, f"mu is {constants.mu}", f"mu is None, or above 0 and at most L = {constants.L:.6g}")


def check_sample_smoothness(problem: Problem, clients: list[int], seed: int) -> None:
    """𝓛_i: E_j‖[∇f_ij(x) − ∇f_ij(y)] − [∇f_i(x) − ∇f_i(y)]‖² ≤ 𝓛_i²‖x − y‖², for clients with at most 200 samples, where it is known."""
    try:
        stated = problem.sample_smoothness()
    except TheoryError:
        return
    rng, d = np.random.default_rng([seed, 2]), problem.dim
    name, case = f"{type(problem).__name__} {problem.name!r}", {"seed": seed}
    if np.shape(stated) != (problem.n_clients,):
        fail(
            name,
            case,
            f"sample_smoothness() has shape {np.shape(stated)}",
            f"Give one for each client, shape ({problem.n_clients},)",
        )
    for i in (i for i in clients if 0 < problem.n_samples(i) <= SAMPLES):
        for distance in DISTANCES:
            x, u = rng.standard_normal(d), rng.standard_normal(d)
            y = x + distance * u / np.linalg.norm(u)
            rows = np.zeros((2, problem.n_samples(i), d))
            for point, out in zip((x, y), rows, strict=True):
                for j in range(len(out)):
                    problem.batch_gradient(i, point, np.array([j]), out[j])
            differences = rows[1] - rows[0]
            square = float(np.mean(np.sum((differences - differences.mean(axis=0)) ** 2, axis=1)))
            if square > (stated[i] * distance * SLACK + 1e-12 * float(np.max(np.abs(rows)))) ** 2:
                fail(
                    name, {"client": i, **case},
                    f"sample_smoothness() says {stated[i]:.6g}, but a pair of points needs at least {np.sqrt(square) / distance:.6g}",
                    "The largest smoothness constant among the client's samples will do",
                )  # fmt: skip
