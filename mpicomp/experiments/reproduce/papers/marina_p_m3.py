"""MARINA-P, which compresses what the server sends, and M3, which compresses both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from ...study.compare import common_target
from ..axes import both_bits, costs, down_bits
from ..drawing import Line, convergence, panels_by_clients, shared_legend
from ..evidence import Evidence, Row
from ..reproduction import FAILS, HOLDS, IN_PART, Claim, Figure, Reproduction, Verdict, papers
from ..runner import ExperimentRunner
from ..seconds import draw_honest, early_target, measure_seconds, same_bits_claim, seconds_claim

# method, --compressor, --downlink-compressor
DOWN = {
    "GD": ("gd", None, None),
    "EF21-P TopK": ("ef21-p", "topk:k={k}", None),
    "MARINA-P SameRandK": ("marina-p", "randk:k={k},mask=shared", None),
    "MARINA-P IndRandK": ("marina-p", "randk:k={k}", None),
    "MARINA-P PermK": ("marina-p", "permk", None),
}
BOTH = {
    "GD": ("gd", None, None),
    "CORE": ("core:m={k}", None, None),
    "EF21-P + DIANA": ("ef21-p+diana", "randk:k={k}", "topk:k={k}"),
    "EF21-P + DCGD": ("ef21-p+dcgd", "randk:k={k}", "topk:k={k}"),
    "M3": ("m3", "randk:k={k}", "permk"),
}
WIRE_BITS = 32
EVERY = 5  # rounds between evaluations: the best methods need few rounds
FACTORS = tuple(4.0**j for j in range(9))
THEORY_CLIENTS = (10, 30, 100, 300)  # where the theory's trend is evaluated
PERMK, SAME = "MARINA-P PermK", "MARINA-P SameRandK"


@dataclass(frozen=True)
class Size:
    """Of the experiments.

    Attributes
    ----------
    dim, reg, noise : d, λ and s of the quadratics. rounds : by n. target : runs stop at ‖∇f‖² ≤ this.
    factors : steps are these times the theory's, as far as they help.
    noises, mixed : the s, and the n, where the clients' difference is varied.
    images : n of the autoencoder. image_rounds : its rounds. image_steps : the steps that are tried, as they help.
    shown : n of the runs over MPI.
    """

    dim: int
    reg: float
    noise: float
    rounds: dict[int, int]
    target: float
    factors: tuple[float, ...]
    noises: tuple[float, ...]
    mixed: int
    images: int
    image_rounds: int
    image_steps: tuple[float, ...]
    shown: int

    def options(self, n: int, s: float) -> dict[str, Any]:
        """What all runs on a quadratic have in common."""
        return {
            "problem": {"name": "quadratic", "dim": self.dim, "noise": s, "reg": self.reg},
            "clients": n,
            "init": "paper",
            "wire_dtype": "float32",
            "rounds": self.rounds[n],
            "eval_every": EVERY,
        }


def parts(method: tuple[str, str | None, str | None], k: int) -> dict[str, Any]:
    """A method's options for K = k."""
    names = ("method", "compressor", "downlink_compressor")
    return {key: text.format(k=k) for key, text in zip(names, method, strict=True) if text is not None}


# ---- claims -----------------------------------------------------------------------------------------------------------
def by_n(evidence: Evidence, table: str, column: str, method: str) -> dict[int, float]:
    """A method's cost by n."""
    return {row["n"]: row[column] for row in evidence.rows(table, method=method)}


def listed(values: dict[Any, float], unit: str = "n") -> str:
    """As text."""
    return ", ".join(f"{value:.3g} at {unit} = {key:g}" for key, value in values.items())


def known_part(ratio: dict[int, float], costs: dict[int, float]) -> tuple[dict[int, float], str]:
    """The ratios where the method's cost is finite, and a text that names the n where its runs ended before the target."""
    missing = [n for n, cost in costs.items() if not np.isfinite(cost)]
    text = f"; its runs were too short at n = {', '.join(map(str, missing))}" if missing else ""
    return {n: value for n, value in ratio.items() if n not in missing}, text


def gains(evidence: Evidence, table: str, column: str, more: str, less: str) -> dict[int, float]:
    """How many times as much the method `more` takes, by n."""
    few = by_n(evidence, table, column, less)
    return {n: value / few[n] for n, value in by_n(evidence, table, column, more).items()}


def judge_fewest_down(evidence: Evidence) -> Verdict:
    """At every n the fewest downlink bits are those of MARINA-P with PermK."""
    rivals = [name for name in DOWN if name != PERMK]
    best = {name: gains(evidence, "down", "down_bits", name, PERMK) for name in rivals}
    said = "; ".join(f"{name}: {listed(ratio)}" for name, ratio in best.items())
    return Verdict.of(
        [value > 1 for ratio in best.values() for value in ratio.values()], f"downlink bits over PermK's: {said}"
    )


def judge_down_grows(evidence: Evidence) -> Verdict:
    """GD's downlink bits over PermK's grow with n."""
    ratio = gains(evidence, "down", "down_bits", "GD", PERMK)
    return Verdict.of([b > a for a, b in pairwise(ratio.values())], f"GD/PermK downlink bits: {listed(ratio)}")


def judge_same(evidence: Evidence) -> Verdict:
    """One mask for all does not gain over GD, by more than a quarter, at any n where its run was long enough."""
    ratio = gains(evidence, "down", "down_bits", "GD", SAME)
    known, unknown = known_part(ratio, by_n(evidence, "down", "down_bits", SAME))
    return Verdict.of(
        [value < 1.25 for value in known.values()], f"GD/SameRandK downlink bits: {listed(known)}{unknown}"
    )


def judge_independent(evidence: Evidence) -> Verdict:
    """Independent masks gain over GD by up to about √n, more with more clients."""
    ratio = gains(evidence, "down", "down_bits", "GD", "MARINA-P IndRandK")
    grow = [b > a for a, b in pairwise(ratio.values())]
    return Verdict.of([*grow, *(v > 1 for v in ratio.values())], f"GD/IndRandK downlink bits: {listed(ratio)}")


def judge_real_downlink(evidence: Evidence) -> Verdict:
    """Where 4 workers host all clients, PermK's saving in bytes through the server's downlink is that for each client."""
    rows = {row["method"]: row for row in evidence.tables["hosted"]}
    paper, real = (rows["GD"][c] / rows[PERMK][c] for c in ("down_bits", "down_bytes"))
    n, ranks = rows["GD"]["n"], rows["GD"]["ranks"]
    text = f"n = {n} on {ranks - 1} workers: {paper:.1f}× for each client, {real:.2f}× in bytes through the server's downlink"
    return Verdict.of([real > 0.9 * paper], text)


def judge_m3_core(evidence: Evidence) -> Verdict:
    """M3 needs fewer bits, both directions together, than CORE at every n where CORE's run was long enough."""
    ratio = gains(evidence, "both", "both_bits", "CORE", "M3")
    known, unknown = known_part(ratio, by_n(evidence, "both", "both_bits", "CORE"))
    return Verdict.of([value > 1 for value in known.values()], f"CORE/M3 bits up and down: {listed(known)}{unknown}")


def judge_m3_stacked(evidence: Evidence) -> Verdict:
    """M3 needs fewer bits than EF21-P with DIANA and with DCGD at every n."""
    ratio = {
        name: gains(evidence, "both", "both_bits", name, "M3") for name in ("EF21-P + DIANA", "EF21-P + DCGD", "GD")
    }
    said = "; ".join(f"{name} {listed(values)}" for name, values in ratio.items())
    outcome = [value > 1 for name in ("EF21-P + DIANA", "EF21-P + DCGD") for value in ratio[name].values()]
    return Verdict.of(outcome, f"bits over M3's (inf: not reached): {said}")


def exponent(values: dict[int, float]) -> float:
    """The slope of the least squares line through the logarithms of what is finite."""
    known = {n: value for n, value in values.items() if np.isfinite(value)}
    n, y = np.log(list(known)), np.log(list(known.values()))
    return float(np.polyfit(n, y, 1)[0])


def judge_m3_trend(evidence: Evidence) -> Verdict:
    """M3's bits fall with n about as n^(−1/3) or faster; CORE's do not fall."""
    bits = {name: by_n(evidence, "both", "both_bits", name) for name in ("M3", "CORE")}
    mine, other = (exponent(values) for values in bits.values())
    unknown = known_part({}, bits["CORE"])[1]
    return Verdict.of([mine < -0.25, other > -0.15], f"bits ∝ n^{mine:.2f} (M3), n^{other:.2f} (CORE{unknown})")


def judge_m3_theory(evidence: Evidence) -> Verdict:
    """At s = 0 the bits that theory promises M3 fall with n about as n^(−1/3) or faster; CORE's do not fall."""
    mine, other = (exponent(by_n(evidence, "theory", "bits", name)) for name in ("M3", "CORE"))
    saved = listed(gains(evidence, "theory", "bits", "GD", "M3"))
    return Verdict.of([mine < -0.25, other > -0.15], f"bits ∝ n^{mine:.2f} (M3), n^{other:.2f} (CORE); GD/M3: {saved}")


def judge_heterogeneity(evidence: Evidence) -> Verdict:
    """The more the clients differ, the less PermK and M3 gain over GD."""
    said, outcome = [], []
    for method, column in ((PERMK, "down_bits"), ("M3", "both_bits")):
        noises = sorted({row["s"] for row in evidence.tables["noise"]})
        ratio = {
            s: evidence.value("noise", column, method="GD", s=s) / evidence.value("noise", column, method=method, s=s)
            for s in noises
        }
        outcome.append(ratio[noises[0]] > ratio[noises[-1]])
        said.append(f"GD/{method}: {listed(ratio, 's')}")
    return Verdict.of(outcome, "; ".join(said))


def judge_images(evidence: Evidence) -> Verdict:
    """On the autoencoder PermK needs the fewest downlink bits, with equal clients and with different ones."""
    said, outcome = [], []
    for equal in sorted({row["homogeneity"] for row in evidence.tables["images"]}):
        rows = {row["method"]: row["down_bits"] for row in evidence.rows("images", homogeneity=equal)}
        ratio = {name: bits / rows[PERMK] for name, bits in rows.items() if name != PERMK}
        outcome += [value > 1 for value in ratio.values()]
        said.append(f"p̂ = {equal:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in ratio.items()))
    return Verdict.of(outcome, f"downlink bits over PermK's (inf: not reached), {'; '.join(said)}")


# ---- figures ----------------------------------------------------------------------------------------------------------
def panels_by_n(
    table: str, methods: dict[str, Any], axis: Any, column: str, label: str
) -> Callable[[Evidence, Any], None]:
    """What draws a panel of curves for each n, and the bits to the target over n."""

    def draw(evidence: Evidence, figure: Any) -> None:
        panels_by_clients(
            figure,
            list(methods),
            lambda name, n: evidence.curves[f"{name} n={n}"],
            lambda name, n: evidence.value(table, column, method=name, n=n),
            axis,
            label,
            sorted({row["n"] for row in evidence.tables[table]}),
            columns=len(methods),
        )

    return draw


def draw_images(evidence: Evidence, figure: Any) -> None:
    """The autoencoder, a panel for each p̂."""
    values = sorted({row["homogeneity"] for row in evidence.tables["images"]})
    panels = figure.subplots(1, len(values), sharey=True)
    for ax, equal in zip(panels, values, strict=True):
        lines = [Line(name, evidence.curves[image_label(name, equal)], i) for i, name in enumerate(DOWN)]
        convergence(ax, lines, down_bits, "downlink bits / n", logarithmic=True)
        ax.set_title(f"autoencoder, p̂ = {equal:g}")
        ax.label_outer()
    shared_legend(figure, panels[0], columns=len(DOWN))


def image_label(name: str, homogeneity: float) -> str:
    """Of a curve on the autoencoder."""
    return f"{name} images p={homogeneity:g}"


@papers.register("marina-p-m3")
class MarinaPM3(Reproduction):
    """The quadratics of the paper (d = 300), and the linear autoencoder on images of handwritten digits."""

    summary = (
        "MARINA-P against GD and EF21-P in downlink bits, M3 against CORE and EF21-P + DIANA in all; growth with n"
    )
    paper = "Gruntkowska, Tyurin and Richtárik 2024, MARINA-P and M3 (arXiv 2402.06412)"
    sizes: ClassVar = {
        "small": Size(
            300, 1e-3, 0.1, {10: 3000, 30: 6000, 100: 12000}, 1e-3, FACTORS, (0.0, 0.1, 0.5), 30, 10, 600,
            tuple(2.0**-j for j in range(8, 2, -1)), 30,
        ),
        "paper": Size(
            300, 1e-3, 0.1, {10: 3000, 100: 12000, 1000: 2000}, 1e-3, FACTORS, (0.0, 0.1, 0.2, 0.8), 100, 100, 400,
            tuple(2.0**-j for j in range(8, 1, -1)), 100,
        ),
    }  # fmt: skip
    claims = (
        Claim(
            "fewest-down",
            "MARINA-P + PermK needs the fewest downlink bits at every n",
            judge_fewest_down,
            {"small": IN_PART, "paper": IN_PART},
        ),
        Claim(
            "down-grows",
            "Its gain over GD grows with n",
            judge_down_grows,
            {"small": IN_PART, "paper": HOLDS},
        ),
        Claim(
            "same-mask",
            "SameRandK does not gain over GD",
            judge_same,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "independent",
            "IndRandK gains over GD, the more the larger n",
            judge_independent,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "real-downlink",
            "Not in the paper: the gain is there in bytes where a few workers host all clients",
            judge_real_downlink,
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "m3-core",
            "M3 needs fewer bits up and down than CORE at every n",
            judge_m3_core,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "m3-stacked",
            "M3 needs fewer bits up and down than EF21-P with DIANA and with DCGD",
            judge_m3_stacked,
            {"small": FAILS, "paper": FAILS},
        ),
        Claim(
            "m3-trend",
            "M3's total bits fall with n, as n^(−1/3) or faster, CORE's do not",
            judge_m3_trend,
            {"small": IN_PART, "paper": HOLDS},
        ),
        Claim(
            "m3-theory",
            "By the theory's own steps (M3's constants are ours) M3's bits fall with equal clients as n^(−1/3) or faster, CORE's do not",
            judge_m3_theory,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "heterogeneity",
            "The gains over GD shrink as the clients become different",
            judge_heterogeneity,
            {"small": HOLDS, "paper": HOLDS},
        ),
        Claim(
            "images",
            "Linear autoencoder on images: MARINA-P + PermK needs the fewest downlink bits",
            judge_images,
            {"small": IN_PART, "paper": IN_PART},
        ),
        same_bits_claim(),
        seconds_claim(),
    )
    figures = (
        Figure("downlink", panels_by_n("down", DOWN, down_bits, "down_bits", "downlink bits / n"), (13.0, 3.4)),
        Figure("both", panels_by_n("both", BOTH, both_bits, "both_bits", "bits up and down / n"), (13.0, 3.4)),
        Figure("images", draw_images, (8.0, 3.4)),
        Figure("honest", draw_honest(both_bits, "bits up and down / n"), (12.0, 3.4)),
    )

    def measure(self, runner: ExperimentRunner, size: Size) -> None:
        for table, methods in (("down", DOWN), ("both", BOTH)):
            runner.table(
                table,
                [row for n in size.rounds for row in on_quadratic(runner, size, methods, n, size.noise, f"n={n}")],
            )
        noise: list[Row] = []
        for s in size.noises:
            chosen = {"GD": DOWN["GD"], PERMK: DOWN[PERMK], "M3": BOTH["M3"]}
            noise += on_quadratic(runner, size, chosen, size.mixed, s, f"s={s:g}")
        runner.table("noise", noise)
        runner.table("theory", [row for n in THEORY_CLIENTS for row in by_theory(runner, size, n)])
        runner.table("images", [row for p in (0.0, 1.0) for row in on_images(runner, size, p)])
        shown = dict.fromkeys([*DOWN, *BOTH])
        runner.again_over_mpi([f"{name} n={size.shown}" for name in shown])
        runner.table("hosted", [hosted(runner.evidence, name, size) for name in DOWN])
        measure_seconds(runner, {name: f"{name} n={size.shown} mpi" for name in BOTH}, both_bits, size.target)


def on_quadratic(
    runner: ExperimentRunner, size: Size, methods: dict[str, Any], n: int, s: float, suffix: str,
) -> list[Row]:  # fmt: skip
    """The best run of each method, and what it took."""
    rows = []
    for name, method in methods.items():
        more = {**parts(method, max(1, size.dim // n)), **size.options(n, s)}
        stored = runner.tune(f"{name} {suffix}", size.factors, size.target, **more)
        rows.append({"method": name, "n": n, "s": s, **costs(stored, size.target)})
    return rows


def by_theory(runner: ExperimentRunner, size: Size, n: int) -> list[Row]:
    """Bits up and down of a round over the theory's step, at s = 0: what the rounds' bound makes of it, up to a common factor."""
    k = max(1, size.dim // n)
    options = {**size.options(min(size.rounds), 0.0), "clients": n, "rounds": 1}
    values = {"GD": size.dim, "CORE": k, "M3": k + (1 - k / size.dim) * k}  # M3 sends all d with probability K/d
    rows = []
    for name, count in values.items():
        step = runner.run(f"{name} theory n={n}", **parts(BOTH[name], k), **options).summary["step"]
        rows.append({"method": name, "n": n, "step": step, "bits": 2 * WIRE_BITS * count / step})
    return rows


def on_images(runner: ExperimentRunner, size: Size, homogeneity: float) -> list[Row]:
    """The same on the autoencoder; the target is what GD reaches in a quarter of the rounds, or PermK in all, if that is easier."""
    n, width = size.images, 16
    dim = 2 * 64 * width
    options = {
        "problem": {"name": "autoencoder", "width": width, "homogeneity": homogeneity},
        "data": "digits",
        "clients": n,
        "init": "paper",
        "wire_dtype": "float32",
        "rounds": size.image_rounds,
        "eval_every": max(1, size.image_rounds // 150),
    }
    runs = {}
    for name, method in DOWN.items():
        more = {**parts(method, max(1, dim // n)), **options}
        runs[name] = runner.tune(image_label(name, homogeneity), size.image_steps, theory=False, **more)
    target = max(early_target([runs["GD"]], size.image_rounds // 4), common_target([runs[PERMK]]))
    return [{"method": name, "homogeneity": homogeneity, **costs(stored, target)} for name, stored in runs.items()]


def hosted(evidence: Evidence, name: str, size: Size) -> Row:
    """Downlink of a run over MPI: the paper's bits for each client, and the bytes through the server's link."""
    stored = evidence.curves[f"{name} n={size.shown} mpi"]
    row = stored.first_at(size.target) or stored.rows[-1]
    n = stored.summary["clients"]
    return {
        "method": name,
        "n": n,
        "ranks": stored.summary["ranks"],
        "down_bits": 8.0 * row["downlink_values_only"] / n,
        "down_bytes": row["downlink_message"],
    }
