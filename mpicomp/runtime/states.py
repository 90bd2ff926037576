"""What a checkpoint holds of a session: the arrays that its parts declare (`mpicomp.state`), by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..oracles import Oracle
from ..state import ClientState, CommonState, ModelState, ServerClientState, ServerState, declared, held
from .session import Session


def oracles(session: Session) -> Iterator[tuple[str, Oracle]]:
    """The run's oracle and those that it wraps, outermost first, each with a name."""
    oracle: Oracle | None = session.oracle.oracle
    depth = 0
    while oracle is not None:
        yield f"oracle{depth}", oracle
        oracle, depth = oracle.oracle, depth + 1


def state_arrays(session: Session) -> dict[str, np.ndarray]:
    """This rank's arrays. `served/...` have the columns of a server's slice, `server/...` are the same on all servers, `worker/...` are
    a worker's: `clients` has a row for each hosted client, `shared` is the same on all workers, `points` is one or the other."""
    arrays: dict[str, Any] = {}
    exchange, x = session.exchange, session.x
    if exchange.is_server:
        arrays["server/x" if session.replicated else "served/x"] = x
        for state in declared(session.optimizer, ModelState):
            sliced = not session.replicated and state.columns is None
            arrays[f"{'served' if sliced else 'server'}/optimizer/{state.name}"] = vars(session.optimizer).get(
                state.name
            )
    for way, mechanism in (("uplink", session.uplink), ("downlink", session.downlink)):
        for name, array in held(mechanism, ClientState).items():
            arrays[f"worker/clients/{way}/{name}"] = array
        for state in declared(mechanism, ServerState, ServerClientState):
            sliced = state.columns is None
            arrays[f"{'served' if sliced else 'server'}/{way}/{state.name}"] = vars(mechanism).get(state.name)
        for name, array in held(mechanism, CommonState).items():
            if exchange.is_server:
                arrays[f"server/{way}/{name}"] = array
            if exchange.is_worker:
                arrays[f"worker/shared/{way}/{name}"] = array
    if exchange.is_worker:
        arrays["worker/points/points"] = session.points
        for label, oracle in oracles(session):
            for name, array in held(oracle, ClientState).items():
                arrays[f"worker/points/{label}/{name}"] = array
        if session.replicated:
            for name, array in held(session.optimizer, ModelState).items():
                arrays[f"worker/shared/optimizer/{name}"] = array
        arrays |= session.states.arrays()
    return {name: array for name, array in arrays.items() if array is not None}
