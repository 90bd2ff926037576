"""Time to a target on slow links: compressed methods against dense gradient descent, dense Allreduce and bfloat16, in the network lab.

As a program (`python -m mpicomp.experiments.bench.target`) this is one rank of such a run.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ..runtime import IN_TURN_NBYTES, ConfigError, run

_BITS4 = "qsgd:bits=4,bucket=512,norm=max"
_BF16 = "cast:to=bfloat16"
DENSE, ALLREDUCE = "dense", "dense, Allreduce"
CONTENDERS: dict[str, dict[str, Any]] = {
    DENSE: {"method": "gd"},
    ALLREDUCE: {"method": "gd", "exchange": "allreduce"},
    "bfloat16 both ways": {
        "method": "custom",
        "method_options": {"uplink": f"direct:{_BF16}", "downlink": f"ef21-p:{_BF16}"},
    },
    "4 bits both ways (EF21, EF21-P)": {
        "method": "custom",
        "method_options": {"uplink": f"ef21:{_BITS4}", "downlink": f"ef21-p:{_BITS4}"},
    },
    "top 10 % up, 4 bits down (EF21, EF21-P)": {
        "method": "custom",
        "method_options": {"uplink": "ef21:topk:fraction=0.1", "downlink": f"ef21-p:{_BITS4}"},
    },
}
_EVERY, _MOST = 5, 2000


def bench_target(
    dim: int = 1 << 20,
    nodes: int = 5,
    rate: str = "100mbit",
    delay_ms: float = 0.0,
    target: float = 1e-3,
    step: str = "1.0",
) -> list[dict[str, Any]]:
    """Seconds until ‖∇f(x)‖² ≤ target · ‖∇f(x⁰)‖² on the quadratic problem, a client on each worker, all with the same step.

    How many rounds that takes is found in this process, where a run has the same bits; the lab's runs are then evaluated only before their
    first and after their last round.

    Parameters
    ----------
    dim : d, float32. nodes, rate, delay_ms : of the lab, a rank on each node, one of them the server (with Allreduce, all work).

    Returns
    -------
    A dict for each contender: name, rounds, seconds (of the rounds), round (median seconds), bytes (messages through the server's link,
    both ways; with Allreduce what the ranks handed over), path (bytes that one link carries one after the other: `on_the_path`; with
    Allreduce the larger direction of the busiest interface), reached (‖∇f‖² at the end by that at x⁰), gain (dense seconds by its
    own), fewer (dense bytes by its own), shorter (dense path by its own: the gain where only the link counts), gain_allreduce
    (Allreduce's seconds by its own).

    Raises
    ------
    LabError : no lab can be made here. ConfigError : a run fails or does not reach the target.
    """
    from ..lab import NetworkLab

    common: dict[str, Any] = {
        "problem": "quadratic", "problem_options": {"dim": dim, "reg": 0.01}, "clients": nodes - 1, "dtype": "float32", "step": step,
    }  # fmt: skip
    rows = []
    with NetworkLab(nodes, rate, delay_ms) as lab:
        for name, options in CONTENDERS.items():
            # with Allreduce rank 0 hosts a client too
            own = {**common, **options, **({"clients": nodes} if name == ALLREDUCE else {})}
            rounds = _rounds_to({**own, "exchange": "local"}, target)
            done = lab.run(
                [sys.executable, "-m", "mpicomp.experiments.bench.target", json.dumps({**own, "rounds": rounds})],
                timeout=600,
            )
            if done.code:
                raise ConfigError(f"bench target: {name} failed with exit code {done.code}\n{done.stderr.strip()}")
            summary = json.loads(done.stdout.splitlines()[-1])
            path = on_the_path(summary.pop("up"), summary.pop("down"), nodes - 1, rounds)
            if name == ALLREDUCE:
                path = max(max(moved.tx_bytes, moved.rx_bytes) for moved in done.interfaces.values())
            rows.append({"name": name, "rounds": rounds, "path": path, **summary})
    dense = rows[0]
    by_allreduce = next(row for row in rows if row["name"] == ALLREDUCE)
    for row in rows:
        row["gain"] = dense["seconds"] / row["seconds"]
        row["gain_allreduce"] = by_allreduce["seconds"] / row["seconds"]
        row["fewer"], row["shorter"] = dense["bytes"] / row["bytes"], dense["path"] / row["path"]
    return rows


def on_the_path(up: float, down: float, workers: int, rounds: int) -> float:
    """Bytes that a star's server moves one after the other: up, then down; where models go out in turn, the larger of all models with the
    last worker's messages behind them, and of one model with all messages behind it.

    up, down : bytes of all workers' messages in all rounds.
    """
    if down / workers / rounds < IN_TURN_NBYTES:
        return up + down
    return max(down + up / workers, up + down / workers)


def _rounds_to(options: dict[str, Any], target: float) -> int:
    """Rounds until an evaluation is at the target."""
    start = run(**{**options, "rounds": 0}).history[0]["grad_norm_sq"]
    result = run(**{**options, "rounds": _MOST, "eval_every": _EVERY, "tol": target * start})
    if not result.summary["reached_tol"]:
        raise ConfigError(
            f"bench target: {options['method']} does not come to {target:g} of its first ‖∇f‖² in {_MOST} rounds; "
            "choose another --step or --target"
        )
    return int(result.summary["rounds"])


def _rank(options: dict[str, Any]) -> None:
    from ..runtime import world

    result = run(**{**options, "eval_every": options["rounds"]}, comm=world())
    if result.summary:
        took, counts = result.summary["seconds"], result.summary["bytes"]
        print(
            json.dumps(
                {
                    "seconds": took["total"],
                    "round": took["round_median"],
                    "bytes": sum(counts[way]["message"] for way in ("uplink", "downlink")),
                    "up": counts["uplink"]["message"],
                    "down": counts["downlink"]["message"],
                    "reached": result.history[-1]["grad_norm_sq"] / result.history[0]["grad_norm_sq"],
                }
            )
        )


if __name__ == "__main__":
    _rank(json.loads(sys.argv[1]))
