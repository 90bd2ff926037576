"""The exchanges without a single server's link, over MPI: the star's bits, bytes by level, orders and checkpoints across exchanges.

Each test starts this file on some ranks; `main` is what they do. MPICH can pretend that its ranks are on several nodes.
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
from mpicomp.cluster import comm
from mpicomp.errors import LabError
from mpicomp.exchanges import p2p
from mpicomp.experiments.lab import NetworkLab

COMMON: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 203, "reg": 0.01}, "clients": 9, "rounds": 10, "step": 0.01,
    "init": "normal:1", "eval_every": 5, "allow_unsafe": True,
}  # fmt: skip
METHODS: list[dict[str, Any]] = [
    {"method": "gd", "compressor": "identity", "wire_dtype": "float32"},
    {"method": "gd", "optimizer": "adam"},
    {"method": "ef21", "compressor": "topk:k=5", "dtype": "float32"},
    {"method": "ef21-pp", "compressor": "topk:k=5"},
    {"method": "ef21+", "compressor": "topk:k=5"},
    {"method": "ef14", "compressor": "sign"},
    {"method": "diana", "compressor": "natural"},
    {"method": "dcgd", "compressor": "qsgd:bits=4,bucket=40"},
    {"method": "marina", "compressor": "permk"},
    {"method": "marina", "compressor": "randk:k=20,sampling=uniform"},
    {"method": "pp-marina", "compressor": "randk:k=20"},
    {"method": "marina-p", "compressor": "permk"},
    {"method": "ef21-p", "compressor": "randk:k=20"},
    {"method": "signsgd"},
    {"method": "powersgd"},
    {"method": "core"},
    {"method": "marina", "compressor": "cq:levels=4,radius=common"},
    {"method": "ef21-p", "compressor": "topk:k=5"},
    {"method": "terngrad"},
]
ONLY_HIERARCHICAL: list[dict[str, Any]] = [{"method": "diana", "compressor": "cq:rotate=true"}]


@pytest.mark.process
@pytest.mark.parametrize(
    ("ranks", "nodes", "which"),
    shortened(
        [(5, 2, "few"), (3, 1, "few"), (2, 1, "few"), (4, 4, "few"), (5, 2, "all")], 1, "other ranks, or all methods"
    ),
)
def test_the_same_bits(mpi, ranks, nodes, which):
    extra = ["-genv", "MPIR_CVAR_NUM_CLIQUES", str(nodes)] if nodes > 1 else []
    if extra and mpi.is_open_mpi:
        pytest.skip("only MPICH pretends to have several nodes")
    nap = "30" if ranks == 3 else "0"  # ranks that sleep while they wait
    mpi.run(ranks, [__file__, "bits", str(nodes), which], timeout=240, extra=extra, MPICOMP_NAP=nap).check()


def test_naps_are_microseconds(monkeypatch):
    for text, expected in (("50", 5e-5), ("0", 0.0), ("", 0.0)):
        monkeypatch.setenv("MPICOMP_NAP", text)
        assert comm._nap_seconds() == pytest.approx(expected)
    for text in ("fast", "-1", "1e7", "nan"):
        monkeypatch.setenv("MPICOMP_NAP", text)
        with pytest.raises(mc.ConfigError, match=r"MPICOMP_NAP=.* microseconds from 0 to 1000000"):
            comm._nap_seconds()


@pytest.mark.process
def test_checkpoints_across_exchanges(mpi, tmp_path):
    mpi.run(3, [__file__, "checkpoints", tmp_path], timeout=240).check()


@pytest.mark.process
@pytest.mark.parametrize("exchange", shortened(["sharded", "hierarchical"], 1, "another exchange"))
def test_orders(mpi, tmp_path, exchange):
    """A worker's signal, a divergence in one slice and a refusal are heard by all ranks alike."""
    mpi.run(3, [__file__, "orders", tmp_path, exchange], timeout=120).check()


@pytest.mark.process
def test_open_mpi_too(open_mpi):
    open_mpi.run(3, [__file__, "bits", "1", "few"], timeout=240).check()


@pytest.mark.alone
@pytest.mark.process
def test_fewer_bytes_between_nodes(mpi):
    """Three nodes of two ranks: the interface of the server's node sends half of what it sends to every rank by itself."""
    try:
        lab = NetworkLab(3)
    except LabError as error:
        pytest.skip(str(error))
    with lab:
        sent = {}
        for exchange in ("p2p", "hierarchical"):
            command = [mpi.python, "-m", "mpicomp.experiments.bench.link", "identity", exchange, "100000", "4"]
            done = lab.run(command, per_node=2, timeout=240)
            assert done.code == 0, done.stderr
            sent[exchange] = json.loads(done.stdout.partition("bench link: ")[2])["sent"][0]
    assert sent["p2p"] > 4 * 400_000  # four ranks are on other nodes
    assert 1.85 < sent["p2p"] / sent["hierarchical"] < 2.15


# ---- what the ranks do ----------------------------------------------------------------------------------------------------
def bits(comm: Any, nodes: int, which: str) -> None:
    """Every exchange against one process, broadcasts in turn however short; levels add up to the totals."""
    p2p.IN_TURN_NBYTES = 1
    chosen = METHODS[2:9:3] if which == "few" else [*METHODS, *ONLY_HIERARCHICAL]
    for options in [{**COMMON, **own} for own in chosen]:
        alone = mc.run(**options) if comm.rank == 0 else None
        for exchange in ("p2p", "sharded", "hierarchical", "hierarchical:sum"):
            what = (options["method"], options.get("compressor"), exchange)
            if exchange == "sharded" and options in [{**COMMON, **own} for own in ONLY_HIERARCHICAL]:
                refused(comm, {**options, "exchange": exchange})
                continue
            result = mc.run(comm=comm, exchange=exchange, **options)
            if alone is not None:
                check(what, alone, result, nodes)


def check(what: Any, alone: mc.Result, result: mc.Result, nodes: int) -> None:
    exact = alone.summary["iterate_sha256"]
    if what[2] == "hierarchical:sum":
        np.testing.assert_allclose(result.x, alone.x, rtol=1e-4 if result.x.dtype == np.float32 else 1e-9, atol=1e-6)
    else:
        assert result.summary["iterate_sha256"] == exact, what
        assert [row["loss"] for row in result.history] == [row["loss"] for row in alone.history], what
    for way in ("uplink", "downlink"):
        counts = result.summary["bytes"][way]
        assert counts["shared_memory"] + counts["intra_node"] + counts["inter_node"] == counts["message"], what
        assert counts["values_only"] == alone.summary["bytes"][way]["values_only"], (what, way)
        assert (counts["inter_node"] > 0) == (nodes > 1 and counts["message"] > 0), (what, way, counts)
    if what[2] == "hierarchical" and what[0] == "gd":
        down = result.summary["bytes"]["downlink"]
        assert down["inter_node"] == (nodes - 1) * down["broadcast"] // nodes  # once for each node but the server's


def refused(comm: Any, options: dict[str, Any]) -> None:
    try:
        mc.run(comm=comm, **options)
    except mc.ConfigError as error:
        assert "exchange='sharded'" in str(error) and "exchange='p2p'" in str(error)
        return
    raise AssertionError(options)


def checkpoints(comm: Any, directory: Path) -> None:
    """Half a run in one exchange, the other half in another, and the same bits as in one go."""
    for own in (
        {"method": "diana", "compressor": "natural", "optimizer": "adam"},
        {"method": "ef21-p", "compressor": "randk:k=20"},
    ):
        options = {**COMMON, **own}
        whole = comm.bcast(mc.run(**options).summary["iterate_sha256"] if comm.rank == 0 else None)
        for first, second in (
            ("sharded", "p2p"),
            ("p2p", "sharded"),
            ("hierarchical", "sharded"),
            ("sharded", "local"),
        ):
            out = str(directory / f"{own['method']}-{first}-{second}")
            half = {**options, "rounds": 5, "checkpoint_every": 5, "out": out}
            mc.run(comm=comm, exchange=first, **half)
            comm.Barrier()
            rest = {**options, "resume": out}
            if second != "local":
                result = mc.run(comm=comm, exchange=second, **rest)
            elif comm.rank == 0:
                result = mc.run(**rest)
            if comm.rank == 0:
                assert result.summary["resumed_at"] == 5
                assert result.summary["iterate_sha256"] == whole, (own, first, second)


class Failing(mc.Problem):
    """Gradients are not finite in one late coordinate from some point on."""

    n_clients, dim = 4, 200

    def __init__(self):
        self.calls = 0

    def loss(self, i, x):
        return 0.0

    def gradient(self, i, x, out):
        self.calls += 1
        out[:] = 0
        if self.calls > 60:
            out[190] = np.inf


def orders(comm: Any, directory: Path, exchange: str) -> None:
    """Divergence met by the server of the last slice; a signal to the last rank."""
    import os
    import signal

    result = mc.run(comm=comm, exchange=exchange, problem=Failing(), method="gd", step=0.1, rounds=500)
    ended = comm.allgather(result.config.rounds)
    assert len(set(ended)) == 1
    if comm.rank == 0:
        assert result.summary["diverged"] and result.summary["rounds"] < 100

    class Signalled(Failing):
        def gradient(self, i, x, out):
            self.calls += 1
            out[:] = 0
            if self.calls == 60 and comm.rank == comm.size - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    out = str(directory / "signalled")
    result = mc.run(comm=comm, exchange=exchange, problem=Signalled(), method="gd", step=0.1, rounds=100_000, out=out)
    assert comm.allgather(result.interrupted) == [True] * comm.size


def main() -> None:
    from mpi4py import MPI

    what, *rest = sys.argv[1:]
    comm = MPI.COMM_WORLD
    if what == "bits":
        bits(comm, int(rest[0]), rest[1])
    elif what == "checkpoints":
        checkpoints(comm, Path(rest[0]))
    else:
        orders(comm, Path(rest[0]), rest[1])


if __name__ == "__main__":
    main()
