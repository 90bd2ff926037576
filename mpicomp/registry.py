"""Names for the parts: one registry each for compressors, methods, problems and data sets.

A part registers itself with a decorator, a third party's part by an entry point of the group `mpicomp.<kind>s`. A part with its
options is written `name:option=value,option=value`, for instance `topk:k=10` or `qsgd:bits=4,bucket=512`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

import numpy as np

from .errors import ConfigError, unknown

_PLAIN = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "None": "none"}
_LARGEST = 2**63 - 1

P = TypeVar("P")  # the base class of the parts
C = TypeVar("C", bound=type)


class Registry(Generic[P]):
    """Maps a name to a class of parts: P and its subclasses.

    Parameters
    ----------
    kind : what the registry holds, in the singular ("compressor"); used in messages and for the entry point group.
    package : its modules register the built-in parts; a name that is a module's own loads that module alone, any other all of them. A new
        part is a new file.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[P]] = {}
        self._loaded = self._built_in = False
        self._modules: set[str] = set()  # looked for by name

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make the class known under `name` (also stored as its attribute `name`).

        Raises
        ------
        ConfigError : another class has the name, a built-in one or not.
        """

        if not isinstance(name, str) or not name:
            raise TypeError(
                f'register_{self.kind} takes a name: write @register_{self.kind}("my-{self.kind}") above the class'
            )

        def add(cls: C) -> C:
            if not isinstance(cls, type):
                raise TypeError(f"register_{self.kind}({name!r}) is for a class, not for {cls!r}")
            if cls.__module__.partition(".")[0] != "mpicomp":
                self._load_built_in()  # so that their names are taken
            other = self._classes.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"{self.kind} {name!r} is already registered by {other.__module__}.{other.__qualname__}"
                )
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return add

    def _load_built_in(self) -> None:
        if self._built_in:
            return
        self._built_in = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            importlib.import_module(f"{self._package}.{module.name}")

    def _load(self) -> None:
        """The built-in parts, then those of installed packages. What cannot be loaded is left out, with a warning."""
        self._load_built_in()
        if self._loaded:
            return
        self._loaded = True
        for entry in entry_points(group=f"mpicomp.{self.kind}s"):
            what = f"{self.kind} {entry.name!r} of {entry.value}"
            try:
                cls = entry.load()
                if self._classes.get(entry.name, cls) is not cls:
                    warnings.warn(f"mpicomp: {what} is left out: the name is taken", stacklevel=2)
                    continue
                self.register(entry.name)(cls)
            except Exception as error:
                text = f"mpicomp: {what} is left out: {type(error).__name__}: {error}"
                warnings.warn(text, stacklevel=2)

    def _find(self, name: str) -> bool:
        """Whether the name is known, once what may register it is loaded: its own module, or else everything."""
        module = f"{self._package}.{name.replace('-', '_')}"
        if not self._loaded and module not in self._modules and name.replace("-", "_").isidentifier():
            self._modules.add(module)
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
        if name not in self._classes:
            self._load()
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name)

    def __getitem__(self, name: str) -> type[P]:
        if not self._find(name):
            raise unknown(self.kind, name, self._classes)
        return self._classes[name]

    def create(self, text: str, /, **extra: object) -> P:
        """Build the part that `text` describes.

        >>> from mpicomp.compressors import compressors
        >>> compressors.create("topk:k=10")
        TopK(k=10)

        Raises
        ------
        ConfigError : unknown name, unknown option, an option without value, or a value of the wrong type.
        """
        name, options = parse_spec(text)
        return self.build(name, {**options, **extra})

    def build(self, name: str, options: dict[str, Any]) -> P:
        """Build the part `name` with keyword `options`; unknown options are refused with the known ones named."""
        cls = self[name]
        known = option_names(cls)
        for option in options:
            if option not in known:
                raise (
                    unknown(f"option of {self.kind} {name!r}:", option, known)
                    if known
                    else ConfigError(f"{self.kind} {name!r} takes no options, got {option!r}")
                )
        parameters = {p.name: p for p in _parameters(cls)}
        options = {k: typed_value(f"{self.kind} {name!r}", parameters[k], v) for k, v in options.items()}
        try:
            return cls(**options)
        except TypeError as error:
            raise ConfigError(f"{self.kind} {name!r} with {options}: {error}") from error


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


def option_names(cls: type) -> list[str]:
    """The keyword options that a part's constructor takes."""
    return [p.name for p in _parameters(cls) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def default_options(cls: type) -> dict[str, Any]:
    """The options of a part's constructor with their defaults, where there are any."""
    return {p.name: p.default for p in _parameters(cls) if p.default is not inspect.Parameter.empty}


def _parameters(cls: type) -> list[inspect.Parameter]:
    """The constructor's parameters without self; where it hands `**options` on, also those of the class that it is derived from."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if base is object or "__init__" not in vars(base):
            continue
        own = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD:
                found.setdefault(parameter.name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own):
            break
    return list(found.values())


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split `name:option=value,...` into the name and its options, numbers and booleans converted.

    >>> parse_spec("qsgd:bits=4,norm=max")
    ('qsgd', {'bits': 4, 'norm': 'max'})
    """
    name, _, rest = text.strip().partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        option, equals, value = item.partition("=")
        if not equals or not option.strip() or not value.strip():
            raise ConfigError(f"in {text!r}: {item!r} is not of the form option=value, for example 'topk:k=10'")
        options[option.strip()] = parse_value(value.strip())
    if not name:
        raise ConfigError(f"{text!r} names nothing; expected name or name:option=value,...")
    return name, options


def parse_value(text: str) -> Any:
    """A number, a boolean or the text itself.

    >>> parse_value("1e-6"), parse_value("true"), parse_value("max")
    (1e-06, True, 'max')
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def format_spec(name: str, options: dict[str, Any]) -> str:
    """The inverse of `parse_spec`.

    >>> format_spec("topk", {"k": 10})
    'topk:k=10'
    """
    if not options:
        return name
    return name + ":" + ",".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items())
