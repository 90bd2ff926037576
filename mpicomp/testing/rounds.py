"""What a problem keeps of its clients and draws in rounds, against the contract (`Problem.begin_round`, `Problem.state`)."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import numpy as np

from ..problems import Problem
from .faults import text_of

KEY = 2**62 + 1


class Fail(Protocol):
    """Says what is wrong, and what to do."""

    def __call__(self, fault: str, remedy: str = "", **case: Any) -> NoReturn: ...


def check_rounds(problem: Problem, clients: list[int], x: np.ndarray, fail: Fail) -> None:
    """States go out and in, evaluations leave them alone, and a round's gradient is a function of x, the state and the key.

    Parameters
    ----------
    clients : that are asked for. x : shape (d,).
    """
    if type(problem).state is Problem.state and type(problem).begin_round is Problem.begin_round:
        return
    gradient = np.zeros((2, problem.dim))
    for i in clients:
        case: dict[str, Any] = {"client": i}
        try:
            problem.begin_run()
            start = _copy(problem.state(i))
            for out in gradient:
                if start:
                    problem.load_state(i, _copy(start))
                problem.begin_round(3, KEY)
                problem.gradient(i, x.copy(), out)
            after = _copy(problem.state(i))
            problem.begin_evaluation({})
            problem.loss(i, x.copy())
            problem.gradient(i, x.copy(), np.zeros(problem.dim))
            evaluated = _copy(problem.state(i))
            problem.begin_run()
            again = _copy(problem.state(i))
            if after:
                problem.load_state(i, _copy(after))
            loaded = _copy(problem.state(i))
        except Exception as error:
            fail(f"begin_run, begin_round, begin_evaluation, state or load_state raised {text_of(error)}", **case)
        if not _same(loaded, after):
            fail("load_state(i, state) is not the inverse of state(i)", "Take over every array, bit for bit", **case)
        if gradient[0].tobytes() != gradient[1].tobytes():
            fail(
                "a round's gradient has other bits for the same x, state and key",
                "Draw from the key and the client alone, as in numpy.random.default_rng([key, i])",
                **case,
            )
        if not _same(evaluated, after):
            fail(
                "an evaluation changes the state", "After begin_evaluation loss and gradient leave it as it is", **case
            )
        if not _same(again, start):
            fail(
                "begin_run does not put the state back",
                "Every run, and its warm-up, begins with the same state",
                **case,
            )


def _copy(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in state.items()}


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        (a[name].shape, a[name].dtype, a[name].tobytes()) == (b[name].shape, b[name].dtype, b[name].tobytes())
        for name in a
    )
