"""Effects: what paired seeds say of a claim, with its error, beside what the claim needs.

A difference, or the logarithm of a ratio, is measured with each seed, both sides of the pair having the same seed and start.
Its mean and standard error decide: see `Effect.outcome`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp, expm1, inf, isfinite, log, nan, sqrt

HOLDS, IN_PART, FAILS, UNDECIDED = "holds", "in part", "does not hold", "undecided"
ERRORS = 2.0  # standard errors that an effect must be away from what the claim needs


@dataclass(frozen=True)
class Effect:
    """An effect, and what a claim needs of it.

    Attributes
    ----------
    name : what it is the effect of. values : one for each seed, logarithms where it is a ratio; one value where nothing is random.
    needed : the claim needs a mean of at least this, or at most this with `at_most`; a logarithm where it is a ratio.
    ratio : it is shown as a factor. random : False where every seed gives the same bits, so that one run is all there is to know.
    digits : of numbers that are shown. unit : behind them.
    """

    name: str
    values: tuple[float, ...]
    needed: float
    at_most: bool = False
    ratio: bool = False
    random: bool = True
    digits: int = 3
    unit: str = ""

    # ---- made from measurements ---------------------------------------------------------------------------------
    @classmethod
    def difference(
        cls, name: str, mine: Sequence[float], other: Sequence[float], needed: float = 0.0, at_most: bool = False,
        unit: str = "",
    ) -> Effect:  # fmt: skip
        """Of mine − other, seed by seed."""
        return cls(name, tuple(a - b for a, b in zip(mine, other, strict=True)), needed, at_most, unit=unit)

    @classmethod
    def factor(
        cls, name: str, mine: Sequence[float], other: Sequence[float], needed: float = 1.0, at_most: bool = False,
        random: bool = True,
    ) -> Effect:  # fmt: skip
        """Of mine/other, seed by seed; one side infinite (it never got there) decides its seed, both say nothing of it."""
        logs = tuple(_log_ratio(a, b) for a, b in zip(mine, other, strict=True))
        return cls(name, logs, log(needed), at_most, True, random)

    @classmethod
    def exact(cls, name: str, value: float, needed: float, at_most: bool = False, ratio: bool = False) -> Effect:
        """Of a number that no seed changes."""
        return cls(name, (log(value) if ratio else value,), log(needed) if ratio else needed, at_most, ratio, False)

    # ---- what they say --------------------------------------------------------------------------------------------
    @property
    def seeds(self) -> int:
        """How many; 0 where nothing is random."""
        return len(self.values) if self.random else 0

    @property
    def mean(self) -> float:
        """Over the seeds; NaN where some are infinite and others not."""
        if all(isfinite(v) for v in self.values):
            return sum(self.values) / len(self.values)
        return self.values[0] if len(set(self.values)) == 1 else nan

    @property
    def error(self) -> float:
        """Standard error of the mean: 0 where nothing is random, infinite for one seed, NaN where a value is not finite."""
        n = len(self.values)
        if not self.random:
            return 0.0
        if n < 2:
            return inf
        mean = self.mean
        if not isfinite(mean):
            return nan
        return sqrt(sum((v - mean) ** 2 for v in self.values) / (n - 1) / n)

    @property
    def margins(self) -> tuple[float, ...]:
        """By how much each seed is on the side that the claim needs."""
        return tuple((self.needed - v) if self.at_most else (v - self.needed) for v in self.values)

    @property
    def outcome(self) -> str:
        """HOLDS or FAILS where the mean is at least two standard errors away from what is needed; UNDECIDED where it is nearer.

        UNDECIDED, too, where one seed decides: there is only one, or without some one of them the mean is on the other side.
        Where runs did not get there, and the difference is infinite, all seeds must be on one side.

        >>> [Effect("", values, 0.0).outcome for values in ((1.0, 1.2, 0.9), (1.0, -1.1, 0.3), (-1.0, -1.1), (5.0,))]
        ['holds', 'undecided', 'does not hold', 'undecided']
        """
        margins = self.margins
        if not self.random:
            return HOLDS if margins[0] >= 0 else FAILS
        if len(margins) < 2 or any(m != m for m in margins):
            return UNDECIDED
        if not all(isfinite(m) for m in margins):
            return HOLDS if min(margins) >= 0 else FAILS if max(margins) < 0 else UNDECIDED
        mean = sum(margins) / len(margins)
        others = [(sum(margins) - m) / (len(margins) - 1) for m in margins]
        one_decides = any((other >= 0) != (mean >= 0) for other in others)
        if one_decides or abs(mean) < ERRORS * self.error:
            return UNDECIDED
        return HOLDS if mean >= 0 else FAILS

    @property
    def seeds_to_decide(self) -> float:
        """How many seeds of this spread would put the mean two standard errors away from what is needed; infinite if none would."""
        if not self.random:
            return 0
        margin = abs(self.mean - self.needed)
        if len(self.values) < 2 or not isfinite(margin) or margin == 0:
            return inf
        return max(2, ceil(len(self.values) * (ERRORS * self.error / margin) ** 2))

    # ---- shown ----------------------------------------------------------------------------------------------------
    def size(self) -> str:
        """The effect with its error: "1.23× ± 2 %", "−0.5 ± 0.3 points"."""
        mean, error = self.mean, self.error
        if self.ratio:
            never = sum(not isfinite(v) for v in self.values)
            shown = (
                f"{exp(mean):.{self.digits}g}×"
                if mean == mean
                else f"not reached with {never} of {len(self.values)} seeds"
            )
            return shown if not self.random or not isfinite(error) else f"{shown} ± {100 * expm1(error):.2g} %"
        shown = f"{mean:.{self.digits}g}"
        return (shown if not self.random or not isfinite(error) else f"{shown} ± {error:.2g}") + self.unit

    def need(self) -> str:
        """What is needed: "≥ 1×"."""
        return ("≤ " if self.at_most else "≥ ") + (
            f"{exp(self.needed):.3g}×" if self.ratio else f"{self.needed:.3g}{self.unit}"
        )

    def __str__(self) -> str:
        text = f"{self.name} {self.size()}".strip()
        if self.outcome != UNDECIDED:
            return text
        more = self.seeds_to_decide
        return f"{text} (undecided{f'; about {more:.0f} seeds would decide' if isfinite(more) else ''})"


def _log_ratio(a: float, b: float) -> float:
    """log(a/b) for a, b ≥ 0, infinite where one of them is infinite or zero; NaN where both are."""
    return _log(a) - _log(b) if _log(a) != _log(b) or isfinite(_log(a)) else nan


def _log(value: float) -> float:
    return log(value) if value > 0 else -inf if value == 0 else nan


def combined(outcomes: Iterable[str]) -> str:
    """The outcome of a claim from those of its effects.

    It holds where all do, does not hold where none does, and holds in part where some do and some do not; where those that are decided
    agree and others are not decided, it is not either.

    >>> combined(["holds", "undecided"]), combined(["holds", "undecided", "does not hold"])
    ('undecided', 'in part')
    """
    seen = set(outcomes)
    if IN_PART in seen or {HOLDS, FAILS} <= seen:
        return IN_PART
    if UNDECIDED in seen or not seen:
        return UNDECIDED
    return HOLDS if HOLDS in seen else FAILS


def weakest(effects: Sequence[Effect]) -> Effect | None:
    """The effect that is nearest to what it needs, in standard errors; an exact one comes last."""

    def distance(effect: Effect) -> tuple[bool, float]:
        margin, error = abs(effect.mean - effect.needed), effect.error
        if not effect.random:
            return True, margin
        return False, margin / error if error > 0 and isfinite(error) and isfinite(margin) else (
            inf if error == error else 0.0
        )

    return min(effects, key=distance, default=None)
