"""Every method of mpicomp's registry, with its own compressor or another."""

from collections.abc import Callable
from typing import Any

from benchopt import BaseSolver

import mpicomp as mc
from mpicomp.errors import UserError
from mpicomp.methods import methods

EVERY = 5  # rounds between evaluations
ROUNDS = 100_000  # benchopt stops a run earlier


class _Enough(Exception):
    """benchopt has seen enough of a run."""


class Solver(BaseSolver):
    """A method, its compressor ("default": its own), and its step: that of the theory or a number, times a factor."""

    name = "mpicomp"
    requirements = ["pip::mpicomp"]
    sampling_strategy = "callback"
    parameters = {"method": list(methods), "compressor": ["default"], "step": ["theory"], "factor": [1], "seed": [0]}
    test_config = {"method": "ef21", "factor": 8}

    def set_objective(self, options: dict[str, Any]) -> None:
        """Keep the options of the run."""
        self.options = self._all(options)

    def skip(self, options: dict[str, Any]) -> tuple[bool, str | None]:
        """Leave out methods whose theory has no step for the problem, or that need more than its gradients."""
        try:
            mc.run(**self._all(options), rounds=0)
        except UserError as error:
            return True, str(error)
        return False, None

    def _all(self, options: dict[str, Any]) -> dict[str, Any]:
        step = f"theory*{self.factor}" if self.step == "theory" else str(self.step * self.factor)
        name, colon, rest = str(self.compressor).partition(":")
        spec = name + colon + rest.replace(":", "=")  # on its command line benchopt writes : for = also within quotes
        own = {} if name == "default" else {"compressor": spec}
        return {**options, **own, "method": self.method, "step": step, "seed": self.seed, "exchange": "local"}

    def warm_up(self) -> None:
        """Compile what the run uses."""
        mc.run(**self.options, rounds=2)

    def run(self, callback: Callable[[], bool]) -> None:
        """Run until benchopt has seen enough."""

        def follow(row: dict[str, Any]) -> None:
            self.row = row
            if not callback():
                raise _Enough

        try:
            mc.run(**self.options, rounds=ROUNDS, eval_every=EVERY, progress=follow)
        except _Enough:
            return

    def get_result(self) -> dict[str, Any]:
        """The last evaluation."""
        return {"row": self.row}
