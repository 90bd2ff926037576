"""Options that no run can have: each is one clear error, never a traceback of the insides, a crash, or a run with something else."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors.base import compressors
from mpicomp.methods import methods
from mpicomp.registry import option_names, parse_spec, typed_value
from mpicomp.runtime.config import Config, initial_point
from mpicomp.runtime.imports import inherited

SMALL = {"problem": "quadratic", "problem_options": {"dim": 24}, "clients": 3, "rounds": 2, "step": 0.01}
HUGE = "9" * 5000
HOSTILE = [
    True,
    False,
    -1,
    0,
    10**30,
    -(10**30),
    float("nan"),
    float("inf"),
    "x",
    "",
    "a\0b",
    "--1",
    1e308,
    1e-320,
    2**63,
    [1],
    {},
]


# ---- values of another type ------------------------------------------------------------------------------------------------
def parameter(annotation):
    return inspect.Parameter("k", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


@pytest.mark.parametrize(
    "annotation, value, expected",
    [
        ("int | None", 3, 3),
        ("int | None", None, None),
        ("int", 3.0, 3),
        ("int", np.int64(3), 3),
        ("float", 3, 3),
        ("float", 10**30, 1e30),
        ("float | str | None", "auto", "auto"),
        ("str", 64, "64"),
        ("bool", True, True),
        (int, 3, 3),
        (int | None, 3, 3),
        ("Callable[[int], int]", len, len),
        (inspect.Parameter.empty, True, True),
    ],
)
def test_values_that_fit_pass(annotation, value, expected):
    found = typed_value("part 'x'", parameter(annotation), value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "annotation, value, wanted",
    [
        ("int | None", True, "k=True must be an integer"),
        ("int", 2**63, "must be an integer of at most 9223372036854775807"),
        ("int", 3.5, "k=3.5 must be an integer"),
        ("int", float("inf"), "k=inf must be an integer"),
        ("int", "x", "k='x' must be an integer"),
        ("float", False, "k=False must be a number"),
        ("float", 10**400, "must be a number"),
        ("bool", -1, "k=-1 must be true or false"),
        ("str", True, "k=True must be text"),
        ("float | None", [1], r"k=\[1\] must be a number"),
        ("int", None, "k=None must be an integer"),
    ],
)
def test_values_of_another_type_are_refused(annotation, value, wanted):
    with pytest.raises(mc.ConfigError, match=f"part 'x': .*{wanted}|part 'x': {wanted}"):
        typed_value("part 'x'", parameter(annotation), value)


@pytest.mark.parametrize(
    "spec", ["topk:k=true", f"topk:k={HUGE}", "topk:fraction=x", "randk:k=true", "cq:rotate=3", "cq:entropy=-1"]
)
def test_compressors_refuse_what_is_no_value_of_an_option(spec):
    name, options = parse_spec(spec)
    with pytest.raises(mc.ConfigError, match=f"compressor '{name}': {next(iter(options))}="):
        mc.compressor(spec)


def test_true_is_no_number_of_entries_where_the_class_is_called_itself():
    from mpicomp.compressors.topk import TopK

    with pytest.raises(mc.ConfigError, match="k=True must be an integer"):
        TopK(k=True).bind(10, 1)


def test_a_bias_that_is_a_number_does_not_move_the_columns():
    """dim = features − 1 would let the kernels write beside their arrays."""
    from mpicomp.problems.logistic import Logistic

    with pytest.raises(mc.ConfigError, match="bias=-1 must be true or false"):
        mc.run(method="gd", problem_options={"bias": -1}, clients=4, rounds=1)
    plain = Logistic(data="mushrooms", clients=4, bias=False).dim
    assert Logistic(data="mushrooms", clients=4, bias=-1).dim == plain + 1


def attempt(function) -> None:
    with np.errstate(all="ignore"), suppress(mc.UserError):
        function()


@pytest.mark.full(reason="every option of every compressor")
@pytest.mark.parametrize("name", sorted(n for n in compressors if compressors[n].__module__.startswith("mpicomp.")))
def test_every_option_of_a_compressor_takes_or_refuses_every_value(name):
    x = np.random.default_rng(0).normal(size=24)
    for option in option_names(compressors[name]):
        for value in HOSTILE:
            attempt(lambda option=option, value=value: compressors.build(name, {option: value}).apply(x))


@pytest.mark.full(reason="every option of every method")
@pytest.mark.parametrize("name", sorted(set(methods)))
def test_every_option_of_a_method_takes_or_refuses_every_value(name):
    for option in option_names(methods[name]):
        for value in HOSTILE:
            attempt(
                lambda option=option, value=value: mc.run(
                    method=name, method_options={option: value}, allow_unsafe=True, **SMALL
                )
            )


# ---- options of a run ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["normal:--1", "normal:-", "normal:²", f"normal:{HUGE}", "normal:1.5", "normal:", "zero:1", "\0"]
)
def test_starts_that_are_none_are_refused(text):
    with pytest.raises(mc.ConfigError, match="allowed: zero, ones, normal, normal:SEED") as caught:
        initial_point(text, 3, 0)
    assert len(str(caught.value)) < 250


def test_a_negative_seed_of_a_start_is_one():
    assert np.isfinite(initial_point("normal:-1", 3, 0)).all()


@pytest.mark.parametrize("problem", ["quadratic", "mean", "autoencoder"])
def test_negative_seeds_are_seeds(problem):
    from mpicomp.problems import problems

    options = {} if problem == "autoencoder" else {"dim": 8, "clients": 3}
    if problem == "autoencoder":
        options = {"data": "digits", "clients": 3}
    one, other = (problems.build(problem, {**options, "seed": seed}) for seed in (-1, 0))
    assert one.n_clients == other.n_clients
    if problem != "autoencoder":
        assert mc.run(problem=one, method="gd", step=0.1, rounds=2, seed=-1).summary["rounds"] == 2


@pytest.mark.parametrize("name", ["out", "resume", "data"])
@pytest.mark.parametrize(
    "path, fault",
    [("a\0b", "NUL character"), ("\ud800", "cannot have"), ("9" * 300, "too long"), ("a/" + "9" * 300, "too long")],
)
def test_paths_that_no_file_can_have_are_refused(name, path, fault):
    with pytest.raises(mc.ConfigError, match=fault) as caught:
        mc.run(**{**SMALL, name: path})
    assert str(caught.value).startswith(f"{name}=") and len(str(caught.value)) < 500


def test_a_configuration_whose_name_no_file_can_have_is_refused():
    with pytest.raises(mc.ConfigError, match=r"config=.*NUL character"):
        Config.load("a\0b.toml")


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 10**30}, {"clients": 10**30}, {"clients": 2**31}, {"threads": 10**9}, {"stall_timeout": 1e30}, {"time_limit": 1e300},
        {"checkpoint_seconds": 1e10, "out": "x"}, {"seed": 10**30}, {"seed": -(10**30)}, {"batch": 2**63}, {"eval_every": 2**64},
    ],
    ids=str,
)  # fmt: skip
def test_huge_numbers_are_refused_by_name(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = next(iter(options))
    with pytest.raises(mc.ConfigError, match=f"{name}=.* is too large; up to"):
        mc.run(**{**SMALL, **options})


# ---- the environment -------------------------------------------------------------------------------------------------------
GARBAGE = pytest.mark.parametrize("text", ["x", "nan", "-1", "inf", "1e400", HUGE, "1 2"])


@GARBAGE
@pytest.mark.parametrize("variable", ["MPICOMP_NAP", "MPICOMP_START_SECONDS", "MPICOMP_FILES_SECONDS"])
def test_numbers_of_the_environment_that_are_none_are_refused(variable, text, monkeypatch):
    from mpicomp.errors import number_of

    monkeypatch.setenv(variable, text)
    with pytest.raises(mc.ConfigError, match=f"{variable}=.* is no number of seconds from 0 to 1000") as caught:
        number_of(variable, 60, 1000, "seconds")
    assert len(str(caught.value)) < 250


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    from mpicomp.errors import number_of

    monkeypatch.setenv("MPICOMP_NAP", " ")
    assert number_of("MPICOMP_NAP", 5, 1000, "microseconds") == 5
    monkeypatch.setenv("MPICOMP_NAP", "7.5")
    assert number_of("MPICOMP_NAP", 5, 1000, "microseconds") == 7.5


def test_the_users_of_these_variables_look_at_them(monkeypatch):
    from mpicomp.cluster.comm import world
    from mpicomp.runtime.stall import StallWatch

    monkeypatch.setenv("MPICOMP_START_SECONDS", "soon")
    with pytest.raises(mc.ConfigError, match="MPICOMP_START_SECONDS='soon'"):
        world()
    monkeypatch.setenv("MPICOMP_FILES_SECONDS", "soon")
    with pytest.raises(mc.ConfigError, match="MPICOMP_FILES_SECONDS='soon'"):
        StallWatch(0.0, None)


@pytest.mark.parametrize("text", ["x", "{}", "3", '"a.py"', "[", "null"])
def test_imports_of_the_environment_that_are_no_list_are_refused(text):
    with pytest.raises(mc.ConfigError, match=r"MPICOMP_IMPORT=.* is not a list of names in JSON"):
        inherited(text)


# ---- smoothness ------------------------------------------------------------------------------------------------------------
def problem(constants):
    return mc.FunctionProblem(
        lambda i, x: 0.5 * float(x @ x), lambda i, x: x.copy(), dim=4, n_clients=3, constants=constants
    )


@pytest.mark.parametrize(
    "L_i", [[1, -1, 1], [1, np.nan, 1], [1, np.inf, 1], [[1, 1, 1]], [], "abc", [None, 1, 1]], ids=str
)
def test_constants_that_are_none_are_refused(L_i):
    with pytest.raises((mc.ConfigError, ValueError, TypeError), match=r"L_i|convert|NoneType"):
        mc.Smoothness.bounds(L_i)


def test_the_client_of_a_negative_constant_is_named():
    with pytest.raises(mc.ConfigError, match=r"L_i\[1\] = -1.0: a smoothness constant is a finite number"):
        mc.Smoothness.bounds([1, -1, 1])
    with pytest.raises(mc.ConfigError, match=r"L = -2.0"):
        mc.Smoothness.bounds([1, 1, 1], L=-2.0)


NO_STEP = {
    "gd",
    "ef21",
    "marina",
    "diana",
    "dasha",
    "dcgd",
    "ef21-w",
    "mcm",
    "m3",
    "artemis",
    "dore",
    "ef21-p",
    "marina-p",
}


@pytest.mark.parametrize("method", sorted(NO_STEP))
def test_constants_of_zero_give_no_step(method):
    """All f_i affine: 1/L does not exist. A number as the step runs."""
    options = {"problem": problem(mc.Smoothness.bounds([0, 0, 0])), "method": method, "rounds": 2}
    with pytest.raises(mc.UserError, match=r"no step size|weights must be"):
        mc.run(step="theory", **options)
    if method != "ef21-w":  # whose weights are L_i/ΣL
        assert mc.run(step=0.1, **options).summary["rounds"] == 2


def test_one_client_without_curvature_is_no_fault():
    assert mc.run(problem=problem(mc.Smoothness.bounds([0, 1, 2])), method="ef21", rounds=2).summary["rounds"] == 2


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("logistic", "reg", np.inf),
        ("logistic", "reg", 1e308),
        ("quadratic", "noise", np.inf),
        ("mean", "sigma", np.inf),
    ],
)
def test_numbers_of_problems_whose_squares_are_none_are_refused(name, option, value):
    with pytest.raises(mc.ConfigError, match=option):
        mc.run(problem=name, problem_options={option: value}, method="gd", rounds=1, clients=3, step=0.1)


# ---- communicators ---------------------------------------------------------------------------------------------------------
COMMUNICATORS = """
import sys
from mpi4py import MPI
import mpicomp as mc
from mpicomp.testing import check_exchange

world = MPI.COMM_WORLD
made = {
    "null": lambda: MPI.COMM_NULL,
    "freed": lambda: freed(),
    "inter": lambda: world.Split(world.rank % 2).Create_intercomm(0, world, 1 - world.rank % 2),
    "text": lambda: "COMM_WORLD",
}

def freed():
    comm = world.Dup()
    comm.Free()
    return comm

said = []
options = dict(method="gd", problem="quadratic", problem_options={"dim": 10}, clients=2, rounds=3)
for kind, make in made.items():
    comm = make()
    for name, call in {
        "run": lambda: mc.run(comm=comm, **options),
        "hosted_clients": lambda: mc.hosted_clients(4, comm),
        "check_exchange": lambda: check_exchange("p2p", comm=comm),
    }.items():
        try:
            call()
        except mc.ConfigError as error:
            said.append(f"refused {kind} {name} {str(error)[:40]}")
result = mc.run(comm=world.Split(world.rank % 2, -world.rank), **options)
said.append(f"ran {world.rank}")
for texts in world.gather(said) or []:
    print("\\n".join(texts), flush=True)
"""


@pytest.mark.process
def test_communicators_that_no_run_can_use_are_refused_at_once(mpi, tmp_path):
    script = tmp_path / "comm.py"
    script.write_text(COMMUNICATORS)
    done = mpi.run(4, [script], timeout=60)
    text = done.out + done.err
    assert done.code == 0, text
    for kind in ("null", "freed", "inter", "text"):
        for name in ("run", "hosted_clients", "check_exchange"):
            assert text.count(f"refused {kind} {name} comm") == 4, (kind, name, text)
    assert text.count("ran ") == 4


def test_no_part_of_mpi_is_needed_to_give_none():
    assert mc.hosted_clients(5, None) == range(5)
    assert sys.modules["mpicomp"] is mc
