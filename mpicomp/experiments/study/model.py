"""The cost model of a round.

    T = c + w + α F + (λ + δ) H + β₁ B₁ + β₂ B₂ + η 8 B₂/r       (docs/explanation/cost-model.md has the terms and their assumptions)

w is the work on the critical path (compute, encode, decode, step, each with a rate of its own), F the frames that pass the server one
after another, H the steps that wait for one another, δ the links' one-way delay, B₁ and B₂ the bytes through the busiest rank within
its node and over its link of r bit/s.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..runtime import IN_TURN_NBYTES, moves_less

COMMUNICATION = ("constant", "frame", "hop", "within", "between", "wire")
_SMALL_MESSAGE = 12288  # MPICH's MPI_Bcast changes from a binomial tree to scatter and allgather here ...
_SMALL_WORLD = 8  # ... unless there are fewer ranks than this
_RING_MESSAGE = 524288  # that allgather goes round a ring from here on, and with ranks that are no power of two always
_SMALL_SUM = 2048  # MPICH's MPI_Allreduce changes from recursive doubling to reduce-scatter and allgather
UNLIMITED = math.inf
SERVERLESS = ("allreduce", "sharded")  # every rank hosts clients and serves
MODELLED = ("p2p", "collective", *SERVERLESS)


@dataclass(frozen=True)
class Shape:
    """What the model must know of a configuration; all figures are of one round.

    Attributes
    ----------
    method : label, compressor : rates of encode and decode are by label. exchange : p2p, collective or allreduce.
    workers, per_node : ranks that are not the server (with allreduce too), ranks on each node; per_node = 0 where all are on one.
    clients, dim : n and d. busiest : clients on the busiest rank. units : gradient entries that it computes, m d.
    up, down : bytes from the workers to the server in all, and from the server to one worker.
    frames : frames of each worker in each direction. rate : bit/s of each node's link. delay : seconds, one way.
    sharing : how many busy ranks share a core, at least 1.
    """

    label: str
    exchange: str
    workers: int
    per_node: int
    clients: int
    dim: int
    up: float
    down: float
    frames: float
    rate: float
    delay: float
    sharing: float

    @property
    def busiest(self) -> float:
        """Clients of the busiest rank; with Allreduce rank 0 hosts some too."""
        return math.ceil(self.clients / (self.workers + (self.exchange in SERVERLESS)))

    @property
    def ranks(self) -> int:
        """P."""
        return self.workers + 1

    @property
    def nodes(self) -> int:
        """Hosts."""
        return math.ceil(self.ranks / self.per_node) if self.per_node else 1

    @property
    def away(self) -> float:
        """Share of the workers that are not on the server's node."""
        return max(self.ranks - self.per_node, 0) / self.workers if self.per_node else 0.0

    @property
    def traffic(self) -> tuple[float, float, float]:
        """(frames one after another, steps that wait for one another, bytes one after another through the busiest rank)."""
        P, b = self.ranks, self.down
        steps = math.ceil(math.log2(P))
        if self.exchange == "allreduce":
            b = self.up / P
            if moves_less(P, self.nodes, int(b)):
                return 2 * (P - 1), 2 * (P - 1), 2 * b * (P - 1) / P
            full = 2 ** math.floor(math.log2(P))
            fold = 0.0 if full == P else 2.0 * b  # ranks beyond a power of two hand theirs over, and get the sum back
            if b <= _SMALL_SUM:
                return steps, steps, fold + b * math.log2(full)
            return 2 * steps, 2 * steps, fold + 2 * b * (full - 1) / full
        if self.exchange == "sharded":  # parts to and from everybody, both ways at once
            return 2 * self.workers * self.frames, 2, self.up / P * (P - 1) / P + b
        if self.exchange == "collective":
            if b < _SMALL_MESSAGE or P < _SMALL_WORLD:
                return self.workers + steps, 1 + steps, self.up + steps * b
            more = P - 1 if b >= _RING_MESSAGE or P & (P - 1) else steps
            return self.workers + steps + more, 1 + steps, self.up + 2 * b * (P - 1) / P
        moved = self.up + self.workers * b
        if self.nodes > 1 and self.workers * self.away > 1 and b >= IN_TURN_NBYTES:  # up and down overlap
            moved = max(self.up + b, self.workers * b + self.up / self.workers)
        return 2 * self.workers * self.frames, 2, moved

    @property
    def levels(self) -> tuple[float, float]:
        """Bytes one after another through the busiest rank: (within its node, over its link). A collective's all count as the latter."""
        share = self.away if self.exchange in ("p2p", "sharded") else float(self.nodes > 1)
        moved = self.traffic[2]
        return (1 - share) * moved, share * moved

    @property
    def wire_seconds(self) -> float:
        """8 B₂/r: what the busiest link needs for the bytes that cross it, at its nominal rate."""
        return 0.0 if math.isinf(self.rate) else 8 * self.levels[1] / self.rate


@dataclass
class Model:
    """Calibrated rates.

    Attributes
    ----------
    compute : seconds for each client and entry of its gradient. step : seconds for each entry of the model.
    encode, decode : seconds for each client and entry, by label.
    communication : seconds by COMMUNICATION: of a round, a frame, a step, a byte within a node and between nodes, a nominal second
        of the link.
    links_set : the links had a known rate; if not, what they cost is in `between`, and `wire` is 1.
    intervals : 95 % bootstrap interval of each of them by name, `encode LABEL` and so on. cells : how many configurations it stands on.
    """

    compute: float
    step: float
    encode: dict[str, float]
    decode: dict[str, float]
    communication: dict[str, float]
    links_set: bool
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    cells: int = 0

    def work(self, shape: Shape) -> float:
        """w, seconds: the busiest worker's gradients and messages, then the server's sum and step."""
        entries = shape.busiest * shape.dim
        return shape.sharing * entries * (self.compute + self.encode.get(shape.label, 0.0)) + self.at_server(shape)

    def at_server(self, shape: Shape) -> float:
        """Seconds in which the server decodes, adds up and takes the step; with Allreduce every rank does that for its own clients, in
        a sharded exchange for its slice."""
        decode = self.decode.get(shape.label, 0.0)
        if shape.exchange == "allreduce":
            return shape.sharing * shape.dim * (self.step + shape.busiest * decode)
        alone = shape.dim * (self.step + shape.clients * decode)
        return shape.sharing * alone / shape.ranks if shape.exchange == "sharded" else alone

    def affine(self, shape: Shape) -> tuple[float, float]:
        """(seconds that no link speed changes, seconds of the wire at the shape's rate); their sum is the round.

        A rate that is asked about takes the place of links of unknown rate; an infinite one leaves everything as it was measured.
        """
        frames, hops, _ = shape.traffic
        within, between = shape.levels
        c = self.communication
        fixed = c["constant"] + c["frame"] * frames + (c["hop"] + shape.delay) * hops + c["within"] * within
        if self.links_set or math.isinf(shape.rate):
            fixed += c["between"] * between
        return self.work(shape) + fixed, c["wire"] * shape.wire_seconds

    def seconds(self, shape: Shape) -> float:
        """T, seconds a round."""
        return sum(self.affine(shape))

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")
