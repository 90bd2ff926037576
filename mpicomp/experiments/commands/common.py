"""What commands that make many runs share."""

from __future__ import annotations

import signal
from typing import Any

# Options of a run that a search for good ones decides by itself, with what its runs have to begin with.
DECIDED: dict[str, Any] = {
    "out": None, "resume": None, "force": False, "tol": 0.0, "step": "theory", "evaluate": "full", "verify_bytes": False,
    "time_limit": 0.0,
}  # fmt: skip


def stop_at_sigterm() -> None:
    """SIGTERM ends this process by an exception from now on, so that the runs under way are taken down too."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, _frame: object) -> None:
    from ..runtime import StopNow

    raise StopNow(number)
