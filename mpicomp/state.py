"""The arrays of a part that outlive a round, declared in its class body with their owner.

```python
class EF21Uplink(Uplink):
    g_i = ClientState()  # one row for each hosted client, on the workers
    g = ServerState()  # one row, on the server
```

Starting the part allocates what the rank holds, all zero; everything else is None on that rank.
A checkpoint saves what is declared, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike

S = TypeVar("S", bound="State")


class State:
    """Base class of the declarations. A declaration is a class attribute; the array is the object's attribute of the same name.

    Parameters
    ----------
    columns : number of columns; None for as many as the part's vectors have.
    dtype : of the array; None for the run's.
    allocate : False where the part makes the array itself, in `prepare` or `begin`, for instance because its size follows from an option.
    """

    def __init__(self, columns: int | None = None, dtype: DTypeLike | None = None, allocate: bool = True):
        self.columns, self.dtype, self.allocate, self.name = columns, dtype, allocate, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def zeros(self, rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
        """The array at the start: `rows` rows, and where the declaration says nothing else `columns` columns and `dtype`."""
        return np.zeros((rows, columns if self.columns is None else self.columns), self.dtype or dtype)

    @overload
    def __get__(self: S, instance: None, owner: type) -> S: ...
    @overload
    def __get__(self, instance: object, owner: type) -> np.ndarray: ...
    def __get__(self, instance: object | None, owner: type) -> State | np.ndarray:
        if instance is None:
            return self
        # Once there is an array the object's own attribute is found first, at no cost.
        raise AttributeError(f"{type(instance).__name__}.{self.name} is not there yet: the part has not been started")

    if TYPE_CHECKING:  # the arrays can be assigned

        def __set__(self, instance: object, value: np.ndarray) -> None: ...


class ClientState(State):
    """A row for each hosted client, shape (m, d), on the workers; one row, shape (1, d), where it is the same for all of them."""


class ServerState(State):
    """One row, shape (1, served_dim), on the server; with several servers each has its slice of the coordinates.

    With `columns` given it is no slice: all servers must come to the same numbers.
    """


class ServerClientState(State):
    """A row for each of the n clients, shape (n, served_dim), on the server: only for methods whose server cannot do without."""


class ModelState(State):
    """An array like x, shape (1, columns of x), where the optimizer steps: on the server, or on every rank if it is replicated.

    With `columns` given it is the same on all servers, for instance a count of steps, shape (1, 1).
    """


class CommonState(State):
    """An array that server and workers hold alike, any shape. The part makes it in `prepare` or `begin`."""

    def __init__(self) -> None:
        super().__init__(allocate=False)


def declared(part: object, *kinds: type[State]) -> list[State]:
    """The states that a part's class and its bases declare, of the given kinds (all where none is given), base classes first."""
    found: dict[str, State] = {}
    for cls in reversed(type(part).__mro__):
        for name, value in vars(cls).items():
            if isinstance(value, State):
                found[name] = value
            else:
                found.pop(name, None)
    return [state for state in found.values() if not kinds or isinstance(state, kinds)]


def held(part: object, *kinds: type[State]) -> dict[str, np.ndarray]:
    """The declared arrays that this rank holds, by name."""
    arrays = {state.name: vars(part).get(state.name) for state in declared(part, *kinds)}
    return {name: array for name, array in arrays.items() if array is not None}
