"""Griffe extension: makes the project's docstrings readable for mkdocstrings, and finds the public names.

The project writes `a, b : text` under Parameters, Attributes, Returns and Raises, and may put several such items on a line.
The numpy style would take the text for a type. Here each item becomes a line with the names alone, followed by its text, indented.
Doctests get a section of their own.

`mpicomp.run` and the other names of `mpicomp.__all__` are loaded when first used, which a reader of the source cannot follow:
they become aliases of what they name.
A public name that is a method of some object, such as `mpicomp.register_problem`, becomes a function.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from typing import Any

import griffe

PUBLIC = ("extend", "testing")  # modules of the package with public names, beside itself
SECTIONS = ("Parameters", "Attributes", "Class attributes", "Returns", "Raises", "Yields")
NAMES = r"[A-Za-z_][\w.]*(?:, [A-Za-z_][\w.]*)*"
ITEM = re.compile(rf"^({NAMES}) : (.*)$")
NEXT_ITEM = re.compile(rf"(?<=\.) (?={NAMES} : )")


def numpy_style(text: str) -> str:
    """The docstring with its items as the numpy style wants them; other text as it is."""
    lines = text.split("\n")
    out: list[str] = []
    names: list[str] = []  # of the item whose text is being read
    content: list[str] = []
    section = ""

    def end_item() -> None:
        for name in names:
            out.extend([name, *content])
        names.clear()
        content.clear()

    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.strip() and re.fullmatch(r"-{3,}", following.strip()):
            end_item()
            title = line.strip()
            known = next((name for name in SECTIONS if title == name or title.startswith(f"{name} (")), title)
            section = {"Class attributes": "Attributes"}.get(known, known)
            out.append(section)
        elif out and re.fullmatch(r"-{3,}", line.strip()):
            out.append("-" * len(out[-1]))
        elif line.startswith(">>> ") and section != "Examples":
            end_item()
            section = "Examples"
            out += [section, "-" * len(section), line]
        elif section in SECTIONS and ITEM.match(line):
            for item in NEXT_ITEM.split(line):
                end_item()
                listed, first = ITEM.match(item).groups()  # type: ignore[union-attr]
                # Only a parameter with an item of its own gets the type of its annotation.
                names += listed.split(", ") if section == "Parameters" else [listed]
                content.append(f"    {first}")
        elif names and line.startswith(" "):
            content.append(line)
        else:
            end_item()
            out.append(line)
    end_item()
    return "\n".join(out)


class ProjectDocstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed, and adds the public names to a package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for module in (pkg, *(pkg[name] for name in PUBLIC if name in pkg.members)):
            public = importlib.import_module(module.path)
            for name in public.__all__:
                value = getattr(public, name)
                if inspect.ismethod(value):
                    where = f"{value.__module__}.{value.__qualname__}".removeprefix(f"{pkg.path}.")
                    function = copy.copy(pkg[where])
                    function.name, function.parameters = name, griffe.Parameters(*list(function.parameters)[1:])
                    module.set_member(name, function)
                elif name not in module.members and hasattr(value, "__qualname__"):
                    target = f"{value.__module__}.{value.__qualname__}"
                    module.set_member(name, griffe.Alias(name, target, parent=module))

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = numpy_style(obj.docstring.value)
