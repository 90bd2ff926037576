"""The way back from a checkpoint's shards into a session: what each array has to be, and whose rows and columns it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import ours
from ..errors import CheckpointError
from ..state import ClientState, declared
from .session import Session
from .shards import Header, Shard
from .states import oracles, state_arrays

SERVER, SERVED, WORKER = "server/", "served/", "worker/"
CLIENTS, POINTS, SHARED = "worker/clients/", "worker/points/", "worker/shared/"
_FINITE = ("server/x", "served/x", "worker/points/points")


@dataclass(frozen=True)
class Part:
    """What a rank had of a session: clients first .. first + clients − 1, and the columns from served[0] to served[1] of a server's."""

    server: bool
    worker: bool
    first: int
    clients: int
    served: list[int]

    @classmethod
    def of(cls, session: Session) -> Part:
        """This rank's."""
        exchange = session.exchange
        clients, served = exchange.clients, exchange.served
        return cls(
            bool(exchange.is_server),
            bool(exchange.is_worker),
            int(clients[0]) if len(clients) else 0,
            len(clients),
            [int(served.start), int(served.stop)] if exchange.is_server else [0, 0],
        )

    def checked(self) -> Part:
        """The same; raises ValueError where the numbers are none of a rank's."""
        numbers = [self.first, self.clients, *self.served]
        if any(type(value) is not int or value < 0 for value in numbers) or len(self.served) != 2:
            raise ValueError(f"{numbers} are not the numbers of a rank's clients and columns")
        if type(self.server) is not bool or type(self.worker) is not bool or self.served[0] > self.served[1]:
            raise ValueError("a rank is a server, a worker, or both")
        return self


class Later(NamedTuple):
    """A declared array that an oracle makes in the first round, so that a fresh session does not have it yet."""

    owner: Any
    state: Any  # its `State`


class Gathering:
    """Collects a session's arrays from shards, and then puts them where they belong: all of them, or none.

    Parameters
    ----------
    session : one that has not run yet.
    """

    def __init__(self, session: Session):
        self.session, self.part = session, Part.of(session)
        self.arrays = state_arrays(session)
        self.later: dict[str, Later] = {}
        if self.part.worker:
            for label, oracle in oracles(session):
                for state in declared(oracle, ClientState):
                    if (name := f"{POINTS}{label}/{state.name}") not in self.arrays:
                        self.later[name] = Later(oracle, state)
        self.clients: np.ndarray = session.exchange.clients
        self.found: dict[str, np.ndarray] = {}
        self._filled: dict[str, np.ndarray] = {}
        self._met: set[str] = set()  # roles of shards that were opened
        for name in self._of(SERVED):
            target = self.arrays[name]
            self.found[name], self._filled[name] = np.zeros_like(target), np.zeros(target.shape[1], bool)

    def needs(self, part: Part) -> bool:
        """A shard of that rank has something for this one."""
        if self.part.server and part.server and ("server" not in self._met or self._overlap(part).size):
            return True
        return (
            self.part.worker
            and part.worker
            and ("worker" not in self._met or bool(self._mine(part, self.clients).any()))
        )

    def take(self, shard: Shard, part: Part) -> None:
        """Take over what this rank needs of a shard.

        Raises
        ------
        CheckpointError : an array is missing, is not declared, or has another shape or dtype.
        """
        self._check_names(shard, part)
        if self.part.server and part.server:
            self._met.add("server")
            self._take_whole(shard, SERVER)
            for name in self._of(SERVED):
                self._take_columns(shard, part, name)
        if self.part.worker and part.worker:
            self._met.add("worker")
            self._take_whole(shard, SHARED)
            for name in [*self._of(CLIENTS), *self._of(POINTS)]:
                self._take_rows(shard, part, name)

    def finish(self) -> None:
        """Put all arrays where they belong.

        Raises
        ------
        CheckpointError : something is missing, or x is not finite; nothing has been assigned.
        """
        needed = {name for name in self.arrays if name.startswith(WORKER if self.part.worker else SERVER)}
        needed |= {name for name in self.arrays if self.part.server and name.startswith((SERVER, SERVED))}
        for name in sorted(needed | {name for name, (owner, _) in self.later.items() if ours(owner)}):
            if name not in self.found or not self._filled.get(name, np.ones(1, bool)).all():
                raise CheckpointError(f"no shard has all of {name}")
        for name in _FINITE:
            if name in self.found and not np.isfinite(self.found[name]).all():
                raise CheckpointError(f"{name} holds NaN or Inf")
        for name, saved in self.found.items():
            if name in self.arrays:
                self.arrays[name][...] = saved
            else:
                setattr(self.later[name].owner, self.later[name].state.name, saved)
        if self.part.worker:
            self.session.states.load(self.arrays)

    # ---- one shard --------------------------------------------------------------------------------------------------
    def _of(self, prefix: str) -> Iterator[str]:
        return (name for name in [*self.arrays, *self.later] if name.startswith(prefix))

    def _check_names(self, shard: Shard, part: Part) -> None:
        """A rank's shard has exactly what is declared for its roles, as far as this rank has the same roles."""
        names = shard.names
        for role, (mine, theirs), prefixes in (
            ("server", (self.part.server, part.server), (SERVER, SERVED)),
            ("worker", (self.part.worker, part.worker), (WORKER,)),
        ):
            saved = {name for name in names if name.startswith(prefixes)}
            names = names - saved
            if saved and not theirs:
                raise CheckpointError(f"{min(saved)} is a {role}'s, which this rank was not")
            if mine and theirs:
                required = {name for name in self.arrays if name.startswith(prefixes)}
                lazy = {name: ours(owner) for name, (owner, _) in self.later.items() if name.startswith(prefixes)}
                required |= {name for name, always in lazy.items() if always}
                if saved - required - lazy.keys():
                    raise CheckpointError(
                        f"{min(saved - required - lazy.keys())} is not declared by any part of this run"
                    )
                if required - saved:
                    raise CheckpointError(f"{min(required - saved)} is missing")
        if names:
            raise CheckpointError(f"{min(names)} is no part of a run's state")

    def _read(
        self, shard: Shard, name: str, rows: tuple[int, ...], rest: tuple[int, ...] | None, dtype: np.dtype
    ) -> np.ndarray:
        """An array of that dtype with one of these numbers of rows, whose shape goes on so; None for columns of any number."""
        header: Header = shard.header(name)
        if header.dtype != dtype:
            raise CheckpointError(f"{name} is of dtype {header.dtype}, not {dtype}")
        if header.shape[:1] not in [(count,) for count in rows] or (rest is not None and header.shape[1:] != rest):
            wanted = " or ".join(str((count, *(rest or ("columns",)))) for count in rows)
            raise CheckpointError(f"{name} has shape {header.shape}, not {wanted}")
        if len(header.shape) < 2:
            raise CheckpointError(f"{name} has shape {header.shape}, and no columns")
        return shard.array(name)

    def _take_whole(self, shard: Shard, prefix: str) -> None:
        """The arrays that all ranks of a role have alike: from the first shard of such a rank."""
        for name in self._of(prefix):
            if name not in self.found:
                target = self.arrays[name]
                self.found[name] = self._read(shard, name, (len(target),), target.shape[1:], target.dtype)

    def _overlap(self, part: Part) -> np.ndarray:
        """The columns of this rank's slice, counted in the slice, that the other one has."""
        first, stop = self.part.served
        return np.arange(max(first, part.served[0]), max(min(stop, part.served[1]), 0)) - first

    def _take_columns(self, shard: Shard, part: Part, name: str) -> None:
        target, lo = self.arrays[name], part.served[0]
        saved = self._read(shard, name, (len(target),), (part.served[1] - lo,), target.dtype)
        columns = self._overlap(part)
        self.found[name][:, columns] = saved[:, columns + self.part.served[0] - lo]
        self._filled[name][columns] = True

    def _mine(self, part: Part, clients: np.ndarray) -> np.ndarray:
        return (part.first <= clients) & (clients < part.first + part.clients)

    def _take_rows(self, shard: Shard, part: Part, name: str) -> None:
        """The rows of this rank's clients, or the one row that is all clients' where the session has it so."""
        target = self.arrays.get(name)
        if target is None:
            owner, state = self.later[name]
            if name not in shard.names:
                return
            count, dtype = len(self.session.points), np.dtype(state.dtype or self.session.x.dtype)
            columns = self.session.problem.dim if state.columns is None and ours(owner) else state.columns
            rest = None if columns is None else (columns,)
        else:
            count, dtype, rest = len(target), target.dtype, target.shape[1:]
        each = count == len(self.clients)
        if name.startswith(CLIENTS) or (each and count > 1):
            rows = {part.clients}
        elif each:
            rows = {1, part.clients}
        else:
            rows = {1}
        wanted = self.clients if each else self.clients[:1]
        mine = self._mine(part, wanted)
        saved = self._read(shard, name, tuple(sorted(rows)), rest, dtype)
        places = wanted[mine] - part.first if len(saved) == part.clients else np.zeros(mine.sum(), np.int64)
        into = self.found.setdefault(name, np.zeros((len(wanted), *saved.shape[1:]), dtype))
        if into.shape[1:] != saved.shape[1:]:
            raise CheckpointError(f"{name} has shape {saved.shape}, and in another shard {into.shape[1]} columns")
        into[mine] = saved[places]
        self._filled.setdefault(name, np.zeros(len(wanted), bool))[mine] = True
