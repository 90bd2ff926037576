"""How near rounds are to what the links allow: in the network lab, against the bytes that the busiest interface moves.

A link carries both directions at once, so a round takes at least the bytes that an interface moves in one direction, at the link's rate.
With one server more than that follows from what waits for what. After a step the server's link sends the model to everybody, and whoever
gets it last has then still to send its message; and before anything comes up, somebody has got the whole model:

    T ≥ max(s + u, R + D) / r + 2 delay + work,

s and R the bytes that the server's interface sends and receives, u the smallest rank's messages, D the model's. With `sharded` every rank
sends its parts, takes its step and sends its slice, so T ≥ its larger direction / r + 2 delay + its own work, for every rank.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..lab import NetworkLab, Traffic
from ..lab.links import DEVICE
from ..lab.traffic import parse
from ..runtime import (
    BROADCAST_BYTES,
    COMPUTE,
    DOWNLINK,
    ENCODE,
    MESSAGE_BYTES,
    STEP,
    UPLINK,
    Comm,
    Composition,
    Config,
    MpicompError,
    Session,
    exchange_kind,
    exchange_setting,
    world,
)
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
    On rank 0: "round" (seconds, the mean of all, measured at its end on rank 0), and for each rank "work" and "step" (seconds a round:
    gradient and encoding, the optimizer), "received" and "sent" (bytes a round, of the interface of its node), "up" (bytes a round of its
    messages); "down" (bytes a round of the broadcasts, each counted once).
    """
    config = Config(
        method="dcgd", compressor=spec, exchange=exchange, rounds=WARM + rounds + 1, step=str(STEP_SIZE), dtype="float32", allow_unsafe=True
    )  # fmt: skip
    kind = exchange_kind(exchange, comm.Get_size())
    counted = Comm(comm, by_node=kind.by_node)
    problem = Flat(dim, counted.size)
    composition = Composition(config, problem)
    chosen = kind.create(exchange_setting(config, problem, composition, counted))
    session = Session(config, problem, composition.parts(STEP_SIZE), chosen, STEP_SIZE)
    for t in range(WARM):
        session.round(t)
    # No barrier, and a round more at the end: a round begins while the messages of the one before still travel.
    before, seconds, counts, start = _traffic(), session.clock.seconds.copy(), _counts(session), counted.now()
    for t in range(WARM, WARM + rounds):
        session.clock.start_round()
        session.round(t)
    wall, moved, spent = counted.now() - start, _traffic().since(before), session.clock.seconds - seconds
    up, down = _counts(session) - counts
    session.round(WARM + rounds)
    chosen.finish()
    mine = [spent[[COMPUTE, ENCODE]].sum(), spent[STEP], moved.rx_bytes, moved.tx_bytes, up, down]
    ranks = counted.gather_json([float(value) / rounds for value in mine])
    counted.free()
    if ranks is None:
        return None
    columns = np.array(ranks).T.tolist()
    row = dict(zip(("work", "step", "received", "sent", "up"), columns, strict=False))
    return {"round": wall / rounds, **row, "down": columns[5][0]}


def _counts(session: Session) -> np.ndarray:
    """Bytes of this rank's messages so far, up and down, a broadcast counted once."""
    traffic = session.exchange.ledger.traffic
    return np.array([traffic[UPLINK, MESSAGE_BYTES], traffic[DOWNLINK, BROADCAST_BYTES]])


def _traffic() -> Traffic:
    """What this node's interface has moved."""
    lines = Path("/proc/self/net/dev").read_text("utf-8", "replace").splitlines()
    return next(parse(DEVICE, line) for line in lines if line.strip().startswith(f"{DEVICE}:"))


def bound(row: dict[str, Any], rate: float, delay: float) -> float:
    """Seconds that a round takes at least; see the module. rate : bits per second; delay : seconds, one way."""
    work, step = np.array(row["work"]), np.array(row["step"])
    larger = np.maximum(row["received"], row["sent"])
    if row["exchange"] == "sharded":
        return float(np.max(8.0 * larger / rate + work + step)) + 2.0 * delay
    up = np.array(row["up"])
    through_server = max(row["sent"][0] + up[up > 0].min(), row["received"][0] + row["down"])
    alone = work[0] + step[0] + work[up > 0].min()
    return float(8.0 * max(through_server, larger.max()) / rate + alone) + 2.0 * delay


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
                        command = [
                            sys.executable,
                            "-m",
                            "mpicomp.experiments.bench.link",
                            spec,
                            exchange,
                            str(dim),
                            str(rounds),
                        ]
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
