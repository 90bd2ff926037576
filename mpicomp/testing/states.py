"""The declared states of a run's parts, against their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..runtime.session import Session
from ..runtime.states import oracles
from ..state import ClientState, ModelState, ServerClientState, ServerState, State, declared


def parts_of(session: Session) -> list[Any]:
    """The parts that may declare states."""
    return [session.uplink, session.downlink, session.optimizer, *(oracle for _, oracle in oracles(session))]


def wrong_states(session: Session, dtype: np.dtype) -> Iterator[str]:
    """What is wrong with the shapes and dtypes of the declared states that are there, one sentence each, without a full stop."""
    n, d, served = session.exchange.n_clients, session.exchange.dim, session.exchange.served_dim
    shapes: dict[type[State], tuple[tuple[int, ...], int]] = {
        ClientState: ((1, n), d), ServerState: ((1,), served), ServerClientState: ((n,), served), ModelState: ((1,), session.x.shape[1]),
    }  # fmt: skip
    for part in parts_of(session):
        for kind, (rows, width) in shapes.items():
            for state in declared(part, kind):
                array = vars(part).get(state.name)
                if array is None:
                    continue
                columns, expected = width if state.columns is None else state.columns, np.dtype(state.dtype or dtype)
                name, shape = f"{type(part).__name__}.{state.name}", np.shape(array)
                if len(shape) != 2 or shape[0] not in rows or shape[1] != columns:
                    allowed = " or ".join(str((count, columns)) for count in rows)
                    yield f"{name} is declared as {kind.__name__}, expected is the shape {allowed}, it has {shape}"
                elif array.dtype != expected:
                    yield f"{name} holds {array.dtype}, declared is {expected}"


def undeclared_differences(session: Session, resumed: Session) -> list[str]:
    """Attributes of parts that are not built in, not declared, which differ between a session and one restored from its checkpoint."""
    names, plain = [], np.ndarray | int | float | bool | None
    for ours, theirs in zip(parts_of(session), parts_of(resumed), strict=True):
        if type(ours).__module__.startswith("mpicomp."):
            continue
        known = {state.name for state in declared(ours)} | {"link", "mean"}
        for name in sorted((vars(ours).keys() | vars(theirs).keys()) - known):
            a, b = vars(ours).get(name), vars(theirs).get(name)
            both = isinstance(a, plain) and isinstance(b, plain)
            if both and not np.array_equal(np.asarray(a, object), np.asarray(b, object)):
                names.append(f"{type(ours).__name__}.{name}")
    return names
