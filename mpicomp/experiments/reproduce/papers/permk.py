"""Permutation compressors: who wins by how much over n and heterogeneity."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ...study.compare import common_target
from ..axes import column, up_bits
from ..drawing import Line, convergence, decimal_ticks, plain_ticks, series, shared_legend
from ..effects import Effect
from ..evidence import Evidence, Row
from ..repeated import by_seed, with_seeds
from ..reproduction import FAILS, HOLDS, IN_PART, SEEDS, UNDECIDED, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "GD": ("gd", None),
    "MARINA PermK": ("marina", "permk"),
    "MARINA RandK": ("marina", "randk:k={k}"),
    "EF21 TopK": ("ef21", "topk:k={k}"),
}
NAMES = tuple(METHODS)
RANDOM = ("MARINA PermK", "MARINA RandK")
TIE = 1.1  # of bits


@dataclass(frozen=True)
class Size:
    """The grid.

    Attributes
    ----------
    dim, reg : d and λ. rounds : by n. noises : the s. seeds : of the methods that are random.
    shown, shown_rounds : n of the runs over MPI, and the rounds within which all methods must have got where these end.
    """

    dim: int
    reg: float
    rounds: dict[int, int]
    noises: tuple[float, ...]
    seeds: int
    shown: int
    shown_rounds: int

    def options(self, n: int, s: float) -> dict[str, Any]:
        """What all runs at a point of the grid have in common."""
        return {
            "problem": {"name": "quadratic", "dim": self.dim, "noise": s, "reg": self.reg},
            "clients": n,
            "init": "paper",
            "wire_dtype": "float32",
            "rounds": self.rounds[n],
            "eval_every": max(1, self.rounds[n] // 120),
        }


# ---- what was measured ------------------------------------------------------------------------------------------------
def label(name: str, n: int, s: float) -> str:
    """Of a curve."""
    return f"{name} n={n} s={s:g}"


def ratios(
    evidence: Evidence, counted: str, more: str, less: str, n: int, s: float, table: str = "grid"
) -> tuple[list[float], list[float]]:
    """What two methods took of `counted` at (n, s), seed by seed."""
    both = (by_seed(evidence, table, counted, method=method, n=n, s=s) for method in (more, less))
    return next(both), next(both)


def gains(evidence: Evidence, counted: str, more: str, less: str, n: int, s: float, table: str = "grid") -> list[float]:
    """How many times as much of `counted` the method `more` took as `less`, seed by seed."""
    return [a / b for a, b in zip(*ratios(evidence, counted, more, less, n, s, table), strict=True)]


def mean_gain(evidence: Evidence, counted: str, more: str, less: str, n: int, s: float) -> float:
    """Their geometric mean, for figures; NaN where some seeds did not get there."""
    return float(np.exp(Effect.factor("", *ratios(evidence, counted, more, less, n, s)).mean))


def axes_of(evidence: Evidence) -> tuple[list[int], list[float]]:
    """All n and all s of the grid."""
    rows = evidence.tables["grid"]
    return sorted({r["n"] for r in rows}), sorted({r["s"] for r in rows})


# ---- claims -----------------------------------------------------------------------------------------------------------
PERMK, RANDK = RANDOM


def judge_homogeneous(evidence: Evidence) -> Verdict:
    """At the smallest s, for every n: every other method takes more bits than PermK."""
    clients, noises = axes_of(evidence)
    effects = [
        Effect.factor(f"n = {n}, {other}", *ratios(evidence, "up_bits", other, PERMK, n, noises[0]))
        for n in clients
        for other in NAMES
        if other != PERMK
    ]
    return Verdict.tested(effects, f"uplink bits over PermK's, s = {noises[0]:g}: ")


def judge_growth(evidence: Evidence) -> Verdict:
    """With the theory's steps at s = 0, RandK's bits over PermK's grow with n up to n = d, and are not above √n."""
    rows = {row["n"]: row for row in evidence.tables["theory"]}
    of_n = {n: ratios(evidence, "up_bits", RANDK, PERMK, n, 0.0, "theory") for n in rows}
    effects = []
    for n, both in of_n.items():
        promised = rows[n]["promised"]
        effects.append(Effect.factor(f"n = {n}, at least 1:", *both))
        effects.append(Effect.factor(f"at most {promised:.1f}:", *both, needed=1.1 * promised, at_most=True))
    for small, large in pairwise([n for n in rows if n <= rows[n]["d"]]):
        more, less = (gains(evidence, "up_bits", RANDK, PERMK, n, 0.0, "theory") for n in (large, small))
        effects.append(Effect.factor(f"growth from n = {small} to {large}:", more, less))
    return Verdict.tested(effects, "RandK/PermK uplink bits: ")


def judge_gradient_descent(evidence: Evidence) -> Verdict:
    """With the theory's step at s = 0, PermK's iterates are those of gradient descent; the bits saved are n/(2 − 1/n) within 15 %."""
    effects = []
    for n in dict.fromkeys(row["n"] for row in evidence.tables["identity"]):
        rows = evidence.rows("identity", n=n)
        largest = max(row["difference"] for row in rows)
        effects.append(Effect.exact(f"n = {n}: ‖∇f‖² differ by", largest, 1e-4, at_most=True))
        saved = [row["saving"] for row in rows], [row["promised"] for row in rows]
        effects.append(Effect.factor(f"n = {n}: saving over n/(2−1/n) = {saved[1][0]:.2f},", *saved, needed=0.85))
        effects.append(Effect.factor("and", *saved, needed=1.15, at_most=True))
    return Verdict.tested(effects)


def judge_shrinking(evidence: Evidence) -> Verdict:
    """For every n, PermK's advantage over RandK at the largest s is smaller than at the smallest."""
    clients, noises = axes_of(evidence)
    effects = []
    for n in clients:
        first, last = (gains(evidence, "up_bits", RANDK, PERMK, n, s) for s in (noises[0], noises[-1]))
        effects.append(Effect.factor(f"n = {n}", first, last))
    return Verdict.tested(effects, f"RandK/PermK bits at s = {noises[0]:g} over those at s = {noises[-1]:g}: ")


def judge_ef21(evidence: Evidence) -> Verdict:
    """At the largest s EF21 with TopK takes no more bits (10 % are a tie) than PermK."""
    clients, noises = axes_of(evidence)
    effects = [
        Effect.factor(f"n = {n}", *ratios(evidence, "up_bits", "EF21 TopK", PERMK, n, noises[-1]), TIE, at_most=True)
        for n in clients
    ]
    return Verdict.tested(effects, f"EF21/PermK bits at s = {noises[-1]:g}: ")


def judge_both_directions(evidence: Evidence) -> Verdict:
    """PermK's saving over gradient descent in both directions together is at least nine tenths of that of the uplink."""
    clients, noises = axes_of(evidence)
    effects, said = [], []
    for n in clients:
        up, both = (gains(evidence, c, "GD", PERMK, n, noises[0]) for c in ("up_bits", "both_bits"))
        effects.append(Effect.factor(f"n = {n}", both, up, 0.9))
        said.append(f"{np.mean(up):.1f}× up, {np.mean(both):.2f}× up and down at n = {n}")
    return Verdict.tested(
        effects, "saving up and down over that of the uplink: ", f"; savings over GD: {', '.join(said)}"
    )


# ---- figures ----------------------------------------------------------------------------------------------------------
def lines(evidence: Evidence, n: int, s: float, suffix: str = "") -> list[Line]:
    """The curves of a panel."""
    return [Line(name, evidence.curves[label(name, n, s) + suffix], i) for i, name in enumerate(NAMES)]


def draw_grid(evidence: Evidence, figure: Any) -> None:
    """The paper's figure: a panel for each n and s."""
    clients, noises = axes_of(evidence)
    panels = figure.subplots(len(clients), len(noises), squeeze=False, sharey="row")
    for row, n in zip(panels, clients, strict=True):
        for ax, s in zip(row, noises, strict=True):
            shown = lines(evidence, n, s)
            convergence(ax, shown, up_bits, "uplink bits / n" if n == clients[-1] else "")
            ax.set_title(f"n = {n}, s = {s:g}")
            taken = [r["up_bits"] for r in evidence.rows("grid", n=n, s=s) if r["method"] != "GD"]
            most = max(bits for bits in taken if np.isfinite(bits))
            ax.set_xlim(0, 1.15 * most)
            if s != noises[0]:
                ax.set_ylabel("")
    shared_legend(figure, panels[0, 0])


def draw_gain(evidence: Evidence, figure: Any) -> None:
    """RandK's bits over PermK's against n, a line for each s; the same with the downlink counted."""
    clients, noises = axes_of(evidence)
    titles = {"up_bits": "uplink bits as the paper counts", "both_bits": "uplink and downlink bits"}
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (counted, title) in zip(panels, titles.items(), strict=True):
        for i, s in enumerate(noises):
            shown = [mean_gain(evidence, counted, RANDK, PERMK, n, s) for n in clients]
            series(ax, clients, shown, f"s = {s:g}", i)
        plain_ticks(ax, clients)
        ax.set_yscale("log")
        decimal_ticks(ax.yaxis)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.axhline(1.0, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_title(title)
        ax.set_xlabel("clients n")
    panels[0].set_ylabel("RandK / PermK")
    panels[0].legend(frameon=False)


@papers.register("permk")
class PermKReproduction(Reproduction):
    """The quadratic task of the paper's experiments: MARINA with PermK and with RandK, EF21 with TopK, K = d/n, over n and s."""

    summary = "n × heterogeneity: MARINA with PermK, with RandK, EF21 with TopK"
    paper = "Szlendak, Tyurin and Richtárik 2022, Permutation compressors (arXiv 2110.03300)"
    sizes: ClassVar = {
        "small": Size(100, 1e-4, {10: 3000, 100: 3000, 400: 3000}, (0.0, 0.1, 0.8), SEEDS, 10, 1000),
        "paper": Size(1000, 1e-6, {10: 10000, 100: 10000, 1000: 1000}, (0.0, 0.1, 0.8), SEEDS, 10, 200),
    }
    claims = (
        Claim(
            "homogeneous",
            "With equal clients (s = 0) MARINA + PermK needs the fewest uplink bits",
            judge_homogeneous,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "growth",
            "With the theory's steps at s = 0 the advantage over RandK grows with n up to n = d, by at most √n (1 + d/√n for n > d)",
            judge_growth,
            {"small": IN_PART},
            SEEDS,
        ),
        Claim(
            "is-gd",
            "At s = 0, d ≥ n, MARINA + PermK makes gradient descent's steps with n/2 times fewer uplink bits",
            judge_gradient_descent,
            {"small": HOLDS},
            SEEDS,
        ),
        Claim(
            "shrinks",
            "PermK's advantage over RandK shrinks as s grows",
            judge_shrinking,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "ef21",
            "With very different clients EF21 + TopK wins or ties",
            judge_ef21,
            {"small": UNDECIDED},
            SEEDS,
        ),
        Claim(
            "both-ways",
            "Not in the paper: the saving over gradient descent is as large where the downlink counts, too",
            judge_both_directions,
            {"small": FAILS},
            SEEDS,
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("grid", draw_grid, (10.0, 8.4)),
        Figure("gain", draw_gain, (8.5, 3.6)),
        Figure("honest", draw_honest(up_bits, "uplink bits / n"), (11.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        runner.table(
            "grid", [row for n in size.rounds for s in size.noises for row in measure_point(runner, size, n, s)]
        )
        runner.table("theory", [row for n in size.rounds for row in with_theory(runner, size, n)])
        runner.table("identity", [row for n in size.rounds if n <= size.dim for row in identity(runner, size, n)])
        for s in (size.noises[-1], size.noises[0]):
            labels = {name: label(name, size.shown, s) for name in NAMES}
            target = early_target([runner.evidence.curves[name] for name in labels.values()], size.shown_rounds)
            runner.again_over_mpi(labels.values(), target)
        measure_seconds(runner, {name: f"{shown} mpi" for name, shown in labels.items()}, up_bits, target)


def parts(name: str, size: Size, n: int) -> dict[str, Any]:
    """A method's options at n clients."""
    method, compressor = METHODS[name]
    sent = {} if compressor is None else {"compressor": compressor.format(k=max(1, size.dim // n))}
    return {"method": method, **sent}


def measure_point(runner: ExperimentRunner, size: Size, n: int, s: float) -> list[Row]:
    """What each method took at (n, s), all steps tuned, to where GD with 1/L is after a quarter of the rounds; a row for each seed."""
    options = size.options(n, s)
    dense = runner.run(f"{label('GD', n, s)} theory", method="gd", **options)
    target = early_target([dense], size.rounds[n] // 4)
    rows = []
    for name in NAMES:
        own = {**options, **parts(name, size, n)}
        found = with_seeds(runner, label(name, n, s), target, size.seeds, random=name in RANDOM, **own)
        rows += [{"method": name, "n": n, "s": s, **row} for row in found]
    return rows


def with_theory(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """PermK and RandK with the theory's steps at s = 0. The promise: √n for n ≤ d, 1 + d/√n beyond."""
    options = size.options(n, 0.0)
    runs = [runner.run(f"{label(name, n, 0)} theory", **parts(name, size, n), **options) for name in RANDOM]
    target = TIE * common_target(runs)  # which other seeds get to within the same rounds, or nearly
    promised = n**0.5 if n <= size.dim else 1 + size.dim / n**0.5
    rows = []
    for name in RANDOM:
        own = {**options, **parts(name, size, n), "rounds": 2 * size.rounds[n]}
        found = with_seeds(runner, f"{label(name, n, 0)} theory, to a target", target, size.seeds, tuned=False, **own)
        rows += [{"method": name, "n": n, "s": 0.0, "d": size.dim, "promised": promised, **row} for row in found]
    return rows


def identity(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """MARINA + PermK with the theory's step beside gradient descent with its, at s = 0; a row for each seed."""
    dense = runner.evidence.curves[f"{label('GD', n, 0)} theory"]
    runs = runner.seeds(f"{label(PERMK, n, 0)} theory", size.seeds, **parts(PERMK, size, n), **size.options(n, 0.0))
    rows = []
    for seed, marina in enumerate(runs, 1):
        a, b = (column(run, "grad_norm_sq") for run in (dense, marina))
        rows.append(
            {
                "n": n,
                "seed": seed,
                "difference": float(abs(a - b).max() / a.max()),
                "saving": float(up_bits(dense)[-1] / up_bits(marina)[-1]),
                "promised": n / (2 - 1 / n),
            }
        )
    return rows
