"""Calibrating the cost model from a study's cells, with uncertainty, and trying it on cells that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..lab.links import Link
from .cells import Group, Results
from .model import COMMUNICATION, MODELLED, SERVERLESS, UNLIMITED, Model, Shape

RESAMPLES = 200


@dataclass(frozen=True)
class Observation:
    """A configuration as the model sees it: its shape and what was measured, seconds a round."""

    shape: Shape
    total: float
    compute: float
    encode: float
    decode: float
    step: float
    name: str


def observe(results: Results) -> list[Observation]:
    """All finished configurations that did not diverge, of the exchanges that the model knows."""
    usable = [g for g in results.groups if not any(run.diverged for run in g.runs) and g.exchange in MODELLED]
    return [_observation(g) for g in usable]


def _observation(group: Group) -> Observation:
    run, cell = group.runs[0], group.cell
    facts = run.record["runner"]
    workers = len(run.ranks) - 1
    link = Link.of(cell.link or None, cell.delay_ms)
    machine = len(run.ranks) if facts["shared"] or not cell.nodes else cell.per_node
    hosts = len({rank["host"] for rank in run.ranks})
    frames = run.stored.summary["bytes"]["uplink"]["frames"] / max(workers * run.rounds, 1)
    down = group.bytes("downlink") / (workers + (group.exchange in SERVERLESS))
    shape = Shape(
        group.label, group.exchange, workers, cell.per_node if hosts > 1 else 0, group.clients, group.dim, group.bytes("uplink"), down,
        frames, link.rate or UNLIMITED, link.delay, max(1.0, machine / facts["cores"]),
    )  # fmt: skip
    server = group.exchange not in SERVERLESS
    placed = f"{group.places} {'nodes' if cell.nodes else 'workers'}"
    return Observation(
        shape,
        group.seconds.median,
        group.phase("compute", "busiest"),
        group.phase("encode", "busiest"),
        group.phase("decode", "server" if server else "busiest"),
        group.phase("step", "server" if server else "busiest"),
        ", ".join(part for part in (group.label, placed, group.exchange, group.link_text) if part),
    )


def fit(observations: Sequence[Observation], resamples: int = RESAMPLES, seed: int = 0) -> Model:
    """Calibrate a model; its intervals come from resampled configurations."""
    return resample(observations, resamples, seed)[0]


def resample(
    observations: Sequence[Observation], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Model, list[Model]]:
    """The model of all configurations, with intervals, and one for each bootstrap sample of them."""
    model = _fit(observations)
    labels = {o.shape.label for o in observations}
    rng = np.random.default_rng(seed)
    ensemble: list[Model] = []
    while len(ensemble) < resamples:
        picked = [observations[k] for k in rng.integers(0, len(observations), len(observations))]
        missing = labels - {o.shape.label for o in picked}  # every method keeps at least one configuration
        ensemble.append(_fit([*picked, *(o for o in observations if o.shape.label in missing)]))
    rates = [flat(m) for m in ensemble]
    model.intervals = {
        name: (float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5)))
        for name in flat(model)
        for values in ([r[name] for r in rates],)
    }
    return model, ensemble


def _fit(observations: Sequence[Observation]) -> Model:
    labels = sorted({o.shape.label for o in observations})

    def rate(parts: Iterable[tuple[float, float]]) -> float:
        """The median of seconds/units, which one odd cell does not move."""
        ratios = [seconds / units for seconds, units in parts if units > 0]
        return float(np.median(ratios)) if ratios else 0.0

    def by_label(part: Callable[[Observation], tuple[float, float]]) -> dict[str, float]:
        return {label: rate(part(o) for o in observations if o.shape.label == label) for label in labels}

    def local(o: Observation) -> float:
        return o.shape.sharing * o.shape.busiest * o.shape.dim

    def served(o: Observation) -> float:
        """How many ranks' worth of the server's entries one rank handles."""
        return o.shape.sharing / o.shape.ranks if o.shape.exchange == "sharded" else 1.0

    def decoded(o: Observation) -> float:
        return local(o) if o.shape.exchange == "allreduce" else served(o) * o.shape.clients * o.shape.dim

    def stepped(o: Observation) -> float:
        return o.shape.dim * (o.shape.sharing if o.shape.exchange == "allreduce" else served(o))

    model = Model(
        rate((o.compute, local(o)) for o in observations),
        rate((o.step, stepped(o)) for o in observations),
        by_label(lambda o: (o.encode, local(o))),
        by_label(lambda o: (o.decode, decoded(o))),
        dict.fromkeys(COMMUNICATION, 0.0),
        links_set=any(o.shape.wire_seconds for o in observations),
        cells=len(observations),
    )
    rows, rest = [], []
    for o in observations:
        frames, hops, _ = o.shape.traffic
        rows.append(np.array([1.0, frames, hops, *o.shape.levels, o.shape.wire_seconds]) / o.total)
        rest.append((o.total - model.work(o.shape) - hops * o.shape.delay) / o.total)
    found = nonnegative(np.array(rows), np.array(rest))
    model.communication = dict(zip(COMMUNICATION, found.tolist(), strict=True))
    if not model.links_set:
        model.communication["wire"] = 1.0
    return model


def nonnegative(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The x ≥ 0 with the least ‖Ax − b‖₁: errors are taken by their size, so that one odd cell does not bend the fit.

    Iteratively reweighted least squares, each solved by Lawson and Hanson's active set method (1974, chapter 23).

    Parameters
    ----------
    A : float64, shape (m, k). b : float64, shape (m,).
    """
    weights = np.ones(len(b))
    x = np.zeros(A.shape[1])
    for _ in range(50):
        before, x = x, _nnls(A * weights[:, None], b * weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(A @ x - b), 1e-4))
        if np.allclose(x, before, rtol=1e-9, atol=0):
            break
    return x


def _nnls(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    scale = np.linalg.norm(A, axis=0)
    scale[scale == 0] = 1.0
    A = A / scale
    k = A.shape[1]
    x, free = np.zeros(k), np.zeros(k, bool)
    for _ in range(10 * k):
        slope = A.T @ (b - A @ x)
        slope[free] = -np.inf
        if free.all() or slope.max() <= 1e-10 * max(float(np.linalg.norm(b)), 1e-300):
            break
        free[np.argmax(slope)] = True
        while True:
            trial = np.zeros(k)
            trial[free] = np.linalg.lstsq(A[:, free], b, rcond=None)[0]
            if (trial[free] > 0).all():
                x = trial
                break
            blocked = free & (trial <= 0)
            step = np.min(x[blocked] / np.maximum(x[blocked] - trial[blocked], 1e-300))
            x = x + step * (trial - x)
            free &= x > 1e-14
            x[~free] = 0.0
            if not free.any():
                break
    return x / scale


def flat(model: Model) -> dict[str, float]:
    """All rates by name."""
    return {
        "compute": model.compute,
        "step": model.step,
        **{f"encode {label}": value for label, value in model.encode.items()},
        **{f"decode {label}": value for label, value in model.decode.items()},
        **model.communication,
    }


@dataclass(frozen=True)
class Miss:
    """A prediction for a configuration that the model had not seen: what was left out with it, and seconds a round."""

    held_out: str
    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """(predicted − measured)/measured."""
        return self.predicted / self.measured - 1


def validate(observations: Sequence[Observation]) -> list[Miss]:
    """Leave out every number of workers, and every link speed, in turn; calibrate from the others; predict what was left out."""
    found = []
    kinds: list[tuple[str, Callable[[Shape], float]]] = [
        ("workers", lambda s: s.workers),
        ("link", lambda s: s.rate),
    ]
    for kind, of in kinds:
        values = sorted({of(o.shape) for o in observations})
        if len(values) < 3:
            continue  # nothing to interpolate or extrapolate from
        for value in values:
            kept = [o for o in observations if of(o.shape) != value]
            model = _fit(kept)
            seen = {o.shape.label for o in kept}
            for o in observations:
                if of(o.shape) == value and o.shape.label in seen:
                    found.append(Miss(kind, o.name, model.seconds(o.shape), o.total))
    return found
