"""The same run, bit for bit, over MPI: in any exchange, with any number of workers, under any communicator.

The tests marked `mpi` are run by all ranks of one job, `mpirun -n 3 python -m mpi4py -m pytest --with-mpi --only-mpi tests/test_mpi.py`;
the one marked `process` starts its own jobs.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, TheoryError, WireError
from mpicomp.problems import problems

# method, compressor, further options: every method with compressors of all kinds, both precisions, both of the wire
QUADRATIC = {"problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 10}
MUSHROOMS = {"problem": "mushrooms"}
RUNS: list[dict[str, Any]] = [
    {"method": "gd", "compressor": "identity"},
    {"method": "gd", "compressor": "identity", "optimizer": "heavyball"},
    {"method": "dcgd", "compressor": "randk:k=4"},
    {"method": "dcgd", "compressor": "qsgd:bits=4,bucket=16", "dtype": "float32"},
    {"method": "dcgd", "compressor": "natural", "batch": 3, **MUSHROOMS},
    {"method": "diana", "compressor": "natural"},
    {"method": "diana", "compressor": "permk"},
    {"method": "diana", "compressor": "randk:k=4,sampling=uniform", "wire_dtype": "float32"},
    {"method": "ef14", "compressor": "topk:k=3"},
    {"method": "ef14", "compressor": "sign", "dtype": "float32"},
    {"method": "ef21", "compressor": "topk:k=3"},
    {"method": "ef21", "compressor": "topk:k=3", "wire_dtype": "float32", "method_options": {"start": "dense"}},
    {"method": "ef21", "compressor": "sign"},
    {"method": "ef21", "compressor": "topk:fraction=0.05", "method_options": {"start": "zero"}, **MUSHROOMS},
    {"method": "ef21-p", "compressor": "topk:k=3"},
    {"method": "ef21-p", "compressor": "randk:k=4", "dtype": "float32"},
    {"method": "marina", "compressor": "permk"},
    {"method": "marina", "compressor": "permk:layout=uniform", "wire_dtype": "float32"},
    {"method": "marina", "compressor": "randk:k=4,mask=shared"},
    {"method": "marina", "compressor": "qsgd:levels=7,norm=max", "dtype": "float32"},
    {"method": "marina", "compressor": "permk", **MUSHROOMS},
    {"method": "marina-p", "compressor": "permk"},
    {"method": "marina-p", "compressor": "randk:k=4", "wire_dtype": "float32"},
    {"method": "marina-p", "compressor": "randk:k=4,mask=shared"},
    {"method": "marina-p", "compressor": "natural", "dtype": "float32"},
]


def options_of(index: int) -> dict[str, Any]:
    common = {"rounds": 15, "step": 0.02, "seed": 5, "init": "normal:3", "eval_every": 10, "allow_unsafe": True}
    options = {**common, **RUNS[index]}
    return {**options, "problem": mushrooms()} if options.get("problem") == "mushrooms" else {**QUADRATIC, **options}


@cache
def mushrooms() -> mc.Problem:
    """Read once, not in every run."""
    return problems.build("logistic", {"data": "mushrooms", "clients": 20})


def label(index: int) -> str:
    run = RUNS[index]
    return " ".join(map(str, run.values()))


def observed(result: mc.Result) -> dict[str, Any]:
    """What must not depend on how the run was made."""
    counts = result.summary["bytes"]
    return {
        "sha256": result.summary["iterate_sha256"],
        "history": [(row["round"], row["loss"], row["grad_norm_sq"]) for row in result.history],
        "step": result.summary["step"],
        # every client's message is the same; a broadcast goes once to each worker, and frames go by rank
        "uplink": [counts["uplink"][k] for k in ("payload_bits", "values_only", "messages")],
        "downlink": counts["downlink"]["values_only"],
    }


@pytest.fixture
def comm():
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()  # each test on its own
    yield comm
    comm.Free()


def on_all(comm: Any, value: Any) -> list[Any]:
    """Everybody's value, on all ranks: an assertion about it fails on all ranks alike."""
    return comm.allgather(value)


def from_server(comm: Any, compute: Callable[[], Any]) -> Any:
    """What rank 0 computes, on all ranks; where it fails, all ranks fail rather than wait for it."""
    value, failure = None, None
    if comm.Get_rank() == 0:
        try:
            value = compute()
        except Exception:
            failure = traceback.format_exc()
    value, failure = comm.bcast((value, failure))
    assert failure is None, failure
    return value


# of each method one run or two, with shared, private and no randomness, both precisions, data and minibatches
QUICK = {0, 3, 4, 6, 9, 11, 14, 16, 18, 21, 24}
INDICES = [
    index if index in QUICK else pytest.param(index, marks=pytest.mark.full(reason="a method that the quick lane has"))
    for index in range(len(RUNS))
]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("index", INDICES, ids=label)
def test_every_exchange_gives_the_same_bits(comm, index):
    options = options_of(index)
    alone = from_server(comm, lambda: observed(mc.run(**options)))
    results = [mc.run(comm=comm, exchange=exchange, **options) for exchange in ("p2p", "collective")]
    seen = [observed(result) if result.summary else None for result in results]
    headers = [(r.summary["bytes"]["uplink"]["payload"], r.summary["exchange"]) for r in results if r.summary]
    seen, headers = comm.bcast((seen, headers))
    assert seen[0] == alone, "p2p differs from local"
    assert seen[1] == alone, "collective differs from local"
    assert [name for _, name in headers] == ["p2p", "collective"]
    assert headers[0][0] == headers[1][0]
    assert all(on_all(comm, [bool(r.summary) for r in results] == [comm.Get_rank() == 0] * 2))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("exchange", ["p2p", "collective"])
def test_message_bytes_follow_from_the_frames(comm, exchange):
    """gd: a header for each rank's frame up, a header for each receiver down, in either exchange (all messages have a fixed length)."""
    workers, n, d, rounds = comm.Get_size() - 1, 10, 43, 15
    result = mc.run(comm=comm, exchange=exchange, **options_of(0))
    if comm.Get_rank() == 0:
        up, down = result.summary["bytes"]["uplink"], result.summary["bytes"]["downlink"]
        assert up["payload"] == 8 * rounds * n * d and up["header"] == 16 * rounds * workers
        assert down["payload"] == 8 * rounds * d * workers and down["header"] == 16 * rounds * workers
        assert down["broadcast"] == rounds * (8 * d + 16)
        assert down["values_only"] == 8 * rounds * d * n
        assert down["messages"] == rounds * workers and up["messages"] == rounds * n


@pytest.mark.mpi(min_size=3)
def test_a_communicator_of_some_ranks(comm):
    """Any communicator will do: here two ranks of the world, in another order, while the others do something else."""
    options = options_of(10)
    rank, size = comm.Get_rank(), comm.Get_size()
    part = comm.Split(color=int(rank >= size - 2), key=-rank)
    result = mc.run(comm=part, **options)
    hashes = on_all(comm, result.summary.get("iterate_sha256"))
    part.Free()
    expected = from_server(comm, lambda: mc.run(**options).summary["iterate_sha256"])
    assert {h for h in hashes if h} == {expected}


@pytest.mark.mpi(min_size=2)
def test_several_runs_one_after_the_other(comm):
    from mpi4py import MPI

    hashes = {mc.run(comm=comm, **options_of(16)).summary.get("iterate_sha256") for _ in range(3)}
    assert all(on_all(comm, len(hashes) == 1))
    # the caller's communicator is as it was, and nothing is on its way in it
    comm.Barrier()
    assert not any(on_all(comm, comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)))


@pytest.mark.mpi(min_size=2)
def test_one_client_for_each_worker_and_many(comm):
    for clients in (comm.Get_size() - 1, 101):
        options = {**options_of(10), "clients": clients}
        result = mc.run(comm=comm, **options)
        expected = from_server(comm, lambda options=options: mc.run(**options).summary["iterate_sha256"])
        assert on_all(comm, result.summary.get("iterate_sha256", expected)) == [expected] * comm.Get_size()


class Awkward(mc.Compressor):
    """The simple contract, with messages of every length from none on: entries above a private random threshold, and where they are."""

    unbiased = False

    def max_nbytes(self, d, dtype):
        return 10 * (d // 3)

    def encode(self, x, out, key):
        kept = np.flatnonzero(np.abs(x) > 2 * key.uniform(1)[0])[: x.size // 3]
        out[: 2 * len(kept)].view(np.uint16)[:] = kept
        out[2 * len(kept) : 10 * len(kept)] = x[kept].astype(np.float64).view(np.uint8)
        return 10 * len(kept)

    def decode(self, buf, out, key):
        out[:] = 0
        count = len(buf) // 10
        out[buf[: 2 * count].view(np.uint16)] = buf[2 * count :].copy().view(np.float64)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("method", ["ef21", "ef21-p", "marina-p"])
def test_messages_of_any_length(comm, method):
    """A user's compressor in every exchange; lengths are known to the sender only."""
    options = {
        **options_of(0),
        "method": method,
        "compressor": Awkward(),
        "method_options": {"p": 0.2} if method == "marina-p" else {},
    }
    seen = [observed(r) for r in (mc.run(comm=comm, exchange=e, **options) for e in ("p2p", "collective")) if r.summary]
    alone = from_server(comm, lambda: observed(mc.run(**options)))
    assert comm.bcast(seen) == [alone, alone]


UNKNOWN = mc.FunctionProblem(lambda i, x: 0.0, lambda i, x: 0 * x, dim=43, n_clients=10)


# ---- errors -------------------------------------------------------------------------------------------------------------
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "marinara"}, ConfigError, "did you mean 'marina'"),
        ({"compressor": "topk:k=100"}, ConfigError, "k=100 must be an integer from 1 to the dimension, 43"),
        (
            {"method": "marina", "compressor": "topk:k=3", "allow_unsafe": False},
            ConfigError,
            "needs an unbiased compressor",
        ),
        ({"clients": 1, "problem_options": {"dim": 0}}, ConfigError, "dim >= 2"),
        (
            {"problem": UNKNOWN, "problem_options": {}, "step": "theory"},
            TheoryError,
            "the smoothness constants of problem 'user' are unknown",
        ),
        ({"out": "/proc/no/such/place"}, ConfigError, "choose another out"),
        ({"exchange": "local"}, ConfigError, "were started; use p2p or collective"),
        (
            {"problem": "logistic", "data": "/no/such/file.svm", "problem_options": {}},
            mc.UserError,
            "/no/such/file.svm",
        ),
    ],
)
def test_a_users_error_is_raised_alike_on_all_ranks(comm, options, error, words):
    message = None
    try:
        mc.run(comm=comm, **{**options_of(10), **options})
    except mc.UserError as caught:
        message = f"{type(caught).__name__}: {caught}"
        assert isinstance(caught, error | ConfigError)
    messages = on_all(comm, message)
    assert messages == [messages[0]] * comm.Get_size() and words in (messages[0] or "")
    # and everybody can go on
    again = mc.run(comm=comm, **options_of(10))
    assert all(on_all(comm, bool(again.summary) == (comm.Get_rank() == 0)))


@pytest.mark.mpi(min_size=3)
def test_more_workers_than_clients(comm):
    workers = comm.Get_size() - 1
    with pytest.raises(ConfigError) as caught:
        mc.run(comm=comm, **{**options_of(10), "clients": workers - 1})
    assert f"{workers - 1} clients cannot be spread over {workers} workers" in str(caught.value)
    comm.Barrier()


# ---- the counted communicator ---------------------------------------------------------------------------------------------
@pytest.fixture
def counted(comm):
    from mpicomp.cluster.comm import Comm

    counted = Comm(comm)
    yield counted
    counted.free()


def handed(counted: Any) -> dict[str, list[int]]:
    functions = counted.ledger.by_function()
    counted.ledger.functions.clear()
    return functions


@pytest.mark.mpi(min_size=2)
class TestComm:
    def test_point_to_point(self, counted):
        rank, size = counted.rank, counted.size
        out, back = np.arange(rank, rank + 100.0), np.zeros(120)
        request = counted.irecv(back, (rank - 1) % size, 4)
        sent = counted.isend(out, (rank + 1) % size, 4)
        assert counted.wait(request) == 800
        counted.wait(sent)
        np.testing.assert_array_equal(back[:100], (rank - 1) % size + np.arange(100.0))
        assert handed(counted) == {"Isend": [1, 800]}
        if rank == 0:
            counted.send(np.zeros(7, np.uint8), 1, 2)
            counted.send(np.zeros(5, np.uint8), 1, 2)
            assert handed(counted) == {"Send": [2, 12]}
        elif rank == 1:
            assert counted.recv(np.zeros(9, np.uint8), 0, 2) == 7
            assert counted.recv(np.zeros(9, np.uint8), 0, 2) == 5
            assert handed(counted) == {}

    def test_collectives(self, counted):
        rank, size = counted.rank, counted.size
        x = np.full(5, float(rank))
        counted.bcast(x)
        assert not x.any()
        assert handed(counted) == {"Bcast": [1, 40 if rank == 0 else 0]}
        rows = np.zeros((size, 2), np.int64) if rank == 0 else None
        counted.gather(np.array([rank, 7]), rows)
        if rows is not None:
            assert rows.tolist() == [[r, 7] for r in range(size)]
        assert handed(counted) == {"Gather": [1, 16]}
        counts, starts = np.arange(size) + 1, 3 * np.arange(size) + np.arange(size) * np.arange(size)
        everything = np.zeros(int(starts[-1]) + size, np.uint8) if rank == 0 else None
        counted.gatherv(np.full(rank + 1, rank, np.uint8), everything, counts, starts)
        if everything is not None:
            assert all(
                everything[s : s + c].tolist() == [r] * c for r, (s, c) in enumerate(zip(starts, counts, strict=True))
            )
        assert handed(counted) == {"Gatherv": [1, rank + 1]}
        mine = np.zeros(rank + 1, np.uint8)
        counted.scatterv(everything, counts, starts, mine)
        assert mine.tolist() == [rank] * (rank + 1)
        assert handed(counted) == {"Scatterv": [1, int(counts.sum()) if rank == 0 else 0]}
        values = np.array([rank, -rank], float)
        counted.allreduce_max(values)
        assert values.tolist() == [size - 1, 0]
        counted.barrier()
        assert handed(counted) == {"Allreduce": [1, 16], "Barrier": [1, 0]}

    def test_json(self, counted):
        value = {"γ": [1, 2.5, None], "text": "x" * 1000}
        assert counted.bcast_json(value if counted.rank == 0 else None) == value

    def test_purposes(self, counted):
        counted.purpose = "round"
        counted.barrier()
        counted.purpose = "evaluation"
        counted.barrier()
        assert dict(counted.ledger.functions) == {("round", "Barrier"): [1, 0], ("evaluation", "Barrier"): [1, 0]}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["p2p", "collective"])
def test_a_spoiled_frame_is_noticed_by_the_receiver(comm, kind):
    """Both directions; a frame of round 3 where round 4 is expected."""
    from mpicomp.cluster.clock import Clock
    from mpicomp.cluster.comm import Comm
    from mpicomp.exchanges.collective import CollectiveExchange
    from mpicomp.exchanges.p2p import P2PExchange
    from mpicomp.kernels.random import uplink_keys

    counted, n = Comm(comm), comm.Get_size() + 3
    exchange = {"p2p": P2PExchange, "collective": CollectiveExchange}[kind](
        counted, n, 12, np.float64, np.full(n, 1 / n), Clock(counted.now)
    )
    codec, keys = mc.compressor("identity").bind(12, n), uplink_keys(0, 0)
    server, m = exchange.is_server, len(exchange.clients)
    try:
        exchange.gather(codec, None if server else np.ones((m, 12)), keys, 4 if server else 3, np.zeros((1, 12)))
        caught = ""
    except WireError as error:
        caught = str(error)
    assert all(on_all(comm, caught == ("frame of round 3, expected round 4" if server else "")))
    for name, rows in (("broadcast", 1), ("scatter", m)):
        try:
            getattr(exchange, name)(
                codec,
                np.ones((1, 12)) if server else None,
                keys,
                3 if server else 4,
                None if server else np.zeros((rows, 12)),
            )
            caught = ""
        except WireError as error:
            caught = str(error)
        assert all(on_all(comm, caught == ("" if server else "frame of round 3, expected round 4"))), name
    exchange.finish()
    counted.free()


# ---- numbers of workers -------------------------------------------------------------------------------------------------
SCRIPT = """
import json, sys
sys.path.insert(0, {here!r})
import mpicomp as mc
from mpi4py import MPI
from test_mpi import RUNS, observed, options_of
for index in range(len(RUNS)):
    both = ("p2p", "collective")
    for exchange in both if MPI.COMM_WORLD.size == 3 else [both[index % 2]]:
        result = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, **options_of(index))
        if result.summary:
            print(json.dumps([index, exchange, observed(result)]), flush=True)
"""


@pytest.mark.night
@pytest.mark.full(reason="twelve jobs; three ranks are in the quick lane")
@pytest.mark.process
def test_any_number_of_workers_gives_the_same_bits(mpi, tmp_path):
    """1, 2 and 4 workers, every method, against the run in this process; both exchanges with 2, one in turn with 1 and 4."""
    (tmp_path / "all.py").write_text(SCRIPT.format(here=str(Path(__file__).parent)))
    expected = [json.loads(json.dumps(observed(mc.run(**options_of(index))))) for index in range(len(RUNS))]
    for workers in (1, 2, 4):
        lines = mpi.run(workers + 1, [tmp_path / "all.py"], timeout=120).check().out.splitlines()
        assert len(lines) == (2 if workers == 2 else 1) * len(RUNS)
        for line in lines:
            index, exchange, seen = json.loads(line)
            assert seen == expected[index], f"{label(index)}: {exchange}, {workers} workers"
