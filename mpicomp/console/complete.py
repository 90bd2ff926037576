"""The names of parts, for the shell's completion and for `mpicomp list`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..registry import Registry

KINDS = ("methods", "compressors", "uplinks", "downlinks", "optimizers", "exchanges", "problems", "data", "trackers")
_WHERE = {
    "uplinks": "mechanisms.base", "downlinks": "mechanisms.base", "exchanges": "exchanges.base", "trackers": "trackers.base",
}  # fmt: skip


def registry_of(kind: str) -> Registry[Any]:
    """The registry of a kind of parts, which is one of KINDS but not "data"; it has the kind's name in its module."""
    registry: Registry[Any] = getattr(importlib.import_module(f"mpicomp.{_WHERE.get(kind, kind)}"), kind)
    return registry


def names_of(kind: str) -> list[str]:
    """The names of all parts of a kind."""
    if kind != "data":
        return list(registry_of(kind))
    from ..data.sets import DATA_SETS

    return list(DATA_SETS)


def completed(*kinds: str, also: tuple[str, ...] = ()) -> Callable[[str], list[str]]:
    """Completes the names of parts of these kinds, and some others."""

    def complete(incomplete: str) -> list[str]:
        names = [*also, *(name for kind in kinds for name in names_of(kind))]
        return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]

    return complete


any_part = completed(*KINDS, also=KINDS)
