"""The short names of the library: registering your own parts, and building one from text."""

from __future__ import annotations

from typing import Any

from .compressors import Compressor, compressors
from .methods import methods
from .problems import problems

register_compressor = compressors.register
register_method = methods.register
register_problem = problems.register


def compressor(text: str, **options: Any) -> Compressor:
    """A compressor from its text, for instance `compressor("topk:k=10")`."""
    return compressors.create(text, **options)
