"""`mpicomp list`: what there is, one line each."""

from __future__ import annotations

from typing import Annotated

import typer

KINDS = ("methods", "compressors", "problems", "data")


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="methods, compressors, problems or data; all of them by default.")
    ] = None,
) -> None:
    """List methods, compressors (with their theory's constants and papers), problems and data sets."""
    from ..errors import unknown

    if kind is not None and kind not in KINDS:
        raise unknown("list", kind, KINDS)
    for name in [kind] if kind else KINDS:
        _SHOW[name]()


def _methods() -> None:
    from ..console.show import table
    from ..methods import methods

    rows = [[n, m.summary, m.formulas, m.paper] for n in methods for m in [methods[n]]]
    table("Methods", ["name", "what it is", "theory", "paper"], rows, text=True)


def _compressors() -> None:
    from ..compressors import compressors
    from ..console.show import table

    rows = []
    for name in compressors:
        c = compressors[name]
        kind = "unbiased" if c.unbiased else "contractive" if c.contractive else "biased"
        rows.append([_with_options(name, c), c.summary, kind, c.formulas, c.paper])
    table("Compressors", ["name", "what it is", "class", "theory", "paper"], rows, text=True)


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
        "Data sets (a LIBSVM file can be named by its path instead)",
        ["name", "rows", "features", "task", "source"],
        rows,
        text=True,
    )


def _with_options(name: str, cls: type) -> str:
    from ..registry import option_names

    options = option_names(cls)
    return f"{name}:{','.join(o + '=' for o in options)}" if options else name


_SHOW = {"methods": _methods, "compressors": _compressors, "problems": _problems, "data": _data}
