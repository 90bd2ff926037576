"""mc.Aggregator on three ranks: `scripts/test mpich` runs these as one job."""

from __future__ import annotations

import numpy as np
import pytest

import mpicomp as mc

UPLINKS = [
    "direct", "direct:natural", "direct:qsgd:bits=4", "ef21:topk:fraction=0.1", "ef21:sign", "ef14:sign", "diana:randk:fraction=0.2",
    "ef21+:topk:fraction=0.1", "dasha:randk:fraction=0.2", "powersgd:rank=2", "direct:cq", "diana:permk",
]  # fmt: skip
DOWNLINKS = ["dense", "direct:cast:to=bfloat16", "direct:natural", "ef14:sign", "ef21-p:topk:fraction=0.2"]
EXCHANGES = ["auto", "sharded", "p2p", "collective", "hierarchical"]
DIM = 300


@pytest.fixture
def comm():
    from mpi4py import MPI

    return MPI.COMM_WORLD


def target(rank: int) -> np.ndarray:
    return np.random.default_rng(rank).standard_normal(DIM)


def descend(comm, rounds: int, **options) -> tuple[np.ndarray, mc.Aggregator]:
    """x after so many steps towards the mean of the ranks' targets."""
    agg, x = mc.Aggregator(comm, np.zeros(DIM), seed=4, **options), np.zeros(DIM)
    for _ in range(rounds):
        x -= 0.125 * agg.mean(x - target(comm.rank) if agg.hosts else None)
    return x, agg


def same_everywhere(comm, array: np.ndarray) -> bool:
    return len(set(comm.allgather(array.tobytes()))) == 1


@pytest.mark.mpi
@pytest.mark.covering()
@pytest.mark.parametrize("downlink", DOWNLINKS)
@pytest.mark.parametrize("uplink", UPLINKS)
def test_all_ranks_have_the_same_bits_after_300_steps(comm, uplink, downlink):
    x, agg = descend(comm, 300, uplink=uplink, downlink=downlink)
    assert same_everywhere(comm, x)
    mean = np.mean([target(r) for r in range(comm.size)], axis=0)
    error = np.linalg.norm(x - mean) / np.linalg.norm(mean)
    exact = uplink.startswith(("ef21", "diana", "dasha")) and downlink in ("dense", "ef21-p:topk:fraction=0.2")
    assert np.isfinite(x).all() and (error < 0.05 or not exact), error
    agg.close()


@pytest.mark.mpi
@pytest.mark.covering()
@pytest.mark.parametrize("exchange", ["sharded", "p2p", "collective", "hierarchical", "allreduce"])
@pytest.mark.parametrize("uplink", ["direct", "ef21:topk:fraction=0.1", "diana:randk:k=30"])
def test_the_same_bits_as_a_run(comm, exchange, uplink):
    """n ranks are n clients of a run with method custom and a replicated optimizer."""
    if exchange == "allreduce" and uplink != "direct":
        pytest.skip("allreduce carries dense vectors")
    x, agg = descend(comm, 20, uplink=uplink, exchange=exchange)
    first = 0 if agg.hosts or comm.size == 1 else 1
    first = comm.bcast(first if comm.rank == 0 else None)
    targets = [target(r) for r in range(first, comm.size)]
    problem = mc.FunctionProblem(
        lambda i, v: float(0.5 * np.sum((v - targets[i]) ** 2)), lambda i, v: v - targets[i], DIM, len(targets)
    )
    options = {"uplink": uplink, "downlink": "dense", "replicated": True}
    result = mc.run(
        problem=problem, comm=comm, exchange=exchange, rounds=20, step="0.125", seed=4, method="custom", method_options=options
    )  # fmt: skip
    if comm.rank == 0:
        np.testing.assert_array_equal(x, result.x)
    agg.close()


@pytest.mark.mpi
@pytest.mark.covering()
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("uplink", ["direct:natural", "ef21:topk:fraction=0.1", "ef14:sign"])
def test_dicts_rules_and_resume(comm, exchange, uplink):
    shapes = {"conv.weight": (4, 3, 3), "conv.bias": (4,), "head.weight": (5, 40), "head.bias": (5,)}
    rng = np.random.default_rng(comm.rank)
    values = [{k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()} for _ in range(6)]
    rules = [("ndim<2", "cast:to=bfloat16"), ("head.*", "topk:fraction=0.2")] if exchange != "sharded" else []
    options = {"uplink": uplink, "exchange": exchange, "rules": rules}

    def means(agg, some):
        return [agg.mean(v if agg.hosts else None) for v in some]

    agg = mc.Aggregator(comm, values[0], **options)
    whole = means(agg, values)
    first = mc.Aggregator(comm, values[0], **options)
    means(first, values[:3])
    again = mc.Aggregator(comm, values[0], **options)
    again.load_state_dict(first.state_dict())
    for got, expected in zip(means(again, values[3:]), whole[3:], strict=True):
        for k in shapes:
            assert got[k].shape == shapes[k] and got[k].dtype == np.float32
            np.testing.assert_array_equal(got[k], expected[k])
            assert same_everywhere(comm, got[k])
    for each in (agg, first, again):
        each.close()


@pytest.mark.mpi
@pytest.mark.parametrize("uplink", ["direct", "ef21:topk:fraction=0.5", "direct:natural"])
def test_what_one_rank_cannot_give_all_hear(comm, uplink):
    agg = mc.Aggregator(comm, {"w": np.zeros(200), "b": np.zeros(3)}, uplink=uplink)
    good, last = {"w": np.ones(200), "b": np.ones(3)}, comm.size - 1
    bad = {
        f"rank {last}: tensor 'w' holds nan at entry 7": {"w": np.where(np.arange(200) == 7, np.nan, 1.0), "b": np.ones(3)},
        f"rank {last}: tensor 'b' has shape .3,., got shape .4,.": {"w": np.ones(200), "b": np.ones(4)},
        f"rank {last}: tensor 'late' is not one of those": {**good, "late": np.ones(1)},
        f"rank {last}: tensor 'b' is missing": {"w": np.ones(200)},
    }  # fmt: skip
    for message, value in bad.items():
        with pytest.raises(mc.AggregationError, match=message):
            agg.mean(value if comm.rank == last else good)
    with pytest.raises(mc.AggregationError, match=f"rank {last}: ZeroDivisionError: division by zero"):
        agg.mean((lambda point: {"w": 1 / 0}) if comm.rank == last else (lambda point: good), at=good)
    for _ in range(60):
        out = agg.mean(good)
    assert same_everywhere(comm, out["w"])
    if uplink != "direct:natural":
        np.testing.assert_allclose(out["w"], 1.0, rtol=1e-9)
    agg.close()


@pytest.mark.mpi
def test_ranks_that_were_given_other_things(comm):
    last = comm.size - 1
    with pytest.raises(mc.ConfigError, match=rf"rank {last} has tensor 'w' of shape \(4,\).*not 'w' of shape \(3,\)"):
        mc.Aggregator(comm, {"w": np.zeros(4 if comm.rank == last else 3)})
    with pytest.raises(mc.ConfigError, match=f"rank {last} was given 1 where rank 0 was given 0"):
        mc.Aggregator(comm, np.zeros(3), seed=int(comm.rank == last))
    with pytest.raises(mc.ConfigError, match=f"rank {last}: uplink 'topk:k=1' names a compressor"):
        mc.Aggregator(comm, np.zeros(3), uplink="topk:k=1" if comm.rank == last else "ef21:topk:k=1")
    agg = mc.Aggregator(comm, np.zeros(300), uplink="ef21:topk:k=9")
    with pytest.raises(mc.ConfigError, match=f"rank {last} was given"):
        agg.set(uplink="ef21:topk:k=8" if comm.rank == last else "ef21:topk:k=7")
    agg.close()


@pytest.mark.mpi
@pytest.mark.parametrize("uplink", ["direct", "ef21:topk:k=9"])
def test_a_rank_that_makes_fewer_calls_is_named(comm, uplink):
    agg, last = mc.Aggregator(comm, np.zeros(500), uplink=uplink, timeout=1.0), comm.size - 1
    agg.mean(np.ones(500))
    if comm.rank != last:
        text = rf"rank {comm.rank} waits in call 2 of the aggregator since 1 s: rank {last} has not made this call"
        with pytest.raises(mc.RankFailure, match=text):
            agg.mean(np.ones(500))
    comm.barrier()


@pytest.mark.mpi
def test_weights_are_those_of_the_weighted_mean(comm):
    agg = mc.Aggregator(comm, np.zeros(50), weighted=True)
    weights = np.arange(comm.size, dtype=float)
    out = agg.mean(np.full(50, 1.0 + comm.rank), weight=weights[comm.rank])
    np.testing.assert_allclose(out, np.average(1.0 + np.arange(comm.size), weights=weights), rtol=1e-12)
    with pytest.raises(mc.AggregationError, match="rank 1: weight=None"):
        agg.mean(np.ones(50), weight=None if comm.rank == 1 else 1.0)
    agg.close()


@pytest.mark.mpi
def test_started_tensors_give_what_mean_gives_on_all_ranks(comm):
    rng = np.random.default_rng(comm.rank)
    like = {f"t{i}": np.zeros(400 + i, np.float32) for i in range(6)}
    options = {"uplink": "ef21:topk:fraction=0.1", "downlink": "ef21-p:topk:fraction=0.1", "bucket_nbytes": 4000}
    plain, started = mc.Aggregator(comm, like, **options), mc.Aggregator(comm, like, **options)
    for _ in range(4):
        g = {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in like.items()}
        order = list(g)
        np.random.default_rng(100 + comm.rank).shuffle(order)  # another order on each rank
        expected = plain.mean(g)
        for k in order:
            started.start(k, g[k])
        got = started.wait()
        for k in like:
            np.testing.assert_array_equal(got[k], expected[k])
            assert same_everywhere(comm, got[k])
    for k in like:
        started.start(k, np.full(like[k].shape, np.nan) if comm.rank == 1 and k == "t2" else like[k])
    with pytest.raises(mc.AggregationError, match="rank 1: tensor 't2' holds nan at entry 0"):
        started.wait()
    plain.close()
    started.close()


@pytest.mark.mpi
def test_the_ledger_of_a_call(comm):
    agg = mc.Aggregator(
        comm, np.zeros(4096, np.float32), uplink="direct:cast", downlink="direct:cast", exchange="sharded"
    )
    agg.mean(np.ones(4096, np.float32))
    assert agg.last.call == 0
    up = agg.last.bytes["uplink"]
    per_rank = 2 * 4096
    assert 0.5 * per_rank < up["message"] < per_rank + 16 * comm.size
    assert up["message"] == up["intra_node"] + up["inter_node"] + up["shared_memory"]
    assert (
        set(agg.last.seconds) == {"compute", "encode", "send", "wait", "decode", "step"}
        and agg.last.seconds["encode"] > 0
    )
    agg.close()
