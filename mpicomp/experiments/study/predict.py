"""What the cost model says of places that were not measured: other numbers of nodes, links, dimensions and clients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..runtime import GROUP_NBYTES, ConfigError, DataError, compressors, methods
from .calibrate import observe, resample
from .cells import Group, Results
from .compare import Cost, break_even
from .model import MODELLED, SERVERLESS, Model, Shape

STAR = ("p2p", "collective")


@dataclass(frozen=True)
class Place:
    """Nodes and ranks on each, bit/s and one-way seconds of their links, n and d (0: as measured), cores of a node (0: enough)."""

    nodes: int
    per_node: int
    rate: float
    delay: float
    clients: int = 0
    dim: int = 0
    cores: int = 0

    def check(self) -> None:
        """Raises ConfigError where a number cannot be."""
        if self.nodes < 1 or self.per_node < 1 or self.nodes * self.per_node < 2:
            raise ConfigError(
                f"{self.nodes} nodes with {self.per_node} ranks: at least two ranks are needed, a server and a worker"
            )
        if min(self.clients, self.dim, self.cores, self.delay) < 0 or not self.rate > 0:
            raise ConfigError(
                "--clients, --dim, --cores and --delay must not be negative, and --link must be a speed, such as 25gbit"
            )


@dataclass(frozen=True)
class Prediction:
    """What the model says of one method in one place.

    Attributes
    ----------
    seconds, low, high : of a round with the best exchange, and the 95 % interval of the calibration (not of the model's form).
    exchange : the fastest one. others : seconds by exchange.
    server_bytes : through the server's rank in a round, bytes. server_work : share of the round that the server decodes and steps.
    to_target : seconds to the study's target with as many rounds as measured; None where it was not reached.
    break_even : bit/s below which it is faster than dense to the target (a round, where that is unknown); None where no link is slow
        enough; infinite where every link is.
    """

    label: str
    seconds: float
    low: float
    high: float
    exchange: str
    others: dict[str, float]
    server_bytes: float
    server_work: float
    to_target: float | None
    break_even: float | None


def predict(results: Results, place: Place) -> list[Prediction]:
    """Predictions for every method of a study, the dense baseline first.

    Raises
    ------
    DataError : nothing to calibrate from. ConfigError : the place cannot be, or has fewer clients than workers.
    """
    place.check()
    observations = observe(results)
    if not observations:
        raise DataError(
            f"{results.directory} has no finished cell to calibrate a model from; run `mpicomp scale` first"
        )
    model, ensemble = resample(observations)
    sources = _largest_of_each(results)
    rounds = {label: _rounds(results, group) for label, group in sources.items()}
    dense = next((label for label, group in sources.items() if group.cell.baseline == "dense"), None)
    costs = {}
    found = []
    for label, group in sorted(sources.items(), key=lambda item: (item[1].cell.baseline != "dense", item[0])):
        shapes = {exchange: carried(group, exchange, place) for exchange in _exchanges(results, group)}
        times = {exchange: model.seconds(shape) for exchange, shape in shapes.items()}
        best = min(times, key=lambda e: times[e])
        shape = shapes[best]
        costs[label] = _cost(model, shape, rounds[label] or 1.0)
        draws = [m.seconds(shape) for m in ensemble]
        count = rounds[label]
        comparable = (
            dense is not None and label != dense and best != "allreduce" and (count is None) == (rounds[dense] is None)
        )
        found.append(
            Prediction(
                label, times[best], float(np.percentile(draws, 2.5)), float(np.percentile(draws, 97.5)), best, times, shape.traffic[2],
                model.at_server(shape) / times[best], None if count is None else count * times[best],
                break_even(costs[label], costs[dense]) if comparable and dense is not None else None,
            )
        )  # fmt: skip
    return found


def _largest_of_each(results: Results) -> dict[str, Group]:
    """The largest measured configuration of each method: its bytes are scaled."""
    sources: dict[str, Group] = {}
    for g in sorted(results.groups, key=lambda g: (g.exchange != "sharded", g.clients, g.dim, g.places)):
        if g.exchange in MODELLED and not any(run.diverged for run in g.runs):
            sources[g.label] = g
    return sources


def _rounds(results: Results, group: Group) -> float | None:
    reached = group.to_target(results.target, "round")
    return reached.median if reached is not None and reached.median > 0 else None


def _exchanges(results: Results, group: Group) -> list[str]:
    """One server always goes; slices only where the study has shown that the method's messages can be cut."""
    measured = {g.exchange for g in results.groups if g.label == group.label}
    return ["allreduce"] if measured == {"allreduce"} else [*STAR, *(measured & {"sharded"})]


def carried(group: Group, exchange: str, place: Place) -> Shape:
    """A measured configuration carried to another place.

    Uplink messages scale as the compressor's own do with d and n, downlink messages (taken as one for all) with d.
    """
    n, d = place.clients or group.clients, place.dim or group.dim
    workers = place.nodes * place.per_node - 1
    if n < workers + (exchange in SERVERLESS):
        raise ConfigError(f"{n} clients cannot be spread over {workers} workers; give --clients {workers + 1} or more")
    if exchange == "allreduce":
        up = group.bytes("uplink") / len(group.runs[0].ranks) * (workers + 1) * d / group.dim
        down, message = 0.0, 0.0
    else:
        message = group.bytes("uplink") / group.clients * _growth(group, n, d)
        up = n * message
        down = group.bytes("downlink") / group.processors * d / group.dim
    per_frame = max(1.0, GROUP_NBYTES // max(message, 1.0))
    frames = 1.0 if exchange != "p2p" else math.ceil(math.ceil(n / workers) / per_frame)
    sharing = max(1.0, place.per_node / place.cores) if place.cores else 1.0
    return Shape(
        group.label, exchange, workers, place.per_node, n, d, up, down, frames, place.rate, place.delay, sharing
    )


def _growth(group: Group, n: int, d: int) -> float:
    """How much longer a client's message becomes when n and d change, by the compressor's longest messages."""
    options, wire = group.cell.options, group.runs[0].stored.summary["wire_dtype"]
    spec = options.get("compressor") or methods[str(options["method"]).partition(":")[0]].default_compressor
    compressor = compressors.create(spec)
    return compressor.bind(d, n, wire).max_nbytes / compressor.bind(group.dim, group.clients, wire).max_nbytes


def _cost(model: Model, shape: Shape, rounds: float) -> Cost:
    """As `break_even` takes it: seconds that no link changes, and bytes that the link's speed divides."""
    fixed, wire = model.affine(shape)
    return Cost(int(rounds), rounds * wire * shape.rate / 8, 0.0, rounds * fixed, rounds * (fixed + wire))
