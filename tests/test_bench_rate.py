"""Bits against errors: the table, its bounds and its marks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mpicomp.errors import ConfigError
from mpicomp.experiments.bench import rate
from mpicomp.experiments.commands.bench import bench
from mpicomp.experiments.commands.rate_figure import draw


def test_least_bits_of_a_normal_law_are_its_rate_distortion_function():
    normal = rate.normal(1000)
    assert [normal.least_bits(e) for e in (1.0, 0.5, 0.25, 2.0)] == pytest.approx([0, 1, 2, 0])


def test_least_bits_of_the_heavy_tailed_law():
    """The entropy by a sum over the density, of variance 1."""
    t = np.linspace(-4000, 4000, 8_000_001)
    density = 2 / (np.pi * np.sqrt(3) * (1 + t**2 / 3) ** 2)
    bits = -np.sum(density * np.log2(density)) * (t[1] - t[0]) - 0.5 * np.log2(3)
    assert rate.heavy_tailed(10).entropy == pytest.approx(bits, abs=1e-3)


@pytest.mark.full(reason="takes more than a few seconds")
def test_rows_have_the_errors_and_bits_of_the_messages():
    rows = {r["spec"]: r for r in rate.bench_rate(["identity", "sign", "topk:fraction=0.1"], dim=3000)[:3]}
    x = rate.normal(3000).x.astype(float)
    ends = np.sort(np.abs(x))
    assert rows["identity"]["bits"] == 32 and rows["identity"]["error"] == 0 and rows["identity"]["unbiased"]
    assert rows["topk:fraction=0.1"]["error"] == pytest.approx(
        np.sqrt(np.sum(ends[:2700] ** 2) / np.sum(ends**2)), rel=1e-6
    )
    assert rows["sign"]["error"] == pytest.approx(
        np.linalg.norm(np.sign(x) * ends.mean() - x) / np.linalg.norm(x), rel=1e-5
    )
    assert rows["sign"]["bits"] == pytest.approx(1, abs=0.02)
    assert all(r["least"] is None or r["least"] <= r["bits"] for r in rows.values())


@pytest.mark.full(reason="takes more than a few seconds")
def test_no_compressor_is_below_the_least_possible():
    for row in rate.bench_rate(rate.SPECS, dim=20_000):
        assert row["least"] is None or row["bits"] > row["least"], row


def test_pareto_marks():
    given = [(True, 4, 0.2), (False, 3, 0.2), (False, 5, 0.2), (True, 5, 0.3), (False, 1, 0.9)]
    rows = rate.marked([{"unbiased": u, "bits": b, "error": e} for u, b, e in given])
    assert [r["pareto"] for r in rows] == [True, True, False, False, True]


def test_gap_to_a_peer_is_read_on_our_front():
    def row(kind, bits, error):
        return {"vector": "v", "kind": kind, "spec": "", "unbiased": False, "bits": bits, "error": error}

    rows = [row("ours", 4.0, 0.1), row("ours", 2.0, 0.4), row("peer", 3.5, 0.2)]
    (gap,) = rate.gaps(rows)
    assert gap["bits"] == 3.5 and gap["ours"] == pytest.approx(3.0)


def test_as_a_command_with_a_vector_of_ones_own_and_a_figure(tmp_path):
    np.save(tmp_path / "g.npy", np.random.default_rng(0).standard_normal((10, 50)))
    arguments = ["rate", "--vector", str(tmp_path / "g.npy"), "--spec", "sign", "--spec", "qsgd:bits=4"]
    found = CliRunner().invoke(bench, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["rows"]
    assert {r["dim"] for r in rows} == {500} and {r["vector"] for r in rows} == {"g.npy"}
    found = CliRunner().invoke(bench, arguments)
    assert "unbiased" in found.stdout and "g.npy" in found.stdout


@pytest.mark.full(reason="takes more than a few seconds")
def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    draw(rate.bench_rate(["sign", "qsgd:bits=4", "qsgd:bits=2"], dim=400), tmp_path / "rate.svg")
    assert (tmp_path / "rate.png").stat().st_size > 1000 and "<svg" in (tmp_path / "rate.svg").read_text()


@pytest.mark.parametrize("content", [b"no array", np.zeros(3), np.array([1.0, np.nan])], ids=["text", "zero", "nan"])
def test_vectors_that_cannot_be_used_are_refused(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "g.npy").write_bytes(content)
    else:
        np.save(tmp_path / "g.npy", content)
    with pytest.raises(ConfigError, match=r"--vector .*g\.npy"):
        rate.from_file(tmp_path / "g.npy")
