"""Names of a module that are loaded when first used, so that importing the module costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping


def attach(
    module: str, names: Mapping[str, Iterable[str]], also: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` for a module that takes its names from others.

    The module declares the same names under `if TYPE_CHECKING`, so that type checkers see them; a test compares the two.

    Parameters
    ----------
    module : the module's own `__name__`.
    names : submodule of mpicomp ↦ the names that it defines.
    also : names that the module itself defines.
    """
    where = {name: source for source, defined in names.items() for name in defined}
    public = [*also, *where]

    def load(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"mpicomp.{where[name]}"), name)
        setattr(sys.modules[module], name, value)
        return value

    return load, lambda: sorted(public), public
