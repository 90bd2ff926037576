"""The options of a run as Python takes them, for type checkers: those of `Config` that are not parts."""

from __future__ import annotations

from typing import Any, TypedDict


class RunOptions(TypedDict, total=False):
    """Keyword arguments of `mpicomp.run` beside the parts; `Config` says what each of them is."""

    method_options: dict[str, Any]
    downlink_compressor: str | None
    problem_options: dict[str, Any]
    data: str
    partition: str
    clients: int
    optimizer_options: dict[str, Any]
    batch: int
    rounds: int
    tol: float
    step: str | float
    explosion: float
    init: str | None
    dtype: str
    wire_dtype: str | None
    threads: int
    seed: int
    eval_every: int
    evaluate: str
    out: str | None
    force: bool
    checkpoint_every: int
    checkpoint_seconds: float
    time_limit: float
    stall_timeout: float
    resume: str | None
    on_failure: str
    verify_bytes: bool
    trace: str | None
    allow_unsafe: bool
    imports: list[str]
