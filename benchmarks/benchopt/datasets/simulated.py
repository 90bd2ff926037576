"""Quadratic functions of a given condition number, from a dense start."""

from typing import Any

from benchopt import BaseDataset


class Dataset(BaseDataset):
    """The problem `quadratic`, from a normal x⁰."""

    name = "quadratic"
    requirements = ["pip::mpicomp"]
    parameters = {"dim": [1000], "reg": [0.05]}
    test_parameters = {"dim": [20]}

    def get_data(self) -> dict[str, Any]:
        """The options of a run."""
        return {
            "options": {
                "problem": "quadratic",
                "problem_options": {"dim": self.dim, "reg": self.reg},
                "init": "normal:1",
            }
        }
