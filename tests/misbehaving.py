"""Problems that do something wrong in the middle of a run, as the source of a file that `--import` names."""

from __future__ import annotations

from textwrap import dedent, indent

_SOURCE = """
import os, time
import mpicomp as mc
{imports}

@mc.register_problem("{name}")
class Misbehaving(mc.Problem):
    n_clients, dim, calls = 6, 10, 0

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        out[:] = x
        self.calls += 1
        rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "2"
{does}
"""


def problem_that(name: str, does: str, imports: str = "") -> str:
    """f_i(x) = ‖x‖²/2 for 6 clients and d = 10, registered under `name`, that does something more in each gradient.

    does : lines of Python that know `self.calls`, gradients so far, and `rank`, a text ("2" where no launcher tells).
    """
    return _SOURCE.format(name=name, imports=imports, does=indent(dedent(does).strip(), " " * 8))
