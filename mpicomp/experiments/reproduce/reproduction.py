"""What the reproduction of a paper is: measurements, claims that are judged on them, figures that show them.

A reproduction is one file in `papers/`: a class registered by `@papers.register("name")`.
It measures through an `ExperimentRunner`, which does the runs, keeps the finished ones and gathers what was measured as `Evidence`.
Claims and figures see the evidence alone, so they can be judged and drawn again from files, and tested on made-up numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar

from ..runtime import Registry
from .effects import FAILS, HOLDS, IN_PART, UNDECIDED, Effect, combined
from .evidence import Evidence
from .runner import ExperimentRunner

papers: Registry[Reproduction] = Registry("paper", "mpicomp.experiments.reproduce.papers")

SCALES = ("small", "paper")
SEEDS, NETWORK_SEEDS = 10, 5  # that a claim needs at least where randomness enters; fewer where networks are trained

__all__ = ["FAILS", "HOLDS", "IN_PART", "UNDECIDED", "Claim", "Figure", "Reproduction", "Verdict", "papers"]


@dataclass(frozen=True)
class Verdict:
    """HOLDS, IN_PART, FAILS or UNDECIDED, the numbers it rests on, in a line of text, and the effects where it was tested on seeds."""

    outcome: str
    numbers: str
    effects: tuple[Effect, ...] = ()

    @classmethod
    def tested(cls, effects: Sequence[Effect], before: str = "", after: str = "") -> Verdict:
        """From the effects of a claim, by `combined`; before and after : text around the list of them.

        >>> Verdict.tested([Effect("loss", (1.0, 1.2, 0.9), 0.0)], "difference of ").numbers
        'difference of loss 1.03 ± 0.088'
        """
        said = "; ".join(str(effect) for effect in effects)
        return cls(combined(effect.outcome for effect in effects), f"{before}{said}{after}", tuple(effects))

    @classmethod
    def of(cls, parts: Sequence[bool], numbers: str) -> Verdict:
        """From the parts of a claim that nothing random enters: it holds where all do, in part where some do.

        >>> Verdict.of([True, False], "2 of 3").outcome
        'in part'
        """
        return cls(HOLDS if all(parts) else IN_PART if any(parts) else FAILS, numbers)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper (or one about it), and how it is judged.

    Attributes
    ----------
    name : short, without spaces. text : the claim, in a sentence.
    judge : from the evidence to the verdict.
    expected : the outcome that is known for each scale, since bytes and rounds repeat bit for bit; a scale is missing where the outcome
        is the machine's (seconds).
    least_seeds : without effects over so many seeds the outcome is UNDECIDED; 0 for a claim that nothing random enters.
    """

    name: str
    text: str
    judge: Callable[[Evidence], Verdict]
    expected: dict[str, str] = field(default_factory=dict)
    least_seeds: int = 0

    def verdict(self, evidence: Evidence) -> Verdict:
        """The verdict, UNDECIDED where it rests on fewer seeds than the claim needs."""
        verdict = self.judge(evidence)
        fewest = min(
            (effect.seeds for effect in verdict.effects if effect.random), default=0 if not verdict.effects else inf
        )
        if fewest >= self.least_seeds:
            return verdict
        told = f" ({'one seed' if fewest < 2 else f'{fewest:g} seeds'} of {self.least_seeds} that the claim needs)"
        return Verdict(UNDECIDED, verdict.numbers + told, verdict.effects)


@dataclass(frozen=True)
class Figure:
    """A figure: its file name without ending, its size in inches, and what draws it on an empty `matplotlib` figure.

    `draw(evidence, figure)` puts panels on the figure.
    """

    name: str
    draw: Callable[[Evidence, Any], None]
    size: tuple[float, float] = (10.0, 4.2)


class Reproduction:
    """Base class of all studies.

    Class attributes
    ----------------
    summary, paper : one line each. sizes : what `measure` takes for each of SCALES.
    claims, figures : judged and drawn in this order.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    sizes: ClassVar[dict[str, Any]] = {}
    claims: ClassVar[tuple[Claim, ...]] = ()
    figures: ClassVar[tuple[Figure, ...]] = ()

    def measure(self, runner: ExperimentRunner, size: Any) -> None:
        """Do the runs and fill the tables of `runner.evidence`."""
        raise NotImplementedError(f"{type(self).__name__} must define measure(runner, size)")
