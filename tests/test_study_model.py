"""The cost model: known rates come back from cells made with them; predictions move the way they must; errors of the commands."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from study_cells import DIM, Numbers, write_study
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.cluster.ring import moves_less
from mpicomp.errors import ConfigError, DataError
from mpicomp.experiments.study.calibrate import Observation, _nnls, fit, flat, nonnegative, resample, validate
from mpicomp.experiments.study.cells import Results
from mpicomp.experiments.study.model import UNLIMITED, Model, Shape
from mpicomp.experiments.study.predict import Place, predict

TRUE = Model(
    compute=2e-9, step=1e-9, encode={"dense": 1e-10, "small": 3e-9}, decode={"dense": 5e-10, "small": 2e-9},
    communication={"constant": 4e-4, "frame": 2e-5, "hop": 5e-5, "within": 1e-10, "between": 3e-10, "wire": 1.05}, links_set=True,
)  # fmt: skip


def shape_of(label="dense", exchange="p2p", workers=4, rate=1e8, clients=20, dim=10**5, delay=0.0, **more) -> Shape:
    size = 8.0 if label == "dense" else 1.0
    up, down = clients * dim * size, dim * 8.0
    if exchange == "allreduce":
        up, down = (workers + 1) * dim * 8.0, 0.0
    return Shape(
        label,
        exchange,
        workers,
        more.pop("per_node", 1),
        clients,
        dim,
        up,
        down,
        2.0,
        rate,
        delay,
        more.pop("sharing", 1.0),
    )


def observed(shape: Shape, factor: float = 1.0) -> Observation:
    local = shape.sharing * shape.busiest * shape.dim
    share = shape.clients * shape.dim if shape.exchange != "allreduce" else local
    step = shape.dim * TRUE.step * (shape.sharing if shape.exchange == "allreduce" else 1)
    return Observation(
        shape, factor * TRUE.seconds(shape), local * TRUE.compute, local * TRUE.encode[shape.label], share * TRUE.decode[shape.label],
        step, f"{shape.label} {shape.workers} {shape.rate:g}",
    )  # fmt: skip


GRID = [
    shape_of(label, exchange, workers, rate)
    for label, exchange, workers, rate in itertools.product(
        ("dense", "small"), ("p2p", "collective"), (1, 2, 4, 9), (1e7, 1e8, 1e9, UNLIMITED)
    )
]
GRID += [
    shape_of(label, "p2p", workers, 1e8, per_node=per_node)
    for label, workers, per_node in itertools.product(("dense", "small"), (3, 5, 9), (2, 6))
]


# ---- calibration ----------------------------------------------------------------------------------------------------
def test_known_rates_come_back():
    found = fit([observed(s) for s in GRID], resamples=20)
    for name, value in flat(TRUE).items():
        assert flat(found)[name] == pytest.approx(value, rel=1e-3), name
        low, high = found.intervals[name]
        assert low <= value * 1.001 and high >= value * 0.999


def test_noise_is_covered_by_the_intervals_and_one_odd_cell_does_not_bend_the_fit():
    rng = np.random.default_rng(1)
    noisy = [observed(s, rng.lognormal(0, 0.03)) for s in GRID]
    noisy[5] = replace(noisy[5], total=20 * noisy[5].total)
    found = fit(noisy, resamples=60)
    assert found.communication["wire"] == pytest.approx(1.05, rel=0.05)
    low, high = found.intervals["wire"]
    assert low <= 1.05 <= high and high - low < 0.3


def test_links_of_unknown_rate_are_in_the_bytes_between_nodes_until_a_rate_is_asked_about():
    found = fit([observed(s) for s in GRID if s.rate == UNLIMITED], resamples=1)
    assert not found.links_set and found.communication["wire"] == 1
    assert found.communication["between"] == pytest.approx(3e-10, rel=1e-3)
    s = shape_of(rate=1e8)
    fixed, wire = found.affine(s)
    assert wire == s.wire_seconds and fixed == pytest.approx(TRUE.affine(s)[0] - 3e-10 * s.levels[1])


def test_what_was_left_out_is_predicted():
    rng = np.random.default_rng(2)
    misses = validate([observed(s, rng.lognormal(0, 0.02)) for s in GRID])
    assert {m.held_out for m in misses} == {"workers", "link"} and len(misses) > len(GRID)
    assert np.median([abs(m.error) for m in misses]) < 0.05


def test_two_placements_and_links_leave_nothing_to_leave_out():
    assert validate([observed(s) for s in GRID if s.workers in (1, 2) and s.rate in (1e7, 1e8)]) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 12), st.integers(1, 5))
def test_least_squares_with_positive_unknowns_is_scipys(seed, m, k):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(m, k)), rng.normal(size=m)
    ours, best = _nnls(A, b), nnls(A, b)[0]
    assert (ours >= 0).all()
    assert np.linalg.norm(A @ ours - b) <= np.linalg.norm(A @ best - b) + 1e-9


def test_the_sum_of_absolute_errors_is_what_is_made_small():
    A = np.ones((5, 1))
    assert nonnegative(A, np.array([1.0, 1.0, 1.0, 1.0, 50.0]))[0] == pytest.approx(1.0, abs=1e-3)


# ---- the formulas ---------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(
    label=st.sampled_from(["dense", "small"]),
    exchange=st.sampled_from(["p2p", "collective", "sharded", "allreduce"]), workers=st.integers(1, 2000),
    rate=st.floats(1e6, 1e11), delay=st.floats(0, 0.1), dim=st.integers(1000, 10**7),
)  # fmt: skip
def test_slower_links_longer_delays_and_more_to_send_never_make_a_round_faster(
    label, exchange, workers, rate, delay, dim
):
    def seconds(**changes):
        base = {"label": label, "exchange": exchange, "workers": workers, "rate": rate, "delay": delay, "dim": dim}
        return TRUE.seconds(shape_of(**{**base, "clients": 2001, **changes}))

    now = seconds()
    assert seconds(rate=rate / 2) > now and seconds(rate=UNLIMITED) < now
    assert seconds(delay=delay + 0.01) > now
    if not longer_goes_round(exchange, workers + 1, dim):  # a ring moves less than what it takes the place of
        assert seconds(dim=2 * dim) > now
    assert seconds(sharing=2.0) > now


def longer_goes_round(exchange: str, ranks: int, dim: int) -> bool:
    """Twice as long a sum goes round a ring, and this one does not."""
    shapes = [shape_of(exchange=exchange, workers=ranks - 1, clients=2001, dim=d) for d in (dim, 2 * dim)]
    before, after = (moves_less(s.ranks, s.nodes, int(s.up / s.ranks)) for s in shapes)
    return exchange == "allreduce" and after and not before


def test_the_wire_of_a_star_by_hand():
    s = shape_of(workers=4, rate=1e8, clients=20, dim=10**4)
    assert s.traffic == (16.0, 2, 20 * 8e4 + 4 * 8e4)
    assert s.wire_seconds == pytest.approx(8 * 24 * 8e4 / 1e8)
    assert shape_of(per_node=5).wire_seconds == 0  # all on the server's node
    assert shape_of(per_node=3, dim=10**4).wire_seconds == pytest.approx(
        8 * 0.5 * 24 * 8e4 / 1e8
    )  # two of four are away
    # long models go out in turn: one of them, then all messages; or all of them, then the last worker's messages
    assert shape_of(workers=4, clients=20, dim=10**5).traffic[2] == 21 * 8e5
    assert shape_of("small", workers=4, clients=4, dim=10**5).traffic[2] == 4 * 8e5 + 1e5


def test_slices_share_the_load_of_the_server():
    s = shape_of(exchange="sharded", workers=9, clients=20, dim=10**5)
    assert s.busiest == 2 and s.traffic == (36.0, 2, pytest.approx(20 * 8e5 / 10 * 0.9 + 8e5))
    star = shape_of(workers=9, clients=20, dim=10**5)
    assert TRUE.at_server(s) == pytest.approx(TRUE.at_server(star) / 10) and TRUE.seconds(s) < TRUE.seconds(star)


def test_allreduce_moves_twice_the_vector_however_many_ranks():
    for ranks in (2, 8, 1024):
        s = shape_of(exchange="allreduce", workers=ranks - 1, clients=2000)
        assert s.traffic[2] == pytest.approx(2 * 8e5 * (ranks - 1) / ranks)
    odd = shape_of(exchange="allreduce", workers=4, clients=20)  # five ranks: a ring
    assert odd.traffic == (8, 8, pytest.approx(2 * 8e5 * 4 / 5))
    short = shape_of(
        exchange="allreduce", workers=4, clients=20, dim=40_000
    )  # the fifth hands its vector over and gets the sum back
    assert short.traffic[2] == pytest.approx(2 * 3.2e5 + 2 * 3.2e5 * 3 / 4)


# ---- predictions from a study's directory ---------------------------------------------------------------------------
FILE = """
name = "model"
repetitions = 1
warmup = 0
target = 0.5
[run]
problem = {name = "quadratic", dim = 1000}
[grid]
nodes = [2, 3, 5, 9]
clients = [9]
[[methods]]
method = "dcgd"
compressor = "natural"
"""


def from_the_model(cell) -> Numbers:
    label = "dense" if cell.baseline else "small"
    m = -(-9 // (cell.workers + (cell.baseline == "allreduce")))
    up, down = 9 * DIM * (8 if cell.baseline else 1), cell.workers * DIM * 8
    if cell.baseline == "allreduce":
        up, down = cell.ranks * DIM * 8, 0
    exchange = cell.options["exchange"]
    s = Shape(label, exchange, cell.workers, 1, 9, DIM, up, down / cell.workers, 1.0, UNLIMITED, 0.0, 1.0)
    phases = {
        "compute": (TRUE.compute * m * DIM if exchange == "allreduce" else 0.0, TRUE.compute * m * DIM),
        "encode": (0.0, TRUE.encode[label] * m * DIM),
        "decode": (TRUE.decode[label] * DIM * (m if exchange == "allreduce" else 9), 0.0),
        "step": (TRUE.step * DIM, 0.0),
    }
    return Numbers([TRUE.seconds(s)] * 8, [1.0] * 3 + [0.4] * 6, int(up), int(down), phases)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "study"
    write_study(directory, FILE, from_the_model)
    return directory


def test_predictions_up_to_a_hundred_thousand_nodes_are_monotone_in_nodes_and_links(study):
    results = Results.load(study)
    grid = {
        (nodes, rate): predict(results, Place(nodes, 1, rate, 1e-5, clients=100_000))
        for nodes in (2, 100, 100_000)
        for rate in (1e8, 1e10)
    }
    for nodes in (2, 100, 100_000):
        for slow, fast in zip(grid[nodes, 1e8], grid[nodes, 1e10], strict=True):
            assert slow.label == fast.label and slow.seconds >= fast.seconds
    for p in grid[100_000, 1e10]:
        assert np.isfinite(p.seconds) and p.seconds > 0 and p.low <= p.seconds * 1.001 and p.seconds <= p.high * 1.001
        assert p.seconds == min(p.others.values()) == p.others[p.exchange] and 0 <= p.server_work <= 1


def test_the_break_even_link_is_where_both_take_the_same_time(study):
    results = Results.load(study)
    place = Place(9, 1, 1e8, 0.0)
    dense, method = (p for p in predict(results, place) if p.exchange != "allreduce")
    assert dense.break_even is None and method.break_even not in (None, float("inf"))
    at = [p for p in predict(results, replace(place, rate=method.break_even)) if p.exchange != "allreduce"]
    assert at[1].to_target == pytest.approx(at[0].to_target, rel=0.05)
    slower = [p for p in predict(results, replace(place, rate=method.break_even / 10)) if p.exchange != "allreduce"]
    assert slower[1].to_target < slower[0].to_target


def test_places_that_cannot_be_are_refused(study):
    results = Results.load(study)
    for place, message in (
        (Place(1, 1, 1e9, 0.0), "at least two ranks"),
        (Place(4, 1, 0.0, 0.0), "--link must be a speed"),
        (Place(50, 1, 1e9, 0.0), "give --clients 50"),
        (Place(4, 1, 1e9, -1.0), "not be negative"),
    ):
        with pytest.raises(ConfigError, match=message):
            predict(results, place)


def test_resampled_models_keep_every_method():
    _, ensemble = resample([observed(s) for s in GRID[:3] + GRID[-3:]], resamples=10)
    assert all(set(m.encode) == {"dense", "small"} for m in ensemble)


def test_the_commands(study, tmp_path):
    def invoke(*args: str) -> str:
        return CliRunner().invoke(app, ["model", *args], catch_exceptions=False, standalone_mode=False).output

    text = invoke("fit", str(study))
    assert "Rates of the cost model" in text and "median error" in text
    assert json.loads((study / "model.json").read_text())["cells"] == 12
    text = invoke("predict", str(study), "--nodes", "4", "--nodes", "1024", "--link", "25gbit", "--delay", "0.01")
    assert "1,024 nodes × 1, 25 Gbit/s, 0.01 ms, n = 1,024" in text and "natural" in text
    with pytest.raises(ConfigError, match="rate '25 apples'"):
        invoke("predict", str(study), "--nodes", "4", "--link", "25 apples")
    small = tmp_path / "small"
    write_study(small, FILE.replace("[2, 3, 5, 9]", "[2]"), from_the_model)
    with pytest.raises(DataError, match="too few finished configurations"):
        invoke("fit", str(small))
