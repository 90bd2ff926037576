"""Traces of real runs: against the ledger byte for byte, and against the schedules that are written down from one process, call by call.

Each test starts this file on some ranks; `main` is what they do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.cluster.placement import Placement
from mpicomp.cluster.trace import Call, functions_of, read_trace
from mpicomp.errors import ConfigError
from mpicomp.experiments.simulate.plan import SCHEDULES, Planned, Where
from mpicomp.experiments.simulate.recorder import Recorder
from mpicomp.experiments.simulate.schedule import Layout
from mpicomp.runtime.config import Config

COMMON: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 203, "reg": 0.01}, "clients": 9, "rounds": 7, "step": 0.01, "init": "normal:1",
    "eval_every": 3, "allow_unsafe": True,
}  # fmt: skip
FEW: list[dict[str, Any]] = [
    {"method": "gd", "compressor": "identity", "wire_dtype": "float32"},
    {"method": "ef21", "compressor": "topk:k=5"},
    {"method": "marina", "compressor": "randk:k=20,sampling=uniform"},
    {"method": "marina-p", "compressor": "permk"},
    {"method": "ef21-pp", "compressor": "topk:k=5"},
]
MORE: list[dict[str, Any]] = [
    {"method": "gd", "optimizer": "adam"},
    {"method": "ef21+", "compressor": "topk:k=5"},
    {"method": "diana", "compressor": "natural"},
    {"method": "dcgd", "compressor": "qsgd:bits=4,bucket=40"},
    {"method": "marina", "compressor": "permk"},
    {"method": "pp-marina", "compressor": "randk:k=20"},
    {"method": "ef21-p", "compressor": "randk:k=20"},
    {"method": "ef21-p", "compressor": "topk:k=5"},
    {"method": "ef21-bc", "compressor": "topk:k=5"},
    {"method": "signsgd"},
    {"method": "powersgd"},
    {"method": "core"},
    {"method": "terngrad"},
    {"method": "marina", "compressor": "cq:levels=4,radius=common"},
    {
        "method": "gd",
        "compressor": "identity",
        "problem_options": {"dim": 70_003, "reg": 0.01},
    },  # a ring, and pieces of it
]
LONG: list[dict[str, Any]] = [
    # frames of 4 MiB hold few clients, and broadcasts go to other nodes in turn
    {
        "method": "gd",
        "compressor": "identity",
        "problem_options": {"dim": 300_001, "reg": 0.01},
        "rounds": 3,
        "eval_every": 2,
    },
]
METHODS = {"some": [FEW[0], FEW[1], FEW[3]], "few": FEW, "more": MORE, "long": LONG}


@pytest.mark.process
@pytest.mark.parametrize(
    ("ranks", "nodes", "which"),
    [
        *shortened(
            [
                (4, 2, "some"),
                (4, 2, "few"),
                (2, 1, "few"),
                (3, 1, "few"),
                (5, 2, "few"),
                (5, 1, "few"),
                (3, 2, "long"),
            ],
            1,
            "other ranks, or other methods",
        ),
        *(
            pytest.param(ranks, nodes, "more", marks=[pytest.mark.full(reason="many methods"), pytest.mark.night])
            for ranks, nodes in ((5, 2), (4, 4))
        ),
    ],
)
def test_traces_of_runs(mpi, tmp_path, ranks, nodes, which):
    extra = ["-genv", "MPIR_CVAR_NUM_CLIQUES", str(nodes)] if nodes > 1 else []
    if extra and mpi.is_open_mpi:
        pytest.skip("only MPICH pretends to have several nodes")
    mpi.run(ranks, [__file__, str(tmp_path), which], timeout=240, extra=extra, MPICOMP_NAP="100").check()
    seen = set()
    for folder in sorted(tmp_path.iterdir()):
        what = json.loads((folder / "options.json").read_text())
        facts, calls = read_trace(folder)
        assert facts["ranks"] == ranks and len(set(facts["nodes"])) == nodes
        with_the_ledger(folder, calls, what)
        with_the_schedule(facts, calls, what)
        seen.add(what["exchange"])
    assert seen == set(SCHEDULES)


def with_the_ledger(folder: Path, calls: list[list[Call]], what: Any) -> None:
    """The sum of a trace's bytes, and of its calls, is what the same run hands to MPI."""
    for rank, own in enumerate(calls):
        ledger = json.loads((folder / f"ledger.{rank}").read_text())
        found = {" ".join(key): count for key, count in functions_of(own, rank).items()}
        assert found == ledger, (what, rank)
        assert sum(call.handed(rank) for call in own) == sum(nbytes for _, nbytes in ledger.values())


def with_the_schedule(facts: dict[str, Any], calls: list[list[Call]], what: dict[str, Any]) -> None:
    """The rounds' calls are those that are written down without running them."""
    config = Config(**{**what, "exchange": "auto"})
    rounds = len(facts["round_seconds"])
    ranks, exchange = facts["ranks"], what["exchange"]
    recorder = Recorder(config, rounds, warm=0)
    kind = SCHEDULES[exchange]
    place = Placement.everywhere if kind.serves_everywhere else Placement.star
    layout = Layout(place(facts["clients"], ranks), np.array(facts["nodes"]), itemsize=np.dtype(config.dtype).itemsize)
    planned = Planned(exchange, Where(ranks, 1), layout, recorder.rounds(exchange, ranks), [])
    planned.filled = recorder.filled(exchange, ranks) if kind.cut else []
    for rank in range(ranks):
        expected, found = signature(planned.calls(rank)), signature(calls[rank])
        for k, (a, b) in enumerate(zip(expected, found, strict=False)):
            assert a == b, (
                what,
                f"rank {rank}, call {k} of {len(found)}",
                expected[max(k - 3, 0) : k + 2],
                found[max(k - 3, 0) : k + 2],
            )
        assert len(expected) == len(found), (what, rank)


def signature(calls: list[Call]) -> list[tuple]:
    """The calls of the rounds without their times; requests are numbered anew, in the order of their calls."""
    numbers: dict[int, int] = {}
    own = [call for call in calls if call.purpose == "round"]
    return [
        (
            c.function,
            c.peer,
            c.tag,
            c.nbytes,
            numbers.setdefault(c.request, len(numbers)) if c.request >= 0 else -1,
            c.counts,
        )
        for c in own
    ]


def main(directory: str, which: str) -> None:
    from mpi4py import MPI

    import mpicomp.runtime.loop as loop

    class Kept(loop.TracedComm):  # type: ignore[name-defined,misc]
        def save(self, folder: Path, facts: dict[str, Any]) -> None:
            counts = {" ".join(key): count for key, count in self.ledger.functions.items()}
            folder.mkdir(exist_ok=True)
            super().save(folder, facts)
            (folder / f"ledger.{self.rank}").write_text(json.dumps(counts))

    loop.TracedComm = Kept  # type: ignore[attr-defined]
    world, number = MPI.COMM_WORLD, 0
    for method in METHODS[which]:
        for exchange in SCHEDULES:
            options = {**COMMON, **method, "exchange": exchange}
            if exchange == "allreduce" and (
                options["method"] != "gd" or options.get("compressor", "identity") != "identity"
            ):
                continue
            folder, number = Path(directory, f"{number:03d}"), number + 1
            try:
                mc.run(comm=world, trace=str(folder), **options)
            except ConfigError:
                assert exchange in ("sharded", "sliced", "hierarchical:sum"), options
                continue
            if world.rank == 0:
                (folder / "options.json").write_text(json.dumps(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
