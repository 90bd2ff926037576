"""The largest vectors and messages: what a codec states, what happens at the border, and messages in pieces. No test needs the memory."""

from __future__ import annotations

import mmap
import platform

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.cluster.counts import C_INT, LARGE, closed_pieces, most_of_a_call, pieces
from mpicomp.compressors.base import UNLIMITED, compressors
from mpicomp.compressors.bit_mask import BitMask
from mpicomp.compressors.identity import Identity
from mpicomp.exchanges.base import frame_capacity
from mpicomp.kernels.indices import choose_coding, read_indices, write_indices
from mpicomp.kernels.select import _sampled
from mpicomp.kernels.sizes import PLACES
from mpicomp.wire import HEADER_NBYTES, MAX_FRAME_NBYTES, MAX_LONG_MESSAGES

OWN = sorted(name for name in compressors if compressors[name].__module__.startswith("mpicomp."))
SPECS = {
    "topk": "topk:k=3", "randk": "randk:k=3", "permk": "permk", "cq": "cq:levels=4", "iq": "iq:levels=4", "permk-cq": "permk-cq:parts=2",
    "qsgd": "qsgd:bits=4", "chunked-topk": "chunked-topk:k=3",
}  # fmt: skip
LARGEST = {name: UNLIMITED if name in ("identity", "sign", "cast") else PLACES for name in OWN}


@pytest.mark.parametrize("name", OWN)
def test_every_codec_states_its_largest_dimension_and_refuses_more(name):
    compressor = mc.compressor(SPECS.get(name, name))
    assert type(compressor).largest_dim == LARGEST[name]
    for dim in (compressor.largest_dim + 1, 2**63, 0, -1):
        with pytest.raises(
            mc.ConfigError,
            match=f"compressor '{name}' takes vectors of 1 to {compressor.largest_dim} entries, not of {dim}",
        ):
            compressor.bind(dim, 4, np.float32)
    assert compressor.wire_of(compressor.largest_dim, "float32") == np.float32


@pytest.mark.parametrize(
    "spec",
    [
        "identity",
        "sign",
        "cast",
        "topk:k=3",
        "randk:k=3",
        "randk:k=3,sampling=stratified",
        "permk",
        "ternary",
        "natural",
    ],
)
def test_codecs_without_arrays_of_the_dimension_are_bound_at_the_border(spec):
    compressor = mc.compressor(spec)
    codec = compressor.bind(compressor.largest_dim, 4, np.float32)
    assert codec.dim == compressor.largest_dim and 0 < codec.max_nbytes <= 4 * codec.dim


def test_bit_masks_are_as_long_as_vectors():
    assert BitMask().bind(UNLIMITED, 2, np.float32).max_nbytes == UNLIMITED // 8
    with pytest.raises(mc.ConfigError, match="bit-mask"):
        BitMask().bind(UNLIMITED + 1, 2, np.float32)


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex128"])
def test_other_wire_dtypes_are_refused(dtype):
    with pytest.raises(mc.ConfigError, match=f"wire_dtype={dtype} cannot travel"):
        mc.compressor("qsgd:bits=4").bind(100, 2, dtype)


def sparse_vector(dim: int, dtype=np.float32) -> np.ndarray:
    """Zeros, shape (1, dim), of which only the pages that are touched take memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, dim * np.dtype(dtype).itemsize, flags=flags)
    return np.frombuffer(memory, dtype).reshape(1, dim)


linux = pytest.mark.skipif(platform.system() != "Linux", reason="memory that is not reserved")


@linux
@pytest.mark.parametrize("coding", ["fixed", "gaps"])
def test_top_k_reads_the_last_entries_of_the_largest_vector(coding):
    """Indices above 2³¹ come back as they are, and the values are added there."""
    compressor, dim = mc.compressor("topk:k=3"), PLACES
    wanted = np.array([5, 2**31 + 1, dim - 1] if coding == "fixed" else [dim - 3, dim - 2, dim - 1], np.int64)
    codec = compressor.bind(dim, 2, np.float32)
    fields, top = np.zeros(3, np.uint32), np.zeros(1 << 16, np.uint8)
    kind = choose_coding(wanted, 3, dim)
    buf = np.zeros(1 << 12, np.uint8)
    buf[0] = kind
    end = write_indices(wanted, 3, dim, kind, buf, 1, fields, top)
    buf[end : end + 12] = np.array([1.5, 2.5, 3.5], np.float32).view(np.uint8)
    out, rows = sparse_vector(dim), np.zeros(1, np.int64)
    codec.decode_add(buf, 0, end + 12, rows, rows, np.ones(1, np.float32), _keys(), out)
    assert out[0, wanted].tolist() == [1.5, 2.5, 3.5]
    assert out[0, [0, 4, 6, 2**31, dim - 4]].tolist() == [0.0] * 5


@linux
@pytest.mark.parametrize("spec", ["randk:k=64", "permk"])
def test_windows_at_the_border_come_back(spec):
    """A client's window of the largest vector is written and read where it is, with few pages touched."""
    dim = PLACES
    n = 4 if spec != "permk" else 1 << 20
    codec = mc.compressor(spec).bind(dim, n, np.float32)
    x, out, rows = sparse_vector(dim), sparse_vector(dim), np.zeros(1, np.int64)
    seen = 0
    for client in range(3):
        buf, tally, clients = np.zeros(codec.max_nbytes + 64, np.uint8), np.zeros(2, np.int64), np.array([client])
        empty = codec.encode(x, rows, clients, _keys(), buf, 0, tally)
        buf[:empty].view(np.float32)[:] = np.arange(1, empty // 4 + 1)
        codec.decode_add(buf, 0, empty, rows, clients, np.ones(1, np.float32), _keys(), out)
        again = np.zeros_like(buf)
        assert codec.encode(out, rows, clients, _keys(), again, 0, tally) == empty
        got = again[:empty].view(np.float32)
        assert np.all(got != 0) and np.array_equal(got / got[0], np.arange(1, empty // 4 + 1))
        seen += empty
    assert seen == 3 * codec.max_nbytes


def test_samples_of_the_largest_vectors_lie_in_them():
    for dim in (10, 2**31 - 1, 2**31 + 7, PLACES):
        places = [_sampled(i, dim) for i in range(200)]
        assert min(places) >= 0 and max(places) < dim and max(places) >= 0.9 * dim
        assert places == [(i * 0x9E3779B9 & 0xFFFFFFFF) * dim >> 32 for i in range(200)]


def test_indices_at_the_border_of_32_bits():
    for wanted in ([PLACES - 1], [0, PLACES - 1], list(range(PLACES - 40, PLACES))):
        indices = np.array(wanted, np.int64)
        count, top = len(wanted), np.zeros(1 << 16, np.uint8)
        fields, buf, back = np.zeros(count, np.uint32), np.zeros(1 << 12, np.uint8), np.zeros(count, np.int64)
        coding = choose_coding(indices, count, PLACES)
        end = write_indices(indices, count, PLACES, coding, buf, 0, fields, top)
        assert read_indices(buf, 0, end, count, PLACES, coding, back, fields, top) == end
        assert back.tolist() == wanted


def test_strata_of_the_largest_vectors_are_whole():
    codec = mc.compressor("randk:k=5,sampling=stratified").bind(PLACES, 2, np.float32)
    bounds = codec.args[3]
    assert bounds.tolist() == [i * PLACES // 5 for i in range(6)]


def _keys():
    from mpicomp.kernels.random import uplink_keys

    return uplink_keys(0, 0)


class Long(mc.Compressor):
    def max_nbytes(self, d, dtype):
        return d

    def encode(self, x, out, key):
        return 0

    def decode(self, buf, out, key):
        out[:] = 0


def test_messages_of_ones_own_have_a_length_of_32_bits():
    assert Long().bind(2**31, 2, np.float32).max_nbytes == 2**31 + 4
    with pytest.raises(mc.ConfigError, match="no length that fits"):
        Long().bind(2**32 - 4, 2, np.float32)


# ---- frames ---------------------------------------------------------------------------------------------------------------
class Wide:
    """What `frame_capacity` looks at."""

    def __init__(self, max_nbytes):
        self.max_nbytes, self.dim, self.compressor = max_nbytes, 10, Identity()


def test_frames_hold_more_than_4_gib():
    assert frame_capacity(Wide(2**33)) == HEADER_NBYTES + 2**33
    assert frame_capacity(Wide(2**20), MAX_LONG_MESSAGES) == HEADER_NBYTES + 2**20 * MAX_LONG_MESSAGES


@pytest.mark.parametrize(
    "nbytes, messages, remedy",
    [
        (2**20, MAX_LONG_MESSAGES + 1, "exchange='p2p', whose frames are short"),
        (MAX_FRAME_NBYTES, 1, "compress it in parts"),
    ],
)
def test_frames_that_cannot_be_have_a_remedy_that_applies(nbytes, messages, remedy):
    with pytest.raises(mc.ConfigError, match=remedy):
        frame_capacity(Wide(nbytes), messages)
    if "p2p" in remedy:
        assert frame_capacity(Wide(nbytes), 1)  # what p2p sends


# ---- pieces ---------------------------------------------------------------------------------------------------------------
class Versions:
    def __init__(self, built, loaded):
        (self.VERSION, self.SUBVERSION), self._loaded = built, loaded

    def Get_version(self):
        return self._loaded


@pytest.mark.parametrize(
    "built, loaded, most",
    [((4, 0), (4, 1), LARGE), ((5, 0), (5, 0), LARGE), ((3, 1), (4, 0), C_INT), ((4, 0), (3, 1), C_INT)],
)
def test_large_counts_need_mpi_4_on_both_sides(built, loaded, most):
    assert most_of_a_call(Versions(built, loaded)) == most


@pytest.mark.parametrize("nbytes", [0, 1, 99, 100, 101, 200, 1000])
def test_pieces_cover_a_message(nbytes):
    whole = np.arange(nbytes)
    for cut in (pieces, closed_pieces):
        parts = cut(nbytes, 100)
        assert np.array_equal(np.concatenate([whole[s] for s in parts]), whole)
        assert all(s.stop - s.start == 100 for s in parts[:-1])
    assert len(whole[closed_pieces(nbytes, 100)[-1]]) < 100  # so that a receiver knows that it is the last


RUNS = """
import sys
from mpi4py import MPI
from mpicomp.cluster import messages

if most := int(sys.argv[1]):
    messages.most_of_a_call = lambda mpi: most
import mpicomp as mc

world = MPI.COMM_WORLD
for exchange in ("p2p", "collective", "sharded", "hierarchical", "hierarchical:sum", "allreduce"):
    for method, compressor in (("ef21", "topk:k=8"), ("marina", "randk:k=8"), ("gd", None), ("marina-p", "permk")):
        if exchange != "allreduce" or method == "gd":
            result = mc.run(
                method=method, compressor=compressor, problem="quadratic", problem_options={"dim": 300}, clients=6, rounds=6, step=0.001,
                comm=world, exchange=exchange,
            )
            if world.rank == 0:
                last = result.history[-1]
                print("ran", exchange, method, result.summary["iterate_sha256"], last["loss"], last["uplink_message"], flush=True)
"""


@pytest.mark.process
@pytest.mark.full(reason="sixty runs over MPI")
def test_runs_in_pieces_are_the_same_runs(mpi, tmp_path):
    """Limits of 100 bytes, and of exactly a dense frame: rounds, broadcasts, evaluation, lengths and the end."""
    script = tmp_path / "runs.py"
    script.write_text(RUNS)
    plain, *cut = (
        mpi.run(3, [script, str(most)], timeout=200).check().out for most in (0, 100, HEADER_NBYTES + 8 * 300)
    )
    assert plain.count("ran") == 21
    assert [line for line in plain.splitlines() if line.startswith("ran")] == [
        line for line in cut[0].splitlines() if line.startswith("ran")
    ]
    assert cut[1].count("ran") == 21 and cut[1] == plain


CALLS = """
import numpy as np
from mpi4py import MPI
from mpicomp.cluster import messages

messages.most_of_a_call = lambda mpi: 10
from mpicomp.cluster.comm import Comm

comm = Comm(MPI.COMM_WORLD)
rank, size = comm.rank, comm.size
for n in (0, 1, 9, 10, 11, 20, 35):
    mine = (np.arange(n) + rank).astype(np.uint8)
    if rank == 1:
        requests = [comm.isend(mine, 0, 1), comm.isend(mine[::-1].copy(), 0, 1)]
        for request in requests:
            comm.wait(request)
        comm.send(mine, 0, 2)
    if rank == 0:  # two receives at once, and room for more than comes
        rooms = [np.zeros(64, np.uint8) for _ in range(2)]
        requests = [comm.irecv(room, 1, 1) for room in rooms]
        assert [comm.wait(r) for r in requests] == [n, n], n
        assert np.array_equal(rooms[0][:n], (np.arange(n) + 1).astype(np.uint8)) and np.array_equal(rooms[1][:n], rooms[0][:n][::-1])
        assert comm.recv(rooms[0][:n], 1, 2) == n
    x = np.arange(n, dtype=np.float64) if rank == 0 else np.zeros(n)
    comm.bcast(x)
    assert np.array_equal(x, np.arange(n))
    comm.allreduce_sum(x)
    assert np.array_equal(x, size * np.arange(n))
    counts, places = np.full(size, n), np.arange(size) * 40
    whole = np.zeros(40 * size, np.uint8) if rank == 0 else None
    comm.gatherv(mine, whole, counts, places, room=40 * size)
    back = np.zeros(n, np.uint8)
    comm.scatterv(whole, counts, places, back, room=40 * size)
    assert np.array_equal(back, mine)
assert comm.bcast_json({"a": "b" * 100} if rank == 0 else None) == {"a": "b" * 100}
calls = comm.ledger.by_function()
if rank == 1:
    assert calls["Isend"][1] + calls["Send"][1] == 4 * (0 + 1 + 9 + 10 + 11 + 20 + 35), calls  # each byte is entered once
comm.free()
print("done", flush=True)
"""


@pytest.mark.process
def test_calls_in_pieces(mpi, tmp_path):
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    done = mpi.run(3, [script], timeout=60)
    assert done.code == 0 and done.out.count("done") == 3, done.out + done.err
