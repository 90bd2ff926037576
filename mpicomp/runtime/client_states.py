"""What a problem keeps of each client from round to round (`Problem.state`): into checkpoints and back, and as a mean to evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cluster.comm import Comm
from ..errors import ConfigError
from ..exchanges.base import Exchange
from ..problems import Problem

PREFIX = "worker/clients/problem/"  # of their arrays in a checkpoint's shards
_NEEDED = ("begin_run", "load_state")


class Layout(dict[str, tuple[tuple[int, ...], np.dtype]]):
    """Shape and dtype of each array of a client's state, by name in alphabetical order."""

    @classmethod
    def of(cls, state: dict[str, np.ndarray]) -> Layout:
        """Of one client's state."""
        return cls({name: (np.shape(state[name]), np.asarray(state[name]).dtype) for name in sorted(state)})

    def __str__(self) -> str:
        return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in self.items()) or "no arrays"

    def to_json(self) -> list[list[Any]]:
        """As JSON types."""
        return [[name, list(shape), dtype.str] for name, (shape, dtype) in self.items()]

    @classmethod
    def from_json(cls, entries: list[list[Any]]) -> Layout:
        """The inverse of `to_json`."""
        return cls({name: (tuple(shape), np.dtype(text)) for name, shape, text in entries})


class ClientStates:
    """The states of a problem's clients, as far as this rank hosts them.

    Parameters
    ----------
    problem : of the run. exchange : of the run; says who hosts whom.
    """

    def __init__(self, problem: Problem, exchange: Exchange):
        self.problem, self.exchange = problem, exchange
        self.layout = Layout()  # of every client's, once the ranks have agreed

    def agree(self, comm: Comm | None) -> None:
        """Find the layout, which all clients share; until then there are no states.

        Raises
        ------
        ConfigError : the problem lacks a method, or a state holds something else than numbers, or is laid out in another way than the
            first client's; on all ranks alike.
        """
        if not has_states(self.problem):
            return
        entry: dict[str, Any] = {"layout": None, "error": ""}
        try:
            layouts = [self._checked(int(i)) for i in self.exchange.clients]
            entry["layout"] = layouts[0].to_json() if layouts else None
        except ConfigError as error:
            entry["error"] = str(error)
        entries = [entry]
        if comm is not None:
            comm.meet()  # some problems take their time
            entries = comm.gather_json(entry) or []
        answer: dict[str, Any] = {"layout": [], "error": ""}
        for rank, told in enumerate(entries):
            first = answer["layout"] or told["layout"]
            if told["error"] or (told["layout"] is not None and told["layout"] != first):
                other = f"rank {rank} has {Layout.from_json(told['layout'] or [])}, others have {Layout.from_json(first or [])}"
                answer = {"layout": [], "error": told["error"] or _differs(self.problem, other)}
                break
            answer["layout"] = first or []
        if comm is not None:
            answer = comm.bcast_json(answer)
        if answer["error"]:
            raise ConfigError(answer["error"])
        self.layout = Layout.from_json(answer["layout"])

    def _checked(self, i: int) -> Layout:
        """The layout of client i's state, the same as the first hosted client's."""
        name, state = type(self.problem).__name__, self.problem.state(i)
        if not isinstance(state, dict) or not all(isinstance(key, str) and key for key in state):
            raise ConfigError(f"{name}.state({i}) returned {type(state).__name__}; expected a dict of arrays by name")
        layout = Layout.of(state)
        for key, (_, dtype) in layout.items():
            if dtype.kind not in "fiu":
                raise ConfigError(
                    f"{name}.state({i}) has {key!r} of dtype {dtype}; expected real numbers: floating point, or integers of any kind"
                )
        first = self.exchange.clients[0]
        if i != first and layout != (expected := Layout.of(self.problem.state(int(first)))):
            raise ConfigError(_differs(self.problem, f"client {i} has {layout}, client {first} has {expected}"))
        return layout

    def _state(self, i: int) -> dict[str, np.ndarray]:
        """Client i's state; raises ConfigError where it is laid out in another way than at the start."""
        state = self.problem.state(i)
        if (now := Layout.of(state)) != self.layout:
            raise ConfigError(_differs(self.problem, f"client {i} has {now}, at the start it had {self.layout}"))
        return state

    # ---- evaluations --------------------------------------------------------------------------------------------
    def mean(self) -> dict[str, np.ndarray]:
        """The mean over all n clients of the arrays of floating point, float64: the same bits on all ranks and for any placement."""
        floating = {name: shape for name, (shape, dtype) in self.layout.items() if dtype.kind == "f"}
        if not floating:
            return {}
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in floating.values()]
        ends = np.cumsum(sizes).tolist()
        vector = np.zeros(ends[-1])

        def add(total: np.ndarray) -> None:
            for i in self.exchange.clients:
                state = self._state(int(i))
                for name, size, end in zip(floating, sizes, ends, strict=True):
                    total[end - size : end] += np.asarray(state[name], np.float64).ravel()

        self.exchange.chain(vector, add)
        vector /= self.exchange.n_clients
        self.exchange.broadcast_model(vector)
        return {
            name: vector[end - size : end].reshape(shape)
            for (name, shape), size, end in zip(floating.items(), sizes, ends, strict=True)
        }

    # ---- checkpoints --------------------------------------------------------------------------------------------
    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the hosted clients' states, by the names that they have in a shard: a row for each client.

        Raises
        ------
        ConfigError : a state is laid out in another way than at the start.
        """
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.layout}
        for i in self.exchange.clients if self.layout else ():
            state = self._state(int(i))
            for name, column in rows.items():
                column.append(np.array(state[name]).reshape(1, -1))
        return {PREFIX + name: np.concatenate(column) for name, column in rows.items() if column}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Hand the rows of a checkpoint to the problem; `arrays` as `arrays()` has them, others are passed over."""
        for row, i in enumerate(self.exchange.clients if self.layout else ()):
            state = {
                name: arrays[PREFIX + name][row].reshape(shape).astype(dtype)
                for name, (shape, dtype) in self.layout.items()
            }
            self.problem.load_state(int(i), state)


def has_states(problem: Problem) -> bool:
    """The problem's clients have states.

    Raises
    ------
    ConfigError : and it lacks one of the methods that states need.
    """
    cls = type(problem)
    if cls.state is Problem.state:
        return False
    for name in _NEEDED:
        if getattr(cls, name) is getattr(Problem, name):
            raise ConfigError(
                f"{cls.__name__} defines state(i) and not {name}: a run and its warm-up begin with begin_run(), which puts the states back "
                "to those of the start, and go on from a checkpoint with load_state(i, state); define both"
            )
    return True


def _differs(problem: Problem, how: str) -> str:
    return f"{type(problem).__name__}.state(i) is to have the same names, shapes and dtypes for all clients and in all rounds: {how}"
