"""Every registered method and compressor, whoever wrote it: what all of them must satisfy. A new one is covered by being registered."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.compressors import compressors
from mpicomp.exchanges import base as exchange
from mpicomp.methods import Method, methods
from mpicomp.runtime.config import Config
from mpicomp.runtime.session import Composition, build_problem

DOCS = Path(__file__).parent.parent / "docs"
PACKAGE = "mpicomp.methods"
METHODS = [name for name in methods if methods[name].__module__.startswith(PACKAGE) and name != "custom"]
COMPRESSORS = [name for name in compressors if compressors[name].__module__.startswith("mpicomp.")]
COMMON = {
    "problem": "logistic",
    "data": "mushrooms",
    "clients": 5,
    "rounds": 12,
    "step": "0.01",
    "seed": 1,
    "eval_every": 4,
}


def run(name: str, **options):
    """A short run; with a minibatch where the method asks for one."""
    given = {**COMMON, "method": name, **options}
    try:
        return mc.run(**given)
    except mc.UserError:
        return mc.run(**{**given, "batch": 4})


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_is(name):
    cls = methods[name]
    assert cls.summary and cls.formulas and cls.paper and cls.__doc__
    assert cls.needs in ("unbiased", "contractive", "any")
    pages = " ".join(path.read_text() for path in (DOCS / "methods").glob("*.md"))
    assert re.search(rf"(?<![\w+-]){re.escape(name)}(?![\w+-])", pages, re.IGNORECASE), (
        f"no page of docs/methods names {name}"
    )


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressor_says_what_it_is_and_what_it_writes(name):
    cls = compressors[name]
    assert cls.summary and cls.formulas and cls.__doc__
    assert f"\n## {cls.codec_id} {name}\n" in (DOCS / "reference" / "wire.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_bits_and_small_frames_change_nothing(name, monkeypatch):
    first = run(name)
    monkeypatch.setattr(exchange, "GROUP_NBYTES", 64)  # a frame for each client
    again = run(name)
    assert first.summary["iterate_sha256"] == again.summary["iterate_sha256"]
    for direction in ("uplink", "downlink"):
        one, many = (result.summary["bytes"][direction] for result in (first, again))
        assert one["payload_bits"] == many["payload_bits"] and one["values_only"] == many["values_only"]


@pytest.mark.covering()
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float64", "float32")], ids="-".join)
def test_other_precisions(name, dtypes):
    dtype, wire = dtypes
    result = run(name, dtype=dtype, wire_dtype=wire)
    assert np.all(np.isfinite(result.x)) and result.x.dtype == dtype
    exact = run(name)
    assert result.summary["loss"] == pytest.approx(exact.summary["loss"], abs=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_no_rounds_no_bytes(name):
    result = run(name, rounds=0)
    assert np.all(result.x == 0) and result.summary["rounds"] == 0
    assert all(result.summary["bytes"][way]["message"] == 0 for way in ("uplink", "downlink"))


@pytest.mark.parametrize("name", METHODS)
def test_a_single_client(name):
    result = run(name, clients=1)
    assert np.all(np.isfinite(result.x))
    assert result.summary["clients"] == 1


@pytest.mark.parametrize("name", METHODS)
def test_the_theory_gives_a_step_or_says_why_not(name):
    """`--step theory` is a positive number that does not diverge, or an error that proposes what to do."""
    config = Config(**{**COMMON, "method": name, "rounds": 30})
    problem = build_problem(config)
    composition = Composition(config, problem)
    try:
        step = composition.step_size("theory")
    except mc.UserError as error:
        assert "step=" in str(error) or "batch=" in str(error)
        return
    assert 0 < step <= 2.0 / problem.smoothness().L
    result = run(name, step="theory", rounds=30)
    assert result.summary["loss"] <= np.log(2.0) + 1e-9, "the loss grew under the theoretical step"


@pytest.mark.parametrize("name", [name for name in METHODS if methods[name].needs == "unbiased"])
def test_a_biased_compressor_is_refused_where_the_theory_needs_an_unbiased_one(name):
    with pytest.raises(mc.ConfigError, match="unbiased"):
        mc.run(**{**COMMON, "method": name, "compressor": "topk:k=3", "batch": 4})


def test_a_method_without_theory_asks_for_a_number():
    class Bare(Method):
        name = "bare"

        def compose(self, setting, step_size):
            return mc.Parts(uplink=methods["gd"]().compose(setting, step_size).uplink)

    assert mc.run(**{**COMMON, "method": Bare()}).summary["method"] == "bare"
    with pytest.raises(mc.TheoryError, match=r"\bstep="):
        mc.run(**{**COMMON, "method": Bare(), "step": "theory"})
