"""Which cases the quick lane runs: `scripts/test` leaves out what is marked `full`, `scripts/test full` runs everything.

`full` marks what is too long for every change. `covering` marks a parametrised test whose cases are a product: the quick
lane takes a part of them in which every value (`covering()`) or every pair of values of two parameters (`covering(2)`) occurs.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

# Fixtures whose tests only the full lane runs, and those whose tests measure links and so run alone.
LABORATORIES = {
    "open_mpi": "a second MPI",
    "cluster": "a SLURM of its own",
    "lab_here": "a network of its own",
    "lab": "a network of its own",
}
MEASURED = {"lab_here", "lab"}


def covering_cases(cases: Sequence[frozenset], strength: int) -> list[int]:
    """Positions of a part of the cases in which all sets of `strength` values that occur together in a case occur.

    Greedy: the case with the most sets that are new, among those the one whose values were taken least often, then the first.
    """
    sets = [set(itertools.combinations(sorted(case), min(strength, len(case)))) for case in cases]
    missing, taken, uses = set().union(*sets), [], Counter()
    while missing:
        best = max(
            (i for i in range(len(cases)) if i not in taken),
            key=lambda i: (len(sets[i] & missing), -sum(uses[value] for value in cases[i]), -i),
        )
        taken.append(best)
        missing -= sets[best]
        uses.update(cases[best])
    return sorted(taken)


def values_of(item: pytest.Item) -> frozenset:
    """The values of a case's parameters by identity; those that one `parametrize` gives together count as one value."""
    params = dict(item.callspec.params)
    together = [mark.args[0] for mark in item.iter_markers("parametrize")]
    named = [[name.strip() for name in names.split(",")] if isinstance(names, str) else names for names in together]
    values = [tuple((name, id(params.pop(name))) for name in names) for names in named]
    return frozenset([*values, *(((name, id(value)),) for name, value in params.items())])


def mark_lanes(items: Sequence[pytest.Item]) -> None:
    """Mark as `full` what needs a laboratory or a quiet machine, and the cases of a product that the quick lane does not need."""
    products = defaultdict(list)
    for item in items:
        for fixture in set(getattr(item, "fixturenames", ())) & set(LABORATORIES):
            item.add_marker(pytest.mark.full(reason=f"needs {LABORATORIES[fixture]}"))
            if fixture in MEASURED:
                item.add_marker(pytest.mark.alone)
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.full(reason="needs a quiet machine"))
        if item.get_closest_marker("covering") and hasattr(item, "callspec") and not item.get_closest_marker("full"):
            products[item.nodeid.partition("[")[0]].append(item)
    for cases in products.values():
        marker = cases[0].get_closest_marker("covering")
        quick = set(covering_cases([values_of(item) for item in cases], marker.args[0] if marker.args else 1))
        for i, item in enumerate(cases):
            if i not in quick:
                item.add_marker(pytest.mark.full(reason="the quick lane runs a covering part of this product"))
