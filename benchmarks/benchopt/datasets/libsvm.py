"""The data sets that come with mpicomp, for ridge-regularised logistic regression."""

from typing import Any

from benchopt import BaseDataset


class Dataset(BaseDataset):
    """f_i(x) = mean of log(1 + exp(−b ⟨a, x⟩)) over the samples of client i, + (reg/2)‖x‖²; rows are dealt to the clients in order."""

    name = "logistic"
    requirements = ["pip::mpicomp"]
    parameters = {"data": ["mushrooms", "a9a"]}
    test_parameters = {"data": ["mushrooms"]}

    def get_data(self) -> dict[str, Any]:
        """The options of a run."""
        return {"options": {"problem": "logistic", "data": self.data}}
