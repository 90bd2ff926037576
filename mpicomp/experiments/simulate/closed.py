"""The closed-form model of docs/explanation/cost-model.md beside a simulation: the same bytes, costs and links, and no simulator."""

from __future__ import annotations

from ..runtime import HEADER_NBYTES
from ..study.model import COMMUNICATION, MODELLED, Model, Shape
from .operations import BROADCAST, GATHER, SCATTER, Operation, Round
from .plan import Planned
from .platforms import FILE, WITHIN_RATE, Platform
from .schedule import Framed

LABEL = "this run"


def closed_form(planned: Planned, platform: Platform) -> float | None:
    """Seconds of a round by the formulas of the cost model, the mean of the planned ones; None where they do not cover the exchange,
    or the platform is a file, whose links are not known here."""
    if planned.exchange not in MODELLED or platform.kind == FILE:
        return None
    seconds = [_of_round(planned, round, platform) for round in planned.rounds]
    return sum(seconds) / len(seconds)


def _of_round(planned: Planned, round: Round, platform: Platform) -> float:
    layout, framed = planned.layout, planned.framing()
    n, hosting = layout.n_clients, len(layout.workers)
    dim = max(o.dim for o in round.operations)
    ups = [o for o in round.operations if o.kind == GATHER]
    frames = max(
        (len(framed(o).frames(layout.workers[-1], None if o.lengths.ndim == 1 else 0)) for o in ups), default=1
    )
    up = sum(_up(o, framed(o), planned) for o in ups)
    down = sum(_down(o, framed(o), planned) for o in round.operations)
    cut = planned.exchange == "sharded"  # a server decodes a part of every rank's frame: each costs what a frame does
    each = sum(o.decode.frame for o in ups) + sum(o.absorb.frame for o in round.operations if o.kind != GATHER)
    of_frames = frames * hosting / n  # frames for each client
    encode = sum(o.encode.message + o.encode.frame * of_frames for o in ups if cut or not o.dense)
    decode = sum(o.decode.message + (0.0 if cut else o.decode.frame * of_frames) for o in ups)
    shape = Shape(
        LABEL, planned.exchange, layout.size - 1, planned.where.per_node if planned.where.nodes > 1 else 0, n, dim, up, down, frames,
        platform.link.rate, platform.link.delay, 1.0,
    )  # fmt: skip
    rates = dict.fromkeys(COMMUNICATION, 0.0) | {
        "frame": layout.overhead + (layout.overhead + each / 2 if cut else 0.0),
        "within": 1 / WITHIN_RATE,
        "wire": 1.0,
    }
    model = Model(round.compute / dim, round.step / dim, {LABEL: encode / dim}, {LABEL: decode / dim}, rates, True)
    return model.seconds(shape)


def _up(o: Operation, framed: Framed, planned: Planned) -> float:
    """Bytes of an uplink from all ranks that host clients, as the ledger counts them."""
    layout = planned.layout
    if planned.exchange == "allreduce":
        return layout.size * (o.dim + 4.0) * o.itemsize
    if o.lengths.ndim == 2:  # parts; what a rank keeps does not travel
        return float(
            sum(
                frame.nbytes
                for rank in layout.workers
                for server in range(layout.size)
                if server != rank
                for frame in framed.frames(rank, server)
            )
        ) * layout.size / (layout.size - 1)  # fmt: skip
    return float(sum(frame.nbytes for rank in layout.workers for frame in framed.frames(rank)))


def _down(o: Operation, framed: Framed, planned: Planned) -> float:
    """Bytes that a rank gets of a downlink."""
    layout = planned.layout
    if o.kind == BROADCAST:
        return 0.0 if planned.exchange == "allreduce" else float((o.lengths[0] + HEADER_NBYTES).sum())
    if o.kind == SCATTER:
        servers = [None] if o.lengths.ndim == 1 else list(range(layout.size))
        return float(sum(f.nbytes for s in servers for f in framed.addressed(layout.workers[-1], s)))
    return 0.0
