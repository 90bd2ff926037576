"""The twelve rules of Hoefler and Belli (2015), "Scientific benchmarking of parallel computing systems", asked of a study's cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..runtime import seconds
from .calibrate import Miss
from .cells import ENOUGH, Group, Measured, Results

HOLDS, NOT_MET, NOT_APPLICABLE = "holds", "not met", "not applicable"


@dataclass(frozen=True)
class Answer:
    """The rule in short, what became of it, and why."""

    rule: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Observations:
    """What the rules are asked of: the results, the model's misses, and the names of the figures that the page shows."""

    results: Results
    misses: list[Miss]
    figures: list[str]


def check(evidence: Observations) -> list[Answer]:
    """All twelve, in the paper's order."""
    return [Answer(rule, *ask(evidence)) for rule, ask in _RULES.items()]


def _base_case(e: Observations) -> tuple[str, str]:
    results = e.results
    if len({(g.places, g.clients) for g in results.groups}) < 2:
        return NOT_APPLICABLE, "one placement only, no speedup or efficiency is shown"
    bases = {(g.label, g.condition): results.base_of(g) for g in results.groups}
    fewest = min(bases.values(), key=lambda g: g.processors)
    several = f"{fewest.processors} ranks that compute" if fewest.processors > 1 else "one rank that computes"
    kind = "a parallel run with a server process, not the best serial program"
    return HOLDS, (
        f"efficiency is against each method's own smallest placement ({several} at least), {kind}; its absolute "
        "seconds are in the same table "
        f"(dense: {', '.join(seconds(g.seconds.median) for g in bases.values() if g.cell.baseline == 'dense') or 'not run'} a round)"
    )


def _subset(e: Observations) -> tuple[str, str]:
    idle = [
        run
        for run in e.results.runs
        if not run.record["runner"]["shared"] and run.record["runner"]["cores"] > len(run.ranks)
    ]
    crowded = [run for run in e.results.runs if _ranks_on_machine(run) > run.record["runner"]["cores"]]
    facts = "no standard benchmark suite is claimed; the problem is named above"
    if crowded:
        facts += (
            f"; in {len(crowded)} of {len(e.results.runs)} cells more ranks than cores ran on a machine, "
            "so seconds include waiting for a core"
        )
    if idle:
        facts += f"; in {len(idle)} cells some cores stayed idle, since the grid asks for few ranks there"
    return HOLDS, facts


def _ranks_on_machine(run: Measured) -> int:
    hosts = [rank["host"] for rank in run.ranks]
    return len(hosts) if run.record["runner"]["shared"] else max(hosts.count(host) for host in hosts)


def _means(e: Observations) -> tuple[str, str]:
    return HOLDS, (
        "costs (seconds, bytes) are summarised by medians; the arithmetic mean serves for costs only (rounds within a "
        "timed block, phases); "
        "no mean of rates is formed"
    )


def _ratios(e: Observations) -> tuple[str, str]:
    if not any(g.cell.baseline == "dense" for g in e.results.groups) and not e.misses:
        return NOT_APPLICABLE, "no ratio is shown but efficiency, which is formed from two medians"
    said = "every ratio (efficiency, against dense) is formed from two medians that the tables give"
    if e.misses:
        said += "; the model's relative errors are summarised by their median, and each one is listed"
    return HOLDS, said


def _intervals(e: Observations) -> tuple[str, str]:
    few = [g for g in e.results.groups if not g.seconds.enough]
    iterates = [
        {(run.stored.summary.get("seed", 0), run.stored.summary["iterate_sha256"]) for run in g.runs}
        for g in e.results.groups
        if g.exchange != "allreduce"
    ]
    several = any(len({seed for seed, _ in found}) > 1 for found in iterates)
    if any(len(found) > len({seed for seed, _ in found}) for found in iterates):
        bits = "iterates differed between repetitions"
    elif several:
        bits = "the repetitions of a configuration differ in the seed, and so in their iterates; medians are over seeds, too"
    else:
        bits = "iterates and bytes are deterministic: equal in all repetitions (Allreduce apart)"
    blocks = min((g.seconds.samples for g in e.results.groups), default=0)
    if few:
        return (
            NOT_MET,
            f"{len(few)} of {len(e.results.groups)} configurations have fewer than {ENOUGH} timed blocks, so only "
            f"their range is given; {bits}",
        )
    repeated = min((len(g.runs) for g in e.results.groups), default=0)
    rest = (
        ""
        if repeated >= ENOUGH
        else f", but with {repeated} repetitions at least, between runs only the range is given"
    )
    return (
        HOLDS,
        f"times are not deterministic: 95 % intervals of medians over at least {blocks} timed blocks{rest}; {bits}",
    )


def _normality(e: Observations) -> tuple[str, str]:
    skewed = [g for g in e.results.groups if g.seconds.samples >= ENOUGH and _skewness(g) > 1]
    usable = [g for g in e.results.groups if g.seconds.samples >= ENOUGH]
    return HOLDS, (
        f"nothing assumes normality: medians and order statistics throughout; rightly so, in {len(skewed)} of {len(usable)} configurations "
        "the block times are strongly skewed (sample skewness above 1)"
    )


def _skewness(group: Group) -> float:
    x = np.concatenate([run.block_seconds for run in group.runs])
    spread = float(np.std(x))
    return float(np.mean((x - np.mean(x)) ** 3)) / spread**3 if spread > 0 else 0.0


def _comparison(e: Observations) -> tuple[str, str]:
    pairs = [
        (g, dense) for g in e.results.groups if (dense := e.results.dense_beside(g)) is not None and dense is not g
    ]
    if not pairs:
        return NOT_APPLICABLE, "there is no dense baseline to compare with"
    told = sum(a.distinguishable(b) for a, b in pairs)
    single = sum(len(a.runs) < 2 or len(b.runs) < 2 for a, b in pairs)
    said = (
        "by intervals that do not overlap, and repetitions' medians that do not either: "
        f"{told} of {len(pairs)} comparisons with dense tell the two apart"
    )
    if single:
        return NOT_MET, f"{said}; but {single} rest on a single run, which says nothing of the variation between runs"
    return HOLDS, said


def _centre(e: Observations) -> tuple[str, str]:
    tails = [g.p95 / g.seconds.median for g in e.results.groups]
    if not tails:
        return NOT_APPLICABLE, "nothing was measured"
    return HOLDS, (
        "a synchronous run pays for every slow round, so beside the median the 95th percentile stands: "
        f"{min(tails):.2f} to {max(tails):.2f} times "
        "the median here; time to the target is the sum over all rounds"
    )


def _factors(e: Observations) -> tuple[str, str]:
    git = {run.manifest["git"] for run in e.results.runs}
    hosts = {run.record["machine"]["host"] for run in e.results.runs}
    said = (
        "grid, seed, order, machine, libraries and versions are above; every cell keeps its configuration, which "
        "`mpicomp run` takes again"
    )
    if len(git) > 1:
        return NOT_MET, f"{said}; but the cells come from {len(git)} states of the sources"
    if None in git:
        said += "; the sources' commit is not known (not a checkout), their version is"
    elif any(str(commit).endswith("+") for commit in git):
        said += "; the sources had changes that are not committed"
    return HOLDS, said + (f"; started from {len(hosts)} hosts" if len(hosts) > 1 else "")


def _parallel_time(e: Observations) -> tuple[str, str]:
    return HOLDS, (
        "every rank reads MPI.Wtime around each phase and round; rounds synchronise by their own messages, no barrier "
        "is added; totals are the "
        "largest of any rank, and the median is taken over blocks of rounds between evaluations, which are off the clock"
    )


def _bounds(e: Observations) -> tuple[str, str]:
    shown = []
    if "scaling" in e.figures:
        shown.append("ideal scaling is drawn")
    if any(g.cell.baseline == "allreduce" for g in e.results.groups):
        shown.append("dense Allreduce stands beside every method")
    if e.misses:
        shown.append("the cost model says what links and work allow")
    return (
        (HOLDS, "; ".join(shown)) if shown else (NOT_MET, "one placement and no baseline, so there is no bound to draw")
    )


def _plots(e: Observations) -> tuple[str, str]:
    if not e.figures:
        return NOT_APPLICABLE, "no figure could be drawn from these cells"
    return HOLDS, (
        "lines join placements of one method only to show a trend, and the caption says so; computed curves are named "
        "as such; measured points "
        "have markers and, for seconds a round, interval bars"
    )


_RULES: dict[str, Callable[[Observations], tuple[str, str]]] = {
    "Speedup: say what the base case is, and its absolute performance": _base_case,
    "Give the reason for using subsets of benchmarks or of the system": _subset,
    "Arithmetic mean for costs only, harmonic mean for rates": _means,
    "Do not summarise ratios; summarise what they are formed from": _ratios,
    "Say whether values are deterministic; give confidence intervals where not": _intervals,
    "Do not assume normality without checking": _normality,
    "Compare in a statistically sound way": _comparison,
    "Ask whether the median or mean is what matters, or another percentile": _centre,
    "Document all factors, their levels and the complete set-up": _factors,
    "Parallel time: report measurement, synchronisation and summary": _parallel_time,
    "Show upper bounds of performance": _bounds,
    "Plot what is needed to interpret; join points only where that is valid": _plots,
}
