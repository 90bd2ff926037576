"""Parts of one's own that write to what is not theirs, data that is not what it was, and other ways to a wrong result without a word."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.extend import Block, ClientState, Downlink, Optimizer, Uplink

N, D = 4, 20
TARGETS = np.random.default_rng(0).normal(size=(N, D))
OPTIONS = {"rounds": 30, "step": 0.1}


def problem(loss=None, gradient=None, **options):
    return mc.FunctionProblem(
        loss or (lambda i, x: 0.5 * float(np.sum((x - TARGETS[i]) ** 2))),
        gradient or (lambda i, x: x - TARGETS[i]),
        dim=D, n_clients=N, constants=mc.Smoothness.bounds(np.ones(N)), **options,
    )  # fmt: skip


CLEAN = mc.run(problem=problem(), method="ef21", compressor="topk:k=5", **OPTIONS).summary["iterate_sha256"]


# ---- x is not the callee's ------------------------------------------------------------------------------------------
def in_place(i, x):
    x -= TARGETS[i]
    return x


def loss_in_place(i, x):
    x -= TARGETS[i]
    return 0.5 * float(x @ x)


@pytest.mark.parametrize("functions", [{"gradient": in_place}, {"loss": loss_in_place}], ids=["gradient", "loss"])
def test_functions_that_write_to_x_are_refused(functions):
    with pytest.raises(ValueError, match="read-only") as caught:
        mc.run(problem=problem(**functions), method="gd", **OPTIONS)
    notes = " ".join(caught.value.__notes__)
    assert "x is not yours to write to" in notes and "client 0" in notes


@pytest.mark.parametrize("functions", [{"gradient": in_place}, {"loss": loss_in_place}], ids=["gradient", "loss"])
def test_functions_may_ask_for_a_copy(functions):
    result = mc.run(problem=problem(copies_points=True, **functions), method="ef21", compressor="topk:k=5", **OPTIONS)
    assert result.summary["iterate_sha256"] == CLEAN


class OwnBlock(Block):
    spoils = "gradients"

    def losses(self, W, out):
        for j, i in enumerate(self.clients):
            out[j] = 0.5 * np.sum((W[j if len(W) > 1 else 0] - TARGETS[i]) ** 2)
        if self.spoils == "losses":
            W[:] = 7

    def gradients(self, W, out):
        out[:] = W - TARGETS[self.clients]
        if self.spoils == "gradients":
            W[:] = 7


@pytest.mark.parametrize("spoils", ["losses", "gradients"])
def test_blocks_that_write_to_the_points_are_refused(spoils):
    class OwnProblem(mc.Problem):
        n_clients, dim = N, D

        def block(self, clients, dtype):
            block = OwnBlock(self, clients, np.dtype(dtype))
            block.spoils = spoils
            return block

    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=OwnProblem(), method="gd", **OPTIONS)


def test_an_uplink_may_write_to_the_gradients_that_it_gets():
    """They are its own copies: the next difference is taken to what the gradients were."""

    class Spoiling(Uplink):
        g_i = ClientState()

        def prepare(self):
            self.codec = self.link.codec(mc.compressor("topk:k=5"))

        def transmit(self, oracle, round):
            link, delta = self.link, None
            if link.is_worker:
                delta = oracle.value() if round == 0 else oracle.difference()
                self.g_i += delta  # what the gradients are, by their differences
                delta[:] = 1e9
            link.gather(link.values(), self.g_i if link.is_worker else None, round, self.mean)
            return self.mean

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(Spoiling())

    exact = mc.run(problem=problem(), method="gd", **OPTIONS).x
    np.testing.assert_allclose(mc.run(problem=problem(), method=Plain(), **OPTIONS).x, exact, rtol=1e-12)


def test_a_downlink_that_writes_to_the_model_changes_nothing():
    class Spoiling(Downlink):
        def prepare(self):
            self.codec = self.link.values()

        def begin(self, v):
            self.w = v.copy()
            return self.w

        def transmit(self, v, round):
            self.link.broadcast(self.codec, v, round, self.w)
            if self.link.is_server:
                v[:] = 1e9
            return self.w

    from mpicomp.mechanisms.direct import DirectUplink

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(DirectUplink(), Spoiling())

    exact = mc.run(problem=problem(), method="gd", **OPTIONS).x
    np.testing.assert_array_equal(mc.run(problem=problem(), method=Plain(), **OPTIONS).x, exact)


def test_an_optimizer_that_writes_to_the_estimate_is_refused():
    class Spoiling(Optimizer):
        def step(self, x, g):
            g *= self.step_size
            x -= g

    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=problem(), method="ef21", optimizer=Spoiling(), **OPTIONS)


def test_measures_cannot_write_to_the_model():
    class Measuring(mc.FunctionProblem):
        measures = ("first",)

        def measure(self, x):
            x[0] = 7
            return (7.0,)

    own = Measuring(
        lambda i, x: 0.0, lambda i, x: 0 * x, dim=D, n_clients=N, constants=mc.Smoothness.bounds(np.ones(N))
    )
    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=own, method="gd", **OPTIONS)


# ---- data that is not what it was -------------------------------------------------------------------------------------
def svm(path: Path, rows: int = 60, features: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        entries = " ".join(f"{j + 1}:{v:.4f}" for j, v in enumerate(rng.normal(size=features)))
        lines.append(f"{rng.choice([-1, 1])} {entries}")
    path.write_text("\n".join(lines) + "\n")
    return path


RANKS = """
import os, sys
from mpi4py import MPI
import mpicomp as mc

rank = MPI.COMM_WORLD.rank
os.chdir(os.path.join(sys.argv[1], str(rank)))
try:
    result = mc.run(
        data="d.svm", problem_options={"reg": 0.1}, method="ef21", clients=6, rounds=20,
        comm=MPI.COMM_WORLD, exchange=sys.argv[2],
    )
except mc.UserError as error:
    print("refused", rank, error, flush=True)
    sys.exit(2)
if rank == 0:
    print("done", result.summary["iterate_sha256"])
"""


@pytest.mark.process
@pytest.mark.covering()
@pytest.mark.parametrize("exchange", ["p2p", "sharded"])
@pytest.mark.parametrize(
    "other, message",
    [
        ({}, None),
        ({"rows": 40}, "rank 2 on {host} sees other rows of client"),
        ({"seed": 1}, "rank 2 on {host} sees other rows of client"),
        ({"features": 9}, "rank 2 on {host} has 6 clients of dimension 9 (from"),
    ],
    ids=["same", "fewer rows", "other values", "another width"],
)
def test_ranks_that_see_other_data_are_found(mpi, tmp_path, exchange, other, message):
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
        svm(tmp_path / str(rank) / "d.svm", **(other if rank == 2 else {}))
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    done = mpi.run(3, [script, tmp_path, exchange])
    text = done.out + done.err
    if message is None:
        assert done.code == 0 and "done" in text, text
    else:
        assert done.code != 0 and message.format(host=platform.node()) in text and "d.svm" in text, text


def test_data_that_was_replaced_is_found_at_resume(tmp_path):
    path, out = svm(tmp_path / "d.svm"), str(tmp_path / "out")
    options = {"data": str(path), "problem_options": {"reg": 0.1}, "method": "ef21", "clients": 6, "out": out}
    mc.run(rounds=10, checkpoint_every=5, step="theory", **options)
    svm(path, seed=1)
    for step in ("theory", 0.01):
        with pytest.raises(mc.MpicompError) as caught:
            mc.run(rounds=20, resume="auto", step=step, **options)
        if step == "theory":
            assert "was written with other data" in str(caught.value) and "step" not in str(caught.value)
    svm(path)
    assert mc.run(rounds=20, resume="auto", step="theory", **options).summary["rounds"] == 20
    manifest = json.loads(sorted(Path(out, "checkpoints").glob("round-*"))[-1].joinpath("checkpoint.json").read_text())
    assert len(manifest["data"]) == 32


def test_clients_in_another_order_are_other_data():
    from mpicomp.problems.logistic import Logistic
    from mpicomp.problems.rows import digests_of

    one, other = Logistic(data="mushrooms", clients=4), Logistic(data="mushrooms", clients=4, partition="shuffled")
    ours, theirs = (digests_of(p.rows, np.arange(4)) for p in (one, other))
    assert ours != theirs and len(set(ours)) == 4


# ---- plug-ins ---------------------------------------------------------------------------------------------------------
class Entry:
    """What `importlib.metadata` tells of a plug-in."""

    def __init__(self, name, module, loads):
        self.name, self.module, self.value, self._loads = name, module, f"{module}:Part", loads

    def load(self):
        return self._loads()


def test_plug_ins_that_are_broken_or_take_a_name_cost_a_warning(monkeypatch):
    from mpicomp import registry
    from mpicomp.compressors import Compressor, compressors

    class Mine(Compressor):
        pass

    def broken():
        raise ImportError("no module named 'cupy'")

    entries = [
        Entry("bad", "bad", broken),
        Entry("topk", "shadow", lambda: Mine),
        Entry("mine-too", "good", lambda: Mine),
    ]
    fresh = registry.Registry("compressor", "mpicomp.compressors")
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(fresh, "_classes", dict(compressors._classes))
    with pytest.warns(UserWarning) as seen:
        names = list(fresh)
    assert "mine-too" in names and "bad" not in names and fresh["topk"].__module__ == "mpicomp.compressors.topk"
    texts = sorted(str(w.message) for w in seen)
    assert len(texts) == 2
    assert texts[0] == "mpicomp: compressor 'bad' of bad:Part is left out: ImportError: no module named 'cupy'"
    assert texts[1] == "mpicomp: compressor 'topk' of shadow:Part is left out: the name is taken"


@pytest.mark.parametrize("name", ["topk", "drive"])
def test_the_name_of_a_built_in_part_is_refused(name):
    with pytest.raises(mc.ConfigError, match=f"compressor '{name}' is already registered by mpicomp.compressors"):

        @mc.register_compressor(name)
        class Mine(mc.Compressor):
            pass


# ---- a NaN that vanishes -----------------------------------------------------------------------------------------------
SPECS = [
    "identity", "cast", "cast:to=bfloat16", "cq", "cq:levels=4", "cq:radius=common", "cq:norm=max", "cq:rotate=true", "iq:levels=3",
    "drive", "eden", "eden:bits=2", "natural", "natural-dithering", "permk", "permk-cq", "qsgd:bits=4", "qsgd:bits=4,norm=max",
    "qsgd:bits=4,bucket=64,norm=max,entropy=true", "randk:fraction=0.1", "sign", "sign:norm=l2", "ternary", "topk:fraction=0.1",
    "uniform", "uniform:error=0.01,rounding=nearest", "topk:k=300", "dynamic", "chunked-topk:k=8,chunk=64",
    "chunked-topk:k=8,chunk=64,table=chunk",
    "topk:fraction=0.1,values=4", "topk:k=300,values=sign", "randk:fraction=0.9,values=8", "permk:values=bfloat16",
]  # fmt: skip
HIDING = ["sign:norm=unit", "ternary:scale=unit", "integers"]
VALUES = pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
PLACES = pytest.mark.parametrize("place", [0, 250, -1], ids=["first", "middle", "last"])
BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])


def test_every_compressor_says_whether_it_carries_a_nan():
    from mpicomp.compressors.base import compressors

    named = {spec.partition(":")[0] for spec in [*SPECS, *HIDING]}
    assert {name for name in compressors if compressors[name].__module__.startswith("mpicomp.")} <= named
    assert not any(mc.compressor(spec).carries_nan for spec in HIDING)


@VALUES
@PLACES
@BOTH
@pytest.mark.parametrize("spec", SPECS)
def test_messages_carry_what_is_not_finite(spec, dtype, place, value):
    x = np.random.default_rng(0).standard_normal(512).astype(dtype)
    x[place] = value
    compressor = mc.compressor(spec)
    assert compressor.carries_nan
    with np.errstate(all="ignore"):
        decoded = compressor.apply(x, mc.MessageKey.seeded(1))
    drawn = spec.startswith("randk") and decoded[place] == 0  # an entry that is not drawn plays no part
    assert drawn or not np.isfinite(decoded).all()


def spoiled(value, place, n=4, d=600, at=8):
    """A problem of which one client's gradient has one entry that is not finite, the `at`-th time that it is asked."""
    targets, calls = np.random.default_rng(0).normal(size=(n, d)), {}

    def gradient(i, x):
        calls[i] = calls.get(i, 0) + 1
        g = x - targets[i]
        if i == 2 and calls[i] == at + 3:  # three times in the warm-up and one evaluation, at x⁰, come before
            g[place] = value
        return g

    return mc.FunctionProblem(
        lambda i, x: 0.5 * float(np.sum((x - targets[i]) ** 2)), gradient, dim=d, n_clients=n,
        constants=mc.Smoothness.bounds(np.ones(n)),
    )  # fmt: skip


def methods_of_full_gradients():
    from mpicomp.methods import methods

    sampled = {"vr-marina", "vr-diana", "ef21-page", "dasha-page", "dasha-mvr", "custom", "pp-marina", "core"}
    return sorted(set(methods) - sampled)


def ends_or_ignores(method, compressor, value, place, **options):
    """The run ends as diverged in the round of the NaN or soon after, or the entry was not drawn and nothing has changed."""
    common = {
        "method": method,
        "compressor": compressor,
        "rounds": 40,
        "step": 0.01,
        "eval_every": 1000,
        "allow_unsafe": True,
        **options,
    }
    with np.errstate(all="ignore"):
        result = mc.run(problem=spoiled(value, place), **common)
        if not result.summary["diverged"]:
            clean = mc.run(problem=spoiled(0.0, place, at=10**6), **common)
            assert result.summary["iterate_sha256"] == clean.summary["iterate_sha256"], "a NaN has vanished"


@pytest.mark.parametrize("method", methods_of_full_gradients())
def test_a_nan_of_one_client_ends_the_run_with_every_method(method):
    ends_or_ignores(method, None, np.nan, 17)


@PLACES
@BOTH
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "method, compressor, options",
    [
        ("terngrad", None, {}),
        ("terngrad", None, {"method_options": {"clip": 0}}),
        ("signsgd", None, {}),
        ("dcgd", "ternary", {}),
        ("cd-adam", "sign", {}),
        ("ef21", "topk:k=20", {}),
        ("dq-sgd", None, {"method_options": {"budget": 6}}),
    ],
)
def test_a_nan_anywhere_ends_the_run(method, compressor, options, place, dtype, threads):
    for value in (np.nan, np.inf):
        ends_or_ignores(method, compressor, value, place, dtype=dtype, threads=threads, **options)


def test_the_first_client_with_a_nan_is_named():
    result = mc.run(problem=spoiled(np.nan, 3), method="signsgd", rounds=40, step=0.01, eval_every=1000)
    assert result.summary["diverged"] and "client 2" in result.summary["divergence"]


# ---- parts that are given as objects ------------------------------------------------------------------------------------
class Half(mc.Compressor):
    deterministic = contractive = True

    def __init__(self, scale=1.0):
        self.scale = scale

    def alpha(self, d, n=1):
        return 0.9

    def max_nbytes(self, d, dtype):
        return 2 * d

    def encode(self, x, out, key):
        out[: 2 * x.size] = x.astype(np.float16).view(np.uint8)
        return 2 * x.size

    def decode(self, buf, out, key):
        out[:] = buf.view(np.float16)


def test_the_records_of_a_run_from_objects_name_them(tmp_path):
    result = mc.run(problem=problem(), method="ef21", compressor=Half(), out=str(tmp_path / "r"), **OPTIONS)
    assert (
        result.config.problem.startswith("<mpicomp.problems.base.FunctionProblem")
        and "Half scale=1.0>" in result.config.compressor
    )
    with pytest.raises(mc.ConfigError, match="was an object of a Python program"):
        mc.Config.load(tmp_path / "r" / "config.toml")


def test_a_checkpoint_of_an_object_does_not_go_on_with_another(tmp_path):
    common = {"problem": problem(), "method": "ef21", "out": str(tmp_path), "step": 0.1, "checkpoint_every": 5}
    mc.run(compressor=Half(1.0), rounds=10, **common)
    with pytest.raises(mc.MpicompError, match=r"scale=1\.0.*scale=2\.0"):
        mc.run(compressor=Half(2.0), rounds=20, resume="auto", **common)
    assert mc.run(compressor=Half(1.0), rounds=20, resume="auto", **common).summary["rounds"] == 20


@pytest.mark.parametrize(
    "options, message",
    [
        ({"problem": problem(), "clients": 3}, "clients=3 is for a problem that is named"),
        ({"problem": problem(), "problem_options": {"dim": 3}}, "problem_options=.* is for a problem that is named"),
        ({"compressor": Half}, r"compressor=Half is a class; give an object, Half\(...\)"),
        ({"problem": mc.FunctionProblem}, "problem=FunctionProblem is a class"),
        ({"method": 3}, "method=3 is neither a name nor a Method"),
        ({"exchange": Half}, "neither a name nor a class derived from Exchange"),
    ],
)
def test_objects_that_do_not_fit_are_refused(options, message):
    with pytest.raises(mc.ConfigError, match=message):
        mc.run(**{"rounds": 2, **options})


def test_registering_wrongly_is_refused():
    with pytest.raises(TypeError, match="register_compressor takes a name"):
        mc.register_compressor(Half)
    with pytest.raises(TypeError, match="is for a class, not for"):
        mc.register_compressor("an-object")(Half())


@pytest.mark.parametrize(
    "returned, message",
    [(None, "returned None; expected an array of shape"), (np.zeros(D), r"an array of shape \(20,\); expected")],
)
def test_uplinks_that_return_something_else_are_named(returned, message):
    class Odd(Uplink):
        def transmit(self, oracle, round):
            return returned

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(Odd())

    with pytest.raises(mc.ConfigError, match=f"Odd.transmit {message}|Odd.transmit returned {message}"):
        mc.run(problem=problem(), method=Plain(), **OPTIONS)


def test_a_compressor_in_place_of_a_codec_is_named():
    class Odd(Uplink):
        def transmit(self, oracle, round):
            self.link.gather(mc.compressor("sign"), oracle.value(), round, self.mean)
            return self.mean

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(Odd())

    with pytest.raises(TypeError, match="gather takes a codec, got Sign"):
        mc.run(problem=problem(), method=Plain(), **OPTIONS)


@pytest.mark.process
@pytest.mark.parametrize("method", ["powersgd", "core"])
def test_a_run_without_a_downlink_that_diverges_ends_on_all_ranks(mpi, method):
    argv = [
        "-m",
        "mpicomp",
        "run",
        "--method",
        method,
        "--problem",
        "quadratic",
        "--set",
        "problem.dim=50",
        "--clients",
        "4",
    ]
    done = mpi.run(
        3,
        [*argv, "--rounds", "200", "--eval-every", "200", "--explosion", "0", "--step", "1e30", "--allow-unsafe", "-q"],
    )
    assert done.code == 3 and "diverged in round" in done.err


# ---- what a reading of the code found -----------------------------------------------------------------------------------
def test_a_scaled_identity_is_scaled_when_it_overwrites():
    from mpicomp.exchanges.local import LocalExchange
    from mpicomp.kernels.random import downlink_keys

    exchange, codec = LocalExchange(1, 5), mc.compressor("identity").bind(5, 1).scaled(0.5)
    for into, add in ((np.full((1, 5), 9.0), False), (np.zeros((1, 5)), True)):
        exchange.broadcast(codec, np.ones((1, 5)), downlink_keys(0, 0), 0, into, add)
        np.testing.assert_array_equal(into, 0.5)


@pytest.mark.parametrize("columns", [1, 5])
def test_state_with_columns_of_its_own_is_no_slice(tmp_path, columns):
    from mpicomp.extend import ServerState

    class Counting(Uplink):
        seen = ServerState(columns=columns)

        def transmit(self, oracle, round):
            link = self.link
            link.gather(link.values(), oracle.value() if link.is_worker else None, round, self.mean)
            if link.is_server:
                self.seen += 1
                self.mean *= 1 + self.seen[0, -1]  # shows in x
            return self.mean

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(Counting())

    common = {"problem": problem(), "method": Plain(), "step": 0.01, "seed": 1}
    whole = mc.run(rounds=12, **common).summary["iterate_sha256"]
    mc.run(rounds=6, checkpoint_every=3, out=str(tmp_path), **common)
    assert mc.run(rounds=12, resume="auto", out=str(tmp_path), **common).summary["iterate_sha256"] == whole


@pytest.mark.parametrize("name", ["logistic", "least_squares", "mlp", "autoencoder"])
def test_problems_with_data_say_that_they_hold_all_of_it(name):
    from mpicomp.problems import problems

    made = problems.build(name, {"clients": 3})
    assert made.holds_all and all(made.digests(np.arange(3)))


def test_imports_of_the_file_and_of_the_command_line_add_up(tmp_path):
    for name in ("a", "b"):
        text = f"import mpicomp as mc\n@mc.register_compressor('part-{name}')\nclass P(mc.Compressor): pass\n"
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "c.toml").write_text('imports = ["a.py"]\n')
    config = mc.Config.load(tmp_path / "c.toml", {"imports": [str(tmp_path / "b.py")]})
    assert [Path(path).name for path in config.imports] == ["a.py", "b.py"]


def test_files_beside_an_imported_one_are_found(tmp_path):
    (tmp_path / "beside_it.py").write_text("value = 3\n")
    (tmp_path / "first.py").write_text("import beside_it\n")
    from mpicomp.runtime.imports import import_parts

    import_parts([str(tmp_path / "first.py")])


def test_a_message_that_claims_another_size_is_corrupt():
    data = mc.compressor("topk:k=1").compress([1.0, 2.0, 3.0])
    with pytest.raises(mc.WireError, match="cannot have written"):
        mc.compressor("topk:k=10").decompress(data)


def test_an_exchange_that_cannot_lose_ranks_is_refused_as_a_class_too():
    from mpicomp.exchanges.sharded import ShardedExchange

    class Comm:
        def Get_size(self):
            return 3

    from mpicomp.exchanges.kinds import exchange_kind

    assert not exchange_kind("auto", 3, ShardedExchange).survives_deaths
    assert exchange_kind("auto", 3).survives_deaths


def test_the_second_average_moves_by_its_own_difference():
    from mpicomp.oracles import DoubleMomentum, Full

    made = problem()
    oracle = DoubleMomentum(Full(made.block(np.arange(N), np.float64), D), 0.5)
    oracle.move(np.zeros((1, D)), 0)
    before = oracle.value().copy()
    oracle.move(np.ones((1, D)), 1)
    change = oracle.difference().copy()
    np.testing.assert_allclose(before + change, oracle.u_i, rtol=1e-12)
