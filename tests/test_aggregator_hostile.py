"""mc.Aggregator in the hands of loops that fail, forget and differ; tests marked mpi are run on three ranks by `scripts/test mpich`."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import mpicomp as mc

DIM = 200


@pytest.fixture
def comm():
    from mpi4py import MPI

    return MPI.COMM_WORLD


# ---- one process -----------------------------------------------------------------------------------------------------
def test_what_a_function_raises_is_the_cause():
    agg = mc.Aggregator(None, np.zeros(5), uplink="marina@p=0.5:randk:k=2")

    def broken(point):
        raise RuntimeError("no batch is left")

    with pytest.raises(mc.AggregationError, match="rank 0: RuntimeError: no batch is left") as caught:
        agg.mean(broken, at=np.zeros(5))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert agg.calls == 0


@pytest.mark.parametrize("wrong", ["raises", "nan", "shape"])
def test_only_the_point_before_is_wrong(wrong):
    """Then the call fails on all ranks, and the next one begins with the gradient itself, so that the estimate is right again."""
    agg, a = mc.Aggregator(None, np.zeros(6), uplink="marina@p=1e-9:identity"), np.arange(6.0)
    x = np.ones(6)
    agg.mean(lambda point: a * point, at=x)
    now = 2 * x

    def gradient(point):
        if np.array_equal(point, x):
            if wrong == "raises":
                raise KeyError("gone")
            return np.full(6, np.nan) if wrong == "nan" else np.ones(3)
        return a * point

    with pytest.raises(mc.AggregationError, match="rank 0: at the point before, "):
        agg.mean(gradient, at=now)
    np.testing.assert_array_equal(agg.mean(gradient, at=now), a * now)
    np.testing.assert_allclose(agg.mean(lambda point: a * point, at=3 * x), a * 3, rtol=1e-12)


def test_two_points_after_a_first_call_that_failed():
    agg = mc.Aggregator(None, np.zeros(4), uplink="marina@p=1e-9:identity")
    with pytest.raises(mc.AggregationError, match="holds nan"):
        agg.mean(lambda point: np.full(4, np.nan), at=np.zeros(4))
    np.testing.assert_array_equal(agg.mean(lambda point: point + 1, at=np.ones(4)), np.full(4, 2.0))


def test_set_between_mechanisms_forgets_the_point():
    """MARINA's memory is of the last point: after a detour it must not take the change since a point from before that."""
    agg = mc.Aggregator(None, np.zeros(4), uplink="marina@p=1e-9:identity")
    agg.mean(lambda point: point.copy(), at=np.ones(4))
    agg.set(uplink="direct")
    agg.mean(np.ones(4))
    agg.set(uplink="marina@p=1e-9:identity")
    np.testing.assert_array_equal(agg.mean(lambda point: point.copy(), at=np.full(4, 5.0)), np.full(4, 5.0))


def test_functions_and_points_go_together():
    agg = mc.Aggregator(None, np.zeros(4), uplink="marina@p=0.5:identity")
    with pytest.raises(mc.AggregationError, match="give the point"):
        agg.mean(lambda point: np.ones(4))
    with pytest.raises(mc.AggregationError, match="give `mean` a function of the point"):
        agg.mean(np.ones(4))
    with pytest.raises(mc.ConfigError, match="use mean with a function"):
        agg.start("", np.ones(4))


def test_weights_count_at_both_points():
    agg = mc.Aggregator(None, np.zeros(4), uplink="marina@p=1e-9:identity", weighted=True)
    x = np.ones(4)
    agg.mean(lambda point: 3 * point, at=x, weight=2.0)
    np.testing.assert_allclose(agg.mean(lambda point: 3 * point, at=2 * x, weight=7.0), 6 * x, rtol=1e-12)


def test_what_the_mean_cannot_be_written_into():
    frozen = np.ones(4)
    frozen.flags.writeable = False
    agg = mc.Aggregator(None, np.zeros(4), uplink="ef21:topk:k=2")
    for value, why in ((frozen, "is read-only"), (np.ones(4, int), "is of dtype int64")):
        with pytest.raises(mc.AggregationError, match=f"the array {why}, so the mean cannot be written into it"):
            agg.mean_(value)
    assert np.isfinite(agg.mean(frozen)).all()


def test_views_and_orders_of_memory():
    """Columns of one matrix, reversed and transposed arrays, and other byte orders give what plain arrays give."""
    whole = np.random.default_rng(0).standard_normal((6, 8))
    values = [
        whole[:, 1],
        whole[::-1],
        np.asfortranarray(whole),
        whole.astype(">f8"),
        np.broadcast_to(whole[0], (3, 8)),
    ]
    options = {"uplink": "ef21:topk:fraction=0.3", "downlink": "ef21-p:topk:fraction=0.5"}
    one, other = mc.Aggregator(None, values, **options), mc.Aggregator(None, values, **options)
    for _ in range(3):
        for got, expected in zip(one.mean(values), other.mean([np.array(v, float) for v in values]), strict=True):
            np.testing.assert_array_equal(got, expected)
    into = whole.copy()
    columns = [into[:, 0], into[:, 5]]
    agg = mc.Aggregator(None, columns)
    agg.mean_(columns)
    np.testing.assert_array_equal(into, whole)


def test_arrays_without_entries():
    like = {"none": np.zeros((0, 3)), "some": np.zeros(5), "last": np.zeros(0)}
    agg = mc.Aggregator(None, like, uplink="ef21:topk:k=5", bucket_nbytes=8, rules=[("none", "direct:sign")])
    values = {**like, "some": np.arange(5.0)}
    for name in like:
        agg.start(name, values[name])
    started = agg.wait()
    for got in (started, agg.mean(values), agg.mean_({k: v.copy() for k, v in values.items()})):
        assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in like.items()}
        np.testing.assert_array_equal(got["some"], values["some"])


@pytest.mark.parametrize("uplink", ["ef21:topk:k=2", "ef14:topk:k=1", "diana:natural", "direct:qsgd:bits=4"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_near_the_largest(uplink, dtype):
    """A call may fail, and says so; later calls with ordinary numbers are finite."""
    agg = mc.Aggregator(None, np.zeros(6, dtype), uplink=uplink)
    largest = np.finfo(dtype).max
    with np.errstate(all="ignore"):
        for sign in (1, -1, 1):
            try:
                got = agg.mean(np.full(6, sign * largest, dtype))
            except mc.AggregationError as error:
                assert "not finite" in str(error)
            else:
                assert np.isfinite(got).all()
        for _ in range(40):
            try:
                got = agg.mean(np.ones(6, dtype))
            except mc.AggregationError:
                continue
    assert np.isfinite(got).all()


@pytest.mark.parametrize("weight", [1e-31, 1e31, -1.0, float("nan"), float("inf"), "many"])
def test_weights_that_a_sum_would_lose(weight):
    agg = mc.Aggregator(None, np.zeros(3, np.float32), uplink="ef21:topk:k=1", weighted=True)
    with pytest.raises(mc.AggregationError, match=r"weight=|'str'"):
        agg.mean(np.ones(3), weight=weight)


def test_set_with_other_groups_goes_on_and_resumes():
    like = {"a": np.zeros(30), "b": np.zeros(20), "c": np.zeros(7, np.float32)}
    value = {
        k: np.random.default_rng(i).standard_normal(v.shape).astype(v.dtype) for i, (k, v) in enumerate(like.items())
    }

    def steps(agg, count):
        for _ in range(count):
            out = agg.mean(value)
        return out

    def changed(agg, number):
        for rules in (
            [("b", "sign")],
            [("b", "ef14:sign"), ("b", "natural")],
            [],
            [("nothing*", "sign"), ("size>=1", "topk:k=2")],
        )[:number]:
            agg.set(rules=rules)
            steps(agg, 4)
        return agg

    make = lambda: mc.Aggregator(None, like, uplink="ef21:topk:fraction=0.3", downlink="ef21-p:topk:fraction=0.4")  # noqa: E731
    for number in range(5):
        agg, again = changed(make(), number), changed(make(), number)
        steps(again, 3)
        again.load_state_dict(agg.state_dict())
        one, other = steps(agg, 3), steps(again, 3)
        for k in like:
            np.testing.assert_array_equal(one[k], other[k])
    for k, own in steps(agg, 200).items():
        np.testing.assert_allclose(own, value[k], atol=1e-6)


def test_after_close():
    agg = mc.Aggregator(None, {"a": np.zeros(3), "b": np.zeros(3)}, bucket_nbytes=8)
    future = agg.start("a", np.ones(3))
    ended = threading.Event()
    future.add_done_callback(lambda done: ended.set())
    agg.close()
    assert ended.wait(20)
    with pytest.raises(mc.ConfigError, match="closed before its call had ended"):
        future.result(timeout=20)
    agg.close()
    for call in (lambda: agg.mean({}), lambda: agg.start("a", np.ones(3)), lambda: agg.set(uplink="direct")):
        with pytest.raises(mc.ConfigError, match="the aggregator is closed; make another one"):
            call()


def test_the_state_between_start_and_wait():
    agg = mc.Aggregator(None, {"a": np.zeros(3), "b": np.zeros(3)}, uplink="ef21:topk:k=1")
    state = agg.state_dict()
    agg.start("a", np.ones(3))
    for call in (agg.state_dict, lambda: agg.load_state_dict(state), lambda: agg.mean({})):
        with pytest.raises(mc.ConfigError, match="was called between start and wait; call wait first"):
            call()
    agg.wait()
    agg.load_state_dict(state)


def test_a_mistake_after_the_last_bucket_is_told():
    agg = mc.Aggregator(None, {"a": np.zeros(3)})
    agg.start("a", np.ones(3)).result(timeout=20)
    with pytest.raises(mc.AggregationError, match="started twice"):
        agg.start("a", np.ones(3)).result(timeout=20)
    with pytest.raises(mc.AggregationError, match="started twice"):
        agg.wait()


def test_an_interrupted_call_ends_the_aggregator(monkeypatch):
    """Ctrl-C within a call leaves messages under way, which a further call would take for its own."""
    agg = mc.Aggregator(None, np.zeros(3), uplink="ef21:topk:k=1")
    bucket = agg._buckets[0]

    def stop(call, flagged):
        raise KeyboardInterrupt

    monkeypatch.setattr(bucket, "exchange_mean", stop)
    with pytest.raises(KeyboardInterrupt):
        agg.mean(np.ones(3))
    monkeypatch.undo()
    with pytest.raises(mc.RankFailure, match=r"call 1 of the aggregator was interrupted \(KeyboardInterrupt"):
        agg.mean(np.ones(3))
    agg.close()


def test_rules_by_functions_can_be_saved():
    def make():
        return mc.Aggregator(
            None, {"a": np.zeros(9), "b": np.zeros(3)}, uplink="ef21:topk:k=1", rules=[(lambda name, shape: shape[0] > 5, "sign")]
        )  # fmt: skip

    first, again = make(), make()
    value = {"a": np.arange(9.0), "b": np.ones(3)}
    first.mean(value)
    again.load_state_dict(first.state_dict())
    for k in value:
        np.testing.assert_array_equal(first.mean(value)[k], again.mean(value)[k])


def test_a_rule_that_raises_is_an_error_of_the_options():
    with pytest.raises(mc.ConfigError, match="ZeroDivisionError"):
        mc.Aggregator(None, np.zeros(3), rules=[(lambda name, shape: 1 / 0, "sign")])


def test_two_aggregators_in_two_threads():
    values = np.random.default_rng(0).standard_normal((2, 30, 50))
    expected = []
    for own in values:
        agg = mc.Aggregator(None, np.zeros(50), uplink="ef21:topk:k=5")
        expected.append([agg.mean(v) for v in own])
    aggs, got = [mc.Aggregator(None, np.zeros(50), uplink="ef21:topk:k=5") for _ in values], {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: [aggs[i].mean(v) for v in values[i]]})) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal([got[0], got[1]], expected)


# ---- three ranks -----------------------------------------------------------------------------------------------------
def same_everywhere(comm, array: np.ndarray) -> bool:
    return len(set(comm.allgather(np.ascontiguousarray(array).tobytes()))) == 1


@pytest.mark.mpi
@pytest.mark.parametrize("exchange", ["auto", "sharded", "p2p"])
def test_what_a_function_raises_on_one_rank_all_hear(comm, exchange):
    """At the new point, and only at the one before; afterwards the estimate is exact again."""
    agg = mc.Aggregator(comm, np.zeros(DIM), uplink="marina@p=1e-9:identity", exchange=exchange, timeout=20)
    rank, last = comm.rank, comm.size - 1
    clients = [r for r in range(comm.size) if exchange != "p2p" or r > 0]
    x = np.full(DIM, 2.0)

    def gradient(point):
        return (1.0 + rank) * point

    def broken(point, at):
        if rank == last and point[0] == at:
            raise RuntimeError("out of memory")
        return gradient(point)

    agg.mean(gradient, at=x)
    for at, where in ((4.0, ""), (2.0, "at the point before, ")):
        with pytest.raises(mc.AggregationError, match=f"rank {last}: {where}RuntimeError: out of memory"):
            agg.mean(lambda point, at=at: broken(point, at), at=2 * x)
        expected = np.mean([1.0 + r for r in clients])
        for now in (2 * x, x, 3 * x, x):
            out = agg.mean(gradient, at=now)
            np.testing.assert_allclose(out, expected * now, rtol=1e-12)
            assert same_everywhere(comm, out)
    agg.close()


@pytest.mark.mpi
def test_rules_by_functions_are_compared_by_what_they_choose(comm):
    like = {"a": np.zeros(DIM), "b": np.zeros(7)}
    options = {"uplink": "ef21:topk:k=3", "timeout": 20}
    agg = mc.Aggregator(comm, like, rules=[(lambda name, shape: name == "a", "sign")], **options)
    value = {"a": np.ones(DIM), "b": np.ones(7)}
    agg.mean(value)
    state = agg.state_dict()
    agg.load_state_dict(state)
    agg.close()
    own = "a" if comm.rank == 1 else "b"
    with pytest.raises(
        mc.ConfigError, match='rank 1 was given "sign for tensor \'a\'" where rank 0 was given "None for'
    ):
        mc.Aggregator(comm, like, rules=[(lambda name, shape: name == own, "sign")], **options)
    with pytest.raises(mc.ConfigError, match="rank 1: ZeroDivisionError"):
        mc.Aggregator(comm, like, rules=[(lambda name, shape: 1 / (comm.rank - 1), "sign")], **options)


@pytest.mark.mpi
@pytest.mark.parametrize("dim", [1, 39, 41, 80, 81, 200])
@pytest.mark.parametrize("uplink", ["direct", "ef21:topk:fraction=0.1", "ef14:sign", "diana:permk", "powersgd:rank=1"])
def test_ranks_without_a_slice(comm, uplink, dim):
    """A slice begins at a multiple of 40: with few coordinates some ranks serve none."""
    agg = mc.Aggregator(comm, np.zeros(dim), uplink=uplink, downlink="ef21-p:sign", timeout=20)
    for step in range(3):
        out = agg.mean(np.full(dim, 1.0 + comm.rank + step))
        assert same_everywhere(comm, out) and np.isfinite(out).all()
        with pytest.raises(mc.AggregationError, match=f"rank {comm.size - 1}: the array holds nan"):
            agg.mean(np.full(dim, np.nan if comm.rank == comm.size - 1 else 1.0))
    agg.close()


@pytest.mark.mpi
def test_more_entries_than_a_slice_has(comm):
    if comm.size > 1:
        with pytest.raises(mc.ConfigError, match=r"exchange='auto' has none .* fraction= in place of k="):
            mc.Aggregator(comm, np.zeros(41), uplink="ef21:topk:k=30", downlink="ef21-p:eden", timeout=20)


@pytest.mark.mpi
@pytest.mark.parametrize("exchange", ["auto", "sharded", "p2p"])
def test_set_never_keeps_half_of_a_memory(comm, exchange):
    """With qsgd's buckets the slices are others: what servers and clients of EF21 remember is kept together, or begins anew together."""
    agg = mc.Aggregator(comm, np.zeros(1000), uplink="ef21:topk:fraction=0.2", exchange=exchange, timeout=20)
    target = np.random.default_rng(comm.rank).standard_normal(1000)
    hosts = [r for r in range(comm.size) if exchange != "p2p" or r > 0]
    mean = np.mean([np.random.default_rng(r).standard_normal(1000) for r in hosts], axis=0)
    for uplink in ("ef21:natural", "ef21:qsgd:bits=8,bucket=128", "ef21:topk:fraction=0.3", "ef21+:topk:fraction=0.3"):
        for _ in range(30):
            out = agg.mean(target if agg.hosts else None)
        np.testing.assert_allclose(out, mean, atol=1e-3)
        agg.set(uplink=uplink)
    agg.close()


@pytest.mark.mpi
def test_two_aggregators_of_one_communicator_in_turn_and_in_threads(comm):
    values = np.random.default_rng(comm.rank).standard_normal((6, 2, DIM))
    options = {"uplink": "ef21:topk:k=9", "downlink": "ef21-p:sign", "timeout": 20}
    alone = [mc.Aggregator(comm, np.zeros(DIM), **options) for _ in range(2)]
    expected = [[agg.mean(v[i]) for v in values] for i, agg in enumerate(alone)]
    both = [mc.Aggregator(comm, np.zeros(DIM), **options) for _ in range(2)]
    got: dict[int, list[np.ndarray]] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: [both[i].mean(v[i]) for v in values]})) for i in (0, 1)
    ]
    for thread in threads if comm.rank else reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal([got[0], got[1]], expected)
    for agg in alone + both:
        agg.close()


@pytest.mark.mpi
def test_a_rank_that_is_interrupted(comm, monkeypatch):
    """The others are told so after the timeout, and nobody takes an old message for a new one."""
    agg = mc.Aggregator(comm, np.zeros(DIM), uplink="ef21:topk:k=9", timeout=1.0)
    agg.mean(np.ones(DIM))
    if comm.rank == 1:
        monkeypatch.setattr(
            agg._buckets[0], "exchange_mean", lambda call, flagged: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            agg.mean(np.ones(DIM))
        monkeypatch.undo()
    else:
        with pytest.raises(mc.RankFailure, match="has not made this call"):
            agg.mean(np.ones(DIM))
    comm.barrier()
    with pytest.raises(mc.RankFailure, match="call 2 of the aggregator was interrupted"):
        agg.mean(np.ones(DIM))
    agg.close()
    agg = mc.Aggregator(comm, np.zeros(DIM), uplink="ef21:topk:k=9", timeout=20)
    assert same_everywhere(comm, agg.mean(np.full(DIM, comm.rank)))
    agg.close()


@pytest.mark.mpi
@pytest.mark.parametrize("downlink", ["dense", "ef21-p:sign"])
def test_a_server_without_a_vector_starts_and_waits(comm, downlink):
    like = {f"t{i}": np.zeros(30 + i) for i in range(4)}
    options = {"uplink": "ef21:topk:k=9", "downlink": downlink, "exchange": "p2p", "bucket_nbytes": 300, "timeout": 20}
    plain, started = mc.Aggregator(comm, like, **options), mc.Aggregator(comm, like, **options)
    for _ in range(3):
        value = {k: np.full(v.shape, 1.0 + comm.rank) for k, v in like.items()}
        expected = plain.mean(value if plain.hosts else None)
        for k in reversed(like) if comm.rank else ["t1"]:  # the server starts one, to begin the call
            started.start(k, value[k] if started.hosts else None)
        got = started.wait()
        for k in like:
            np.testing.assert_array_equal(got[k], expected[k])
            assert same_everywhere(comm, got[k])
    plain.close()
    started.close()


@pytest.mark.mpi
def test_in_place_on_a_rank_that_cannot(comm):
    value = np.ones(DIM)
    value.flags.writeable = comm.rank != 1
    for uplink in ("direct", "ef21:topk:k=3"):
        agg = mc.Aggregator(comm, np.zeros(DIM), uplink=uplink, timeout=20)
        with pytest.raises(mc.AggregationError, match="rank 1: the array is read-only"):
            agg.mean_(value)
        np.testing.assert_allclose(agg.mean(np.ones(DIM))[:1], 1.0)
        agg.close()


@pytest.mark.mpi
@pytest.mark.parametrize("uplink", ["direct", "ef21:topk:fraction=0.5", "ef14:sign", "powersgd:rank=1"])
def test_numbers_near_the_largest_on_all_ranks(comm, uplink):
    agg = mc.Aggregator(comm, np.zeros(DIM, np.float32), uplink=uplink, timeout=20)
    largest = np.finfo(np.float32).max
    out = np.zeros(DIM)
    with np.errstate(all="ignore"):
        for value in (largest, -largest, largest, *[1.0] * 30):
            try:
                out, failed = agg.mean(np.full(DIM, value, np.float32)), False
            except mc.AggregationError:
                failed = True
            assert len(set(comm.allgather(failed))) == 1
            assert same_everywhere(comm, out) and np.isfinite(out).all()
    assert not failed
    agg.close()


@pytest.mark.mpi
def test_weights_at_their_ends(comm):
    """All zero gives zeros; a weight that takes a vector over the largest number is told to all ranks."""
    for uplink in ("direct", "ef21:topk:fraction=0.5"):
        agg = mc.Aggregator(comm, np.zeros(DIM), uplink=uplink, weighted=True, timeout=20)
        np.testing.assert_array_equal(agg.mean(np.ones(DIM), weight=0), np.zeros(DIM))
        if comm.size > 2:
            with pytest.raises(mc.AggregationError, match="rank 1: a weight of 3 times the mean takes"):
                agg.mean(np.full(DIM, 1e308), weight=float(comm.rank == 1))
        samples = np.arange(comm.size) + 3  # numbers of samples are whole
        for _ in range(20):
            out = agg.mean(np.full(DIM, 1.0 + comm.rank), weight=len(range(samples[comm.rank])))
        np.testing.assert_allclose(out, np.average(1.0 + np.arange(comm.size), weights=samples), rtol=1e-12)
        for _ in range(20):
            out = agg.mean(np.full(DIM, 1.0 + comm.rank), weight=1e30 if comm.rank == 0 else 1e-30)
        np.testing.assert_allclose(out, 1.0)
        agg.close()
