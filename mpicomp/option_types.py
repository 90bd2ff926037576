"""Values of options, checked against the types that a constructor declares for them, before it sees them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .errors import ConfigError

_PLAIN = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "None": "none"}
_LARGEST = 2**63 - 1


def typed_value(what: str, parameter: inspect.Parameter, value: Any) -> Any:
    """The value as the parameter's annotation wants it, where that loses nothing; a value as it is where no plain type is declared.

    Parameters
    ----------
    what : whose option it is, for messages: "compressor 'topk'".

    Raises
    ------
    ConfigError : a value of another type (True is no number, 3 is not true), or an integer of more than 64 bits.
    """
    kinds = _declared(parameter.annotation)
    if not kinds:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool):
        if "bool" in kinds:
            return value
    elif isinstance(value, int):
        if "int" in kinds and abs(value) <= _LARGEST:
            return value
        if "float" in kinds and abs(value) <= 10**300:
            return float(value) if abs(value) > 2**53 else value
        if "str" in kinds and kinds.isdisjoint({"int", "float"}):
            return str(value)
    elif isinstance(value, float):
        if "float" in kinds:
            return value
        if "int" in kinds and value.is_integer() and abs(value) <= _LARGEST:
            return int(value)
        if "str" in kinds and "int" not in kinds:
            return str(value)
    elif isinstance(value, str) and "str" in kinds:
        return value
    wanted = " or ".join(text for kind, text in _PLAIN.items() if kind in kinds and kind != "None")
    size = (
        f" of at most {_LARGEST}" if isinstance(value, int) and not isinstance(value, bool) and "int" in kinds else ""
    )
    shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
    raise ConfigError(f"{what}: {parameter.name}={shown} must be {wanted}{size}")


def _declared(annotation: Any) -> set[str]:
    """The plain types of an annotation such as `int | None`; none where it has others, or there is no annotation."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if not isinstance(annotation, str) and "|" in str(annotation):
        text = str(annotation)
    kinds = {part.strip() for part in text.split("|")}
    return kinds if kinds <= _PLAIN.keys() and kinds != {"None"} else set()
