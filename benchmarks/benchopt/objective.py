"""Distributed finite sums: how near a run is, for the bits, bytes and seconds that it has spent."""

from typing import Any

from benchopt import BaseObjective


class Objective(BaseObjective):
    """min f(x) = (1/n) Σ f_i(x) over n clients, whose messages are compressed.

    A result is a row of a run's evaluations. `value` is ‖∇f(x)‖²; bits and bytes are columns beside it, for any custom plot.
    """

    name = "compressed distributed optimisation"
    url = "https://github.com/mpicomp/mpicomp"
    min_benchopt_version = "1.7"
    requirements = ["pip::mpicomp"]
    sampling_strategy = "callback"
    parameters = {"clients": [20]}
    test_config = {"clients": 4}

    def set_data(self, options: dict[str, Any]) -> None:
        """Take the options of a run that make the problem."""
        self.options = options

    def get_objective(self) -> dict[str, Any]:
        """The same, with the number of clients."""
        return {"options": {**self.options, "clients": self.clients}}

    def evaluate_result(self, row: dict[str, float]) -> dict[str, float]:
        """‖∇f‖², f, rounds, bits up for each client (headers apart), bytes both ways (headers included), seconds in rounds."""
        return {
            "value": row["grad_norm_sq"],
            "loss": row["loss"],
            "rounds": row["round"],
            "bits_up": 8 * row["uplink_payload"] / self.clients,
            "bytes": row["uplink_message"] + row["downlink_message"],
            "seconds_in_rounds": row["seconds_total"],
        }

    def get_one_result(self) -> dict[str, dict[str, float]]:
        """A row before the first round."""
        counted = dict.fromkeys(("round", "uplink_payload", "uplink_message", "downlink_message"), 0)
        return {"row": {"grad_norm_sq": 1.0, "loss": 1.0, "seconds_total": 0.0, **counted}}
