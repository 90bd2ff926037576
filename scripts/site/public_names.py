"""MkDocs hook: every public name has a docstring and a place in the API reference; a warning otherwise, an error in strict mode."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import re
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.plugins.public_names")
MODULES = ("mpicomp", "mpicomp.extend", "mpicomp.testing", "mpicomp.trackers", "mpicomp.torch")
NEEDS = {"mpicomp.torch": "torch"}  # a package without which the names have a place here, and cannot be loaded


def undocumented(module: Any, name: str) -> list[str]:
    """The dotted names that lack a docstring: the object itself, and the public methods and properties that it defines."""
    value = getattr(module, name)
    where = f"{module.__name__}.{name}"
    missing = [] if inspect.getdoc(value) else [where]
    if inspect.isclass(value):
        for key, member in vars(value).items():
            described = isinstance(member, (property, classmethod, staticmethod)) or inspect.isfunction(member)
            field = key in getattr(value, "__dataclass_fields__", {})
            if described and not field and not key.startswith("_") and not inspect.getdoc(getattr(value, key)):
                missing.append(f"{where}.{key}")
    return missing


def problems(docs: Path) -> list[str]:
    """What is wrong with the reference below `docs`, one sentence each."""
    pages = "\n".join(page.read_text() for page in sorted((docs / "reference" / "api").glob("*.md")))
    listed = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    found = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            if name.startswith("__"):
                continue
            if f"{module_name}.{name}" not in listed:
                found.append(f"docs/reference/api has no `::: {module_name}.{name}`")
            if module_name in NEEDS and importlib.util.find_spec(NEEDS[module_name]) is None:
                continue
            found += [f"{dotted} has no docstring" for dotted in undocumented(module, name)]
    return found


def on_pre_build(config: Any) -> None:
    """Called by MkDocs."""
    for text in problems(Path(config["docs_dir"])):
        LOG.warning(text)
