"""What the pages and the help promise by "default", "0 for", "refused" and "--allow-unsafe": one row each, and no such line without one."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.console.options import _options
from mpicomp.errors import TheoryError
from mpicomp.methods import Setting, methods
from mpicomp.optimizers import optimizers
from mpicomp.problems.quadratic import Quadratic
from mpicomp.runtime.config import Config

ROOT = Path(__file__).parents[1]
BIASED = ("eden", "topk:k=8", "sign")
SMALL = {"problem": "quadratic", "problem_options": {"dim": 64}, "clients": 4, "rounds": 3}


def setting(method: str, *, compressor=None, down=None, n=20, d=100, **options) -> Setting:
    cls = methods[method]
    up = mc.compressor(compressor or cls.default_compressor)
    second = down or cls.default_downlink_compressor
    return Setting(d, n, options.pop("rounds", 1000), up, mc.compressor(second) if second else up, **options)


# ---- --allow-unsafe ----------------------------------------------------------------------------------------------------
WANT_UNBIASED = sorted(name for name in methods if methods[name].needs == "unbiased")


@pytest.mark.parametrize("both", [False, True], ids=["up", "both ways"])
@pytest.mark.parametrize("compressor", BIASED)
@pytest.mark.parametrize("method", WANT_UNBIASED)
def test_allow_unsafe_runs_a_biased_compressor(method, compressor, both):
    """It takes a step, and no option of the method."""
    if both and not methods[method].takes_downlink_compressor:
        both = False
    down = {"downlink_compressor": compressor} if both else {}
    options = {"method": method, "compressor": compressor, "step": 0.001, **SMALL, **down}
    with pytest.raises(mc.ConfigError, match=r"is biased.*allow_unsafe=True"):
        mc.run(**options)
    assert mc.run(allow_unsafe=True, **options).summary["rounds"] == 3


@pytest.mark.parametrize(
    "method, given",
    [
        ("diana", {"shift_step": 0.3}),
        ("artemis", {"shift_step": 0.3}),
        ("dore", {"shift_step": 0.3, "eta": 1.0}),
        ("ef21-p+diana", {"shift_step": 0.3}),
        ("vr-diana", {"shift_step": 0.3}),
        ("mcm", {"shift_step": 0.3, "rate": 0.2}),
        ("rand-mcm", {"shift_step": 0.3, "rate": 0.2}),
        ("m3", {"beta": 0.4, "p_up": 0.2, "p_down": 0.2}),
        ("dasha", {"a": 0.3}),
        ("dasha-page", {"a": 0.3}),
        ("dasha-mvr", {"a": 0.3}),
    ],
)
def test_options_that_are_given_are_those_that_are_used(method, given):
    parts = methods.build(method, given).compose(setting(method, compressor="eden", allow_unsafe=True), 0.1)
    for name, value in given.items():
        holders = [p for p in (parts.uplink, parts.downlink) if getattr(p, name, None) == value]
        assert holders or name in ("beta", "p_up", "p_down"), name
    assert mc.run(
        method=method, method_options=given, compressor="topk:k=8", step=0.001, allow_unsafe=True, **SMALL
    ).summary["rounds"]


def test_a_shift_beyond_the_theory_needs_allow_unsafe_and_a_step_of_ones_own():
    options = {"method": "diana", "method_options": {"shift_step": 0.9}, "compressor": "randk:k=4", **SMALL}
    with pytest.raises(mc.ConfigError, match=r"shift_step=0.9 is outside \(0, 1/\(1\+ω\)\]"):
        mc.run(step=0.001, **options)
    assert mc.run(step=0.001, allow_unsafe=True, **options).summary["rounds"] == 3
    with pytest.raises(TheoryError, match=r"no theorem covers shift_step=0\.9"):
        mc.run(step="theory", allow_unsafe=True, **options)
    with pytest.raises(mc.ConfigError, match=r"outside \(0, 1\]"):
        mc.run(step=0.001, allow_unsafe=True, **{**options, "method_options": {"shift_step": 1.1}})


@pytest.mark.parametrize("uplink", ["diana:topk:k=8", "dasha:eden", "marina:sign"])
def test_allow_unsafe_reaches_the_parts_of_a_custom_method(uplink):
    options = {"method": "custom", "method_options": {"uplink": uplink}, "step": 0.001, **SMALL}
    assert mc.run(allow_unsafe=True, **options).summary["rounds"] == 3


@pytest.mark.parametrize("method", ["artemis", "dore", "mcm", "rand-mcm", "m3"])
def test_a_biased_downlink_is_refused_where_the_page_says_that_both_must_be_unbiased(method):
    with pytest.raises(mc.ConfigError, match="for the downlink, too"):
        mc.run(method=method, compressor="randk:k=8", downlink_compressor="topk:k=8", step=0.001, **SMALL)


# ---- --batch 0 ----------------------------------------------------------------------------------------------------------
ONE_SAMPLE = ("dasha-mvr", "dasha-page", "vr-marina", "vr-diana")


@pytest.mark.parametrize("method", sorted(set(methods) - {"custom"}))
def test_batch_0_is_the_methods_own_number(method, monkeypatch):
    """Exact gradients, but for the methods that are about samples; `own_batch` says which number, and that is what is drawn."""
    from mpicomp.oracles import minibatch

    drawn = set()
    draw = minibatch.draw_samples
    monkeypatch.setattr(minibatch, "draw_samples", lambda *a: (drawn.add(a[-1].shape[1]), draw(*a))[1])
    problem = mc.run.__globals__["build_problem"](Config(problem_options={"reg": 0.1}))
    own = methods[method]().own_batch(setting(method, n=problem.n_clients, d=problem.dim, problem=problem))
    unsafe = {"compressor": None, "method": method, "problem_options": {"reg": 0.1}, "batch": 0, "rounds": 12}
    mc.run(step=0.01, **unsafe)
    assert own == (
        1 if method in ONE_SAMPLE else 21 if method == "ef21-page" else 0
    )  # ⌈√406.2⌉ of mushrooms' 8124 rows
    assert drawn == ({own} if own else set())


# ---- dq-sgd -------------------------------------------------------------------------------------------------------------
def test_dq_sgd_with_k_has_no_budget_unless_one_is_given():
    options = {"method": "dq-sgd", "compressor": "dynamic:norm=l2,bucket=2", **SMALL, "step": 0.01}  # 32 bits a norm
    with pytest.raises(mc.ConfigError, match=r"a budget of 4\.5 bits an entry cannot be met"):
        mc.run(**options)
    with pytest.raises(mc.ConfigError, match=r"a budget of 4\.5 bits an entry cannot be met"):
        mc.run(method_options={"k": 8, "budget": 4.5}, **options)
    assert mc.run(method_options={"k": 8}, **options).summary["rounds"] == 3


@pytest.mark.parametrize("budget", [0, -1, float("inf"), float("nan")])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(mc.ConfigError, match="must be a positive number of bits"):
        methods.build("dq-sgd", {"budget": budget})


# ---- the help ------------------------------------------------------------------------------------------------------------
def helps() -> dict[str, str]:
    found = {}
    for name, parameter in inspect.signature(_options, eval_str=True).parameters.items():
        info = parameter.annotation.__metadata__[0] if hasattr(parameter.annotation, "__metadata__") else None
        if info is not None and getattr(info, "help", None):
            found[name] = info.help
    return found


def test_the_defaults_in_the_help_are_those_of_a_run():
    shown = {name: found[1] for name, text in helps().items() if (found := re.search(r"\[([^]]+)\]$", text))}
    assert len(shown) > 15
    config = Config()
    for name, text in shown.items():
        if name == "features":
            assert text == "the largest index in the file"
        elif name == "init":  # or the problem's own x⁰ where it has one
            assert text == "zero" and config.init is None
        elif name == "wire_dtype":
            assert text == "as --dtype" and config.wire_dtype is None
        else:
            value = getattr(config, name)
            assert value == (type(value)(ast.literal_eval(text)) if not isinstance(value, str) else text), name


ZEROS = {
    "tol": "0 never", "explosion": "0 never", "batch": "0 for the method's own", "threads": "0 for its share", "eval_every": "0 for about",
    "checkpoint_every": "0 never", "checkpoint_seconds": "0 never", "stall_timeout": "0 never",
}  # fmt: skip


def test_every_0_in_the_help_has_a_row():
    assert {name for name, text in helps().items() if re.search(r"\b0 (for|never)\b", text)} == set(ZEROS)
    for name, text in ZEROS.items():
        assert text in helps()[name]


@pytest.mark.parametrize("name", sorted({*ZEROS, "time_limit"}))
def test_0_switches_off(name, tmp_path):
    """A run of 300 rounds that diverges on purpose or has nothing to gain: with 0 it ends as without the option."""
    options = {**SMALL, "rounds": 300, "method": "gd", "out": str(tmp_path / "a")}
    if name == "explosion":
        options |= {"step": 10.0, "rounds": 20}
    result = mc.run(**{name: 0}, **options)
    assert result.summary["rounds"] == options["rounds"] and not (tmp_path / "a" / "checkpoints").exists()
    assert not result.summary.get("interrupted")
    if name == "eval_every":
        assert len(result.history) == 101
    if name == "explosion":
        with np.errstate(all="ignore"):
            other = mc.run(**{**options, "out": None, "explosion": 10})
        assert other.summary["diverged"] and not result.summary["diverged"]


# ---- the pages ------------------------------------------------------------------------------------------------------------
def uplink(method, of=None, **given):
    parts = methods.build(method, given).compose(of or setting(method, d=100, n=20), 0.1)
    return parts.uplink


def downlink(method, of=None, **given):
    return methods.build(method, given).compose(of or setting(method, d=100, n=20), 0.1).downlink


def default(method, option):
    return inspect.signature(methods[method].__init__).parameters[option].default


def is_refused(**options):
    with pytest.raises(mc.ConfigError):
        mc.run(**{**SMALL, "step": 0.01, **options})
    return True


def has_no_theory(method, **given):
    s = setting(
        method, n=4, d=64, problem=Quadratic(dim=64, clients=4), find_smoothness=Quadratic(dim=64, clients=4).smoothness
    )
    with pytest.raises(TheoryError):
        methods.build(method, given).step_size(s)
    return True


MUSHROOMS = 8124 / 20
OMEGA = 9.0  # of randk:fraction=0.1
PAGES = {  # (page of docs, the words): what makes them true, or the test that does
    ("methods/eden.md", "`--allow-unsafe` runs them"): test_allow_unsafe_runs_a_biased_compressor,
    ("methods/dcgd.md", "a biased one is refused, and `--allow-unsafe` runs it"): test_allow_unsafe_runs_a_biased_compressor,
    ("methods/mcm.md", "`shift_step`: a in (0, 1/(1+ω)], by default the largest"): lambda: uplink("mcm").shift_step == 1 / (1 + OMEGA),
    ("methods/mcm.md", "By default 1/(8ω_down), at most 1/(1+ω_down)"): lambda: downlink("mcm").rate == 1 / (8 * OMEGA),
    ("methods/mcm.md", "by default that of the uplink; both must be unbiased"):
        lambda: downlink("mcm").compressor is not None
        and test_a_biased_downlink_is_refused_where_the_page_says_that_both_must_be_unbiased is not None,
    ("methods/ef21-prox.md", "`weight`: 1e-3 by default"):
        lambda: inspect.signature(__import__("mpicomp.optimizers.prox", fromlist=["x"]).Prox).parameters["weight"].default == 1e-3,
    ("methods/vr-diana.md", "the inverse of the mean number of samples by default"):
        lambda: methods["vr-diana"]().probability(setting("vr-diana", samples=MUSHROOMS)) == 1 / MUSHROOMS,
    ("methods/vr-diana.md", "the step needs the default, 1/(1+ω)"): lambda: has_no_theory("vr-diana", shift_step=0.01),
    ("methods/vr-diana.md", "`--batch`: b, one sample by default"): test_batch_0_is_the_methods_own_number,
    ("methods/local-sgd.md", "η_l = γ/K by default"): lambda: default("local-sgd", "local_step") is None,
    ("methods/local-sgd.md", "so `--step theory` is refused"): lambda: has_no_theory("local-sgd", local_steps=5),
    ("methods/local-sgd.md", "`sample` (s clients a round, 0 for all)"):
        lambda: default("local-sgd", "sample") == 0 and methods["local-sgd"]().compose(setting("local-sgd"), 0.1).participation is None,
    ("methods/dq-sgd.md", "by default 1 − 2μγ + Lμγ²"):
        lambda: methods.build("dq-sgd", {"rule": "strongly-convex"}).rate(known(), 0.1) == 1 - 2 * known().smoothness.mu * 0.1
        + known().smoothness.L * known().smoothness.mu * 0.1**2,
    ("methods/dq-sgd.md", "`budget` is 4.5 by default"): lambda: methods["dq-sgd"]().budget == 4.5,
    ("methods/dq-sgd.md", "there is none by default"): test_dq_sgd_with_k_has_no_budget_unless_one_is_given,
    ("methods/pp-marina.md", "p = ζτ/(dn) by default"): lambda: np.isclose(uplink("pp-marina").p, 0.1 * 2 / 20),
    ("methods/pp-marina.md", "a tenth of the clients by default"):
        lambda: {methods[m]().draws(setting(m)) for m in ("marina-w", "pp-marina")} == {2},
    ("methods/powersgd.md", "`rank`: r, 2 by default"): lambda: shape_of(100)[2] == 2,
    ("methods/powersgd.md", "`rows`: ⌊√d⌋ by default"): lambda: shape_of(90)[0] == 9,
    ("methods/powersgd.md", "`warm_start`: true by default"): lambda: default("powersgd", "warm_start") is True,
    ("methods/ef21-hb.md", "0.9 by default"): lambda: default("ef21-hb", "momentum") == 0.9,
    ("methods/artemis.md", "by default the largest"): lambda: uplink("artemis").shift_step == 1 / (1 + OMEGA),
    ("methods/artemis.md", "by default that of the uplink; both must be unbiased"):
        test_a_biased_downlink_is_refused_where_the_page_says_that_both_must_be_unbiased,
    ("methods/m3.md", "by default min{1, (p_D/(Aω_P))^{1/3}}"):
        lambda: np.isclose(methods["m3"]().momentum(setting("m3")), (1 / 20 / 19) ** (1 / 3)),
    ("methods/m3.md", "by default ζ/d of the direction's compressor"): lambda: methods["m3"]().probabilities(setting("m3")) == (0.05, 0.05),
    ("methods/m3.md", "both permk by default"):
        lambda: {methods["m3"].default_compressor, methods["m3"].default_downlink_compressor} == {"permk"},
    ("methods/ef21-page.md", "τ, √N̄ by default, rounded up"): test_batch_0_is_the_methods_own_number,
    ("methods/ef21-page.md", "the mean of τ/(τ+N_i) by default"): lambda: default("ef21-page", "p") is None,
    ("methods/qsgd.md", "`qsgd:bits=4,bucket=512` by default"): lambda: methods["qsgd"].default_compressor == "qsgd:bits=4,bucket=512",
    ("methods/onebit-adam.md", "`--step theory` is refused"): lambda: has_no_theory("onebit-adam"),
    ("methods/onebit-adam.md", "0.065 by default"): lambda: default("onebit-adam", "warmup") == 0.065,
    ("methods/ef21-muon.md", "`--step theory` is refused"): lambda: has_no_theory("ef21-muon"),
    ("methods/ef21-muon.md", "0.1 by default; what Muon calls"): lambda: default("ef21-muon", "eta") == 0.1,
    ("methods/ef21-muon.md", "so `--exchange sharded` is refused"): "test_muon.py::test_shapes_are_text",
    ("reference/optimizers.md", "by default one vector"): lambda: optimizers["muon"]().shapes == "",
    ("methods/ef21-pp.md", "0.5 by default"): lambda: methods["ef21-pp"]().p == 0.5,
    ("methods/diana.md", "by default the largest"): lambda: uplink("diana").shift_step == 1 / (1 + OMEGA),
    ("methods/correlated-quantization.md", "(`parts`, min(d, n) by default)"):
        lambda: np.array_equal(*(mc.compressor(f"permk-cq{o}").apply(np.arange(1.0, 101), KEY) for o in ("", ":parts=20"))),
    ("methods/dore.md", "by default the largest.\n"): lambda: uplink("dore").shift_step == 1 / (1 + OMEGA),
    ("methods/dore.md", "β in (0, 1], 1 by default"): lambda: default("dore", "beta") == 1.0,
    ("methods/dore.md", "by default the largest that the step covers"): lambda: downlink("dore").eta == 1 / np.sqrt(12 * OMEGA),
    ("methods/dore.md", "by default that of the uplink; both must be unbiased"):
        test_a_biased_downlink_is_refused_where_the_page_says_that_both_must_be_unbiased,
    ("methods/ef21-p.md", "`topk:k=1` by default"): lambda: methods["ef21-p+ef21"].default_downlink_compressor == "topk:k=1",
    ("methods/ef21-p.md", "the step needs the default, 1/(1+ω)"): lambda: has_no_theory("ef21-p+diana", shift_step=0.01),
    ("methods/terngrad.md", "2.5 by default; 0 for none"): lambda: default("terngrad", "clip") == 2.5 and unclipped(),
    ("methods/dasha.md", "the default a = 1/(2ω+1)"): lambda: uplink("dasha").a == 1 / (2 * OMEGA + 1),
    ("methods/dasha.md", "1/(2ω+1) by default; the step needs a < 2/(2ω+1)"): lambda: has_no_theory("dasha", a=0.2),
    ("methods/dasha.md", "B/(m+B) by default"):
        lambda: methods["dasha-page"]().probability(setting("dasha-page", samples=10.0, batch=5)) == 5 / 15,
    ("methods/dasha.md", "0.1 by default; a small b"): lambda: default("dasha-mvr", "b") == 0.1,
    ("methods/dasha.md", "B, one sample by default"): test_batch_0_is_the_methods_own_number,
    ("methods/core.md", "10 by default"): lambda: default("core", "m") == 10,
    ("methods/cd-adam.md", "With `sign` (the default)"): lambda: methods["cd-adam"].default_compressor.startswith("sign"),
    ("methods/cd-adam.md", "`--step theory` is refused"): lambda: has_no_theory("cd-adam"),
    ("methods/vr-marina.md", "0 for exact gradients"):
        lambda: default("vr-marina", "sync") == 0,
    ("methods/vr-marina.md", "b', one sample by default"): test_batch_0_is_the_methods_own_number,
    ("methods/ef21-sgdm.md", "0.1 by default"): lambda: default("ef21-sgdm", "eta") == 0.1,
    ("reference/problems.md", "0 for none: multinomial"): "test_mlp.py::test_large_logits_stay_finite",
    ("reference/exchanges.md", "`auto`, the default, is `local` in one process"):
        lambda: __import__("mpicomp.exchanges.kinds", fromlist=["x"]).exchange_kind("auto", 4, None).name == "p2p",
    ("reference/exchanges.md", "`cq:radius=common`) are refused"): "test_aggregator.py::test_what_cannot_go_by_slices",
    ("reference/commands.md", "| `full`, the default |"): lambda: Config().evaluate == "full",
    ("reference/commands.md", "so they refuse the other two"): "test_networks.py::test_what_needs_a_gradient_norm_refuses",
    ("reference/commands.md", "Runs of different problems are refused"): "test_plot_command.py::"
    "test_runs_of_different_problems_are_refused_unless_asked",
    ("reference/commands.md", "`--out` of a finished run is refused"): "test_seeds_and_force.py::"
    "test_a_finished_run_is_replaced_by_force_alone",
    ("reference/optimizers.md", "refuse another one"): lambda: all(
        methods[name].own_optimizer for name in ("ef21-hb", "ef21-prox", "onebit-adam")
    ),
    ("reference/optimizers.md", "`schedule=constant` (the default)"): lambda: optimizers["gd"]().schedule == "constant",
    ("reference/exchanges.md", "are refused: `sharded cannot cut"): "test_cutting.py::test_refusals",
    ("reference/exchanges.md", "the default of most methods, always works"):
        lambda: sum(methods[m].default_downlink_compressor == "identity" for m in methods) > len(list(methods)) / 2,
    ("reference/exchanges.md", "modes that go on without dead ranks are refused"): lambda: is_refused(
        exchange="hierarchical", on_failure="continue"),
    ("reference/wire.md", "It refuses what no encoder writes"): "test_wire_hostile.py::test_scales_that_no_encoder_writes_are_refused",
    ("reference/wire.md", "A frame of the number without them is refused"): "test_message_lengths.py::test_messages_that_pad_are_refused",
    ("reference/wire.md", "and `bind` refuses more"): "test_sizes.py::test_every_codec_states_its_largest_dimension_and_refuses_more",
    ("reference/wire.md", "A field above 2s is refused"): "test_wire_hostile.py::test_fields_that_no_encoder_writes_are_refused",
    ("reference/wire.md", "in which digits beyond d are not zero, is refused"):
        "test_wire_hostile.py::test_trits_beyond_the_last_entry_must_be_zero",
    ("reference/wire.md", "A field above 2·levels is refused"): "test_wire_hostile.py::test_fields_that_no_encoder_writes_are_refused",
    ("reference/wire.md", "anything else is refused"): "test_wire_hostile.py::test_a_bit_mask_has_no_bits_beyond_its_entries",
    ("reference/kernels.md", "`NUMBA_DISABLE_JIT=1` switches off the compiler that the kernels need, so mpicomp refuses it"):
        "test_surroundings.py::test_numba_without_its_compiler_is_named",
    ("reference/security.md", "Nothing in these is run; what does not fit is refused with one message"):
        "test_fuzz.py::test_no_decoder_is_fooled",
    ("reference/studies.md", "Weak scaling refuses problems with a fixed number"):
        "test_study_grid.py::test_mistakes_of_the_file_are_named",
}  # fmt: skip
KEY = mc.MessageKey.seeded(0, 3, 20)


def known() -> Setting:
    problem = Quadratic(dim=64, clients=4, reg=0.1)
    return setting("dq-sgd", n=4, d=64, problem=problem, find_smoothness=problem.smoothness)


def shape_of(d):
    from mpicomp.mechanisms.powersgd import matrix_shape

    return matrix_shape(d, None, None)


def unclipped() -> bool:
    """clip=0 gives what a clip gives that cuts nothing, and the default something else."""
    shas = [
        mc.run(method="terngrad", method_options=given, **{**SMALL, "step": 0.01, "init": "normal:1"}).summary[
            "iterate_sha256"
        ]
        for given in ({"clip": 0}, {"clip": 1e9}, {})
    ]
    return shas[0] == shas[1] != shas[2]


@pytest.mark.parametrize("page, words", PAGES, ids=[f"{p}: {w[:40]}" for p, w in PAGES])
def test_the_words_of_the_pages(page, words):
    assert words in (ROOT / "docs" / page).read_text(), "the page says something else now"
    check = PAGES[page, words]
    if isinstance(check, str):
        file, _, test = check.partition("::")
        assert f"def {test}(" in (ROOT / "tests" / file).read_text()
    elif not check.__name__.startswith("test_"):
        assert check()


def test_no_such_line_of_the_pages_lacks_a_row():
    """reliability.md is held by the tests of what it is about."""
    wanted = re.compile(
        r"by default|\bthe default\b|\brefuse|--allow-unsafe|\b0 for (exact|none|all|the)\b|`--step theory` is refused"
    )
    missing = []
    for folder in ("methods", "reference"):
        for page in sorted((ROOT / "docs" / folder).glob("*.md")):
            rows = [words.strip() for where, words in PAGES if where == f"{folder}/{page.name}"]
            if page.name == "reliability.md":
                continue
            for line in page.read_text().splitlines():
                if wanted.search(line) and not any(words in line for words in rows):
                    missing.append(f"{folder}/{page.name}: {line}")
    assert not missing, "\n".join(missing)
