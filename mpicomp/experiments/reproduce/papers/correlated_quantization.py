"""MARINA with correlated quantizers: the variance, the constants, the gain over independent ones, mean estimation, real data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...runtime import Quadratic, marina_step
from ...study.compare import common_target
from ..axes import costs, up_bits
from ..drawing import panels_by_clients, plain_ticks, series
from ..evidence import Evidence, Row
from ..quantizers import WIRE_BITS, estimation_table, expected_bits, limits, variance_table, variances
from ..reproduction import FAILS, HOLDS, IN_PART, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "GD": ("gd", "identity"),
    "MARINA CQ": ("marina:p=bits", "cq"),
    "MARINA IQ": ("marina:p=bits", "iq"),
    "MARINA RandK": ("marina", "randk:k={k}"),
    "MARINA PermK": ("marina", "permk"),
    "SGD CQ": ("dcgd", "cq"),  # Suresh et al. 2022; its theory's step depends on the number of rounds and is very small
}
TUNED = ("MARINA CQ", "SGD CQ")  # also run with the best of the steps theory·4^j
SHOWN = (*METHODS, *(f"{name} tuned" for name in TUNED))
REAL_TARGET = 1e-7
FACTORS = tuple(4.0**j for j in range(8))


@dataclass(frozen=True)
class Size:
    """Of the experiments.

    Attributes
    ----------
    dim, clients, rounds, target : of the quadratics with equal clients, stopped at ‖∇f‖² ≤ target.
    square : the n = d for which the gain over independent quantizers is measured.
    noises, mixed, mixed_rounds : the s, the n, and the rounds of the quadratics with different clients.
    draws, estimation : rounds of mean estimation, and (d, n) of it, n the largest.
    real_clients, real_rounds : of logistic regression. shown : n of the runs over MPI.
    """

    dim: int
    clients: tuple[int, ...]
    rounds: int
    target: float
    square: tuple[int, ...]
    noises: tuple[float, ...]
    mixed: int
    mixed_rounds: int
    draws: int
    estimation: tuple[int, int]
    real_clients: int
    real_rounds: int
    shown: int


def quadratic(dim: int, n: int, s: float, rounds: int) -> dict[str, Any]:
    """Options of all runs on a quadratic."""
    return {
        "problem": {"name": "quadratic", "dim": dim, "noise": s, "reg": 1e-2},
        "clients": n,
        "init": "paper",
        "wire_dtype": "float32",
        "rounds": rounds,
        "eval_every": 10,
    }


# ---- claims -----------------------------------------------------------------------------------------------------------
def judge_variance(evidence: Evidence) -> Verdict:
    """The exact formula is within four standard errors of what was measured, everywhere."""
    rows = evidence.tables["variance"]
    off = [abs(r["measured"] - r["exact"]) / r["standard_error"] for r in rows]
    return Verdict.of([o < 4 for o in off], f"{len(rows)} settings, largest deviation {max(off):.1f} standard errors")


def judge_never_worse(evidence: Evidence) -> Verdict:
    """CQ's exact variance is not above the independent quantizer's, and far below for equal inputs."""
    rows = evidence.tables["variance"]
    said = ", ".join(f"{r['independent'] / r['exact']:.1f}× at n = {r['n']}" for r in rows if r["inputs"] == "equal")
    parts = [r["exact"] <= r["independent"] * (1 + 1e-9) for r in rows]
    return Verdict.of(parts, f"equal inputs, IQ/CQ variance: {said}")


def judge_published_variance(evidence: Evidence) -> Verdict:
    """The published constant d/(4n²) bounds the measured variance of the one-bit quantizer for equal inputs."""
    rows = evidence.rows("variance", inputs="equal")
    said = ", ".join(f"{r['measured'] / r['library']:.2f} at n = {r['n']}" for r in rows)
    return Verdict.of(
        [r["measured"] <= r["library"] + 4 * r["standard_error"] for r in rows], f"measured/(d/4n²): {said}"
    )


def judge_bound(evidence: Evidence) -> Verdict:
    """Suresh et al.'s bound 3σ_md(r−l)/n + 12(r−l)²/n² holds."""
    rows = evidence.tables["variance"]
    ratios = [r["published_bound"] / r["measured"] for r in rows]
    return Verdict.of([x >= 1 for x in ratios], f"bound/measured from {min(ratios):.1f} to {max(ratios):.0f}")


def judge_limit(evidence: Evidence) -> Verdict:
    """The gain at d = n → ∞ is 7.29 with the published constants, and with the right ones."""
    gains = {r["constants"]: r["gain"] for r in evidence.tables["limit"]}
    said = ", ".join(f"{gain:.2f} with the {name} constants" for name, gain in gains.items())
    return Verdict.of([abs(gain - 7.29) < 0.01 for gain in gains.values()], f"IQ/CQ expected bits: {said}")


def judge_measured_gain(evidence: Evidence) -> Verdict:
    """Measured at n = d with each side's own right constants, the gain is at least nine tenths of 7.29 at the largest n, and grows."""
    rows = evidence.rows("gain", constants="right")
    said = ", ".join(f"{r['gain']:.2f} at n = d = {r['n']} (theory {r['promised']:.2f})" for r in rows)
    gains = [r["gain"] for r in rows]
    return Verdict.of([gains[-1] > 0.9 * 7.29, gains == sorted(gains)], f"IQ/CQ uplink bits to the target: {said}")


def bits(evidence: Evidence, table: str, method: str, **where: Any) -> float:
    """Uplink bits of a method."""
    return evidence.value(table, "up_bits", method=method, **where)


def judge_equal_clients(evidence: Evidence) -> Verdict:
    """With equal clients MARINA + CQ needs fewer bits than MARINA + IQ at every n ≥ 10."""
    clients = sorted({r["n"] for r in evidence.tables["equal"]})
    gains = {n: bits(evidence, "equal", "MARINA IQ", n=n) / bits(evidence, "equal", "MARINA CQ", n=n) for n in clients}
    said = ", ".join(f"{gain:.2f} at n = {n}" for n, gain in gains.items())
    return Verdict.of([gain > 1 for n, gain in gains.items() if n >= 10], f"IQ/CQ uplink bits: {said}")


def judge_sgd(evidence: Evidence) -> Verdict:
    """MARINA + CQ needs fewer bits than distributed SGD with CQ at every n, with the theory's steps and with tuned ones."""
    clients = sorted({r["n"] for r in evidence.tables["equal"]})
    said, parts = [], []
    for kind, steps in (("", "theory's steps"), (" tuned", "tuned steps")):
        gains = [
            bits(evidence, "equal", f"SGD CQ{kind}", n=n) / bits(evidence, "equal", f"MARINA CQ{kind}", n=n)
            for n in clients
        ]
        parts += [gain > 1 for gain in gains]
        said.append(f"{steps}: " + ", ".join(f"{gain:.2f} at n = {n}" for n, gain in zip(clients, gains, strict=True)))
    return Verdict.of(parts, f"SGD/MARINA uplink bits (inf: not reached), both with CQ, {'; '.join(said)}")


def judge_sparse(evidence: Evidence) -> Verdict:
    """MARINA + CQ needs fewer bits than RandK and than PermK at the largest n."""
    n = max(r["n"] for r in evidence.tables["equal"])
    mine = bits(evidence, "equal", "MARINA CQ", n=n)
    ratios = {name: bits(evidence, "equal", f"MARINA {name}", n=n) / mine for name in ("RandK", "PermK")}
    said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Verdict.of([r > 1 for r in ratios.values()], f"uplink bits over CQ's at n = {n}: {said}")


def judge_different(evidence: Evidence) -> Verdict:
    """With different clients MARINA + CQ still needs no more bits than MARINA + IQ."""
    noises = sorted({r["s"] for r in evidence.tables["mixed"]})
    gains = {s: bits(evidence, "mixed", "MARINA IQ", s=s) / bits(evidence, "mixed", "MARINA CQ", s=s) for s in noises}
    said = ", ".join(f"{gain:.2f} at s = {s:g}" for s, gain in gains.items())
    return Verdict.of([gain >= 1 for gain in gains.values()], f"IQ/CQ uplink bits: {said}")


def judge_real(evidence: Evidence) -> Verdict:
    """On real data, all steps tuned, MARINA + CQ needs fewer bits than MARINA + IQ, and than SGD with CQ."""
    rows = evidence.tables["real"]
    mine = bits(evidence, "real", "MARINA CQ")
    others = {
        name: bits(evidence, "real", name) for name in ("MARINA IQ", "SGD CQ", "MARINA RandK", "MARINA PermK", "GD")
    }
    where = f"{rows[0]['data']}, ‖∇f‖² ≤ {rows[0]['target']:g}"
    if not np.isfinite(mine):
        there = ", ".join(name for name, needed in others.items() if np.isfinite(needed))
        return Verdict.of([False, False], f"{where}: MARINA CQ does not get there, nor do others than {there}")
    said = ", ".join(f"{name} {needed / mine:.2f}" for name, needed in others.items())
    parts = [others[name] > mine for name in ("MARINA IQ", "SGD CQ")]
    return Verdict.of(parts, f"{where}: uplink bits over MARINA CQ's (inf: not reached): {said}")


def sweep(evidence: Evidence, name: str, over: str, method: str) -> dict[Any, float]:
    """RMSE of a method by the value that is varied."""
    return {r[over]: r["rmse"] for r in evidence.rows("estimation", sweep=name, method=method)}


def judge_estimation(evidence: Evidence) -> Verdict:
    """CQ's RMSE is below IQ's throughout, grows with the deviation while IQ's does not, and falls faster with n."""
    cq, iq = (sweep(evidence, "sigma", "sigma", m) for m in ("CQ", "IQ"))
    small, large = min(cq), max(cq)
    over_n = {m: sweep(evidence, "n", "n", m) for m in ("CQ", "IQ")}
    n0, n1 = sorted(over_n["CQ"])[1], max(over_n["CQ"])
    slope = {m: np.log(e[n1] / e[n0]) / np.log(n1 / n0) for m, e in over_n.items()}
    pairs = zip(evidence.rows("estimation", method="CQ"), evidence.rows("estimation", method="IQ"), strict=True)
    everywhere = all(correlated["rmse"] < independent["rmse"] for correlated, independent in pairs)
    said = (
        f"IQ/CQ {iq[small] / cq[small]:.2f} at σ = {small:g}, {iq[large] / cq[large]:.2f} at σ = {large:g}; "
        f"RMSE ∝ n^{slope['CQ']:.2f} (CQ), n^{slope['IQ']:.2f} (IQ)"
    )
    return Verdict.of([everywhere, cq[large] > cq[small], slope["CQ"] < slope["IQ"] - 0.1], said)


# ---- figures ----------------------------------------------------------------------------------------------------------
def draw_quadratics(evidence: Evidence, figure: Any) -> None:
    """Equal clients: a panel of curves for each n, and the bits to the target over n."""
    panels_by_clients(
        figure,
        SHOWN,
        lambda name, n: evidence.curves[f"{name} n={n}"],
        lambda name, n: bits(evidence, "equal", name, n=n),
        up_bits,
        "uplink bits / n",
        sorted({r["n"] for r in evidence.tables["equal"]}),
        columns=4,
    )


def draw_estimation(evidence: Evidence, figure: Any) -> None:
    """RMSE of mean estimation against the deviation, k and n."""
    panels = figure.subplots(1, 3, sharey=True)
    labels = {"sigma": "mean deviation σ_md", "k": "levels k", "n": "clients n"}
    for ax, (name, label) in zip(panels, labels.items(), strict=True):
        column = {"sigma": "sigma_md", "k": "levels", "n": "n"}[name]
        for i, method in enumerate(("CQ", "IQ"), 1):
            error = sweep(evidence, name, column, method)
            series(
                ax, list(error), list(error.values()), {"CQ": "correlated", "IQ": "independent"}[method], i, markevery=1
            )
        ax.set(yscale="log", xlabel=label)
        plain_ticks(ax, [float(f"{value:.2g}") for value in error])
    panels[0].set_ylabel("RMSE of a coordinate")
    panels[0].legend(frameon=False)


def draw_gain(evidence: Evidence, figure: Any) -> None:
    """The gain over independent quantizers at n = d, promised and measured, with the published constants and with the right ones."""
    ax = figure.subplots()
    limit = {r["constants"]: r["gain"] for r in evidence.tables["limit"]}
    for i, constants in enumerate(("published", "right")):
        rows = evidence.rows("gain", constants=constants)
        n = [r["n"] for r in rows]
        series(ax, n, [r["promised"] for r in rows], f"{constants}: theory", i, linestyle="--", markevery=1)
        series(ax, n, [r["gain"] for r in rows], f"{constants}: measured", i, markevery=1)
        ax.axhline(limit[constants], color="#888888", linewidth=0.8, linestyle=":")
        ax.annotate(
            f"limit {limit[constants]:.2f}",
            (n[0], limit[constants]),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
        )
    plain_ticks(ax, n)
    ax.set(xlabel="n = d", ylabel="IQ bits / CQ bits", ylim=(0, None))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


@papers.register("correlated-quantization")
class CorrelatedQuantization(Reproduction):
    """The experiments of the paper as far as they are known, those of the authors' library, and those of Suresh et al. 2022."""

    summary = "MARINA with correlated quantizers against independent ones, RandK, PermK and SGD; constants and variance examined"
    paper = "Panferov, Demidovich, Rammal and Richtárik 2024, Correlated quantization (arXiv 2401.05518)"
    sizes: ClassVar = {
        "small": Size(32, (2, 10, 50, 400), 6000, 1e-7, (32, 128), (0.1, 0.5), 50, 6000, 60, (256, 100), 20, 4000, 50),
        "paper": Size(
            32,
            (2, 10, 50, 100, 200, 400),
            6000,
            1e-7,
            (32, 128, 512),
            (0.0, 0.5, 1.0),
            100,
            1500,
            200,
            (1024, 100),
            20,
            4000,
            50,
        ),
    }
    claims = (
        Claim(
            "exact-variance",
            "Ours: the exact variance formula of one-bit CQ is what is measured",
            judge_variance,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "never-worse",
            "CQ's variance is never above the independent quantizer's",
            judge_never_worse,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "bound",
            "Suresh et al.'s variance bound 3σ_md(r−l)/n + 12(r−l)²/n² holds",
            judge_bound,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "published-constant",
            "The published d/(4n²) bounds the variance of the one-bit quantizer that is sent",
            judge_published_variance,
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "limit",
            "The theoretical gain over independent quantizers at d = n is up to 7.29",
            judge_limit,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "gain",
            "Measured at d = n, MARINA + CQ needs at least about 7.29 times fewer bits than MARINA + IQ",
            judge_measured_gain,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "equal-clients",
            "With equal clients MARINA + CQ beats MARINA + IQ",
            judge_equal_clients,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "sgd",
            "With equal clients MARINA + CQ beats the distributed SGD of Suresh et al. (CQ)",
            judge_sgd,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "sparsifiers",
            "At many clients MARINA + CQ beats MARINA with RandK and with PermK",
            judge_sparse,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "different-clients",
            "With different clients MARINA + CQ is not worse than MARINA + IQ",
            judge_different,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "real-data",
            "On real data MARINA + CQ beats MARINA + IQ and SGD + CQ",
            judge_real,
            {"small": FAILS, "paper": HOLDS},
        ),
        Claim(
            "estimation",
            "Mean estimation: CQ's RMSE is below IQ's, grows with the deviation, and falls faster with n (σ = 0.01)",
            judge_estimation,
            {"small": HOLDS, "paper": HOLDS},
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("quadratics", draw_quadratics, (13.0, 3.6)),
        Figure("estimation", draw_estimation, (10.0, 3.4)),
        Figure("gain", draw_gain, (6.5, 3.2)),
        Figure("honest", draw_honest(up_bits, "uplink bits / n"), (12.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        runner.measured("variance", variance_table, dim=size.dim, clients=[2, 3, 7, 20, 100], draws=10 * size.draws)
        runner.measured(
            "estimation", estimation_table, dim=size.estimation[0], clients=size.estimation[1], draws=size.draws
        )
        runner.table("limit", limits())
        runner.table("gain", [row for n in size.square for row in gain(runner, size, n)])
        runner.table("equal", [row for n in size.clients for row in with_equal_clients(runner, size, n)])
        runner.table("mixed", [row for s in size.noises for row in mixed(runner, size, s)])
        runner.table("real", real(runner, size))
        runner.again_over_mpi([f"{name} n={size.shown}" for name in SHOWN])
        runs = {name: f"{name} n={size.shown} mpi" for name in SHOWN}
        measure_seconds(runner, runs, up_bits, size.target)


def with_equal_clients(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """Each method with its theory's step, and those of TUNED with the best one as well."""
    options: dict[str, Any] = {**quadratic(size.dim, n, 0.0, size.rounds), "tol": size.target}
    rows = []
    for name, (method, spec) in METHODS.items():
        more: dict[str, Any] = {**options, "method": method, "compressor": spec.format(k=max(1, size.dim // n))}
        runs = {name: runner.run(f"{name} n={n}", **more)}
        if name in TUNED:
            runs[f"{name} tuned"] = runner.tune(f"{name} tuned n={n}", FACTORS, size.target, **more)
        rows += [{"method": each, "n": n, **costs(stored, size.target)} for each, stored in runs.items()]
    return rows


def gain(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """IQ's bits over CQ's at d = n with equal clients, p and γ from each set of constants."""
    options = quadratic(n, n, 0.0, 4 * size.rounds)
    L = Quadratic(dim=n, clients=n, noise=0.0, reg=1e-2).smoothness().L
    c = (WIRE_BITS + n) / (WIRE_BITS * n)
    rows = []
    for constants, of in variances(n, n).items():
        bits, promised = {}, {}
        for name, a in of.items():
            p, promised[name] = expected_bits(a, c)
            step = marina_step(L, a * L**2, p)
            more: dict[str, Any] = {
                "method": f"marina:p={p:.6g}",
                "compressor": name.lower(),
                "step": repr(step),
                "tol": size.target,
            }
            stored = runner.run(f"{name} {constants} constants d=n={n}", **more, **options)
            bits[name] = costs(stored, size.target)["up_bits"]
        rows.append(
            {
                "constants": constants,
                "n": n,
                "gain": bits["IQ"] / bits["CQ"],
                "promised": promised["IQ"] / promised["CQ"],
            }
        )
    return rows


def mixed(runner: ExperimentRunner, size: Size, s: float) -> list[Row]:
    """Clients that differ: CQ and IQ with a common radius, whose theory sees L±, PermK, and both together."""
    options = quadratic(4 * size.dim, size.mixed, s, size.mixed_rounds)
    specs = {
        "MARINA CQ": "cq:radius=common",
        "MARINA IQ": "iq:radius=common",
        "MARINA PermK": "permk",
        "MARINA PermK+CQ": f"permk-cq:parts={max(size.mixed // 5, 1)}",
    }
    runs = {
        name: runner.run(f"{name} s={s:g}", method="marina", compressor=spec, **options) for name, spec in specs.items()
    }
    target = common_target(list(runs.values()))
    return [{"method": name, "s": s, **costs(stored, target)} for name, stored in runs.items()]


def real(runner: ExperimentRunner, size: Size) -> list[Row]:
    """Logistic regression with the nonconvex regulariser on phishing, or on mushrooms where that is not here; all steps tuned."""
    data = runner.data("phishing", "mushrooms")
    options: dict[str, Any] = {
        "problem": {"name": "logistic", "reg": 0.01},
        "data": data,
        "clients": size.real_clients,
        "partition": "shuffled",
        "wire_dtype": "float32",
        "rounds": size.real_rounds,
        "eval_every": 10,
    }
    rows = []
    for name, (method, spec) in METHODS.items():
        more: dict[str, Any] = {"method": method, "compressor": spec.format(k=max(1, 68 // size.real_clients))}
        stored = runner.tune(f"{name} real", FACTORS, REAL_TARGET, **more, **options)
        rows.append({"method": name, "data": Path(data).stem, **costs(stored, REAL_TARGET)})
    return rows
