"""What the reproduction of a paper is: measurements, claims that are judged on them, figures that show them.

A study is one file in `papers/`: a class registered by `@papers.register("name")`. It measures through a `Desk`, which does the runs,
keeps the finished ones and gathers what was measured as `Evidence`. Claims and figures see the evidence alone, so they can be judged and
drawn again from files, and tested on numbers that somebody made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import MpicompError
from ...registry import Registry
from ..study.compare import Stored

if TYPE_CHECKING:
    from .runner import Desk

papers: Registry[type[Study]] = Registry("paper", "mpicomp.experiments.reproduce.papers")

SCALES = ("small", "paper")
HOLDS, IN_PART, FAILS = "holds", "in part", "does not hold"

Row = dict[str, Any]


class Interrupted(MpicompError):
    """A signal stopped a run after its checkpoint; the same command goes on from there."""


@dataclass
class Evidence:
    """What a study measured.

    Attributes
    ----------
    curves : runs by the study's own labels. tables : rows of results by the name of the table, values of JSON's types.
    """

    curves: dict[str, Stored] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def rows(self, table: str, **where: Any) -> list[Row]:
        """The rows of a table whose columns have the given values.

        >>> Evidence(tables={"t": [{"n": 1, "x": 5}, {"n": 2, "x": 7}]}).rows("t", n=2)
        [{'n': 2, 'x': 7}]
        """
        return [row for row in self.tables[table] if all(row[k] == v for k, v in where.items())]

    def value(self, table: str, column: str, **where: Any) -> Any:
        """The entry of the one row that `where` selects.

        Raises
        ------
        LookupError : no row, or several.
        """
        rows = self.rows(table, **where)
        if len(rows) != 1:
            raise LookupError(f"table {table!r} has {len(rows)} rows with {where}, expected one")
        return rows[0][column]


@dataclass(frozen=True)
class Verdict:
    """HOLDS, IN_PART or FAILS, and the numbers it rests on, in a line of text."""

    outcome: str
    numbers: str

    @classmethod
    def of(cls, parts: Sequence[bool], numbers: str) -> Verdict:
        """From the parts of a claim: it holds where all do, in part where some do.

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
    """

    name: str
    text: str
    judge: Callable[[Evidence], Verdict]
    expected: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure: its file name without ending, its size in inches, and what draws it on an empty `matplotlib` figure.

    `draw(evidence, figure)` puts panels on the figure.
    """

    name: str
    draw: Callable[[Evidence, Any], None]
    size: tuple[float, float] = (10.0, 4.2)


class Study:
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

    def measure(self, desk: Desk, size: Any) -> None:
        """Do the runs and fill the tables of `desk.evidence`."""
        raise NotImplementedError(f"{type(self).__name__} must define measure(desk, size)")
