"""How a check says what is wrong: an AssertionError in one or two plain sentences."""

from __future__ import annotations

from typing import Any, NoReturn


def fail(part: str, case: dict[str, Any], fault: str, remedy: str = "") -> NoReturn:
    """Raise the AssertionError of a check.

    Parameters
    ----------
    part : what was checked, as the user names it. case : the input, by name (d, dtype, seed, ...).
    fault : what was expected and what came, without a full stop. remedy : what to do about it, likewise.
    """
    where = ", ".join(f"{name}={value}" for name, value in case.items())
    raise AssertionError(f"{part} ({where}): {fault}." + (f" {remedy}." if remedy else ""))


def text_of(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}"
