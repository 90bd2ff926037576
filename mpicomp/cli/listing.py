"""`mpicomp list`: what there is, two or three lines each, and a page about a part that is named."""

from __future__ import annotations

import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..console.complete import KINDS, any_part, registry_of
from ..console.options import Import

_TITLES = {
    "uplinks": "Uplinks, for --method custom --uplink",
    "downlinks": "Downlinks, for --method custom --downlink",
    "trackers": "Trackers, for --track",
    "data": "Data sets (a file can be named by its path instead)",
}


def list_parts(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND | NAME]",
            autocompletion=any_part,
            help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}, all of them by default; or the name of a part, as topk, for all about it.",
        ),
    ] = None,
    import_: Import = None,
) -> None:
    """List the parts that runs are made of, with options, defaults and their theory's constants; or show all about one of them."""
    kinds = KINDS if what is None else tuple(kind for kind in KINDS if kind == what)
    for kind in kinds:
        _list(kind)
    if not kinds:
        _show(str(what))


def _list(kind: str) -> None:
    """All parts of a kind."""
    _print(_TITLES.get(kind, kind.capitalize()), "")
    if kind == "data":
        _data()
        return
    registry = registry_of(kind)
    shared = _shared_options(kind)
    for name in registry:
        part = registry[name]
        mark = " *" if _of(part, "experimental") else ""
        _print(f"{name}{mark}: {_summary(part)}", "  ", "    ")
        options = _options(part, shared)
        theory = "; ".join(filter(None, (_class(kind, part), _of(part, "formulas"))))
        for line in filter(None, (", ".join(options), theory, _of(part, "paper"))):
            _print(line, "    ")
    if shared:
        _print(
            f"Of all of them, for the step size by the round: {', '.join(_options(_scheduled(), kept=shared))}", "  "
        )
    for name in registry:
        if reason := _of(registry[name], "experimental"):
            _print(f"* {name} is experimental: {reason}", "")
    print()


def _show(name: str) -> None:
    """All about the parts of this name, of whatever kind.

    Raises
    ------
    ConfigError : there is none.
    """
    from ..data.sets import DATA_SETS
    from ..errors import unknown

    registries = {kind: registry_of(kind) for kind in KINDS if kind != "data"}
    found = [kind for kind, registry in registries.items() if name in registry]
    if name in DATA_SETS:
        _data([name])
    elif not found:
        names = {part for registry in registries.values() for part in registry}
        raise unknown("part", name, [*KINDS, *names, *DATA_SETS], brief=True)
    for kind in found:
        part = registries[kind][name]
        _print(f"{registries[kind].kind} {name}: {_summary(part)}", "")
        text = _documentation(part)
        if text:
            print(_spelt(textwrap.indent(text, "  ")))
        facts = {
            "options": ", ".join(_options(part)) or "none",
            "class": _class(kind, part),
            "theory": _of(part, "formulas"),
            "paper": _of(part, "paper"),
            "experimental": _of(part, "experimental"),
        }
        print()
        for fact, value in facts.items():
            if value:
                _print(f"{fact + ':':<9} {value}", "  ", " " * 12)
        print()


def _data(names: Sequence[str] = ()) -> None:
    from ..data.sets import DATA_SETS

    for name in names or DATA_SETS:
        s = DATA_SETS[name]
        _print(f"{name}: {s.task}", "  ", "    ")
        _print(f"{s.rows:,} rows, {s.features:,} features; {s.source}", "    ")
    print()


def _scheduled() -> type:
    from ..optimizers.schedule import Scheduled

    return Scheduled


def _shared_options(kind: str) -> Sequence[str]:
    """Options that all parts of the kind have, which are said once."""
    if kind != "optimizers":
        return ()
    from ..optimizers.schedule import ScheduleOptions

    return list(ScheduleOptions.__annotations__)


def _summary(part: Any) -> str:
    """In a line; of parts without a summary the first line of their documentation, which is their formula."""
    lines = (part.__doc__ or "").strip().splitlines()
    return _of(part, "summary") or (lines[0] if lines else "no description")


def _of(part: Any, attribute: str) -> str:
    return str(getattr(part, attribute, "") or "")


def _class(kind: str, part: Any) -> str:
    """Of a compressor."""
    if kind != "compressors":
        return ""
    from ..compressors.base import example
    from ..errors import ConfigError

    try:
        one = example(part.name)
    except ConfigError:  # it wants options that nobody knows
        one = part
    return "unbiased" if one.unbiased else "contractive" if one.contractive else "biased"


def _options(part: type, left_out: Sequence[str] = (), kept: Sequence[str] = ()) -> list[str]:
    """A part's options, each with its default; without one where there is none, or it depends on the others."""
    from ..registry import default_options, option_names

    defaults = default_options(part)
    texts = []
    for name in option_names(part):
        if name not in left_out and (not kept or name in kept):
            default = defaults.get(name)
            value = str(default).lower() if isinstance(default, bool) else default
            texts.append(name if value is None or value == "" else f"{name}={value}")
    return texts


def _documentation(part: Any) -> str:
    """The part's documentation, without its first line and its examples."""
    paragraphs = inspect.cleandoc(part.__doc__ or "").split("\n\n")
    lines = paragraphs[0].splitlines()
    kept = lines if _of(part, "summary") else lines[1:]
    others = [p for p in paragraphs[1:] if not p.lstrip().startswith(">>>")]
    return "\n\n".join(_refolded(p) for p in ["\n".join(kept), *others] if p)


def _refolded(paragraph: str) -> str:
    """Each line of a paragraph in the width of the screen."""
    width = _width() - 2
    lines = []
    for line in paragraph.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        lines += textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True) or [""]
    return "\n".join(lines)


def _width() -> int:
    """Columns of the screen; 120 where there is none."""
    return max(40, shutil.get_terminal_size((120, 24)).columns)


def _spelt(text: str) -> str:
    from ..streams import shown, spelt

    return spelt(shown(text))


def _print(text: str, indent: str, more: str | None = None) -> None:
    """A text, folded between words; its further lines are indented by `more`."""
    folded = textwrap.wrap(
        _spelt(text), _width(), initial_indent=indent, subsequent_indent=indent + "  " if more is None else more,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    print("\n".join(folded), file=sys.stdout)
