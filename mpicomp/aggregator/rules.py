"""Which tensor is compressed how: rules in order, by name, dimension or size; and the groups of tensors that share a mechanism."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ..compressors import Compressor, compressors
from ..compressors.layers import Layers
from ..errors import ConfigError
from ..mechanisms.base import uplinks
from ..registry import option_names
from .tensors import Tensor

Rule: TypeAlias = "tuple[str | Callable[[str, tuple[int, ...]], bool], str]"

_CONDITION = re.compile(r"(ndim|size)\s*(<=|>=|==|<|>)\s*(\d+)")
_COMPARE = {"<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt}


@dataclass
class Group:
    """Tensors that share a mechanism: one vector.

    Attributes
    ----------
    mechanism : NAME[@option=value,...]. dtype : of the vector. bucket : see `grouped`.
    together : tensors that are compressed as one vector, by `compressor`, sorted by name.
    alone : tensors that are compressed each by itself, with their compressors, sorted by name. Where the mechanism has no compressor,
        its text says all, and there are none.
    """

    mechanism: str
    dtype: np.dtype
    bucket: int
    compressor: str
    together: list[Tensor] = field(default_factory=list)
    alone: list[tuple[Tensor, str]] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """In the order of the vector's entries."""
        return self.together + [tensor for tensor, _ in self.alone]

    @property
    def is_plain(self) -> bool:
        """Nothing is compressed or remembered on the way up."""
        return self.is_dense and self.mechanism.partition("@")[0] == "direct"

    @property
    def is_dense(self) -> bool:
        """What travels is sums of plain vectors, which MPI can add on the way."""
        name = self.mechanism.partition("@")[0]
        plain = self.compressor in ("", "identity") and all(text == "identity" for _, text in self.alone)
        return plain and name in ("direct", "powersgd")

    def make_compressor(self) -> Compressor | None:
        """For the vector; None where the mechanism takes none, or has one of its own."""
        if not self.compressor and not self.alone:
            return None
        parts = []
        if self.together:
            parts.append((sum(t.size for t in self.together), compressors.create(self.compressor or "identity")))
        parts += [(tensor.size, compressors.create(text)) for tensor, text in self.alone]
        parts = [(count, compressor) for count, compressor in parts if count]
        return parts[0][1] if len(parts) == 1 else Layers(parts)


def split(text: str) -> tuple[str, str]:
    """(mechanism with its options, compressor) of an uplink's text; the second is empty where there is none.

    >>> split("ef21@start=dense:topk:fraction=0.01"), split("direct")
    (('ef21@start=dense', 'topk:fraction=0.01'), ('direct', ''))
    >>> split("powersgd:rank=4")
    ('powersgd@rank=4', '')

    Raises
    ------
    ConfigError : an unknown mechanism, or a compressor where a mechanism is expected.
    """
    head, _, rest = text.partition(":")
    name = head.partition("@")[0]
    if name not in uplinks and name in compressors:
        known = "direct" if compressors.create(text).unbiased else "ef21"
        raise ConfigError(
            f"uplink {text!r} names a compressor; put a mechanism before it, for example {known + ':' + text!r}"
        )
    if "compressor" in option_names(uplinks[name]):
        return head, rest
    return (f"{head}{',' if '@' in head else '@'}{rest}" if rest else head), ""


def matches(pattern: str | Callable[[str, tuple[int, ...]], bool], tensor: Tensor) -> bool:
    """A pattern speaks of a tensor: shell wildcards for its name, `ndim<2`, `size>=1000`, or a function of name and shape."""
    if callable(pattern):
        return bool(pattern(tensor.name, tensor.shape))
    if condition := _CONDITION.fullmatch(pattern.strip()):
        what, compare, number = condition.groups()
        return bool(_COMPARE[compare](len(tensor.shape) if what == "ndim" else tensor.size, int(number)))
    return fnmatch.fnmatchcase(tensor.name, pattern)


def held(tensor: Tensor, rules: Sequence[Rule]) -> str | None:
    """The text of the first rule that speaks of a tensor; None where none does."""
    return next((text for pattern, text in rules if matches(pattern, tensor)), None)


def described(rules: Sequence[Rule]) -> list[list[str]]:
    """Rules as texts that are the same in every process: a function has no name there."""
    return [[pattern if isinstance(pattern, str) else "a function", text] for pattern, text in rules]


def grouped(tensors: Sequence[Tensor], uplink: str, rules: Sequence[Rule], bucket_nbytes: int | None) -> list[Group]:
    """The groups, in the order in which they are exchanged.

    Tensors of which no rule speaks are compressed together, as one vector; one of which a rule speaks by itself.
    Within a group the order is that of names, so that it does not depend on the order in which a model lists its tensors.

    Parameters
    ----------
    rules : (pattern, mechanism or compressor); the first that speaks of a tensor holds. A compressor goes with the uplink's mechanism.
    bucket_nbytes : a bucket closes when its tensors, from the last to the first, have so many bytes; None for one bucket.

    Raises
    ------
    ConfigError : a rule that is no pair, or names what is unknown.
    """
    default, compressor = split(uplink)
    for rule in rules:
        if not isinstance(rule, tuple) or len(rule) != 2 or not isinstance(rule[1], str):
            raise ConfigError(
                f"rule {rule!r} is no pair of a pattern and a text, such as ('ndim<2', 'cast:to=bfloat16')"
            )
    groups: dict[tuple[int, str, str], Group] = {}
    bucket, filled = 0, 0
    for tensor in tensors if bucket_nbytes is None else reversed(tensors):
        text = held(tensor, rules)
        if text is None:
            mechanism, own = default, None
        elif text.partition(":")[0] in compressors:
            mechanism, own = default, text
        else:
            mechanism, own = split(text)
        key = (bucket, mechanism, tensor.dtype.name)
        shared = compressor if mechanism == default else ""
        group = groups.setdefault(key, Group(mechanism, tensor.dtype, bucket, shared))
        if own:
            group.alone.append((tensor, own))
        else:
            group.together.append(tensor)
        filled += tensor.size * tensor.dtype.itemsize
        if bucket_nbytes is not None and filled >= bucket_nbytes:
            bucket, filled = bucket + 1, 0
    for group in groups.values():
        group.together.sort(key=lambda t: t.name)
        group.alone.sort(key=lambda pair: pair[0].name)
    return [group for group in groups.values() if sum(t.size for t in group.tensors)]
