"""`mpicomp list`: what there is, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..console.options import Import

KINDS = ("methods", "compressors", "uplinks", "downlinks", "optimizers", "exchanges", "problems", "data", "trackers")


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}; all of them by default.")
    ] = None,
    import_: Import = None,
) -> None:
    """List the parts that runs are made of: methods and compressors with their theory's constants and papers, and all others."""
    from ..errors import unknown

    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    for name in [kind] if kind else KINDS:
        _SHOW[name]()


def _methods() -> None:
    from ..console.show import table
    from ..methods import methods

    rows = [[_marked(n, m), m.summary, m.formulas, m.paper] for n in methods for m in [methods[n]]]
    table("Methods", ["name", "what it is", "theory", "paper"], rows, text=True)
    _footnotes({n: methods[n] for n in methods})


def _compressors() -> None:
    from ..compressors import compressors
    from ..console.show import table

    rows = []
    for name in compressors:
        c = compressors[name]
        kind = "unbiased" if c.unbiased else "contractive" if c.contractive else "biased"
        rows.append([_marked(_with_options(name, c), c), c.summary, kind, c.formulas, c.paper])
    table("Compressors", ["name", "what it is", "class", "theory", "paper"], rows, text=True)
    _footnotes({name: compressors[name] for name in compressors})


def _uplinks() -> None:
    from ..mechanisms.base import uplinks

    _parts("Uplinks, for --method custom --uplink", uplinks)


def _downlinks() -> None:
    from ..mechanisms.base import downlinks

    _parts("Downlinks, for --method custom --downlink", downlinks)


def _optimizers() -> None:
    from ..optimizers import optimizers
    from ..optimizers.schedule import ScheduleOptions

    shared = [*ScheduleOptions.__annotations__]
    _parts("Optimizers", optimizers, shared)
    print(f"Of all of them, for the step size by the round: {','.join(f'{name}=' for name in shared)}")


def _trackers() -> None:
    from ..trackers.base import trackers

    _parts("Trackers, for --track", trackers)


def _exchanges() -> None:
    from ..console.show import table
    from ..exchanges.base import exchanges

    table("Exchanges", ["name", "what it is"], [[n, exchanges[n].summary] for n in exchanges], text=True)


def _parts(title: str, registry: Any, shared: Sequence[str] = ()) -> None:
    """Parts that have no summary of their own: the first line of their documentation is their formula. `shared` options are left out."""
    from ..console.show import table

    rows = []
    for name in registry:
        lines = (registry[name].__doc__ or "").strip().splitlines()
        rows.append([_with_options(name, registry[name], shared), lines[0] if lines else ""])
    table(title, ["name", "what it is"], rows, text=True)


def _problems() -> None:
    from ..console.show import table
    from ..problems import problems

    table(
        "Problems",
        ["name", "what it is"],
        [[_with_options(name, problems[name]), problems[name].summary] for name in problems],
        text=True,
    )


def _data() -> None:
    from ..console.show import table
    from ..data.sets import DATA_SETS

    rows = [[name, str(s.rows), str(s.features), s.task, s.source] for name, s in DATA_SETS.items()]
    table(
        "Data sets (a file can be named by its path instead: LIBSVM, CSV, .npz, Parquet, HDF5)",
        ["name", "rows", "features", "task", "source"],
        rows,
        text=True,
    )


def _marked(text: str, part: Any) -> str:
    """The text, with a mark where the part is experimental."""
    return f"{text} *" if part.experimental else text


def _footnotes(parts: dict[str, Any]) -> None:
    for name, part in parts.items():
        if part.experimental:
            print(f"* {name} is experimental: {part.experimental}")


def _with_options(name: str, cls: type, left_out: Sequence[str] = ()) -> str:
    from ..registry import option_names

    options = [option for option in option_names(cls) if option not in left_out]
    return f"{name}:{','.join(o + '=' for o in options)}" if options else name


_SHOW = {
    "methods": _methods, "compressors": _compressors, "uplinks": _uplinks, "downlinks": _downlinks, "optimizers": _optimizers,
    "exchanges": _exchanges, "problems": _problems, "data": _data, "trackers": _trackers,
}  # fmt: skip
