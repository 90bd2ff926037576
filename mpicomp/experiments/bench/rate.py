"""Bits an entry against relative error, beside the least possible and what else one would use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime import Config, ConfigError, MessageKey, build_problem, compressors

SPECS = (
    "identity",
    "cast:to=bfloat16",
    "natural",
    "sign",
    "ternary",
    *(f"qsgd:bits={bits},norm=max,bucket=512" for bits in (2, 3, 4, 6, 8)),
    *(f"qsgd:bits={bits},norm=max,bucket=512,entropy=true" for bits in (2, 3, 4, 6, 8)),
    *(f"cq:levels={levels},norm=max" for levels in (2, 4, 16)),
    "eden",
    "drive",
    *(f"topk:fraction={fraction}" for fraction in (0.001, 0.01, 0.05, 0.2)),
    *(f"topk:fraction={fraction},values=4" for fraction in (0.001, 0.01, 0.05, 0.2)),
    *(f"chunked-topk:k={k}" for k in (32, 128, 512)),
    *(f"randk:fraction={fraction}" for fraction in (0.01, 0.2)),
    *(f"uniform:error={error}" for error in (0.025, 0.1, 0.3, 0.7)),
    *(
        f"uniform:error={error},rounding=nearest"
        for error in (0.012, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85)
    ),
)
DRAWS = 8
STAGES = (0, 30, 300)  # steps after which a network's gradient is taken
_HIDDEN, _CLIENTS, _STEP, _MOMENTUM = "256+128", 20, 0.05, 0.9


class Vector(NamedTuple):
    """A vector to compress.

    Attributes
    ----------
    x : float32. entropy : differential, of an entry of variance 1, in bits; None where the law is not known.
    """

    name: str
    x: np.ndarray
    entropy: float | None = None

    def least_bits(self, error: float) -> float:
        """Shannon's lower bound on the bits an entry at a relative error; for a normal law it is the rate-distortion function."""
        assert self.entropy is not None
        return max(self.entropy - 0.5 * float(np.log2(2 * np.pi * np.e * error**2)), 0.0)


def normal(dim: int) -> Vector:
    """Independent standard normal entries."""
    x = np.random.default_rng(0).standard_normal(dim).astype(np.float32)
    return Vector("normal", x, 0.5 * float(np.log2(2 * np.pi * np.e)))


def heavy_tailed(dim: int) -> Vector:
    """Independent entries of Student's law with 3 degrees of freedom: the differential entropy is 2 (2 ln 2 − 1) + ln(√3 π/2) nats."""
    x = np.random.default_rng(0).standard_t(3, dim).astype(np.float32)
    nats = (
        2 * (2 * np.log(2) - 1) + np.log(np.sqrt(3) * np.pi / 2) - 0.5 * np.log(3)
    )  # the last: of variance 1 in place of 3
    return Vector("heavy-tailed", x, float(nats / np.log(2)))


def gradients(stages: Sequence[int] = STAGES) -> Iterator[Vector]:
    """Client 0's gradient of a network (64, 256, 128, 10 units) on the digits, after so many steps of momentum by the clients in turn."""
    options = {"hidden": _HIDDEN, "clients": _CLIENTS}
    problem = build_problem(Config(problem="mlp", problem_options=options))
    x = np.array(problem.paper_start())
    velocity, own = np.zeros(problem.dim), np.zeros(problem.dim)
    for step in range(max(stages) + 1):
        if step in stages:
            problem.gradient(0, x, own)
            yield Vector(f"network, step {step}", own.astype(np.float32))
        problem.gradient(1 + step % (_CLIENTS - 1), x, own)
        velocity = _MOMENTUM * velocity + own
        x -= _STEP * velocity


def from_file(path: Path) -> Vector:
    """A vector of the user's own, one array in a .npy file.

    Raises
    ------
    ConfigError : the file does not hold an array of finite real numbers, or only zeros.
    """
    try:
        x = np.load(path, allow_pickle=False)
        x = np.ascontiguousarray(x, np.float32).reshape(-1)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--vector {path}: not an array of numbers in a .npy file ({error})") from None
    if not np.all(np.isfinite(x)) or not np.any(x):
        raise ConfigError(f"--vector {path}: it has to be finite and not zero")
    return Vector(path.name, x)


def bench_rate(
    specs: Sequence[str] = SPECS, dim: int = 1 << 18, files: Sequence[Path] = (), draws: int = DRAWS
) -> list[dict[str, Any]]:
    """Bits and errors of every compressor on every vector, float32.

    Parameters
    ----------
    specs : compressors, each bound for one client. dim : of the normal and the heavy-tailed vector.
    files : .npy files; where there are some, these vectors alone.
    draws : messages of a random compressor.

    Returns
    -------
    One dict for each vector and compressor, and for each peer that is installed (kind "ours" or "peer"): vector, dim, spec, unbiased,
    bits (of a message's payload, by entry, mean over the draws), error (√(mean ‖C(x) − x‖²) / ‖x‖), least (Shannon's lower bound at this
    error; None where the law is not known), pareto (none of this vector's rows of the same kind of error, unbiased or any, has fewer bits
    and a smaller error).
    """
    vectors = [from_file(path) for path in files] or [normal(dim), heavy_tailed(dim), *gradients()]
    rows: list[dict[str, Any]] = []
    for vector in vectors:
        own = [_row(vector, "ours", spec, *measured(spec, vector.x, draws)) for spec in specs]
        own += [_row(vector, "peer", name, False, *found) for name, found in peers(vector.x)]
        rows += marked(own)
    return rows


def _row(vector: Vector, kind: str, spec: str, unbiased: bool, bits: float, error: float) -> dict[str, Any]:
    least = None if vector.entropy is None or error == 0 else vector.least_bits(error)
    return {
        "vector": vector.name, "dim": vector.x.size, "kind": kind, "spec": spec, "unbiased": unbiased, "bits": bits, "error": error,
        "least": least,
    }  # fmt: skip


def measured(spec: str, x: np.ndarray, draws: int) -> tuple[bool, float, float]:
    """(unbiased, bits an entry, relative error) of a compressor on x."""
    compressor = compressors.create(spec)
    buf, y = np.zeros(compressor.max_nbytes(x.size, x.dtype), np.uint8), np.zeros_like(x)
    bits, squares = 0.0, 0.0
    count = 1 if compressor.deterministic else draws
    for draw in range(count):
        key = MessageKey.seeded(0, round=draw)
        nbytes = compressor.encode(x, buf, key)
        compressor.decode(buf[:nbytes], y, key)
        bits += 8 * nbytes / count
        squares += float(np.sum((y.astype(float) - x) ** 2)) / count
    return compressor.unbiased, bits / x.size, float(np.sqrt(squares) / np.linalg.norm(x.astype(float)))


def marked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one vector with `pareto` in each."""
    for row in rows:
        rivals = [r for r in rows if r is not row and (r["unbiased"] or not row["unbiased"])]
        row["pareto"] = not any(
            r["bits"] <= row["bits"]
            and r["error"] <= row["error"]
            and (r["bits"], r["error"]) != (row["bits"], row["error"])
            for r in rivals
        )
    return rows


# ---- what else one would use ----------------------------------------------------------------------------------------
def peers(x: np.ndarray) -> Iterator[tuple[str, tuple[float, float]]]:
    """(name, (bits an entry, relative error)) of the compressors of other packages that are installed: SZ3 (pysz), zfp (zfpy), torch."""
    deviation, norm = float(np.std(x)), float(np.linalg.norm(x.astype(float)))

    def found(nbits: float, y: np.ndarray) -> tuple[float, float]:
        return nbits / x.size, float(np.linalg.norm(y.astype(float) - x)) / norm

    for name, package, make in (("SZ3", "pysz", _sz3), ("zfp", "zfpy", _zfp), ("torch quint8", "torch", _torch)):
        if importlib.util.find_spec(package):
            for option, function in make(deviation):
                yield f"{name}{option}", found(*function(x))


Peer = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _sz3(deviation: float) -> Iterator[tuple[str, Peer]]:
    """Error-bounded quantisation without prediction, which is its best for vectors without a smooth order."""
    pysz = importlib.import_module("pysz")

    def peer(bound: float) -> Peer:
        def run(x: np.ndarray) -> tuple[float, np.ndarray]:
            config = pysz.szConfig(x.shape)
            config.errorBoundMode, config.absErrorBound = pysz.szErrorBoundMode.ABS, bound * deviation
            config.cmprAlgo = pysz.szAlgorithm.NOPRED
            message, _ = pysz.sz.compress(x, config)
            return 8.0 * message.nbytes, pysz.sz.decompress(message, x.dtype, x.shape)[0]

        return run

    for bound in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
        yield f", bound {bound:g} σ", peer(bound)


def _zfp(deviation: float) -> Iterator[tuple[str, Peer]]:
    zfpy = importlib.import_module("zfpy")

    def peer(bound: float) -> Peer:
        def run(x: np.ndarray) -> tuple[float, np.ndarray]:
            message = zfpy.compress_numpy(x, tolerance=bound * deviation)
            return 8.0 * len(message), zfpy.decompress_numpy(message)

        return run

    for bound in (0.5, 1, 2, 4):
        yield f", tolerance {bound:g} σ", peer(bound)


def _torch(deviation: float) -> Iterator[tuple[str, Peer]]:
    """Eight bits between the least and the largest entry, as PyTorch's quantisation hooks for DistributedDataParallel."""
    torch = importlib.import_module("torch")

    def run(x: np.ndarray) -> tuple[float, np.ndarray]:
        tensor = torch.from_numpy(x)
        low, high = float(tensor.min()), float(tensor.max())
        unit = (high - low) / 255 or 1.0
        codes = torch.clamp(torch.round((tensor - low) / unit), 0, 255).to(torch.uint8)
        return 8.0 * codes.numel() + 64, (codes.to(torch.float32) * unit + low).numpy()

    yield "", run


# ---- beside them -----------------------------------------------------------------------------------------------------
def front(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(error, bits) of the Pareto-optimal rows, by error."""
    return sorted((r["error"], r["bits"]) for r in rows if r["pareto"] and r["error"] > 0)


def gaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Peers' rows with `ours`: the fewest bits an entry at the peer's error, on the line between neighbours of our front (in log error)."""
    found = []
    for row in rows:
        if row["kind"] != "peer" or row["error"] == 0:
            continue
        ours = [{**r, "unbiased": False} for r in rows if r["kind"] == "ours" and r["vector"] == row["vector"]]
        for (low, more), (high, fewer) in pairwise(front(marked(ours))):
            if low <= row["error"] <= high:
                part = np.log(row["error"] / low) / np.log(high / low) if high > low else 0.0
                found.append({**row, "ours": float(more + part * (fewer - more))})
                break
    return found
