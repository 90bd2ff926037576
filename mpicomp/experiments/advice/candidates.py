"""What advice chooses from, where the user names nothing: methods with their compressors, one and both directions."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from ..runtime import Composition, Config, Problem, TheoryError, exchanges, refusal
from ..tuning.grid import Contender, Steps

_BITS4 = "qsgd:bits=4,bucket=512,norm=max"
_BF16 = "cast:to=bfloat16"
_TOP10, _TOP1 = "topk:fraction=0.1", "topk:fraction=0.01"
DENSE = "gd"
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"method": "custom", "method_options": {"uplink": f"direct:{_BF16}", "downlink": f"ef21-p:{_BF16}"}},
    {"method": "custom", "method_options": {"uplink": f"ef21:{_BITS4}", "downlink": f"ef21-p:{_BITS4}"}},
    {"method": "custom", "method_options": {"uplink": f"ef21:{_TOP10}", "downlink": f"ef21-p:{_BITS4}"}},
    {"method": "custom", "method_options": {"uplink": f"ef21:{_TOP1}", "downlink": f"ef21-p:{_BITS4}"}},
    {"method": "custom", "method_options": {"uplink": "ef21:sign", "downlink": f"ef21-p:{_BITS4}"}},
    {"method": "ef21", "compressor": _TOP10},
    {"method": "ef21", "compressor": _TOP1},
    {"method": "ef21", "compressor": _BITS4},
    {"method": "ef21", "compressor": _BF16},
    {"method": "marina", "compressor": "randk:fraction=0.1"},
    {"method": "marina", "compressor": "permk"},
    {"method": "diana", "compressor": "natural"},
    {"method": "diana", "compressor": "qsgd:bits=4"},
    {"method": "dcgd", "compressor": "natural"},
)
LISTED = ("p2p", "collective", "sharded")
UNIT = "1/L*"  # steps in units of gradient descent's


def dense(base: Config) -> Contender:
    """Gradient descent with dense messages: what compression has to beat."""
    plain: dict[str, Any] = {"method": DENSE, "method_options": {}, "compressor": None, "downlink_compressor": None}
    return Contender.of(dataclasses.replace(copy.deepcopy(base), **plain))


def candidates(base: Config, named: Sequence[str]) -> list[Contender]:
    """The contenders: those that are named, or CANDIDATES."""
    if named:
        return [found for text in named if (found := Contender.parse(text, base)).config.method != DENSE]
    plain: dict[str, Any] = {"method_options": {}, "compressor": None, "downlink_compressor": None}
    return [
        Contender.of(dataclasses.replace(copy.deepcopy(base), **{**plain, **copy.deepcopy(parts)}))
        for parts in CANDIDATES
    ]


def steps_of(text: str, base: Config, problem: Problem) -> Steps:
    """The steps that all contenders try: numbers, or so many times gradient descent's 1/L, as `1/L*2^-4..2^1`.

    Raises
    ------
    TheoryError : they are of the second kind, and the problem's L is not known. ConfigError : they are no steps.
    """
    if not text.startswith(UNIT):
        return Steps.parse(text)
    factors = Steps.parse(text.removeprefix(UNIT))
    try:
        unit = Composition(dense(base).config, problem).step_size("theory")
    except TheoryError as error:
        raise TheoryError(f"{error}; or give the steps to try, for example --steps 0.01*2^0..2^6") from None
    return Steps(False, tuple(unit * factor for factor in factors.values))


def shown(contender: Contender) -> str:
    """A contender in few words: of a custom one what goes up and what goes down.

    >>> shown(candidates(Config(), [])[0])
    'direct cast:to=bfloat16 up, ef21-p cast:to=bfloat16 down'
    """
    if contender.config.method != "custom":
        return "dense (gd)" if contender.config.method == DENSE else contender.label
    ways = {"uplink": "up", "downlink": "down"}
    told = [
        (str(contender.config.method_options[key]).replace(":", " ", 1), way)
        for key, way in ways.items()
        if key in contender.config.method_options
    ]
    return ", ".join(f"{part} {way}" for part, way in told)


def exchanges_of(contender: Contender, listed: Sequence[str], problem: Problem, ranks: int) -> list[str]:
    """The exchanges that can carry a contender's messages; the sum of all ranks only where they are dense."""
    config = contender.config
    asked = [*listed, "allreduce"] if config.method == DENSE else list(listed)
    composition = Composition(config, problem)
    return [name for name in asked if not refusal(config, problem, composition, 1.0, exchanges[name], ranks)]
