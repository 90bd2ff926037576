"""What a run of one process would take in another place: its own work, dealt out, and its bytes over the links there.

    T = R (c + β B + δ H) + w + 8 B₂/r,    w = s (m/n) (compute + encode) + decode + step

for R rounds and each exchange, with the work that the run has measured and the terms of the cost model (docs/explanation/cost-model.md):
H steps that wait for one another, B₁ and B₂ bytes through the busiest rank within its node and over its link, m clients on the busiest
rank, s ranks that share a core. c and β are the exchange's own, measured there with two messages of different lengths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..runtime import GROUP_NBYTES
from ..study.model import SERVERLESS, Shape

EXCHANGES = ("p2p", "collective", "sharded", "allreduce")


@dataclass(frozen=True)
class Place:
    """Where runs are to be made.

    Attributes
    ----------
    ranks, per_node : in all, and on each node (0: all on this machine). clients, dim : n and d.
    rate : bit/s of a node's link, 0 for shared memory; delay : seconds, one way. sharing : ranks that share a core, at least 1.
    constants, by_byte : c (seconds a round) and β (seconds a byte) by exchange; those without are not predicted.
    carries : the exchanges that can carry a contender's messages, by its label; those with one server for a label that is not there.
    """

    ranks: int
    per_node: int
    clients: int
    dim: int
    rate: float = 0.0
    delay: float = 0.0
    sharing: float = 1.0
    constants: dict[str, float] = field(default_factory=dict)
    by_byte: dict[str, float] = field(default_factory=dict)
    carries: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Place:
        """From the file that `save` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    def seconds(self, row: Mapping[str, Any], exchange: str) -> float:
        """T for the rounds up to a row of a run in one process with all clients.

        >>> place = Place(3, 1, 2, 1000, rate=8e6, constants={"p2p": 0.001}, by_byte={"p2p": 0.0})
        >>> row = {"round": 10, "uplink_message": 80000, "downlink_message": 40000}
        >>> row |= {f"seconds_{phase}": 0.0 for phase in ("compute", "encode", "decode", "step")}
        >>> round(place.seconds(row, "p2p"), 9)
        0.17
        """
        rounds = int(row["round"])
        if rounds == 0:
            return 0.0
        shape = self.shape(row, exchange)
        within, between = shape.levels
        fixed = self.constants.get(exchange, 0.0) + self.by_byte.get(exchange, 0.0) * (within + between)
        return rounds * (fixed + shape.delay * shape.traffic[1] + shape.wire_seconds) + self.work(row, shape)

    def work(self, row: Mapping[str, Any], shape: Shape) -> float:
        """w, seconds, of the rounds up to a row."""
        compute, encode, decode, step = (float(row[f"seconds_{p}"]) for p in ("compute", "encode", "decode", "step"))
        dealt = shape.sharing * shape.busiest / shape.clients
        if shape.exchange == "allreduce":
            return dealt * (compute + encode + decode) + shape.sharing * step
        served = shape.sharing / shape.ranks if shape.exchange == "sharded" else 1.0
        return dealt * (compute + encode) + served * (decode + step)

    def shape(self, row: Mapping[str, Any], exchange: str) -> Shape:
        """The messages of a mean round up to this row, as the cost model takes them."""
        rounds, n = int(row["round"]), self.clients
        up, down = row["uplink_message"] / rounds, row["downlink_message"] / rounds
        if exchange == "allreduce":
            up, down = self.ranks * up / n, 0.0  # a rank hands over one sum
        workers = self.ranks - 1
        per_frame = max(1.0, GROUP_NBYTES // max(up / n, 1.0))
        frames = 1.0 if exchange != "p2p" else math.ceil(math.ceil(n / workers) / per_frame)
        rate = self.rate or math.inf
        return Shape(
            "", exchange, workers, self.per_node, n, self.dim, up, down, frames, rate, self.delay, self.sharing
        )

    def soonest(self, row: Mapping[str, Any], label: str) -> tuple[str, float]:
        """The exchange with the shortest T for a contender, and T."""
        star = [name for name in self.constants if name not in SERVERLESS]
        names = [name for name in self.carries.get(label, star) if name in self.constants] or ["p2p"]
        return min(((name, self.seconds(row, name)) for name in names), key=lambda item: item[1])

    def calibrated(self, exchange: str, measured: Sequence[tuple[Mapping[str, Any], float]]) -> Place:
        """With c and β of an exchange: from the rows of runs in one process, and the seconds that the same rounds took there.

        One run gives c alone. The longest and the shortest message give both, neither of them negative.
        """
        bare = replace(self, constants={**self.constants, exchange: 0.0}, by_byte={**self.by_byte, exchange: 0.0})
        rests = []
        for row, took in measured:
            nbytes = sum(bare.shape(row, exchange).levels)
            rests.append((nbytes, max(took - bare.seconds(row, exchange), 0.0) / int(row["round"])))
        (short, low), (long, high) = min(rests), max(rests)
        beta = max((high - low) / (long - short), 0.0) if long > short else 0.0
        constant = max(low - beta * short, 0.0)
        return replace(bare, constants={**bare.constants, exchange: constant}, by_byte={**bare.by_byte, exchange: beta})
