"""A study: a grid of runs from a TOML file, expanded into cells in a keyed random order."""

from __future__ import annotations

import hashlib
import itertools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..lab.links import Link
from ..runtime import (
    Config,
    ConfigError,
    UserError,
    choose_parts,
    exchanges,
    optimizers,
    option_names,
    parse_spec,
    problems,
    read_plain,
    unknown,
)
from .cell import Cell, names_of

MODES = ("strong", "weak", "clients")
RUNNERS = ("local", "lab")
BASELINES = ("dense", "allreduce", "bfloat16")
AXES = ("workers", "nodes", "per_node", "clients", "dim", "exchange", "link")
FIXED_DATA = ("logistic", "least_squares")  # their samples are given, so more clients means fewer samples for each
_TAKEN = ("out", "force", "exchange", "clients", "resume", "verify_bytes", "trace")  # a study's own
_PARTS = (
    "method", "method_options", "compressor", "downlink_compressor", "optimizer", "optimizer_options", "problem", "problem_options",
    "allow_unsafe",
)  # fmt: skip
_OF_METHOD = ("method", "compressor", "downlink_compressor", "optimizer", "step")
_OF_BASELINE = {
    "dense": {"method": "gd"},
    "allreduce": {"method": "gd"},
    "bfloat16": {"method": "ef21", "compressor": "cast:to=bfloat16"},
}


@dataclass
class Study:
    """What a study's file says.

    Attributes
    ----------
    name, mode, runner, seed, repetitions : as in the file; the seed is of the order of the cells.
    vary_seed : the repetitions of a configuration have seeds of their own, from that of `run` on; the problem stays the same.
    target : ‖∇f‖² to which time and bytes are compared; 0 for the smallest that every configuration reached.
    warmup : leading share of a run's rounds that the report leaves out, 0 ≤ warmup < 1.
    timeout : seconds that a cell may take. delay_ms : one way delay of the lab's links.
    baselines : names out of BASELINES. run : options of every run. methods : options of each method, one table each.
    grid : values along each axis.
    """

    name: str = "study"
    mode: str = "strong"
    runner: str = "local"
    seed: int = 0
    repetitions: int = 3
    vary_seed: bool = True
    target: float = 0.0
    warmup: float = 0.1
    timeout: float = 600.0
    delay_ms: float = 0.0
    baselines: list[str] = field(default_factory=lambda: ["dense", "allreduce"])
    run: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    methods: list[dict[str, Any]] = field(default_factory=list)
    grid: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, parts: bool = True) -> Study:
        """Read and check a study's file.

        Parameters
        ----------
        parts : check the methods, compressors, optimizers and problems that it names, too; a report does without those that are not here.

        Raises
        ------
        ConfigError : it cannot be read, a key is unknown, a value is not allowed, or a cell's options are.
        """
        try:
            values = tomllib.loads(read_plain(Path(path), links=True).decode())
        except OSError as error:
            raise ConfigError(f"cannot read the study {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not a TOML file: {error}") from None
        return cls.from_dict(values, str(path), parts)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "study", parts: bool = True) -> Study:
        """From the tables of a TOML file; errors as in `load`."""
        known = cls.__dataclass_fields__
        for key, value in values.items():
            if key not in known:
                raise unknown(f"key in {source}:", key, known)
            _check_type(source, key, value, known[key].type)
        study = cls(**values)
        study._validate(source)
        if parts:
            study._validate_parts(source)
        return study

    def cells(self) -> list[Cell]:
        """All cells, each configuration once for each repetition, in an order that only `seed` and the cells themselves decide.

        The order is random so that drift of the machine (load, temperature) falls on all configurations alike.
        """
        made = [cell for r in range(self.repetitions) for cell in self._configurations(r)]
        distinct = {(cell.key, cell.repetition): cell for cell in made}
        return sorted(distinct.values(), key=lambda cell: _rank_of(self.seed, cell))

    def _configurations(self, repetition: int) -> list[Cell]:
        axes = {name: self.grid.get(name) or [None] for name in AXES}
        cells = []
        tables = [options for method in self.methods for options in _expanded(method)]
        names = names_of([{**self.run, **options} for options in tables])
        for values in itertools.product(*axes.values()):
            at = dict(zip(axes, values, strict=True))
            cells += [
                self._cell(at, options, "", repetition, name) for options, name in zip(tables, names, strict=True)
            ]
            for name in self.baselines:
                cells.append(self._cell(at, {**self.baseline, **_OF_BASELINE[name]}, name, repetition))
        return cells

    def seed_options(self, cell: Cell) -> dict[str, Any]:
        """The options by which a cell's repetition differs from the others: its seed, while a problem that is drawn stays the same one.

        Parameters
        ----------
        cell : of this study.
        """
        config = Config.load(None, cell.options)
        if not self.vary_seed:
            return {"seed": config.seed}
        found: dict[str, Any] = {"seed": config.seed + cell.repetition}
        if "seed" in option_names(problems[config.problem]):
            found["problem"] = {"name": config.problem, "seed": config.seed, **config.problem_options}
        return found

    def _cell(self, at: dict[str, Any], method: dict[str, Any], baseline: str, repetition: int, name: str = "") -> Cell:
        nodes, per_node = at["nodes"] or 0, at["per_node"] or 1
        workers = nodes * per_node - 1 if nodes else at["workers"]
        shared = {k: v for k, v in self.run.items() if not (baseline and k in _OF_METHOD)}
        options = {**shared, **method}
        if at["clients"] is not None:
            options["clients"] = at["clients"] * workers if self.mode == "weak" else at["clients"]
        if at["dim"] is not None:
            options["problem"] = {**_table(options.get("problem")), "dim": at["dim"]}
        options["exchange"] = "allreduce" if baseline == "allreduce" else at["exchange"] or "p2p"
        return Cell(
            options,
            baseline,
            nodes,
            per_node if nodes else 0,
            workers,
            at["link"] or "",
            self.delay_ms,
            repetition,
            name,
        )

    def _validate(self, source: str) -> None:
        _choice("mode", self.mode, MODES)
        _choice("runner", self.runner, RUNNERS)
        for name in self.baselines:
            _choice("baseline", name, BASELINES)
        for name in self.grid:
            _choice("axis of the grid", name, AXES)
        for key in _TAKEN:
            if key in self.run or any(key in method for method in self.methods):
                where = f"[grid] {key} = [...]" if key in AXES else "leave it out"
                raise ConfigError(f"{source}: {key} is the study's own to set: {where}")
        if not self.methods and not self.baselines:
            raise ConfigError(f"{source}: nothing to run; add [[methods]] tables or baselines")
        if ("workers" in self.grid) == ("nodes" in self.grid):
            raise ConfigError(
                f"{source}: [grid] needs either workers = [1, 2, 4] or nodes = [2, 4, 8] with per_node = [1]"
            )
        if "per_node" in self.grid and "nodes" not in self.grid:
            raise ConfigError(f"{source}: per_node counts ranks on each node, so [grid] nodes is needed too")
        if self.runner == "lab" and "nodes" not in self.grid:
            raise ConfigError(f"{source}: the network lab is made of nodes; give [grid] nodes = [2, 3, 5]")
        if self.runner != "lab" and (self.grid.get("link") or self.delay_ms):
            raise ConfigError(f'{source}: links and delays can be set in the network lab only; add runner = "lab"')
        if self.mode in ("weak", "clients") and not self.grid.get("clients"):
            what = "clients on each worker" if self.mode == "weak" else "numbers of clients"
            raise ConfigError(f"{source}: mode {self.mode} needs [grid] clients = [...], the {what}")
        for name, least in {"repetitions": 1, "timeout": 0, "delay_ms": 0, "target": 0}.items():
            if not getattr(self, name) >= least:
                raise ConfigError(f"{source}: {name}={getattr(self, name)}: at least {least} is needed")
        if not 0 <= self.warmup < 1:
            raise ConfigError(
                f"{source}: warmup={self.warmup}, the share of rounds left out, must be at least 0 and below 1"
            )
        self._validate_cells(source)

    def _validate_cells(self, source: str) -> None:
        """Every cell's options are those of a run, before the first hour is spent; needs no data."""
        for name in ("workers", "nodes", "per_node", "clients", "dim"):
            for value in self.grid.get(name, []):
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ConfigError(f"{source}: [grid] {name} has {value!r}; allowed: whole numbers from 1 on")
        for link in self.grid.get("link", []):
            if not isinstance(link, str):
                raise ConfigError(f'{source}: [grid] link has {link!r}; allowed: texts such as "100mbit"')
            Link.of(link or None, 0.0)
        if self.grid.get("exchange") and "allreduce" in self.grid["exchange"]:
            raise ConfigError(f'{source}: Allreduce is a baseline, not an exchange: baselines = ["dense", "allreduce"]')
        for cell in self._configurations(0):
            if cell.workers < 1:
                raise ConfigError(
                    f"{source}: {cell.nodes} node with {cell.per_node} rank has a server but no worker; at least two ranks are needed"
                )
            try:
                config = Config.load(None, cell.options)
            except ConfigError as error:
                raise ConfigError(f"{source}: {error}") from None
            if self.target > 0 and config.evaluate != "full":
                raise ConfigError(
                    f"{source}: target = {self.target:g} is a ‖∇f‖², which evaluate = {config.evaluate!r} leaves out; drop one of them"
                )
            kind = exchanges["p2p" if config.exchange == "auto" else config.exchange]
            everywhere = kind.serves_everywhere  # rank 0 hosts clients too
            if config.clients < cell.workers + everywhere:
                raise ConfigError(
                    f"{source}: {config.clients} clients cannot be spread over {cell.workers} workers"
                    + (f" and, for {config.exchange}, rank 0" if everywhere else "")
                    + "; raise [grid] clients"
                )
            if self.mode == "weak" and config.problem in FIXED_DATA:
                raise ConfigError(
                    f"{source}: weak scaling keeps the work of a worker, but problem {config.problem!r} has a fixed number of samples; "
                    "use problem quadratic or mean, or mode strong"
                )

    def _validate_parts(self, source: str) -> None:
        """The parts of every cell are known, take their options and go together."""
        checked = set()
        for cell in self._configurations(0):
            config = Config.load(None, cell.options)
            asked = repr([getattr(config, name) for name in _PARTS])
            if asked not in checked:
                checked.add(asked)
                try:
                    check_parts(config)
                except UserError as error:
                    raise ConfigError(f"{source}: {cell.label}: {error}") from None


def check_parts(config: Config) -> None:
    """Raises UserError unless a run's parts are known, take their options and go together; needs no data."""
    choose_parts(config)
    if config.optimizer:
        optimizers.build(config.optimizer, config.optimizer_options)
    known = option_names(problems[config.problem])
    for option in config.problem_options.keys() - set(known):
        raise unknown(f"option of problem {config.problem!r}:", option, known)


def share(cells: list[Cell], task: int, tasks: int) -> list[Cell]:
    """The cells of one array task: every `tasks`-th one, from `task` on, so that shares differ in size by at most one.

    Raises
    ------
    ConfigError : task is not one of 0 .. tasks − 1.
    """
    if tasks < 1 or not 0 <= task < tasks:
        raise ConfigError(f"--task {task} --tasks {tasks}: tasks are numbered from 0 to {max(tasks, 1) - 1}")
    return cells[task::tasks]


def _rank_of(seed: int, cell: Cell) -> str:
    return hashlib.sha256(f"{seed}:{cell.key}:{cell.repetition}".encode()).hexdigest()


def _expanded(method: dict[str, Any]) -> list[dict[str, Any]]:
    """One table for each combination of the values that are lists."""
    values = [v if isinstance(v, list) else [v] for v in method.values()]
    return [dict(zip(method, combination, strict=True)) for combination in itertools.product(*values)]


def _table(value: Any) -> dict[str, Any]:
    """The options of a part, given as a table or as `name:option=value`."""
    if isinstance(value, str):
        name, options = parse_spec(value)
        return {"name": name, **options}
    return dict(value or {})


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(name, value, allowed)


def _check_type(source: str, key: str, value: Any, annotation: Any) -> None:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "dict": dict, "list": list, "bool": bool}
    wanted = kinds[str(annotation).partition("[")[0]]
    if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise ConfigError(f"{source}: {key}={value!r} should be of type {annotation}")
    if key == "grid" and (bad := [k for k, v in value.items() if not isinstance(v, list)]):
        raise ConfigError(f"{source}: [grid] {bad[0]} must be a list, for example {bad[0]} = [{value[bad[0]]!r}]")
