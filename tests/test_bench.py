"""Benchmarks return what they promise; how fast anything is, is no test."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from mpicomp.cli import app
from mpicomp.errors import ConfigError
from mpicomp.experiments.bench.compressors import bench_compressors
from mpicomp.experiments.bench.roofline import _innermost_loops, roofline


@pytest.mark.parametrize("threads", [1, 2])
def test_bench_compressors_measures_all_it_is_asked_for(threads):
    specs = ["sign", "topk:fraction=0.01", "cq:norm=max"]
    rows = bench_compressors([700, 1000], specs, "float64", repeats=3, threads=threads)
    ours = [r for r in rows if r["kind"] == "ours"]
    assert [(r["dim"], r["spec"]) for r in ours] == [(d, s) for d in (700, 1000) for s in specs]
    assert {r["dim"] for r in rows if r["kind"] == "against"} == {700, 1000}
    steps = [r for r in rows if r["kind"] == "operation"]
    assert bool(steps) == (threads == 1)
    for r in steps:
        assert 0 < r["ratio"][1] <= r["ratio"][0] <= r["ratio"][2] and r["ceiling"]
        if "entropy" in r:  # log2 C(d, K)/K
            subsets = math.comb(r["dim"], r["count"])
            np.testing.assert_allclose(r["entropy"], math.log2(subsets) / r["count"], rtol=1e-9)
            assert r["bits_per_index"] >= r["entropy"]
    for r in (r for r in rows if r["kind"] != "operation"):
        for name in ("encode", "memcpy", "encode_ratio", *(("decode", "add", "decode_ratio") if r in ours else ())):
            median, low, high = r[name]
            assert 0 < low <= median <= high and np.isfinite(high)
    assert ours[0]["payload_bits"] == 1 + 64 / 700 + 4 / 700  # a scale, and 88 bytes of signs for 700
    assert 64 / 100 < ours[1]["payload_bits"] < 64 / 100 + 12 / 100


def test_bench_compressors_as_a_command():
    def invoke(*options):
        return (
            CliRunner()
            .invoke(app, ["bench", "compressors", *options], catch_exceptions=False, standalone_mode=False)
            .output
        )

    options = ["--dim", "1000", "--dim", "2000", "--spec", "natural", "--repeats", "2"]
    text = invoke(*options)
    assert text.count("natural") == 2 and "d = 2,000" in text and "argpartition" in text
    rows = json.loads(invoke(*options, "--dtype", "float64", "--json"))
    assert {(r["dim"], r["dtype"]) for r in rows} == {(1000, "float64"), (2000, "float64")}
    for wrong in (["--dtype", "float16"], ["--repeats", "0"]):
        with pytest.raises(ConfigError, match=r"bench compressors: --"):
            invoke(*wrong)


def test_bench_roofline_reads_the_machine_code():
    lines = """
    foo:
    .L1:
        vmovups (%rax,%rcx,4), %zmm1
        vpmulld %zmm2, %zmm1, %zmm1
        vmovups 64(%rsp), %zmm3
        vpaddd %zmm3, %zmm1, %zmm1
        vpmovdb %zmm1, (%rdx,%rcx)
        addq $16, %rcx
        jne .L1
    .L2:
        vmovups (%rax), %ymm1
        jne .L1
    """
    assert list(_innermost_loops("\n".join(line[4:] for line in lines.splitlines()), "vpmulld", 4)) == [(16, 7, 5, 512)]
    found = roofline(2)
    assert [row["spec"].split(":")[0] for row in found["rows"]] == ["natural", "qsgd", "cq"] and found["clock"] > 1e8
    for row in found["rows"]:
        assert min(row["bound"], row["cycles"]) > 0
        assert all(0 < loop["slots"] <= 2 * loop["instructions"] for loop in row["loops"])
    assert found["memory"]["lines_at_once"] > 0
    text = (
        CliRunner()
        .invoke(app, ["bench", "roofline", "--repeats", "2"], catch_exceptions=False, standalone_mode=False)
        .output
    )
    assert "powers of two" in text and "GHz" in text


def test_bench_wire_needs_another_host_and_an_interface():
    from mpicomp.experiments.bench.wire import _read, wire

    with pytest.raises(ConfigError, match="mpicomp lab run --nodes 2"):
        wire(None)
    with pytest.raises(ConfigError, match=r"no interface 'nope0'.*there are .*lo.*--device"):
        _read("nope0")
    assert _read("lo").tx_bytes >= 0
