"""The EF21 family: every method against its pseudocode, its degenerate cases, what travels, the same bits everywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ef21_oracles import (
    FAMILY,
    T,
    ef21_bc,
    ef21_hb,
    ef21_page,
    ef21_plus,
    ef21_pp,
    ef21_prox,
    ef21_sgdm,
    ef21_w,
    error_feedback,
    hessians,
    mushrooms,
    quadratic,
    run,
    session_of,
    stacked,
    task_of,
)
from oracles import Task

import mpicomp as mc
from mpicomp.compressors import compressors
from mpicomp.errors import ConfigError, TheoryError, WireError
from mpicomp.exchanges import base as exchange_module
from mpicomp.kernels.random import Keys, Stream, derive
from mpicomp.methods import Setting, methods
from mpicomp.optimizers.prox import Prox
from mpicomp.oracles.page import toss
from mpicomp.problems import problems
from mpicomp.state import held

ROWS: list[tuple[str, dict[str, Any], Callable[..., Iterator[np.ndarray]], dict[str, Any], tuple[str, ...]]] = [
    # method, its options, oracle, the oracle's options, compressors
    ("ef21+", {}, ef21_plus, {}, ("topk:k=2", "sign", "randk:k=3", "natural")),
    ("ef21-am", {}, error_feedback, {}, ("topk:k=2",)),
    ("ef21-rare", {}, error_feedback, {}, ("topk:k=2", "randk:k=3")),
    ("ef21-w", {}, ef21_w, {}, ("topk:k=2", "sign", "natural", "qsgd:levels=4")),
    ("ef21-sgd", {}, error_feedback, {}, ("topk:k=2",)),
    ("ef21-w-sgd", {}, ef21_w, {}, ("topk:k=2",)),
    ("ef21-pp", {"p": 0.4}, ef21_pp, {"p": 0.4}, ("topk:k=2", "randk:k=3", "natural")),
    ("ef21-pp", {}, ef21_pp, {"p": 0.5}, ("topk:k=2",)),
    ("ef21-pp", {"s": 2}, ef21_pp, {"s": 2}, ("topk:k=2", "sign")),
    ("ef21-w-pp", {"p": 0.3}, ef21_pp, {"p": 0.3, "run": ef21_w}, ("topk:k=2", "natural")),
    ("ef21-w-pp", {"s": 1}, ef21_pp, {"s": 1, "run": ef21_w}, ("topk:k=2",)),
    ("ef21-hb", {"momentum": 0.6}, ef21_hb, {"momentum": 0.6}, ("topk:k=2", "natural")),
    ("ef21-prox", {"weight": 0.01}, ef21_prox, {"r": "l1", "weight": 0.01}, ("topk:k=2", "natural")),
    ("ef21-prox", {"r": "ridge", "weight": 0.1}, ef21_prox, {"r": "ridge", "weight": 0.1}, ("topk:k=2",)),
    (
        "ef21-prox",
        {"r": "box", "low": -0.5, "high": 2.0},
        ef21_prox,
        {"r": "box", "low": -0.5, "high": 2.0},
        ("topk:k=2",),
    ),
    ("ef21-sgdm", {"eta": 0.3}, ef21_sgdm, {"eta": 0.3}, ("topk:k=2", "natural")),
    ("ef21-sgd2m", {"eta": 0.3}, ef21_sgdm, {"eta": 0.3, "twice": True}, ("topk:k=2", "randk:k=3")),
    ("ef21-bc", {}, ef21_bc, {}, ("topk:k=2/topk:k=4", "natural/topk:k=3", "randk:k=3/sign", "topk:k=2/randk:k=6")),
    ("ef21-p+ef21", {}, stacked, {"up": "ef21"}, ("topk:k=2/topk:k=4", "natural/sign", "topk:k=2/natural")),
    ("ef21-p+diana", {}, stacked, {"up": "diana"}, ("randk:k=11/topk:k=4", "natural/natural")),
    ("ef21-p+dcgd", {}, stacked, {"up": "dcgd"}, ("randk:k=11/topk:k=4", "permk/sign")),
]
SAMPLED: list[tuple[str, dict[str, Any], Callable[..., Iterator[np.ndarray]], dict[str, Any]]] = [
    ("ef21-sgd", {}, lambda task, *a, tau: error_feedback(task, *a, lambda i, t, x: task.stochastic(i, x, t, tau)), {}),
    ("ef21-w-sgd", {}, ef21_w, {}),
    ("ef21-page", {"p": 0.2}, ef21_page, {"p": 0.2}),
    ("ef21-page", {"p": 0.2, "coin": "shared"}, ef21_page, {"p": 0.2, "coin": "shared"}),
    ("ef21-sgdm", {}, ef21_sgdm, {"eta": 0.1}),
    ("ef21-sgd2m", {"eta": 0.4}, ef21_sgdm, {"eta": 0.4, "twice": True}),
]


def agree(problem, method, compressor, options, oracle, own, rounds=T, tolerance=1e-9, **given):
    up, _, down = compressor.partition("/")
    task = task_of(problem, up, down or None)
    if down:
        given["downlink_compressor"] = down
    result = run(problem, method, up, method_options=options, rounds=rounds, **given)
    xs = list(oracle(task, given.get("step", 0.1), rounds, **own))
    losses = np.array([task.loss(x) for x in xs])
    assert np.abs(losses[-1] - losses[0]) > 1e-3, "the run went nowhere, so the comparison says nothing"
    np.testing.assert_allclose(
        [row["loss"] for row in result.history], losses, rtol=tolerance, atol=tolerance * np.ptp(losses)
    )
    assert np.linalg.norm(result.x - xs[-1]) <= tolerance * np.linalg.norm(xs[-1])
    return result, task


@pytest.mark.parametrize(
    ("row", "compressor"),
    [(i, c) for i, row in enumerate(ROWS) for c in row[4]],
    ids=[f"{row[0]}{i} {c}" for i, row in enumerate(ROWS) for c in row[4]],
)
def test_pseudocode(row, compressor):
    method, options, oracle, own, _ = ROWS[row]
    step = {"ef21+": 0.5, "ef21-hb": 0.02, "ef21-p+dcgd": 0.02, "ef21-p+diana": 0.02}.get(method, 0.1)
    agree(quadratic(), method, compressor, options, oracle, own, step=step)


@pytest.mark.parametrize("row", range(len(SAMPLED)), ids=[f"{row[0]}{i}" for i, row in enumerate(SAMPLED)])
def test_pseudocode_with_minibatches_on_mushrooms(row):
    method, options, oracle, own = SAMPLED[row]
    agree(mushrooms(), method, "topk:k=2", options, oracle, {**own, "tau": 3}, step=0.02, batch=3, rounds=200)


@pytest.mark.parametrize(
    ("row", "compressor"),
    [(0, "topk:k=2"), (3, "topk:k=2"), (6, "topk:k=2"), (17, "topk:k=2/topk:k=4"), (18, "natural/natural")],
)
def test_pseudocode_on_mushrooms(row, compressor):
    method, options, oracle, own, _ = ROWS[row]
    agree(mushrooms(), method, compressor, options, oracle, own, step=0.02, rounds=200)


def test_both_branches_of_ef21_plus_are_taken():
    result, task = agree(quadratic(), "ef21+", "topk:k=4", {}, ef21_plus, {}, step=0.5)
    assert task.branches.min() > 20
    plain = run(quadratic(), "ef21", "topk:k=4", rounds=T, step=0.5)
    assert not np.allclose(result.x, plain.x, rtol=1e-6)
    # the flag is sent and counted: a message of one byte for each client, and a frame, in every round but the first
    up = {name: r.summary["bytes"]["uplink"] for name, r in (("plus", result), ("plain", plain))}
    assert up["plus"]["messages"] == up["plain"]["messages"] + 5 * (T - 1)
    assert up["plus"]["frames"] == up["plain"]["frames"] + T - 1


@pytest.mark.parametrize("wire", ["float32", "float64"])
@pytest.mark.parametrize("start", ["compressed", "dense", "zero"])
def test_ef21_plus_client_and_server_hold_the_same_estimates(start, wire):
    """From the decoded messages alone, so nothing drifts."""
    config = {"rounds": 40, "method_options": {"start": start}, "wire_dtype": wire}
    session = session_of(quadratic(), "ef21+", "topk:k=4", **config)
    for t in range(40):
        session.round(t)
    np.testing.assert_array_equal(session.uplink.g_i, session.uplink.g_i_at_server)
    assert set(session.uplink.state()) == {"g_i", "g_i_at_server"}


# ---- degenerate settings ------------------------------------------------------------------------------------------------
SAME_AS_EF21: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ef21-am", {}, {}),
    ("ef21-rare", {}, {}),
    ("ef21-sgd", {}, {}),
    ("ef21-pp", {"p": 1.0}, {}),
    ("ef21-pp", {"s": 5}, {}),
    ("ef21-hb", {"momentum": 0.0}, {}),
    ("ef21-prox", {"weight": 0.0}, {}),
    ("ef21-sgdm", {"eta": 1.0}, {}),
    ("ef21-sgd2m", {"eta": 1.0}, {}),
    ("ef21-bc", {}, {"downlink_compressor": "identity"}),
    ("ef21-p+ef21", {}, {"downlink_compressor": "identity"}),
]


@pytest.mark.parametrize(("method", "options", "given"), SAME_AS_EF21)
@pytest.mark.parametrize("compressor", ["topk:k=2", "randk:k=3"])
def test_what_must_equal_ef21(method, options, given, compressor):
    expected = run(quadratic(), "ef21", compressor, rounds=T)
    result = run(quadratic(), method, compressor, rounds=T, method_options=options, **given)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-11, atol=1e-13)
    theory = {"step": "theory", "rounds": 1}
    if method not in ("ef21-am", "ef21-rare", "ef21-prox"):  # those have another step by their nature
        steps = [
            run(quadratic(), m, compressor, **theory, method_options=o, **g).summary["step"]
            for m, o, g in ((method, options, given), ("ef21", {}, {}))
        ]
        assert steps[0] == pytest.approx(steps[1], rel=1e-12)


@pytest.mark.parametrize(("method", "options"), [("ef21-page", {"p": 1.0}), ("ef21-sgdm", {"eta": 1.0})])
def test_what_must_equal_ef21_and_ef21_sgd_on_data(method, options):
    other = "ef21" if method == "ef21-page" else "ef21-sgd"
    given = {"rounds": 60, "step": 0.02, "batch": 4}
    result = run(mushrooms(), method, method_options=options, **given)
    expected = run(mushrooms(), other, **{**given, "batch": 0 if other == "ef21" else 4})
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-12, atol=1e-14)
    steps = [
        mc.run(problem=mushrooms(), method=m, compressor="topk:k=2", rounds=0, batch=b, method_options=o).summary[
            "step"
        ]
        for m, b, o in ((method, 4, options), (other, 4 if other == "ef21-sgd" else 0, {}))
    ]
    assert steps[0] == pytest.approx(steps[1], rel=1e-12)


@pytest.mark.parametrize(
    "method", [name for name in FAMILY if name != "ef21-muon"]
)  # whose steps have a length of their own
def test_without_compression_it_is_gradient_descent(method):
    """α = 1 (§10.1), with exact gradients and everybody speaking; HB and SGDM without their momentum, Prox with r = 0."""
    options = {
        "ef21-pp": {"p": 1.0},
        "ef21-w-pp": {"p": 1.0},
        "ef21-hb": {"momentum": 0.0},
        "ef21-prox": {"weight": 0.0},
    }
    options |= {"ef21-sgdm": {"eta": 1.0}, "ef21-sgd2m": {"eta": 1.0}, "ef21-page": {"p": 1.0}}
    problem = mushrooms() if method == "ef21-page" else quadratic()
    given: dict[str, Any] = {"rounds": 60 if method == "ef21-page" else T, "step": 0.3}
    expected = run(problem, "gd", "identity", **given)
    if methods[method].takes_downlink_compressor:
        given["downlink_compressor"] = "identity"
    result = run(problem, method, "identity", method_options=options.get(method, {}), **given)
    np.testing.assert_allclose(result.x, expected.x, rtol=1e-10, atol=1e-13)
    if method != "ef21-prox":  # 1/(2L) by its theorem
        steps = [
            mc.run(problem=problem, method=m, compressor="identity", rounds=0, method_options=o, **g).summary["step"]
            for m, o, g in (
                ("gd", {}, {}),
                (method, options.get(method, {}), {k: v for k, v in given.items() if k == "downlink_compressor"}),
            )
        ]
        assert steps[1] == pytest.approx(steps[0] / (2 if method == "ef21-p+diana" else 1), rel=1e-12)


@pytest.mark.parametrize("method", FAMILY)
def test_one_client_and_no_rounds(method):
    needs = methods[method].needs
    compressor = "randk:k=4" if needs == "unbiased" else "topk:k=4"
    problem = problems.build("logistic", {"clients": 1}) if method == "ef21-page" else quadratic(9, 1)
    result = run(problem, method, compressor, rounds=8, step=0.02)
    assert np.isfinite(result.x).all() and result.history[-1]["loss"] < result.history[0]["loss"]
    none = mc.run(problem=problem, method=method, compressor=compressor, rounds=0, init="ones", step=0.1)
    np.testing.assert_array_equal(none.x, np.ones(problem.dim))
    for direction in ("uplink", "downlink"):
        assert set(none.summary["bytes"][direction].values()) == {0}


# ---- the weights of EF21-W ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("problem", [quadratic, mushrooms])
def test_ef21_w_is_ef21_for_homogeneous_compressors_and_not_for_natural(problem):
    """§10.2, with the same step: at most 1e-12 apart."""
    given = {"rounds": 300, "step": 0.02}
    for compressor, same in (("topk:k=2", True), ("natural", False)):
        plain, weighted = (run(problem(), method, compressor, **given).x for method in ("ef21", "ef21-w"))
        distance = np.linalg.norm(plain - weighted) / np.linalg.norm(plain)
        assert distance <= 1e-12 if same else distance > 1e-6


def test_the_means_of_the_example_in_the_paper():
    """§10.5: n = 4, L = (1, 1, 1, 100)."""
    s = mc.Smoothness.bounds([1, 1, 1, 100])
    assert abs(s.L_QM - 50.0075) < 1e-4 and abs(s.L_AM - 25.75) < 1e-12
    setting = Setting(10, 4, 1, mc.compressor("topk:k=1"), mc.compressor("identity"), find_smoothness=lambda: s)
    parts = methods["ef21-w"]().compose(setting, 0.1)
    np.testing.assert_allclose(parts.weights, np.array([1, 1, 1, 100]) / 103)


def test_weights_need_smoothness_constants_above_zero():
    s = mc.Smoothness.bounds([0.0, 1.0])
    setting = Setting(10, 2, 1, mc.compressor("topk:k=1"), mc.compressor("identity"), find_smoothness=lambda: s)
    with pytest.raises(TheoryError, match="without weights"):
        methods["ef21-w"]().compose(setting, 0.1)


# ---- who speaks, what travels -------------------------------------------------------------------------------------------
def test_silent_clients_send_nothing_but_receive_the_model():
    result = run(quadratic(33, 10), "ef21-pp", rounds=100, method_options={"s": 3})
    everybody = run(quadratic(33, 10), "ef21", rounds=100)
    up = result.summary["bytes"]["uplink"]
    assert up["messages"] == 10 + 99 * 3  # all in round 0, which is counted
    assert result.summary["bytes"]["downlink"] == everybody.summary["bytes"]["downlink"]


def test_no_dense_vector_travels_in_ef21_bc():
    d, rounds = 400, 50
    result = run(quadratic(d, 4), "ef21-bc", "topk:k=3", downlink_compressor="topk:k=5", rounds=rounds)
    up, down = (result.summary["bytes"][way] for way in ("uplink", "downlink"))
    assert up["message"] < rounds * 4 * 8 * d / 10 and down["message"] < rounds * 8 * d / 5
    assert up["values_only"] <= rounds * 4 * 3 * 8 and up["payload"] > up["values_only"]  # indices are charged


def test_ef21_bc_takes_the_uplinks_compressor_down_where_none_is_named():
    result, named = (
        run(quadratic(), "ef21-bc", "topk:k=3", rounds=30, **given)
        for given in ({}, {"downlink_compressor": "topk:k=3"})
    )
    np.testing.assert_array_equal(result.x, named.x)


def test_a_dense_start_is_counted():
    dense, zero = (
        run(quadratic(), "ef21-w", rounds=1, method_options={"start": start}).summary["bytes"]["uplink"]["values_only"]
        for start in ("dense", "zero")
    )
    assert (dense, zero) == (5 * 33 * 8, 0)


@pytest.mark.parametrize("method", ["ef21-page", "ef21-sgdm", "ef21-sgd2m"])
def test_oracles_with_a_memory_begin_at_the_first_point_whatever_the_start(method):
    """With g_i⁰ = 0 nothing is sent in round 0, but v_i⁰ is still the gradient at x⁰."""
    session = session_of(mushrooms(), method, "topk:k=2", rounds=9, batch=2, method_options={"start": "zero"})
    session.round(0)
    oracle = session.oracle.oracle
    assert np.all(np.linalg.norm(oracle.v_i, axis=1) > 0)
    state = list(held(oracle).values())[-1]
    before = state.copy()
    session.oracle.move(session.points, 1)
    change = session.oracle.difference()
    np.testing.assert_allclose(before + change, state, rtol=1e-12, atol=1e-15)
    assert (np.linalg.norm(change) > 0) == (method != "ef21-page")  # x¹ = x⁰, but other samples
    np.testing.assert_array_equal(session.oracle.full(), session.oracle.full())


def test_page_takes_exact_gradients_as_often_as_p_says():
    problem, rounds = mushrooms(), 200
    for coin in ("private", "shared"):
        _, task = agree(problem, "ef21-page", "topk:k=2", {"p": 0.3, "coin": coin}, ef21_page,
                        {"p": 0.3, "coin": coin, "tau": 1}, rounds=rounds, step=0.02, batch=1)  # fmt: skip
        draws = rounds if coin == "shared" else rounds * 20
        assert task.exact / (rounds * 20) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / draws))


# ---- options ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "problem", "message"),
    [
        ("ef21-pp:p=0", quadratic, "participation"),
        ("ef21-pp:p=0.5,s=2", quadratic, "not both"),
        ("ef21-pp:s=6", quadratic, "number of clients, 5"),
        ("ef21-page", quadratic, "finite sum"),
        ("ef21-page:p=1.5", mushrooms, "p=1.5"),
        ("ef21-page:coin=both", mushrooms, "private"),
        ("ef21-sgdm:eta=0", quadratic, "eta=0"),
        ("ef21-hb:momentum=1", quadratic, "momentum=1"),
        ("ef21-prox:r=l2", quadratic, "known: box, elastic, l1, ridge"),
        ("ef21-prox:weight=-1", quadratic, "weight=-1"),
        ("ef21-prox:low=1,high=0,r=box", quadratic, "empty"),
        ("ef21+:start=half", quadratic, "compressed, dense, zero"),
        ("ef21-w:start=half", quadratic, "compressed, dense, zero"),
    ],
)
def test_wrong_options(text, problem, message):
    with pytest.raises(ConfigError, match=message):
        mc.run(problem=problem(), method=text, rounds=1)


@pytest.mark.parametrize("method", ["ef21-hb", "ef21-prox"])
def test_the_optimizer_is_part_of_the_method(method):
    with pytest.raises(ConfigError, match="optimizer"):
        run(quadratic(), method, rounds=1, optimizer="gd")


def test_prox_is_an_optimizer_for_any_method():
    ridge = {"optimizer": "prox", "optimizer_options": {"r": "ridge", "weight": 0.5}}
    result = run(quadratic(), "gd", "identity", rounds=4000, **ridge)
    task, H = Task(quadratic()), np.mean(hessians(quadratic()), axis=0)
    expected = np.linalg.solve(H + 0.5 * np.eye(33), -task.full_gradient(task.zeros()))
    np.testing.assert_allclose(result.x, expected, rtol=1e-9, atol=1e-12)
    assert (
        Prox("ridge", 0.5).value(np.array([[2.0, 1.0]])) == 1.25
        and Prox("l1", 0.5).value(np.array([[-2.0, 1.0]])) == 1.5
    )
    assert Prox("box").value(np.array([[2.0]])) == np.inf and Prox("box").value(np.array([[1.0]])) == 0


def test_flags():
    from mpicomp.compressors.bit_mask import BitMask

    codec = BitMask().bind(1, 3)
    buf, tally, rows, keys = (
        np.zeros(8, np.uint8),
        np.zeros(2, np.int64),
        np.arange(3),
        Keys(np.uint64(0), np.uint64(0)),
    )
    assert codec.encode(np.array([[0.0], [-2.0], [np.nan]]), rows, rows, keys, buf, 1, tally) == 4
    assert tally.tolist() == [24, 3] and "flag" not in compressors
    out = np.zeros((3, 1))
    codec.decode_add(buf, 1, 4, rows, rows, np.ones(3), keys, out)
    assert out.ravel().tolist() == [0, 1, 1]
    for change, end in ((2, 4), (None, 3)):
        broken = buf.copy()
        if change:
            broken[1] = change
        with pytest.raises(WireError):
            codec.decode_add(broken, 1, end, rows, rows, np.ones(3), keys, out)


# ---- the same bits everywhere -------------------------------------------------------------------------------------------
EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    *[
        (method, {"method": method, "compressor": "topk:k=3"})
        for method in FAMILY
        if methods[method].needs != "unbiased"
    ],
    ("ef21+ random", {"method": "ef21+", "compressor": "randk:k=4", "wire_dtype": "float32"}),
    ("ef21-pp nice", {"method": "ef21-pp", "method_options": {"s": 3}, "compressor": "natural"}),
    (
        "ef21-bc in float32",
        {"method": "ef21-bc", "compressor": "randk:k=4", "downlink_compressor": "sign", "dtype": "float32"},
    ),
    ("ef21-p+diana", {"method": "ef21-p+diana", "compressor": "natural", "downlink_compressor": "topk:k=3"}),
    ("ef21-p+dcgd", {"method": "ef21-p+dcgd", "compressor": "permk", "downlink_compressor": "natural"}),
    ("ef21-page shared", {"method": "ef21-page", "compressor": "sign", "method_options": {"coin": "shared", "p": 0.3}}),
]
SCRIPT = """
import json, sys
from mpi4py import MPI
import mpicomp as mc
from test_ef21_family import EVERYWHERE, everywhere
hashes = {}
for name, options in EVERYWHERE:
    for exchange in ("p2p", "collective"):
        result = mc.run(comm=MPI.COMM_WORLD, exchange=exchange, **everywhere(options))
        hashes.setdefault(name, []).append(result.summary.get("iterate_sha256"))
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(hashes))
"""


def everywhere(options: dict[str, Any]) -> dict[str, Any]:
    """The row's options with a problem: data where samples are drawn."""
    common: dict[str, Any] = {
        "rounds": 12,
        "step": 0.05,
        "seed": 5,
        "init": "normal:3",
        "eval_every": 12,
        "allow_unsafe": True,
    }
    on_data = any(word in options["method"] for word in ("page", "sgd"))
    data = {"problem": "logistic", "clients": 20, "batch": 2}
    other = {"problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 10}
    return {**common, **(data if on_data else other), **options}


@pytest.mark.parametrize(("name", "options"), EVERYWHERE, ids=[name for name, _ in EVERYWHERE])
def test_clients_in_small_groups_give_the_same_bits(name, options, monkeypatch):
    expected = mc.run(**everywhere(options)).summary["iterate_sha256"]
    monkeypatch.setattr(exchange_module, "GROUP_NBYTES", 300)
    assert mc.run(**everywhere(options)).summary["iterate_sha256"] == expected


@pytest.mark.process
def test_every_exchange_gives_the_same_bits(mpi, tmp_path):
    script = tmp_path / "family.py"
    script.write_text(SCRIPT)
    path = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    job = mpi.run(3, [script], timeout=120, PYTHONPATH=path).check()
    hashes = json.loads(job.out.splitlines()[-1])
    expected = {name: [mc.run(**everywhere(options)).summary["iterate_sha256"]] * 2 for name, options in EVERYWHERE}
    assert hashes == expected


def test_the_coins_of_page_belong_to_clients():
    """Those of a few clients are the same whoever else is in the block; a shared coin is one for all."""
    key, everybody, few = derive(3, Stream.ORACLE_COIN, 5), np.zeros(40, bool), np.zeros(9, bool)
    toss(key, False, 0.5, np.arange(40), everybody)
    toss(key, False, 0.5, np.arange(17, 26), few)
    np.testing.assert_array_equal(few, everybody[17:26])
    assert 8 < everybody.sum() < 32
    toss(key, True, 0.5, np.arange(40), everybody)
    assert len(set(everybody)) == 1
