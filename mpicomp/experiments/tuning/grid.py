"""What is tuned: methods with their compressors, along axes of options and steps."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime import (
    Config,
    ConfigError,
    compressors,
    format_spec,
    methods,
    option_names,
    parse_spec,
    parse_value,
    unknown,
)

MOST = 1000  # values of one axis
_RANGE = re.compile(r"(?:(?P<base>[^*^]+)\*)?(?P<ratio>[0-9.]+)\^(?P<low>-?\d+)\.\.(?:(?P=ratio)\^)?(?P<high>-?\d+)")
_OWN = ("step", "seed", "out", "rounds", "tol", "resume", "method", "evaluate")  # tuning sets these itself
_PARTS = ("compressor", "downlink_compressor")
_TABLES = ("method", "problem", "optimizer")


@dataclass(frozen=True)
class Steps:
    """Steps to try, ascending: factors of the theory's, or numbers.

    >>> Steps.parse("theory*2^-1..2^2")
    Steps(theory=True, values=(0.5, 1.0, 2.0, 4.0))
    >>> Steps.parse("0.1, 0.03").texts
    ('0.03', '0.1')
    """

    theory: bool
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Steps:
        """From `theory*2^-2..2^8`, `0.001*10^0..10^3`, or values with commas between them: `theory, theory*4`.

        Raises
        ------
        ConfigError : it is not of one of these forms, a step is not positive, or factors and numbers are mixed.
        """
        kinds, values = set(), set()
        for item in filter(None, text.replace(" ", "").split(",")):
            base, star, rest = item.partition("*")
            theory = base == "theory"
            kinds.add(theory)
            for value in expand(rest if theory and star else "1" if theory else item):
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                    raise ConfigError(
                        f"--steps {text!r}: {item!r} is no step; allowed: theory*2^-2..2^8, 0.01*2^0..2^6, or values: theory,theory*4"
                    )
                values.add(float(value))
        if len(kinds) != 1:
            raise ConfigError(f"--steps {text!r}: give either factors of the theory's step or numbers, at least one")
        return cls(kinds.pop(), tuple(sorted(values)))

    def text(self, value: float) -> str:
        """A step as `mpicomp run --step` takes it."""
        number = f"{int(value)}" if value.is_integer() and value < 1e15 else repr(value)
        return f"theory*{number}" if self.theory else number

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(map(self.text, self.values))

    def beyond(self, tried: Sequence[float], upwards: bool, count: int) -> list[float]:
        """The next steps past the edge, in the ratio of the two there; a ratio of 2 where only one was tried.

        >>> Steps.parse("theory*2^0..2^2").beyond([1.0, 2.0, 4.0], True, 2), Steps.parse("0.1").beyond([0.1], False, 1)
        ([8.0, 16.0], [0.05])
        """
        line = sorted(tried) if upwards else sorted(tried, reverse=True)
        ratio = line[-1] / line[-2] if len(line) > 1 else (2.0 if upwards else 0.5)
        return [line[-1] * ratio**k for k in range(1, count + 1)]


def expand(text: str) -> list[Any]:
    """The values of `BASE*R^I..R^J`, or the value that the text is.

    >>> expand("2^0..2^3"), expand("0.1*10^-1..0"), expand("max")
    ([1, 2, 4, 8], [0.010000000000000002, 0.1], ['max'])
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if not found:
        return [parse_value(text)]
    base, ratio = parse_value(found["base"] or "1"), parse_value(found["ratio"])
    low, high = int(found["low"]), int(found["high"])
    if not isinstance(base, int | float) or not isinstance(ratio, int | float) or not 0 <= high - low < MOST:
        raise ConfigError(f"{text!r} is no range; allowed: 2^0..2^6 or 0.1*10^-3..10^0, of up to {MOST} values")
    try:
        return [base * ratio**k for k in range(low, high + 1)]
    except (OverflowError, ZeroDivisionError):
        raise ConfigError(f"{text!r}: the numbers of this range are too large; choose other exponents") from None


@dataclass(frozen=True)
class Axis:
    """An option and its values, as `compressor.k=2^0..2^6` or `method.p=0.1,0.5` give them."""

    key: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """
        Raises
        ------
        ConfigError : it is not KEY=VALUES, or the key is not one that can be an axis.
        """
        key, equals, values = (part.strip() for part in text.partition("="))
        found = [value for item in values.split(",") if item.strip() for value in expand(item.strip())]
        if not equals or not key or not found:
            raise ConfigError(
                f"--axis {text!r} is not of the form KEY=VALUES, for example compressor.k=2^0..2^6 or batch=1,16"
            )
        table = key.partition(".")[0]
        if "." in key and table not in (*_PARTS, *_TABLES):
            raise unknown("table of an --axis", table, (*_PARTS, *_TABLES))
        if key in _OWN:
            raise ConfigError(
                f"--axis {key}: tuning sets {key} itself; steps are given by --steps, methods by --method"
            )
        if "." not in key and key not in Config.__dataclass_fields__:
            raise unknown("option of an --axis", key, Config.__dataclass_fields__)
        return cls(key, tuple(dict.fromkeys(found)))

    def applies(self, config: Config) -> bool:
        """This method, or its compressor, has the option."""
        table, dot, name = self.key.partition(".")
        if not dot:
            return (
                table != "downlink_compressor"
                or methods.build(config.method, config.method_options).takes_downlink_compressor
            )
        if table in _PARTS:
            spec = _spec(config, table)
            return spec is not None and name in option_names(compressors[parse_spec(spec)[0]])
        if table == "method":
            return name in option_names(methods[config.method])
        return True

    def put(self, config: Config, value: Any) -> None:
        """Set the option."""
        table, dot, name = self.key.partition(".")
        if dot and table in _PARTS:
            part, options = parse_spec(_spec(config, table) or "")
            setattr(config, table, format_spec(part, {**options, name: value}))
        else:
            config.set(self.key, value)


def _spec(config: Config, table: str) -> str | None:
    """The configured compressor, or the method's own."""
    method = methods.build(config.method, config.method_options)
    own = method.default_compressor if table == "compressor" else method.default_downlink_compressor
    return getattr(config, table) or own


@dataclass(frozen=True)
class Point:
    """One configuration: a contender at values of its axes, with a step. `place` orders the points of a contender."""

    contender: str
    axes: tuple[tuple[str, Any], ...]
    step: str
    value: float
    place: int

    def beside(self, other: Point) -> bool:
        """They differ in nothing but the step."""
        return (self.contender, self.axes) == (other.contender, other.axes)


@dataclass
class Contender:
    """A method with its compressor: what is tuned by itself.

    Attributes
    ----------
    label : as `METHOD + COMPRESSOR + DOWNLINK COMPRESSOR`. config : the run, without axes and step. axes : those that apply to it.
    """

    label: str
    config: Config
    axes: list[Axis] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str, base: Config) -> Contender:
        """From `METHOD`, `METHOD + COMPRESSOR` or `METHOD + COMPRESSOR + DOWNLINK`; the rest is as in `base`.

        Raises
        ------
        ConfigError : more or fewer parts, or one that is unknown.
        """
        parts = [part.strip() for part in text.split("+")]
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise ConfigError(
                f"--method {text!r}: expected METHOD, METHOD + COMPRESSOR, or METHOD + COMPRESSOR + DOWNLINK COMPRESSOR"
            )
        config = copy.deepcopy(base)
        name, options = parse_spec(parts[0])
        config.method_options = {**(base.method_options if name == base.method else {}), **options}
        config.method = name
        methods.build(name, config.method_options)
        for key, spec in zip(_PARTS, parts[1:], strict=False):
            setattr(config, key, spec)
        return cls.of(config)

    @classmethod
    def of(cls, config: Config) -> Contender:
        """The method and compressors of a configuration."""
        named = [config.method_spec, *(spec for spec in (config.compressor, config.downlink_compressor) if spec)]
        return cls(" + ".join(named), config)

    def combinations(self) -> list[tuple[tuple[str, Any], ...]]:
        """Every combination of the axes' values."""
        return [
            tuple(zip((axis.key for axis in self.axes), values, strict=True))
            for values in itertools.product(*(axis.values for axis in self.axes))
        ]

    def points(self, steps: Steps) -> list[Point]:
        """All combinations with all steps."""
        made = itertools.product(self.combinations(), zip(steps.texts, steps.values, strict=True))
        return [Point(self.label, axes, text, value, place) for place, (axes, (text, value)) in enumerate(made)]

    def configured(self, point: Point) -> Config:
        """The run of a point, checked.

        Raises
        ------
        ConfigError : a value is not allowed.
        """
        config = copy.deepcopy(self.config)
        by_key = {axis.key: axis for axis in self.axes}
        for key, value in point.axes:
            by_key[key].put(config, value)
        config.step = point.step
        config.validate()
        return config


def contenders(texts: Sequence[str], axes: Sequence[str], base: Config) -> tuple[list[Contender], list[str]]:
    """The contenders, each with the axes that apply to it, and what a person should know of the others.

    Raises
    ------
    ConfigError : a part is unknown, a contender is named twice, or an axis applies to none.
    """
    found = [Contender.parse(text, base) for text in texts] or [Contender.of(copy.deepcopy(base))]
    labels = [contender.label for contender in found]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(f"--method {twice!r} is given twice")
    notes = []
    for text in axes:
        axis = Axis.parse(text)
        takes = [contender for contender in found if axis.applies(contender.config)]
        if not takes:
            raise ConfigError(f"--axis {axis.key}: none of {', '.join(labels)} has this option")
        for contender in found:
            if contender in takes:
                contender.axes.append(axis)
            else:
                notes.append(f"{contender.label} has no {axis.key}: it is tuned without that axis")
    return found, notes
