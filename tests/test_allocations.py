"""After the first rounds nothing as large as a vector is allocated: messages, states and scratch space live as long as the run."""

import tracemalloc

import numpy as np
import pytest
from lanes import shortened

from mpicomp.compressors import compressors
from mpicomp.compressors.codec import Difference, Sum
from mpicomp.exchanges.local import LocalExchange
from mpicomp.kernels import njit
from mpicomp.kernels.random import uplink_keys
from mpicomp.runtime.config import Config
from mpicomp.runtime.session import Composition, Session, build_problem
from mpicomp.runtime.warmup import WarmUpLink

DIM, CLIENTS = 1 << 18, 3
LEAST = DIM // 16  # bytes: half of what one bit an entry takes
OPTIONS = {
    "topk": "fraction=0.1",
    "randk": "fraction=0.1",
    "qsgd": "bits=4",
    "chunked-topk": "fraction=0.1",
}  # of those that cannot do without
SPECS = [f"{name}:{OPTIONS[name]}" if name in OPTIONS else name for name in compressors if name != "flag"]
SPECS += ["randk:fraction=0.1,sampling=stratified", "randk:fraction=0.1,sampling=uniform", "permk:layout=uniform"]
SPECS += [
    "qsgd:bits=12,norm=max,bucket=512",
    "cast:to=bfloat16",
    "cq:norm=max",
    "cq:levels=16,entropy=true",
    "cq:radius=common",
]
SPECS += ["cq:levels=5,rotate=true", "natural-dithering:norm=max", "eden:bits=3", "topk:fraction=0.1,values=4"]
SPECS += ["randk:fraction=0.1,values=sign", "permk:values=2", "chunked-topk:fraction=0.05,values=bfloat16"]


def allocated(work):
    """Bytes that `work` holds at once, at most, beyond what was there before; NumPy's arrays and those of kernels are counted."""
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@njit
def _greedy(x):
    return (x * 2.0).sum()


def test_an_array_made_by_numpy_or_in_a_kernel_is_seen():
    x = np.ones(DIM, np.float32)
    _greedy(x)
    assert allocated(lambda: x * 2) >= x.nbytes and allocated(lambda: _greedy(x)) >= x.nbytes


@pytest.mark.parametrize("spec", shortened(SPECS, 8, "others of the same kernels"))
def test_messages_are_written_and_read_in_place(spec):
    codec, rows, keys = compressors.create(spec).bind(DIM, CLIENTS, np.float32), np.arange(CLIENTS), uplink_keys(0, 0)
    V, state, out = np.random.default_rng(0).standard_normal((3, CLIENTS, DIM)).astype(np.float32)
    buf, tally, weights = (
        np.zeros(CLIENTS * codec.max_nbytes, np.uint8),
        np.zeros(2, np.int64),
        np.ones(CLIENTS, np.float32),
    )
    kinds = [V]
    kinds += [Difference(V, state, np.zeros_like(V))] if codec.takes_difference else []
    kinds += [Sum(state, V, 0.1)] if codec.takes_sum else []

    def work():
        for vectors in kinds:
            if codec.round_maximum is not None:
                codec.round_maximum[0] = codec.measure(V, rows, rows, keys).max()
            end = codec.encode(vectors, rows, rows, keys, buf, 0, tally)
            codec.decode_add(buf, 0, end, rows, rows, weights, keys, out)

    work()
    assert allocated(work) < LEAST


RUNS = [
    ("gd", None),
    ("dcgd", "natural"),
    ("ef14", "sign"),
    ("ef14", "topk:fraction=0.1"),
    ("ef21", "topk:fraction=0.1"),
]
RUNS += [
    ("ef21", "sign"),
    ("ef21-p", None),
    ("ef21-hb", None),
    ("ef21-am", None),
    ("ef21-bc", None),
    ("diana", "qsgd:bits=4"),
]
RUNS += [("marina", "permk"), ("marina", "randk:fraction=0.1"), ("marina-p", None), ("m3", None), ("dasha", None)]
RUNS += [
    ("dore", None),
    ("artemis", None),
    ("mcm", None),
    ("cd-adam", "sign"),
    ("onebit-adam", "sign"),
    ("amsgrad", None),
]
RUNS += [
    ("dq-sgd", None),
    ("signsgd", None),
    ("terngrad", None),
    ("ef21-p+diana", None),
    ("vr-marina", None),
    ("local-sgd", None),
]


@pytest.mark.parametrize("method, compressor", RUNS, ids=lambda value: str(value))
def test_rounds_reuse_what_the_first_ones_made(method, compressor):
    config = Config(
        method=method, compressor=compressor, problem="quadratic", problem_options={"dim": DIM}, clients=CLIENTS, step="1e-9",
        exchange="local", allow_unsafe=True,
    )  # fmt: skip
    problem = build_problem(config)
    composition = Composition(config, problem)
    step = composition.step_size(config.step)
    exchange = LocalExchange(problem.n_clients, problem.dim, clients=np.arange(2))
    # with a link of the warm-up every other round is dense, or of the second stage
    session = Session(config, problem, composition.parts(step), exchange, step, link=WarmUpLink)
    for t in range(4):
        session.round(t)
    assert allocated(lambda: [session.round(t) for t in range(4, 8)]) < LEAST
