"""A cell of a study: one run, and the name of its directory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..runtime import Run, format_spec, labels


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes
    ----------
    options : what `mpicomp run` is given, as in its TOML files. baseline : one of BASELINES; "" for a method of the study.
    nodes, per_node : placement; nodes = 0 where ranks are just started on this machine. workers : ranks that are not the server.
    link : rate of each node's link such as "100mbit"; "" for whatever there is. delay_ms : one way, of the emulated network.
    repetition : 0, 1, ... named : what the study calls its method, to tell it from the study's others.
    """

    options: dict[str, Any]
    baseline: str
    nodes: int
    per_node: int
    workers: int
    link: str
    delay_ms: float
    repetition: int
    named: str = ""

    @property
    def ranks(self) -> int:
        """Processes to start."""
        return self.workers + 1

    @property
    def label(self) -> str:
        """Method and compressor, and of its other options those in which the study's methods differ, for tables and plots."""
        if self.baseline:
            return {"dense": "dense", "allreduce": "dense Allreduce", "bfloat16": "bfloat16 uplink"}[self.baseline]
        return self.named or names_of([self.options])[0]

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of everything that defines the cell but its repetition."""
        facts = {k: v for k, v in self.to_dict().items() if k != "repetition"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its directory's name: placement, exchange and link to read, the key to be unique."""
        where = f"{self.nodes}x{self.per_node}" if self.nodes else f"w{self.workers}"
        readable = [self.baseline or _name(self.options.get("method", "run")), where]
        readable += [part for part in (self.options["exchange"], self.link) if part not in ("", self.baseline)]
        safe = re.sub(r"[^A-Za-z0-9.+:=_-]|^[.-]|[.](?=[.])", "_", "-".join(readable))  # a name, never a path
        return f"{safe}-{self.key[:8]}-r{self.repetition}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; `Cell(**fields)` is the inverse."""
        return {k: v for k, v in asdict(self).items() if k != "named"}


def names_of(tables: Sequence[dict[str, Any]]) -> list[str]:
    """A label for each of these tables of a run's options; the same for two tables that are the same."""
    whole = [{**options, "method": _spec(options.get("method", "run"))} for options in tables]
    distinct = {repr(options): Run(options, {}, {}, []) for options in whole}
    named = dict(zip(distinct, labels(list(distinct.values()), whole=True), strict=True))
    return [named[repr(options)] for options in whole]


def _spec(method: Any) -> str:
    return method if isinstance(method, str) else format_spec(_name(method), _options(method))


def _name(value: Any) -> str:
    """The name of a part, given as a table or as `name:option=value`."""
    return str(value.get("name", "run")) if isinstance(value, dict) else str(value).partition(":")[0]


def _options(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}
