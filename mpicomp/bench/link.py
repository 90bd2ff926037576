"""How near rounds are to what the links allow: in the network lab, against the bytes that the busiest interface moves.

A round cannot take less than those bytes at the link's rate, a delay for each direction, and the compute during which nothing travels.
What a node receives and sends at once (sharded) counts as the larger of the two; with one server, up and down follow each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.clock import COMPUTE, ENCODE, STEP
from ..cluster.comm import Comm, world
from ..errors import MpicompError
from ..lab import NetworkLab, Traffic
from ..lab.links import DEVICE
from ..lab.traffic import parse
from ..runtime.config import Config
from ..runtime.exchanges import make_exchange
from ..runtime.session import Composition, Session
from .overhead import STEP as STEP_SIZE
from .overhead import Flat

SPECS = ("identity", "sign", "qsgd:bits=4", "topk:fraction=0.01")
EXCHANGES = ("p2p", "collective", "sharded", "hierarchical")
DIMS = (1 << 20, 1 << 22)
RATES = ("100mbit", "1gbit")
WARM = 2  # rounds that are not timed
_MARK = "mpicomp bench link: "


def measure_rounds(comm: Any, spec: str, exchange: str, dim: int, rounds: int) -> dict[str, Any] | None:
    """On each rank: rounds of compressed gradient descent with a dense downlink, one client on each rank, float32.

    Returns
    -------
    On rank 0: "round" (seconds, the mean of all), "compute" (seconds a round, the largest of any rank: gradient, encoding, step), and
    "received" and "sent" (bytes a round, of the interface of each rank's node).
    """
    config = Config(
        method="dcgd", compressor=spec, exchange=exchange, rounds=rounds, step=str(STEP_SIZE), dtype="float32", allow_unsafe=True
    )  # fmt: skip
    counted = Comm(comm, by_node=exchange.startswith("hierarchical"))
    problem = Flat(dim, counted.size)
    composition = Composition(config, problem)
    chosen = make_exchange(config, problem, composition, counted)
    session = Session(config, problem, composition.parts(STEP_SIZE), chosen, STEP_SIZE)
    for t in range(WARM):
        session.round(t)
    counted.barrier()
    before, seconds, start = _traffic(), session.clock.seconds.copy(), counted.now()
    for t in range(WARM, WARM + rounds):
        session.clock.start_round()
        session.round(t)
    counted.barrier()
    wall, moved = counted.now() - start, _traffic().since(before)
    spent = (session.clock.seconds - seconds)[[COMPUTE, ENCODE, STEP]].sum()
    chosen.finish()
    ranks = counted.gather_json([spent / rounds, moved.rx_bytes / rounds, moved.tx_bytes / rounds])
    counted.free()
    if ranks is None:
        return None
    table = np.array(ranks)
    return {
        "round": wall / rounds,
        "compute": float(table[:, 0].max()),
        "received": table[:, 1].tolist(),
        "sent": table[:, 2].tolist(),
    }


def _traffic() -> Traffic:
    """What this node's interface has moved."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(parse(DEVICE, line) for line in lines if line.strip().startswith(f"{DEVICE}:"))


def bound(row: dict[str, Any], rate: float, delay: float) -> float:
    """Seconds that a round takes at least. rate : bits per second; delay : seconds, one way."""
    both_ways = row["exchange"] == "sharded"
    busiest = max(max(a, b) if both_ways else a + b for a, b in zip(row["received"], row["sent"], strict=True))
    return 8.0 * busiest / rate + 2.0 * delay + row["compute"]


def link_rounds(
    rates: Sequence[str], dims: Sequence[int], specs: Sequence[str], exchanges: Sequence[str], nodes: int, per_node: int, rounds: int
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each setting: what `measure_rounds` gives, and "rate", "bound" (seconds) and "ratio" = round / bound.

    Raises
    ------
    LabError : this machine or user cannot have a lab. MpicompError : a job in it failed.
    """
    rows = []
    with NetworkLab(nodes, rates[0]) as lab:
        for rate in rates:
            lab.set_rate(rate)
            for dim in dims:
                for spec in specs:
                    for exchange in exchanges:
                        command = [sys.executable, "-m", "mpicomp.bench.link", spec, exchange, str(dim), str(rounds)]
                        done = lab.run(command, per_node, timeout=600)
                        lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
                        if done.code or not lines:
                            raise MpicompError(
                                f"bench link: {spec} by {exchange} ended with code {done.code}: {done.stderr[-500:]}"
                            )
                        row = {
                            "exchange": exchange,
                            "spec": spec,
                            "dim": dim,
                            "rate": rate,
                            **json.loads(lines[0].removeprefix(_MARK)),
                        }
                        row["bound"] = bound(row, lab.link.rate or float("inf"), lab.link.delay)
                        row["ratio"] = row["round"] / row["bound"]
                        rows.append(row)
    return rows


def main() -> None:
    """What each rank does in the lab."""
    spec, exchange, dim, rounds = sys.argv[1:]
    row = measure_rounds(world(), spec, exchange, int(dim), int(rounds))
    if row is not None:
        print(_MARK + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
