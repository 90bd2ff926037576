"""MARINA with correlated quantizers: the variance, the constants, the gain over independent ones, mean estimation, real data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...runtime import Quadratic, marina_step
from ..axes import up_bits
from ..drawing import panels_by_clients, plain_ticks, series
from ..effects import Effect
from ..evidence import Evidence, Row
from ..quantizers import (
    ONE_BIT,
    SIGN_MAGNITUDE,
    WIRE_BITS,
    estimation_table,
    expected_bits,
    forms_table,
    limits,
    variance_table,
    variances,
)
from ..repeated import by_seed, pair_by_seed, with_seeds
from ..reproduction import FAILS, HOLDS, IN_PART, SEEDS, UNDECIDED, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "GD": ("gd", "identity"),
    "MARINA CQ": ("marina:p=bits", "cq"),
    "MARINA IQ": ("marina:p=bits", "iq"),
    "MARINA CQ ±": ("marina:p=bits", "cq:variant=sign-magnitude"),  # the sign-and-magnitude form {−r, 0, r}
    "MARINA IQ ±": ("marina:p=bits", "iq:variant=sign-magnitude"),
    "MARINA RandK": ("marina", "randk:k={k}"),
    "MARINA PermK": ("marina", "permk"),
    "SGD CQ": ("dcgd", "cq"),  # Suresh et al. 2022; its theory's step depends on the number of rounds and is very small
}
TUNED = ("MARINA CQ", "SGD CQ")  # also run with the best step
SHOWN = (*METHODS, *(f"{name} tuned" for name in TUNED))
PAIRS = {"one bit": ("MARINA IQ", "MARINA CQ"), "sign and magnitude": ("MARINA IQ ±", "MARINA CQ ±")}
REAL_TARGET = 1e-7


@dataclass(frozen=True)
class Size:
    """Of the experiments.

    Attributes
    ----------
    dim, clients, rounds, target : of the quadratics with equal clients, stopped at ‖∇f‖² ≤ target.
    square : the n = d for which the gain over independent quantizers is measured.
    noises, mixed, mixed_rounds : the s, the n, and the rounds of the quadratics with different clients.
    draws, estimation : rounds of mean estimation, and (d, n) of it, n the largest.
    real_clients, real_rounds : of logistic regression. shown : n of the runs over MPI. seeds : of all that is random.
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
    seeds: int


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


def judge_library_constant(evidence: Evidence, form: str) -> Verdict:
    """The library's constant d/(4n²) bounds the measured variance of this form for equal inputs."""
    rows = evidence.rows("forms", form=form)
    said = ", ".join(f"{r['ratio']:.2f} at n = {r['n']}" for r in rows)
    return Verdict.of([r["ratio"] <= 1 + 4 * r["standard_error"] for r in rows], f"measured/(d/4n²): {said}")


def judge_bound(evidence: Evidence) -> Verdict:
    """Suresh et al.'s bound 3σ_md(r−l)/n + 12(r−l)²/n² holds."""
    rows = evidence.tables["variance"]
    ratios = [r["published_bound"] / r["measured"] for r in rows]
    return Verdict.of([x >= 1 for x in ratios], f"bound/measured from {min(ratios):.1f} to {max(ratios):.0f}")


def judge_limit(evidence: Evidence) -> Verdict:
    """The gain at d = n → ∞ is 7.29 with the library's constants and one bit an entry."""
    gain = evidence.value("limit", "gain", constants="published", bits=1.0)
    return Verdict.of([abs(gain - 7.29) < 0.01], f"IQ/CQ expected bits: {gain:.2f}")


def judge_honest_limit(evidence: Evidence) -> Verdict:
    """It is 7.29 for a quantizer whose constants and bits belong together."""
    own = [r for r in evidence.tables["limit"] if (r["constants"] == "right") == (r["bits"] == 1.0)]
    names = {"right": "one bit", "published": "sign and magnitude"}
    said = ", ".join(f"{r['gain']:.2f} for {names[r['constants']]} ({r['bits']:.3g} bits)" for r in own)
    return Verdict.of([abs(r["gain"] - 7.29) < 0.01 for r in own], f"IQ/CQ expected bits: {said}")


def judge_measured_gain(evidence: Evidence) -> Verdict:
    """Measured at n = d with the one-bit form's own constants, the gain is at least nine tenths of 7.29 at the largest n, and grows."""
    sizes = sorted({r["n"] for r in evidence.tables["gain"]})
    of_n = {n: pair_by_seed(evidence, "gain", "up_bits", "method", ("IQ", "CQ"), n=n) for n in sizes}
    effects = [Effect.factor(f"n = d = {sizes[-1]}", *of_n[sizes[-1]], 0.9 * 7.29)]
    small, large = ([a / b for a, b in zip(*of_n[n], strict=True)] for n in (sizes[0], sizes[-1]))
    effects.append(Effect.factor(f"growth from {sizes[0]} to {sizes[-1]}", large, small))
    promised = ", ".join(f"{evidence.rows('gain', n=n)[0]['promised']:.2f} at {n}" for n in sizes)
    return Verdict.tested(effects, "IQ/CQ uplink bits to the target: ", f"; by theory {promised}")


def over(evidence: Evidence, table: str, more: str, less: str, name: str, needed: float = 1.0, **where: Any) -> Effect:
    """Uplink bits of one method over another's."""
    return Effect.factor(name, *pair_by_seed(evidence, table, "up_bits", "method", (more, less), **where), needed)


def clients(evidence: Evidence) -> list[int]:
    """All n of the quadratics with equal clients."""
    return sorted({r["n"] for r in evidence.tables["equal"]})


def judge_equal_clients(evidence: Evidence) -> Verdict:
    """With equal clients MARINA + CQ needs fewer bits than MARINA + IQ at every n ≥ 10, in both forms."""
    effects = [
        over(evidence, "equal", more, less, f"{form}, n = {n}", n=n)
        for form, (more, less) in PAIRS.items()
        for n in clients(evidence)
        if n >= 10
    ]
    return Verdict.tested(effects, "IQ/CQ uplink bits: ")


def judge_sgd(evidence: Evidence, kind: str) -> Verdict:
    """MARINA + CQ needs fewer bits than distributed SGD with CQ at every n; kind : "" with the theory's steps, " tuned" with the best."""
    effects = [over(evidence, "equal", f"SGD CQ{kind}", f"MARINA CQ{kind}", f"n = {n}", n=n) for n in clients(evidence)]
    return Verdict.tested(effects, "SGD/MARINA uplink bits, both with CQ: ")


def judge_sparse(evidence: Evidence) -> Verdict:
    """MARINA + CQ needs fewer bits than RandK and than PermK at the largest n."""
    n = max(clients(evidence))
    effects = [over(evidence, "equal", f"MARINA {name}", "MARINA CQ", name, n=n) for name in ("RandK", "PermK")]
    return Verdict.tested(effects, f"uplink bits over CQ's at n = {n}: ")


def judge_different(evidence: Evidence) -> Verdict:
    """With different clients MARINA + CQ needs no more bits than MARINA + IQ (2 % are a tie)."""
    noises = sorted({r["s"] for r in evidence.tables["mixed"]})
    effects = [over(evidence, "mixed", "MARINA IQ", "MARINA CQ", f"s = {s:g}", 0.98, s=s) for s in noises]
    return Verdict.tested(effects, "IQ/CQ uplink bits: ")


def judge_real(evidence: Evidence) -> Verdict:
    """On real data, all steps tuned, MARINA + CQ needs fewer bits than MARINA + IQ, and than SGD with CQ."""
    row = evidence.tables["real"][0]
    effects = [over(evidence, "real", name, "MARINA CQ", name) for name in ("MARINA IQ", "SGD CQ")]
    effects.append(over(evidence, "real", *PAIRS["sign and magnitude"], "sign and magnitude IQ/CQ"))
    others = ("MARINA RandK", "MARINA PermK", "GD")
    said = ", ".join(f"{name} {over(evidence, 'real', name, 'MARINA CQ', '').size()}" for name in others)
    return Verdict.tested(
        effects, f"{row['data']}, ‖∇f‖² ≤ {row['target']:g}: uplink bits over MARINA CQ's: ", f"; others: {said}"
    )


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
        lambda name, n: float(np.mean(by_seed(evidence, "equal", "up_bits", method=name, n=n))),
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
    """The gain over independent quantizers at n = d, promised and measured, with the one-bit form's constants; limits of all readings."""
    ax = figure.subplots()
    sizes = sorted({r["n"] for r in evidence.tables["gain"]})
    measured = []
    for n in sizes:
        both = pair_by_seed(evidence, "gain", "up_bits", "method", ("IQ", "CQ"), n=n)
        measured.append(float(np.exp(np.mean([np.log(a / b) for a, b in zip(*both, strict=True)]))))
    promised = [evidence.rows("gain", n=n)[0]["promised"] for n in sizes]
    series(ax, sizes, promised, "one bit: theory", 0, linestyle="--", markevery=1)
    series(ax, sizes, measured, "one bit: measured", 0, markevery=1)
    for row in evidence.tables["limit"]:
        ax.axhline(row["gain"], color="#888888", linewidth=0.8, linestyle=":")
        text = f"limit {row['gain']:.2f}: {row['constants']} constants, {row['bits']:.3g} bits"
        ax.annotate(text, (sizes[0], row["gain"]), xytext=(0, 2), textcoords="offset points", fontsize=7)
    plain_ticks(ax, sizes)
    ax.set(xlabel="n = d", ylabel="IQ bits / CQ bits", ylim=(0, None))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


@papers.register("correlated-quantization")
class CorrelatedQuantization(Reproduction):
    """The experiments of the paper as far as they are known, those of the authors' library, and those of Suresh et al. 2022."""

    summary = "MARINA with correlated quantizers against independent ones, RandK, PermK and SGD; constants and variance examined"
    paper = "Panferov, Demidovich, Rammal and Richtárik 2024, Correlated quantization (arXiv 2401.05518)"
    sizes: ClassVar = {
        "small": Size(
            32, (2, 10, 50, 400), 6000, 1e-7, (32, 128), (0.1, 0.5), 50, 3000, 60, (256, 100), 20, 4000, 50, SEEDS
        ),
        "paper": Size(
            32, (2, 10, 50, 100, 200, 400), 6000, 1e-7, (32, 128, 512), (0.0, 0.5, 1.0), 100, 1500, 200, (1024, 100), 20,
            4000, 50, SEEDS,
        ),
    }  # fmt: skip
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
            "library-constant",
            "The constant d/(4n²) of an author's library bounds the variance of the sign-and-magnitude form {−r, 0, r}",
            partial(judge_library_constant, form=SIGN_MAGNITUDE),
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "library-constant-one-bit",
            "So it does of the one-bit form {−r, r}, which that library sends",
            partial(judge_library_constant, form=ONE_BIT),
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "limit",
            "The theoretical gain over independent quantizers at d = n is up to 7.29: read with the library's constants and one bit",
            judge_limit,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "honest-limit",
            "The same number read for either form with its own bits: one bit, or log₂ 3 or 2 bits for sign and magnitude",
            judge_honest_limit,
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "gain",
            "Measured at d = n, MARINA + CQ needs at least about 7.29 times fewer bits than MARINA + IQ (one bit, its own constants)",
            judge_measured_gain,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "equal-clients",
            "With equal clients MARINA + CQ beats MARINA + IQ",
            judge_equal_clients,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "sgd",
            "With equal clients MARINA + CQ beats the distributed SGD of Suresh et al. (CQ) by the theory's steps",
            partial(judge_sgd, kind=""),
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "sgd-tuned",
            "Not in the paper, which compares communication complexities: so it does with tuned steps",
            partial(judge_sgd, kind=" tuned"),
            {"small": FAILS},
            SEEDS,
        ),
        Claim(
            "sparsifiers",
            "At many clients MARINA + CQ beats MARINA with RandK and with PermK",
            judge_sparse,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "different-clients",
            "With different clients MARINA + CQ is not worse than MARINA + IQ",
            judge_different,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "real-data",
            "On real data MARINA + CQ beats MARINA + IQ and SGD + CQ",
            judge_real,
            {"small": UNDECIDED},
            SEEDS,
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
        runner.measured("forms", forms_table, dim=64, clients=[2, 3, 7, 20, 100], draws=10 * size.draws)
        runner.table("limit", limits())
        runner.table("gain", [row for n in size.square for row in gain(runner, size, n)])
        runner.table("equal", [row for n in size.clients for row in with_equal_clients(runner, size, n)])
        runner.table("mixed", [row for s in size.noises for row in mixed(runner, size, s)])
        runner.table("real", real(runner, size))
        runner.again_over_mpi([f"{name} n={size.shown}" for name in SHOWN])
        runs = {name: f"{name} n={size.shown} mpi" for name in SHOWN}
        measure_seconds(runner, runs, up_bits, size.target)


def with_equal_clients(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """Each method with its theory's step, and those of TUNED with the best one as well; a row for each seed."""
    options = quadratic(size.dim, n, 0.0, size.rounds)
    rows = []
    for name, (method, spec) in METHODS.items():
        own: dict[str, Any] = {**options, "method": method, "compressor": spec.format(k=max(1, size.dim // n))}
        for kind, tuned in (("", False), (" tuned", True)):
            if not tuned or name in TUNED:
                curve, random = f"{name}{kind} n={n}", name != "GD"
                found = with_seeds(runner, curve, size.target, size.seeds, tuned=tuned, random=random, **own)
                rows += [{"method": name + kind, "n": n, **row} for row in found]
    return rows


def gain(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """IQ and CQ at d = n with equal clients, p and γ from the one-bit form's own constants; a row for each seed."""
    options = quadratic(n, n, 0.0, 4 * size.rounds)
    L = Quadratic(dim=n, clients=n, noise=0.0, reg=1e-2).smoothness().L
    c = (WIRE_BITS + n) / (WIRE_BITS * n)
    of = variances(n, n)["right"]
    chosen = {name: expected_bits(a, c) for name, a in of.items()}
    promised = chosen["IQ"][1] / chosen["CQ"][1]
    rows = []
    for name, a in of.items():
        p = chosen[name][0]
        own: dict[str, Any] = {
            **options, "method": f"marina:p={p:.6g}", "compressor": name.lower(), "step": repr(marina_step(L, a * L**2, p)),
        }  # fmt: skip
        found = with_seeds(runner, f"{name} d=n={n}", size.target, size.seeds, tuned=False, **own)
        rows += [{"method": name, "n": n, "promised": promised, **row} for row in found]
    return rows


def mixed(runner: ExperimentRunner, size: Size, s: float) -> list[Row]:
    """Clients that differ: CQ and IQ with a common radius, whose theory sees L±, PermK, and both together, with the theory's steps.

    The target is what all of them get to within half the rounds, with seed 0.
    """
    options = quadratic(4 * size.dim, size.mixed, s, size.mixed_rounds)
    specs = {
        "MARINA CQ": "cq:radius=common",
        "MARINA IQ": "iq:radius=common",
        "MARINA PermK": "permk",
        "MARINA PermK+CQ": f"permk-cq:parts={max(size.mixed // 5, 1)}",
    }
    runs = [runner.run(f"{name} s={s:g}", method="marina", compressor=spec, **options) for name, spec in specs.items()]
    target = early_target(runs, size.mixed_rounds // 2)
    rows = []
    for name, spec in specs.items():
        own = {**options, "method": "marina", "compressor": spec}
        found = with_seeds(runner, f"{name} s={s:g} to a target", target, size.seeds, tuned=False, **own)
        rows += [{"method": name, "s": s, **row} for row in found]
    return rows


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
        own: dict[str, Any] = {
            "method": method,
            "compressor": spec.format(k=max(1, 68 // size.real_clients)),
            **options,
        }
        found = with_seeds(runner, f"{name} real", REAL_TARGET, size.seeds, random=name != "GD", **own)
        rows += [{"method": name, "data": Path(data).stem, **row} for row in found]
    return rows
