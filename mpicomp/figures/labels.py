"""Labels that tell runs apart, which runs are one curve, and whether runs are of one problem.

Every table, figure and line of progress takes its names from here, so a run is called the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, TypeVar

from .runs import Run

R = TypeVar("R", bound=Run)
Facts = Mapping[str, str]

_BASE = ("method", "compressor", "downlink_compressor")
# What a reader wants to know first, in this order; options of parts follow their part.
_FIRST = (
    "method", "step", "batch", "optimizer", "wire_dtype", "dtype", "exchange", "ranks", "init", "data", "partition", "clients", "problem",
    "seed",
)  # fmt: skip
# What changes neither the iterates nor the bytes and seconds of the rounds.
_NEVER = {
    "out", "resume", "force", "imports", "verify_bytes", "stall_timeout", "time_limit", "checkpoint_every", "checkpoint_seconds",
    "on_failure", "allow_unsafe", "trace",
}  # fmt: skip
_WORDS = {
    "step": "step {}", "batch": "batch {}", "wire_dtype": "{} on the wire", "dtype": "{}", "exchange": "{}", "ranks": "{} ranks",
    "init": "from {}", "data": "{}", "partition": "{}", "clients": "n = {}", "problem": "{}", "seed": "seed {}", "optimizer": "{}",
    "rounds": "{} rounds", "tol": "tol {}", "threads": "{} threads",
}  # fmt: skip
# Of the manifest's facts on a problem: constants, which are there only where a method has asked for them.
_CONSTANTS = {"L", "L_min", "L_max", "L_AM", "L_QM", "L_var", "L_plus", "L_pm"}


@dataclass(frozen=True)
class Bundle(Generic[R]):
    """Runs that differ in nothing but the seed, or the repetitions of one configuration of a study: one curve, one column."""

    label: str
    runs: list[R]


def base_label(facts: Facts) -> str:
    """Method and compressors, of a run by itself.

    >>> base_label({"method": "ef21", "compressor": "topk:k=5"}), base_label({"method": "gd", "compressor": "identity"})
    ('ef21 topk:k=5', 'gd')
    """
    up, down = facts.get("compressor", ""), facts.get("downlink_compressor", "")
    way = "" if not down else "both ways" if down == up else f"+ {down} down"
    parts = [facts.get("method", "run"), up if up != "identity" else "", way]
    return " ".join(part for part in parts if part)


def lone_label(facts: Facts) -> str:
    """Of a run that stands beside no other, for its progress: the step and the seed too, where they are not the usual ones.

    >>> lone_label({"method": "ef21", "compressor": "topk:k=5", "step": "theory*4", "seed": "0"})
    'ef21 topk:k=5, step theory*4'
    """
    usual = {"step": "theory", "seed": "0"}
    return ", ".join([base_label(facts), *(_word(k, facts[k]) for k in usual if facts.get(k, usual[k]) != usual[k])])


def labels(runs: Sequence[Run], seeds: bool = True, whole: bool = False) -> list[str]:
    """A label for each run; no two are the same.

    Each has method and compressor, unless all runs share them, and of the other options those in which runs of this name differ; where
    that is not enough, the directory.

    Parameters
    ----------
    seeds : the seed may be part of a label. whole : method and compressor are, also where all runs share them.
    """
    hidden = _NEVER | (set() if seeds else {"seed"})
    facts = [{k: v for k, v in run.facts().items() if k not in hidden} for run in runs]
    bases = [base_label(f) for f in facts]
    shown: list[list[str]] = [[] for _ in runs]
    for base in dict.fromkeys(bases):
        same = [k for k, name in enumerate(bases) if name == base]
        for wanted in (True, False):
            if len({tuple(shown[k]) for k in same}) < len(same):
                varying = _varying([facts[k] for k in same], first=wanted)
                for k in same:
                    shown[k] += [_word(name, facts[k][name]) for name in varying if name in facts[k]]
    common = len(set(bases)) == 1 and len(bases) > 1 and all(shown) and not whole
    names = [", ".join(own if common else [base, *own]) for base, own in zip(bases, shown, strict=True)]
    return _with_places(names, runs)


def _varying(facts: Sequence[Facts], first: bool) -> list[str]:
    """Names of options that do not have one value in all of these, those that a reader wants first, or the others."""
    names = dict.fromkeys(name for f in facts for name in f)
    varying = [name for name in names if name not in _BASE[1:] and len({f.get(name) for f in facts}) > 1]
    chosen = [name for name in varying if (name.partition(".")[0] in _FIRST) == first]
    return sorted(chosen, key=lambda name: _FIRST.index(name.partition(".")[0])) if first else chosen


def _word(name: str, value: str) -> str:
    if name in _WORDS:
        return _WORDS[name].format(PurePath(value).name if name == "data" else value)
    return f"{name.partition('.')[2] or name}={value}"


def _with_places(names: list[str], runs: Sequence[Run]) -> list[str]:
    """Where a name stands more than once, with the part of the directory in which they differ, else with a number."""
    found = list(names)
    for name in dict.fromkeys(names):
        same = [k for k, other in enumerate(names) if other == name]
        if len(same) > 1:
            for k, tail in zip(same, _tails([runs[k].where for k in same]), strict=True):
                found[k] = f"{name}, {tail}"
    for k, name in enumerate(found):
        if name in found[:k]:
            found[k] = f"{name}, run {k + 1}"
    return found


def _tails(places: Sequence[str]) -> list[str]:
    """The directories without the beginning that they share.

    >>> _tails(["runs/a/x", "runs/b/x"])
    ['a/x', 'b/x']
    """
    parts = [PurePath(place).parts for place in places]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["/".join(p[shared:]) or "run" for p in parts]


def bundles(runs: Sequence[R], each: bool = False) -> list[Bundle[R]]:
    """The runs by curve, in the order in which they are given.

    Runs that differ only in the seed are one. Where a seed is there twice, the runs of each directory are one, and where it is there
    twice even so, each run is one. The repetitions of one configuration of a study are always one.

    Parameters
    ----------
    each : every run is a curve of its own, labelled with its seed.
    """
    if each:
        return [Bundle(label, [run]) for label, run in zip(labels(runs), runs, strict=True)]
    alike: dict[tuple[object, ...], list[R]] = {}
    for run in runs:
        facts = tuple(sorted((k, v) for k, v in run.facts().items() if k != "seed" and k not in _NEVER))
        alike.setdefault((run.configuration, facts if not run.configuration else ()), []).append(run)
    groups: list[list[R]] = []
    for found in alike.values():
        if found[0].configuration or _distinct_seeds(found):
            groups.append(found)
            continue
        by_place: dict[str, list[R]] = {}
        for run in found:
            by_place.setdefault(run.parent, []).append(run)
        if len(by_place) > 1 and all(_distinct_seeds(here) for here in by_place.values()):
            groups += by_place.values()
        else:
            groups += [[run] for run in found]
    first = [group[0] for group in groups]
    return [Bundle(label, group) for label, group in zip(labels(first, seeds=False), groups, strict=True)]


def _distinct_seeds(runs: Sequence[Run]) -> bool:
    seeds = [run.facts().get("seed") for run in runs]
    return len(set(seeds)) == len(seeds)


# ---- the problem ----------------------------------------------------------------------------------------------------
def problem_differences(runs: Sequence[Run]) -> list[str]:
    """A line for each run whose problem is not that of the first: what differs; empty where all runs minimise one f.

    Compared are name, d, n, data and options of the problem, as far as both runs tell them, and f(x⁰) where both begin at the same point.
    """
    lines = []
    first = _problem(runs[0]) if runs else {}
    for run in runs[1:]:
        other = _problem(run)
        told = [name for name in first if name in other]
        differing = [f"{name} {other[name]}, not {first[name]}" for name in told if first[name] != other[name]]
        if not differing and (starts := _starts(runs[0], run)):
            differing = [f"f(x⁰) = {starts[1]:.9g}, not {starts[0]:.9g}, so the data must differ"]
        if differing:
            lines.append(f"{run.where or 'a run'}: {'; '.join(differing)}")
    return lines


def _problem(run: Run) -> dict[str, str]:
    facts = run.facts()
    told = {k: str(v) for k, v in run.problem.items() if k not in _CONSTANTS and v is not None and k != "seed"}
    options = {k.partition(".")[2]: v for k, v in facts.items() if k.startswith("problem.")}
    sizes = {"name": facts.get("problem"), "dim": run.summary.get("dim"), "clients": run.summary.get("clients")}
    return {**told, **options, **{k: str(v) for k, v in sizes.items() if v is not None}}


def _starts(a: Run, b: Run) -> tuple[float, float] | None:
    """f(x⁰) of two runs that begin at the same point, where it is not the same."""
    one, two = a.facts(), b.facts()
    begin = one.get("init", "zero")
    if one.get("seed") != two.get("seed"):  # by which problems may be drawn
        return None
    if begin.startswith(("normal", "paper")) or begin != two.get("init", "zero") or not (a.rows and b.rows):
        return None
    f, g = a.rows[0]["loss"], b.rows[0]["loss"]
    if a.rows[0]["round"] != 0 or b.rows[0]["round"] != 0 or not (math.isfinite(f) and math.isfinite(g)):
        return None
    rough = "float32" in (one.get("dtype"), two.get("dtype"))
    return (f, g) if abs(f - g) > (1e-3 if rough else 1e-9) * max(abs(f), abs(g)) else None
