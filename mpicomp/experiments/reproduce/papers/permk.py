"""Permutation compressors: who wins by how much over n and heterogeneity."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from ...study.compare import Stored, common_target
from ..axes import column, costs, up_bits
from ..drawing import Line, convergence, decimal_ticks, plain_ticks, series, shared_legend
from ..evidence import Evidence, Row
from ..reproduction import FAILS, HOLDS, IN_PART, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

METHODS = {
    "MARINA PermK": ("marina", "permk"),
    "MARINA RandK": ("marina", "randk:k={k}"),
    "EF21 TopK": ("ef21", "topk:k={k}"),
}
NAMES = ("GD", *METHODS)
EF21_FACTORS = tuple(8.0 * 4**j for j in range(8))  # from 8 on, as in the paper; each second one, since there are many


@dataclass(frozen=True)
class Size:
    """The grid.

    Attributes
    ----------
    dim, reg : d and λ. rounds : by n. noises : the s.
    factors : MARINA's steps are these times the theory's, as far as they help.
    shown, shown_rounds : n of the runs over MPI, and the rounds within which all methods must have got where these end.
    """

    dim: int
    reg: float
    rounds: dict[int, int]
    noises: tuple[float, ...]
    factors: tuple[float, ...]
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


def compare(curves: dict[str, Stored], n: int, s: float) -> list[Row]:
    """A row for each method: what it took to the smallest ‖∇f‖² that all of them reached."""
    target = common_target(list(curves.values()))
    return [{"method": name, "n": n, "s": s, **costs(stored, target)} for name, stored in curves.items()]


def ratio(evidence: Evidence, counted: str, more: str, less: str, n: int, s: float) -> float:
    """How many times as much of `counted` the method `more` took as `less`, at (n, s)."""
    return evidence.value("grid", counted, method=more, n=n, s=s) / evidence.value(
        "grid", counted, method=less, n=n, s=s
    )


def axes_of(evidence: Evidence) -> tuple[list[int], list[float]]:
    """All n and all s of the grid."""
    rows = evidence.tables["grid"]
    return sorted({r["n"] for r in rows}), sorted({r["s"] for r in rows})


# ---- claims -----------------------------------------------------------------------------------------------------------
def judge_homogeneous(evidence: Evidence) -> Verdict:
    """At the smallest s, for every n: the fewest bits are PermK's."""
    clients, noises = axes_of(evidence)
    parts, said = [], []
    for n in clients:
        bits = {r["method"]: r["up_bits"] for r in evidence.rows("grid", n=n, s=noises[0])}
        best = min(bits, key=lambda name: bits[name])
        parts.append(best == "MARINA PermK")
        others = ", ".join(f"{bits[m] / bits['MARINA PermK']:.2f}× {m}" for m in NAMES if m != "MARINA PermK")
        said.append(f"n = {n}: {others}")
    return Verdict.of(parts, f"bits against PermK's, s = {noises[0]:g}: " + "; ".join(said))


def judge_growth(evidence: Evidence) -> Verdict:
    """With the theory's steps at s = 0, RandK's bits over PermK's grow with n up to n = d, and are not above √n."""
    rows = evidence.tables["theory"]
    gains = [r["gain"] for r in rows if r["n"] <= r["d"]]
    said = ", ".join(f"{r['gain']:.2f} at n = {r['n']} (≤ {r['promised']:.1f} promised)" for r in rows)
    parts = [*(b > a for a, b in pairwise(gains)), *(1 < r["gain"] < 1.1 * r["promised"] for r in rows)]
    return Verdict.of(parts, f"RandK/PermK uplink bits: {said}")


def judge_gradient_descent(evidence: Evidence) -> Verdict:
    """With the theory's step at s = 0, PermK's iterates are those of gradient descent."""
    rows = evidence.tables["identity"]
    said = [
        f"n = {r['n']}: ‖∇f‖² differ by {r['difference']:.1e}, {r['saving']:.2f}× fewer bits (n/(2−1/n) = {r['promised']:.2f})"
        for r in rows
    ]
    return Verdict.of(
        [r["difference"] < 1e-4 and abs(r["saving"] / r["promised"] - 1) < 0.15 for r in rows], "; ".join(said)
    )


def judge_shrinking(evidence: Evidence) -> Verdict:
    """For every n, PermK's advantage over RandK at the largest s is smaller than at the smallest."""
    clients, noises = axes_of(evidence)
    parts, said = [], []
    for n in clients:
        gains = [ratio(evidence, "up_bits", "MARINA RandK", "MARINA PermK", n, s) for s in noises]
        parts.append(gains[-1] < gains[0])
        said.append(f"n = {n}: " + ", ".join(f"{g:.2f} at s = {s:g}" for s, g in zip(noises, gains, strict=True)))
    return Verdict.of(parts, "RandK/PermK bits: " + "; ".join(said))


def judge_ef21(evidence: Evidence) -> Verdict:
    """At the largest s EF21 with TopK takes no more bits (10 % are a tie) than PermK."""
    clients, noises = axes_of(evidence)
    gains = [ratio(evidence, "up_bits", "EF21 TopK", "MARINA PermK", n, noises[-1]) for n in clients]
    said = ", ".join(f"{g:.2f} at n = {n}" for n, g in zip(clients, gains, strict=True))
    return Verdict.of([g < 1.1 for g in gains], f"EF21/PermK bits at s = {noises[-1]:g}: {said}")


def judge_both_directions(evidence: Evidence) -> Verdict:
    """PermK's saving over gradient descent in both directions together is that of the uplink."""
    clients, noises = axes_of(evidence)
    parts, said = [], []
    for n in clients:
        up, both = (ratio(evidence, c, "GD", "MARINA PermK", n, noises[0]) for c in ("up_bits", "both_bits"))
        parts.append(both > 0.9 * up)
        said.append(f"n = {n}: {up:.1f}× up, {both:.2f}× up and down")
    return Verdict.of(parts, f"saving over GD, s = {noises[0]:g}: " + "; ".join(said))


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
            ax.set_xlim(0, 1.15 * max(evidence.value("grid", "up_bits", method=m, n=n, s=s) for m in NAMES[1:]))
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
            gains = [ratio(evidence, counted, "MARINA RandK", "MARINA PermK", n, s) for n in clients]
            series(ax, clients, gains, f"s = {s:g}", i)
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
        "small": Size(
            100, 1e-4, {10: 3000, 100: 3000, 400: 3000}, (0.0, 0.1, 0.8), tuple(2.0**j for j in range(8)), 10, 1000
        ),
        "paper": Size(
            1000, 1e-6, {10: 10000, 100: 10000, 1000: 1000}, (0.0, 0.1, 0.8), tuple(2.0**j for j in range(20)), 10, 200
        ),
    }
    claims = (
        Claim(
            "homogeneous",
            "With equal clients (s = 0) MARINA + PermK needs the fewest uplink bits",
            judge_homogeneous,
            {"small": HOLDS, "paper": IN_PART},
        ),
        Claim(
            "growth",
            "With the theory's steps at s = 0 the advantage over RandK grows with n up to n = d, by at most √n (1 + d/√n for n > d)",
            judge_growth,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "is-gd",
            "At s = 0, d ≥ n, MARINA + PermK makes gradient descent's steps with n/2 times fewer uplink bits",
            judge_gradient_descent,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "shrinks",
            "PermK's advantage over RandK shrinks as s grows",
            judge_shrinking,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "ef21",
            "With very different clients EF21 + TopK wins or ties",
            judge_ef21,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "both-ways",
            "Not in the paper: the saving over gradient descent is as large where the downlink counts, too",
            judge_both_directions,
            {"small": FAILS, "paper": FAILS},
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
        grid: list[Row] = []
        for n in size.rounds:
            for s in size.noises:
                grid += compare(measure_point(runner, size, n, s), n, s)
        runner.table("grid", grid)
        runner.table("theory", [with_theory(runner, size, n) for n in size.rounds])
        runner.table("identity", [identity(runner.evidence, n) for n in size.rounds if n <= size.dim])
        for s in (size.noises[-1], size.noises[0]):
            labels = {name: label(name, size.shown, s) for name in NAMES}
            target = early_target([runner.evidence.curves[name] for name in labels.values()], size.shown_rounds)
            runner.again_over_mpi(labels.values(), target)
        measure_seconds(runner, {name: f"{shown} mpi" for name, shown in labels.items()}, up_bits, target)


def measure_point(runner: ExperimentRunner, size: Size, n: int, s: float) -> dict[str, Stored]:
    """The best run of each method at (n, s): with the step that is the first where gradient descent ends."""
    options, k = size.options(n, s), max(1, size.dim // n)
    dense = runner.run(label("GD", n, s), method="gd", **options)
    curves = {"GD": dense}
    for name, (method, compressor) in METHODS.items():
        factors = size.factors if method == "marina" else EF21_FACTORS
        more: dict[str, Any] = {"method": method, "compressor": compressor.format(k=k)}
        curves[name] = runner.tune(label(name, n, s), factors, common_target([dense]), **more, **options)
    return curves


def with_theory(runner: ExperimentRunner, size: Size, n: int) -> Row:
    """PermK and RandK with the theory's steps at s = 0. The promise: √n for n ≤ d, 1 + d/√n beyond."""
    curves = {}
    for name in ("MARINA PermK", "MARINA RandK"):
        method, compressor = METHODS[name]
        more: dict[str, Any] = {"method": method, "compressor": compressor.format(k=max(1, size.dim // n))}
        curves[name] = runner.run(f"{label(name, n, 0)} theory", **more, **size.options(n, 0.0))
    target = common_target(list(curves.values()))
    few, many = (costs(stored, target)["up_bits"] for stored in curves.values())
    promised = n**0.5 if n <= size.dim else 1 + size.dim / n**0.5
    return {"n": n, "d": size.dim, "gain": many / few, "promised": promised, "target": target}


def identity(evidence: Evidence, n: int) -> Row:
    """MARINA + PermK with the theory's step beside gradient descent with its, at s = 0."""
    dense, marina = evidence.curves[label("GD", n, 0)], evidence.curves[f"{label('MARINA PermK', n, 0)} theory"]
    a, b = (column(run, "grad_norm_sq") for run in (dense, marina))
    return {
        "n": n,
        "difference": float(abs(a - b).max() / a.max()),
        "saving": float(up_bits(dense)[-1] / up_bits(marina)[-1]),
        "promised": n / (2 - 1 / n),
    }
