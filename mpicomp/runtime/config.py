"""The configuration of a run: every option of the command line, in one record that TOML files hold completely."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.recovery import OnFailure
from ..compressors import compressors
from ..errors import ConfigError, unknown
from ..exchanges.base import Exchange, exchanges
from ..methods import methods
from ..optimizers import optimizers
from ..problems import problems
from ..registry import Registry, format_spec, option_names, parse_spec, parse_value
from .imports import import_parts, inherited, resolved

DTYPES = ("float32", "float64")
_PATHS = ("data", "out", "resume", "trace")  # a leading ~ is the home directory, also where no shell has seen it
FULL, MEASURES, NOTHING = EVALUATE = ("full", "measures", "none")
_NAME_NBYTES = 255  # of one part of a path
_MOST = {"clients": 2**31 - 1, "threads": 2**16} | dict.fromkeys(
    ("rounds", "batch", "seed", "eval_every", "checkpoint_every"), 2**63 - 1
)
_MOST |= dict.fromkeys(("checkpoint_seconds", "time_limit", "stall_timeout"), 10**9)
_TABLES = {"method": "method_options", "problem": "problem_options", "optimizer": "optimizer_options"}


@dataclass
class Config:
    """Options of a run.

    Attributes
    ----------
    method, method_options : name and own options of the method.
    compressor, downlink_compressor : `name:option=value,...`; the method's defaults where None.
    problem, problem_options : name and own options of the problem (`problem.dim`, `problem.reg`, ...).
    data, partition, clients : data set (name or path), how its rows are dealt to the clients, n.
    optimizer, optimizer_options : in place of the method's own, where given; options alone are for the method's own.
    batch : samples per client and round; 0 for the method's own number: exact gradients, or one sample (ef21-page: √N̄) where the
        method is about samples (dasha-page, dasha-mvr, vr-marina, vr-diana).
    rounds, tol : stop after so many rounds, or once ‖∇f(x)‖² ≤ tol at an evaluation.
    step : "theory", "theory*FACTOR", or a number; "pl" or "pl*FACTOR" for the step of the theorem under the Polyak–Łojasiewicz inequality,
        where the method has one and the problem's μ is known.
    explosion : f above f(x⁰) by so many times |f(x⁰)| (at least 1) at an evaluation is a divergence; 0 never.
    init : x⁰: "zero", "ones", "normal:SEED", or "paper" for the problem's own; None for zero, or for the problem's own where it has
        weights to begin with (TorchProblem).
    dtype, wire_dtype : of the computation, and of the values that travel (as dtype where None).
    exchange : "p2p", "collective", "sharded", "hierarchical", "hierarchical:sum", "allreduce" (dense sums, no server), "local", or "auto":
        local in one process, over several p2p or, for long vectors, sharded; docs/reference/exchanges.md says which one when.
    threads : of a rank, which encode and decode its clients' messages together; 0 for SLURM_CPUS_PER_TASK, or else its share of the
        processors. The results are the same for any number.
    seed : of everything random. eval_every : rounds between evaluations, 0 for about a hundred in all.
    evaluate : what is evaluated then: "full", f, ‖∇f‖² and the problem's own measures; "measures", these alone; "none", nothing. Bytes and
        seconds are recorded in any case.
    out : directory for the results; nothing is written where None.
    force : begin anew where `out` holds the results or checkpoints of another run, which are removed; not recorded in config.toml.
    checkpoint_every, checkpoint_seconds : write a checkpoint under `out` after so many rounds or seconds; 0 never.
    time_limit : seconds after which to checkpoint and stop with exit code 75; 0 for none.
    stall_timeout : seconds that a round or an evaluation may take before the job is ended; 0 for no limit.
    resume : go on from the checkpoints of a run directory, or "auto": from those under `out` where there are any.
    on_failure : when a rank dies: "stop" the job; "restart" or "restart:N" it (`mpicomp launch` does), at most N times, from its last
        checkpoint; "continue" (or "continue:rehost") with its clients on the other ranks, "continue:drop" without them.
    verify_bytes : compare the ledger with an independent count below MPI (`cluster/byte_check.py`).
    trace : directory for a trace of all MPI calls of all ranks, which `mpicomp model simulate` replays; nothing is recorded where None.
    allow_unsafe : run combinations that no theory covers.
    imports : files and modules that are imported before, for the parts that they register.
    """

    method: str = "marina"
    method_options: dict[str, Any] = field(default_factory=dict)
    compressor: str | None = None
    downlink_compressor: str | None = None
    problem: str = "logistic"
    problem_options: dict[str, Any] = field(default_factory=dict)
    data: str = "mushrooms"
    partition: str = "contiguous"
    clients: int = 20
    optimizer: str | None = None
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    batch: int = 0
    rounds: int = 1000
    tol: float = 0.0
    step: str = "theory"
    explosion: float = 1e6
    init: str | None = None
    dtype: str = "float64"
    wire_dtype: str | None = None
    exchange: str = "auto"
    threads: int = 0
    seed: int = 0
    eval_every: int = 0
    evaluate: str = FULL
    out: str | None = None
    force: bool = False
    checkpoint_every: int = 0
    checkpoint_seconds: float = 0.0
    time_limit: float = 0.0
    stall_timeout: float = 0.0
    resume: str | None = None
    on_failure: str = "stop"
    verify_bytes: bool = False
    trace: str | None = None
    allow_unsafe: bool = False
    imports: list[str] = field(default_factory=list)

    # ---- reading ------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls, path: str | Path | None = None, options: dict[str, Any] | None = None, sets: tuple[str, ...] = ()
    ) -> Config:
        """From a TOML file, then the given options (None means not given), then `key=value` settings.

        Raises
        ------
        ConfigError : the file cannot be read, a key is unknown, a value has the wrong type or is not allowed.
        """
        config = cls()
        if path is not None:
            config._merge(_read_toml(Path(path)), str(path))
            config.imports = [resolved(name, Path(path).parent) for name in config.imports]
        before = config.imports
        config._merge({k: v for k, v in (options or {}).items() if v is not None}, "")
        config.imports = list(dict.fromkeys([*inherited(), *before, *config.imports]))
        import_parts(config.imports)
        for setting in sets:
            key, equals, value = setting.partition("=")
            if not equals or not key.strip():
                raise ConfigError(f"setting {setting!r} is not of the form key=value, for example problem.reg=0.1")
            config.set(key.strip(), parse_value(value.strip()))
        config.validate()
        return config

    def set(self, key: str, value: Any) -> None:
        """Set a top-level option, or `method.x`, `problem.x`, `optimizer.x`."""
        table, dot, name = key.partition(".")
        if dot:
            if table not in _TABLES:
                raise unknown("option table", table, _TABLES)
            getattr(self, _TABLES[table])[name] = value
        else:
            self._merge({key: value}, "")

    def _merge(self, values: dict[str, Any], source: str) -> None:
        """Take values over; `source` is the file they are from, empty where they were given by hand."""
        fields = {f.name: f for f in dataclasses.fields(self)}
        for key, value in values.items():
            if key in _TABLES and isinstance(value, dict):
                options = dict(value)
                if "name" in options:
                    setattr(self, key, _typed(fields[key], options.pop("name"), source))
                getattr(self, _TABLES[key]).update(options)
            elif key in _TABLES and isinstance(value, str) and ":" in value:
                name, options = parse_spec(value)
                setattr(self, key, name)
                getattr(self, _TABLES[key]).update(options)
            elif key in fields:
                setattr(self, key, _typed(fields[key], value, source))
            else:
                raise self.unknown_option(key, value, f" in {source}" if source else "")

    def unknown_option(self, key: str, value: Any, where: str = "") -> ConfigError:
        """The error for an option that a run does not have: where one of its parts has it, how to say so."""
        known = [f.name for f in dataclasses.fields(self) if not f.name.endswith("_options")]
        registries: dict[str, Registry[Any]] = {"problem": problems, "method": methods, "optimizer": optimizers}
        for table, registry in registries.items():
            part = getattr(self, table)
            if part and part in registry and key in option_names(registry[part]):
                remedy = f"«{table}_options={ ({key: value})!r}»"
                return ConfigError(f"unknown option {key!r}{where}; it is one of {table} {part!r}: give {remedy}")
        compressor = parse_spec(self.compressor)[0] if self.compressor else ""
        if compressor in compressors and key in option_names(compressors[compressor]):
            remedy = f"«compressor={format_spec(compressor, {key: value})!r}»"
            return ConfigError(f"unknown option {key!r}{where}; it is one of compressor {compressor!r}: give {remedy}")
        return unknown("option", key, known, where=where, brief=True)

    def validate(self) -> None:
        """Check ranges and choices; parts check their own options when they are built."""
        for name in ("problem", "method", "compressor", "optimizer", "exchange"):
            if str(getattr(self, name)).startswith("<"):
                raise ConfigError(
                    f"{name} = {getattr(self, name)} was an object of a Python program; run that program again, or register the part and "
                    "name it"
                )
        _choice("dtype", self.dtype, DTYPES)
        _choice("wire_dtype", self.wire_dtype or self.dtype, DTYPES)
        _choice("evaluate", self.evaluate, EVALUATE)
        if self.exchange != "auto" and self.exchange not in exchanges:
            raise unknown("exchange", self.exchange, ["auto", *exchanges])
        least_of = {"clients": 1, "threads": 0, "rounds": 0, "batch": 0, "eval_every": 0}
        least_of |= dict.fromkeys(
            ("checkpoint_every", "checkpoint_seconds", "time_limit", "stall_timeout", "explosion"), 0
        )
        for name, least in least_of.items():
            if not least <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name}={getattr(self, name)}: at least {least} is needed, and a finite number")
        for name, most in _MOST.items():
            if abs(getattr(self, name)) > most:
                raise ConfigError(f"{name}={getattr(self, name):.6g} is too large; up to {most} is possible")
        for name in ("out", "resume", "data", "trace"):
            check_path(name, getattr(self, name))
        if not self.tol >= 0:
            raise ConfigError(f"tol={self.tol} must be a number that is not negative; 0 means run all rounds")
        if self.tol > 0 and self.evaluate != FULL:
            raise ConfigError(
                f"«tol={self.tol:g}» stops at a ‖∇f‖², which «evaluate={self.evaluate!r}» does not evaluate; drop one of them, or give "
                "«evaluate='full'»"
            )
        if self.out is None and (self.checkpoint_every or self.checkpoint_seconds or self.resume == "auto"):
            raise ConfigError("checkpoints are written under the results: give «out=DIR» too")
        if self.force and (self.out is None or self.resume):
            why = (
                "begins anew, and «resume» goes on: drop one of them"
                if self.out
                else "is about «out», which is not given"
            )
            raise ConfigError(f"«force=True» {why}")
        self._validate_on_failure()
        parse_step(self.step)
        if self.init not in (None, "paper"):
            initial_point(str(self.init), 1, 0)

    def _validate_on_failure(self) -> None:
        plan = OnFailure.parse(self.on_failure)
        if plan.goes_on and self.exchange != "auto":
            self.refuse_dependence(exchanges[self.exchange])
        if plan.restarts and not (self.resume and (self.checkpoint_every or self.checkpoint_seconds)):
            raise ConfigError(
                f"«on_failure={self.on_failure!r}» goes on from checkpoints: "
                "give «out=DIR», «checkpoint_every=R» and «resume='auto'» too"
            )
        if self.trace is not None and (self.verify_bytes or plan.goes_on):
            other = "verify_bytes=True" if self.verify_bytes else f"on_failure={self.on_failure!r}"
            raise ConfigError(f"«trace={self.trace!r}» and «{other}» cannot go together; drop one of them")
        if plan.goes_on and self.verify_bytes:
            raise ConfigError(
                "«verify_bytes=True» compares all that MPI was handed, of which a dead rank cannot tell; give «on_failure='stop'»"
            )

    def refuse_dependence(self, exchange: type[Exchange]) -> None:
        """Raises ConfigError for an exchange that cannot go on without a dead rank, of a run that is to."""
        if not exchange.survives_deaths:
            raise ConfigError(
                f"«on_failure={self.on_failure!r}» goes on without dead ranks, but with «exchange={exchange.name!r}» others depend "
                "on them; use «exchange='p2p'», or «on_failure='stop'» or «on_failure='restart'»"
            )

    # ---- writing ------------------------------------------------------------------------------------------------
    def to_toml(self) -> str:
        """The complete configuration as TOML; `load` gives it back."""
        lines, tables = [], []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            options = getattr(self, _TABLES[f.name]) if f.name in _TABLES else {}
            if f.name in (*_TABLES.values(), "force") or (value is None and not options):
                continue
            if options:
                named = [] if value is None else [f"name = {_toml(value)}"]
                rows = [*named, *(f"{k} = {_toml(v)}" for k, v in options.items())]
                tables.append("\n".join([f"\n[{f.name}]", *rows]))
            else:
                lines.append(f"{f.name} = {_toml(value)}")
        return "\n".join([*lines, *tables]) + "\n"

    @property
    def method_spec(self) -> str:
        """Method with its options, as the command line takes it."""
        return format_spec(self.method, self.method_options)


def parse_step(text: str) -> tuple[str, float]:
    """(whose, factor or value): whose is "theory", "pl" or, where the value is the step itself, empty.

    >>> parse_step("theory*8"), parse_step("pl"), parse_step("0.05")
    (('theory', 8.0), ('pl', 1.0), ('', 0.05))
    """
    base, star, factor = str(text).replace(" ", "").partition("*")
    try:
        if base in ("theory", "pl"):
            whose, value = base, float(factor) if star else 1.0
        else:
            whose, value = "", float(text)
    except ValueError:
        whose, value = "", float("nan")
    if not (value > 0 and np.isfinite(value)):
        raise ConfigError(
            f"step={text!r}: expected 'theory', 'theory*FACTOR' or a positive number, for example theory*8 or 0.05 (or 'pl', the step of "
            "the theorem for the Polyak–Łojasiewicz inequality)"
        )
    return whose, value


def initial_point(text: str, dim: int, seed: int) -> np.ndarray:
    """x⁰, float64, shape (dim,): zeros, ones, or standard normal numbers of the given seed.

    >>> initial_point("ones", 2, 0)
    array([1., 1.])
    """
    from ..kernels.random import Stream, derive, fill_normal

    kind, colon, rest = text.partition(":")
    if kind == "zero" and not colon:
        return np.zeros(dim)
    if kind == "ones" and not colon:
        return np.ones(dim)
    if kind == "normal" and (not colon or re.fullmatch(r"-?[0-9]{1,18}", rest)):
        x = np.empty(dim)
        fill_normal(derive(int(rest) if colon else seed, Stream.INIT), x)
        return x
    raise ConfigError(
        f"init={text[:80]!r}; allowed: zero, ones, normal, normal:SEED with an integer of up to 18 digits, paper"
    )


def _read_toml(path: Path) -> dict[str, Any]:
    check_path("config", str(path))
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}") from None


def check_path(name: str, text: str | None) -> None:
    """Raises ConfigError for what no file can be called."""
    if text is None:
        return
    try:
        too_long = max(map(len, os.fsencode(text).split(b"/"))) > _NAME_NBYTES
    except UnicodeEncodeError:
        raise ConfigError(f"{name}={text[:80]!r} holds characters that a file's name cannot have") from None
    if too_long or "\0" in text:
        fault = "is too long for a file's name" if too_long else "holds a NUL character, which no file's name has"
        raise ConfigError(f"{name}={text[:80]!r} {fault}")


def _typed(f: dataclasses.Field, value: Any, source: str) -> Any:
    """The value in the field's type, where that loses nothing."""
    kind = str(f.type).removesuffix(" | None")
    if value is None and kind != str(f.type):
        return None
    if kind == "list[str]" and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    if kind == "str" and isinstance(value, str | int | float) and not isinstance(value, bool):
        return os.path.expanduser(value) if f.name in _PATHS and isinstance(value, str) else str(value)
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if (
        kind == "int"
        and not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ):
        return int(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    raise ConfigError(f"{f.name}={value!r}{f' in {source}' if source else ''}: expected {kind}")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(name, value, allowed)


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if np.isfinite(value) else str(value)
    return json.dumps(value, ensure_ascii=False)
