"""Records the rounds of a configuration in one process, at the prices of this machine or of a run that was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..records import COMPLETE, MANIFEST, read_json
from ..runtime import (
    COMPUTE,
    STEP,
    Codec,
    Composition,
    Compressor,
    Config,
    DataError,
    ExchangeSetting,
    Session,
    alignment_of,
    build_problem,
    exchange_setting,
)  # fmt: skip
from .operations import BROADCAST, GATHER, TALK, Cost, Operation, Round
from .recording import SLICED, Grouped, Recording

WARM = 2  # rounds that are not recorded


@dataclass(frozen=True)
class Measured:
    """Seconds of a measured run: a client's gradients, its messages' encoding, their decoding on a server, the step."""

    compute: float
    encode: float
    decode: float
    step: float

    @classmethod
    def of(cls, directory: Path) -> Measured:
        """From a run's directory: medians over the ranks.

        Raises
        ------
        DataError : it is none, damaged, or has no rounds.
        """
        summary, manifest = (
            read_json(directory / "summary.json", COMPLETE),
            read_json(directory / "manifest.json", MANIFEST),
        )
        rounds, ranks = summary["rounds"], manifest["ranks"]
        hosting = [rank for rank in ranks if rank["clients"]]
        if not rounds or not hosting:
            raise DataError(f"{directory} has no rounds, so nothing was measured")
        alone = len(ranks) == 1 or all(rank["clients"] for rank in ranks)

        def of_clients(phase: str) -> float:
            return float(np.median([rank["seconds"][phase] / rank["clients"] for rank in hosting])) / rounds

        serving = of_clients("decode") if alone else ranks[0]["seconds"]["decode"] / rounds / summary["clients"]
        return cls(of_clients("compute"), of_clients("encode"), serving, ranks[0]["seconds"]["step"] / rounds)


class Recorder:
    """Records the rounds of a configuration.

    Parameters
    ----------
    config : of the run. rounds : how many are recorded. warm : rounds before them, which are not.
    measured : what a run took for its parts; None for what they take here.

    Attributes
    ----------
    problem, composition : of the configuration. named_exchange : that it asks for.
    """

    def __init__(self, config: Config, rounds: int, warm: int = WARM, measured: Measured | None = None):
        self.config = replace(config, rounds=rounds + warm, exchange="auto", out=None, resume=None, trace=None)
        self.named_exchange = config.exchange
        self.count, self._warm, self._measured = rounds, warm, measured
        self.problem = build_problem(self.config)
        self.composition = Composition(self.config, self.problem)
        self.step_size = self.composition.step_size(self.config.step)
        self._timed: list[Round] | None = None
        self._codecs: dict[tuple[int, int], Codec] = {}

    def rounds(self, exchange: str, ranks: int) -> list[Round]:
        """The rounds of a run by this exchange on so many ranks, with what their parts cost on this machine.

        Raises
        ------
        ConfigError : the exchange cannot carry the method's messages.
        """
        costs = self._costs()
        setting = self._setting()
        chosen = self._sliced(exchange, ranks) if exchange in SLICED else Recording.create(setting)
        noted = self._run(chosen)[0]
        return [self._priced(operations, timed) for operations, timed in zip(noted, costs, strict=True)]

    def _sliced(self, exchange: str, ranks: int) -> Any:
        """An exchange of this process that cuts messages for so many servers."""
        setting = self._setting()
        options: dict[str, Any] = {"servers": ranks, "weights": setting.weights, "clock": setting.clock}
        if exchange == "sharded":
            options["alignment"] = alignment_of(setting.codecs(), setting.downlink_codecs())
        return SLICED[exchange](setting.n_clients, setting.dim, setting.dtype, **options)

    def filled(self, exchange: str, ranks: int) -> list[bool]:
        """Of each slice of so many, whether it has coordinates."""
        return (np.diff(self._sliced(exchange, ranks).bounds) > 0).tolist()

    def capacity(self, operation: Operation, n: int) -> int:
        """Bytes of an operation's longest message where there are n clients: some compressors share their work among them."""
        codec = self._codecs.get((operation.dim, operation.capacity))
        compressor = None if codec is None else codec.compressor
        if codec is None or n == self.problem.n_clients or not isinstance(compressor, Compressor):
            return operation.capacity
        return compressor.bind(operation.dim, n, codec.wire_dtype).max_nbytes

    @staticmethod
    def _priced(operations: list[Operation], timed: Round) -> Round:
        prices = iter(timed.operations)
        found = []
        for operation in operations:
            if operation.kind == TALK:
                found.append(operation)
            else:
                price = next(prices)
                found.append(_at(operation, [price.encode, price.decode, price.absorb]))
        return Round(found, timed.compute, timed.step)

    def _costs(self) -> list[Round]:
        """What the rounds cost in one process: frames of one client and frames of all tell a frame's cost and a message's."""
        if self._timed is not None:
            return self._timed
        apart = self._run(Recording.create(self._setting()))[0]
        together, compute, step = self._run(Grouped.create(self._setting()))
        n = self.problem.n_clients
        kinds: dict[tuple, list[list[Cost]]] = {}
        for a, b in zip(_flat(apart), _flat(together), strict=True):
            messages = 1 if a.kind == BROADCAST else n
            pairs = ((a.encode, b.encode), (a.decode, b.decode), (a.absorb, b.absorb))
            kinds.setdefault(_kind(a), []).append([_split(x.message, y.message, messages) for x, y in pairs])
        medians = {key: _medians(costs) for key, costs in kinds.items()}
        times = self._measured
        if times is not None:
            mean = _flat(apart)
            encode, decode = (
                sum(medians[_kind(o)][k].of(n, n) for o in mean if o.kind == GATHER) / len(apart) / n for k in (0, 1)
            )
            factors = [_ratio(times.encode, encode), _ratio(times.decode, decode), _ratio(times.decode, decode)]
            compute, step = times.compute * n, times.step
            medians = {key: [c.times(f) for c, f in zip(costs, factors, strict=True)] for key, costs in medians.items()}
        self._timed = [Round([_at(o, medians[_kind(o)]) for o in own], compute / n, step) for own in apart]
        return self._timed

    def _setting(self) -> ExchangeSetting:
        return exchange_setting(self.config, self.problem, self.composition, None)

    def _run(self, exchange: Any) -> tuple[list[list[Operation]], float, float]:
        """The operations of each round; medians of the seconds that gradients and steps took in one."""
        session = Session(self.config, self.problem, self.composition.parts(self.step_size), exchange, self.step_size)
        found, spent = [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(self.count + self._warm):
                exchange.begin()
                before = exchange.clock.seconds.copy()
                exchange.clock.start_round()
                session.round(t)
                exchange.clock.end_round()
                self._codecs.update(exchange.codecs)
                if t >= self._warm:
                    found.append(exchange.noted)
                    spent.append(exchange.clock.seconds - before)
        compute, step = np.median(np.array(spent)[:, [COMPUTE, STEP]], axis=0)
        return found, float(compute), float(step)


def _kind(operation: Operation) -> tuple:
    """Operations of one kind cost the same."""
    return operation.kind, operation.dim, operation.capacity, operation.fixed, operation.dense


def _split(alone: float, joint: float, messages: int) -> Cost:
    """From seconds a message in frames of one, and of all: a message m and a frame f with f + m = alone, f/messages + m = joint."""
    if messages < 2:
        return Cost(frame=alone)
    frame = max(alone - joint, 0.0) * messages / (messages - 1)
    return Cost(min(frame, alone), max(alone - frame, 0.0))


def _medians(costs: list[list[Cost]]) -> list[Cost]:
    parts = [[(cost.frame, cost.message) for cost in row] for row in costs]
    return [Cost(*map(float, pair)) for pair in np.median(np.array(parts), axis=0)]


def _at(operation: Operation, costs: list[Cost]) -> Operation:
    return replace(operation, encode=costs[0], decode=costs[1], absorb=costs[2])


def _flat(rounds: list[list[Operation]]) -> list[Operation]:
    return [operation for own in rounds for operation in own]


def _ratio(measured: float, here: float) -> float:
    return measured / here if here > 0 else 1.0
