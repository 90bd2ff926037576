"""mpicomp.testing: sound parts pass, and each of many broken ones is caught by a message that names the fault."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.cluster.comm import world
from mpicomp.compressors import Codec, compressors
from mpicomp.compressors.base import example
from mpicomp.exchanges.base import exchanges
from mpicomp.exchanges.local import LocalExchange
from mpicomp.mechanisms.base import Uplink
from mpicomp.optimizers import Optimizer
from mpicomp.state import ClientState, ServerState
from mpicomp.testing import check_compressor, check_exchange, check_method, check_problem
from mpicomp.testing.small import SmallLeastSquares

BUILT_IN = [name for name in compressors if compressors[name].__module__.startswith("mpicomp.")]


# ---- what is sound passes ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_compressors(name):
    check_compressor(example(name), dims=(1, 8, 65), draws=200, finite=name == "integers")


@pytest.mark.parametrize("spec", ["cq:radius=common", "randk:k=3,mask=shared", "sign:norm=unit", "topk:k=5"])
def test_compressors_with_options(spec):
    check_compressor(spec, dims=(3, 64), draws=200, finite=spec == "sign:norm=unit")


PROBLEMS = [
    "quadratic:dim=30,clients=5,noise=0.8",
    "mean:dim=20,clients=4",
    "logistic:clients=3",
    "least_squares:clients=3,reg=0.1",
    "mlp:clients=2",
    "autoencoder:clients=2",
]


@pytest.mark.parametrize("spec", PROBLEMS)
def test_built_in_problems(spec):
    check_problem(spec, points=2)


def test_only_the_given_clients_are_asked():
    class Partial(SmallLeastSquares):
        def block(self, clients, dtype):
            assert set(clients) <= {1, 2}
            return super().block(clients, dtype)

        def batch_gradient(self, i, x, samples, out):
            assert i in (1, 2)
            super().batch_gradient(i, x, samples, out)

    check_problem(Partial(), points=1, clients=[1, 2])


@pytest.mark.parametrize(
    "name", ["gd", "ef21", "marina", "diana", "ef21-p", "marina-p", "dasha-page", "local-sgd", "signsgd", "mcm"]
)
def test_built_in_methods(name):
    check_method(name)


def test_the_gradients_of_a_quick_look():
    problem = SmallLeastSquares()
    assert (
        mc.check_gradient(problem) < 1e-9 and mc.check_gradient(problem, np.ones(120), clients=[2], directions=1) < 1e-9
    )
    with pytest.raises(mc.ConfigError, match="x has 3 entries, the problem's dimension is 120"):
        mc.check_gradient(problem, [1, 2, 3])


# ---- broken compressors ------------------------------------------------------------------------------------------------
class Kept(mc.Compressor):
    """A quarter of the entries, at random places that follow from the key. Sound; what is below breaks it."""

    unbiased = True
    shared = False

    def count(self, d):
        return max(1, d // 4)

    def omega(self, d, n=1):
        return d / self.count(d) - 1

    def max_nbytes(self, d, dtype):
        return self.count(d) * dtype.itemsize

    def encode(self, x, out, key):
        values = x[key.permutation(x.size, self.shared)[: self.count(x.size)]].view(np.uint8)
        out[: values.size] = values
        return values.size

    def decode(self, buf, out, key):
        k = self.count(out.size)
        if buf.size != k * out.itemsize:
            raise mc.WireError("another length")
        out[:] = 0
        out[key.permutation(out.size, self.shared)[:k]] = np.ascontiguousarray(buf).view(out.dtype) * (out.size / k)


class Largest(mc.Compressor):
    """The largest entry, with its index in the message. Sound, but for alpha in subclasses."""

    contractive = deterministic = nonexpansive = True

    def alpha(self, d, n=1):
        return 1 / d

    def max_nbytes(self, d, dtype):
        return 4 + dtype.itemsize

    def encode(self, x, out, key):
        k = int(np.argmax(np.where(np.isnan(x), np.inf, np.abs(x))))
        out[:4].view(np.uint32)[0] = k
        out[4 : 4 + x.itemsize] = x[k : k + 1].view(np.uint8)
        return 4 + x.itemsize

    def decode(self, buf, out, key):
        if buf.size != 4 + out.itemsize or (k := int(buf[:4].copy().view(np.uint32)[0])) >= out.size:
            raise mc.WireError("another length or index")
        out[:] = 0
        out[k] = buf[4:].copy().view(out.dtype)[0]


class Unscaled(Kept):
    def decode(self, buf, out, key):
        super().decode(buf, out, key)
        out *= self.count(out.size) / out.size


class LastForgotten(Kept):
    def decode(self, buf, out, key):
        super().decode(buf, out, key)
        out[-1] = 0


class SmallOmega(Kept):
    def omega(self, d, n=1):
        return 0.8 * super().omega(d)


class Doubles(Kept):
    def max_nbytes(self, d, dtype):
        return 8 * self.count(d)

    def encode(self, x, out, key):
        return super().encode(np.asarray(x, float), out, key)

    def decode(self, buf, out, key):
        wide = np.zeros(out.size)
        super().decode(buf, wide, key)
        out[:] = wide


class Scales(Kept):
    def encode(self, x, out, key):
        x *= 2
        return super().encode(x, out, key)


class Longer(Kept):
    def encode(self, x, out, key):
        nbytes = super().encode(x, out, key)
        out[nbytes : nbytes + 4] = np.zeros(4, np.uint8)
        return nbytes + 4


class LongerStill(Kept):
    def encode(self, x, out, key):
        return super().encode(x, out, key) + 1


class Silent(Kept):
    def encode(self, x, out, key):
        super().encode(x, out, key)


class OwnGenerator(Kept):
    def encode(self, x, out, key):
        return super().encode(x + np.random.default_rng().random(), out, key)  # type: ignore[attr-defined]


class Remembers(Kept):
    def __init__(self):
        self.memory = 0.0

    def encode(self, x, out, key):
        self.memory += 0.1
        return super().encode(x + x.dtype.type(self.memory), out, key)


class SharedBySecret(Kept):
    shared = True


class SharedWithoutConstants(Kept):
    shared = shared_randomness = True


class CalledDeterministic(Kept):
    deterministic = True


class CalledSameForAll(Kept):
    same_for_all = True


class NotRandom(Largest):
    deterministic = False


class KeepsWhatWasThere(Largest):
    def decode(self, buf, out, key):
        before = out.copy()
        super().decode(buf, out, key)
        out[out == 0] = before[out == 0]


class Trusting(Largest):
    def decode(self, buf, out, key):
        out[:] = 0
        out[int(buf[:4].copy().view(np.uint32)[0])] = buf[4:].copy().view(out.dtype)[0]


class TooContractive(Largest):
    def alpha(self, d, n=1):
        return 0.5


class Expanding(Largest):
    def alpha(self, d, n=1):
        return 0.75 / d

    def decode(self, buf, out, key):
        super().decode(buf, out, key)
        out *= 1.5


class DropsNaN(Largest):
    def encode(self, x, out, key):
        return super().encode(np.nan_to_num(x, nan=0.0), out, key)


class Normalised(Largest):
    def encode(self, x, out, key):
        with np.errstate(invalid="ignore"):
            return super().encode(x / np.linalg.norm(x).astype(x.dtype) * np.linalg.norm(x).astype(x.dtype), out, key)


class Clipped(Largest):
    contractive, homogeneous = False, True

    def encode(self, x, out, key):
        return super().encode(np.where(np.isfinite(x), np.clip(x, -1, 1), x), out, key)


class NoAlpha(Largest):
    def alpha(self, d, n=1):
        return mc.Compressor.alpha(self, d, n)


class LosesOption(Largest):
    def __init__(self, scale: float = 1.0):
        self.factor = scale


class Bulky(Largest):
    def max_nbytes(self, d, dtype):
        return d * dtype.itemsize


class InBlocks(mc.Compressor):
    """The first half of the entries as they are, written to the block contract in plain Python."""

    deterministic = True
    longest = reach = 0

    def bind(self, dim, n_clients, wire_dtype=np.float64):
        wire = np.dtype(wire_dtype)
        half = dim // 2 * wire.itemsize

        def encode(V, rows, clients, shared, private, buf, pos, tally, _wire):
            for row in rows:
                values = V[row, : dim // 2].view(np.uint8)
                buf[pos : pos + half + self.reach] = np.append(values, np.zeros(self.reach, np.uint8))
                pos += half
            tally += 8 * half * len(rows)
            return pos

        def decode(buf, pos, end, rows, clients, weights, shared, private, out, _wire):
            for row, weight in zip(rows, weights, strict=True):
                if pos + half > end and not self.longest:
                    return -1
                out[row, : dim // 2] += weight * buf[pos : pos + half].view(wire)
                pos += half
            return end

        return Codec(self, 250, dim, n_clients, wire, half, encode, decode)


class ReadsOn(InBlocks):
    longest = 1


class WritesOn(InBlocks):
    reach = 3


class Larger(InBlocks):
    def bind(self, dim, n_clients, wire_dtype=np.float64):
        codec = super().bind(dim, n_clients, wire_dtype)
        codec.max_nbytes = 9 * dim
        return codec


COMPRESSOR_FAULTS = [
    (Unscaled, "unbiased is declared, but the mean of 400 draws of C.x. is 0.2"),
    (LastForgotten, "unbiased is declared, but in coordinate 7"),
    (SmallOmega, r"omega is 2\.4, but the mean"),
    (Doubles, "holds the entry .* as float64, where the wire's values are float32.*Write values in x.dtype"),
    (Scales, "encode writes to its input x"),
    (Longer, "a message of 12 bytes is longer than declared: max_nbytes is 8"),
    (LongerStill, "a message of 9 bytes is longer than declared: max_nbytes is 8"),
    (Silent, "encode returned None.*the message's length"),
    (OwnGenerator, "the same vector and key gave two different messages.*randomness comes only from the key"),
    (Remembers, "the same vector and key gave two different messages.*A compressor has no state"),
    (SharedBySecret, "two clients' messages have the same random numbers.*shared_randomness = True"),
    (SharedWithoutConstants, "ab or theta promises.*define ab"),
    (CalledDeterministic, "deterministic is declared, but the message depends on the key"),
    (CalledSameForAll, "same_for_all is declared, but two clients decode different vectors"),
    (NotRandom, "40 keys gave the same message.*deterministic = True"),
    (KeepsWhatWasThere, "decode leaves entries of out as they were"),
    (Trusting, "decode raised (IndexError|ValueError).* for a message .*raise mpicomp.WireError"),
    (TooContractive, r"contractive is declared with alpha = 0\.5, but the mean"),
    (Expanding, "nonexpansive is declared, but"),
    (DropsNaN, "a vector with nan in every entry is decoded as a finite one"),
    (Normalised, "the zero vector is not decoded as zero"),
    (Clipped, "homogeneous is declared, but C.8 x. is not 8 C.x."),
    (NoAlpha, "contractive is declared, but alpha.d, n. raises TheoryError"),
    (LosesOption, "spec cannot be written.*Store every option"),
    (Bulky, "its messages are not shorter than the vectors in any of these dimensions"),
    (ReadsOn, "decode reads past the end"),
    (WritesOn, "encode wrote beyond the 16 bytes that max_nbytes declares"),
    (Larger, "max_nbytes of its codec is 72, more than the 32 bytes of the vector"),
]


@pytest.mark.parametrize("cls", [Kept, Largest, InBlocks], ids=lambda cls: cls.__name__)
def test_what_the_broken_compressors_break_is_sound(cls):
    check_compressor(cls(), dims=(8, 20), draws=400)


@pytest.mark.parametrize(("cls", "words"), COMPRESSOR_FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else "")
def test_a_broken_compressor_is_caught(cls, words):
    with pytest.raises(AssertionError, match=f"(?s){cls.__name__}.*{words}") as caught:
        check_compressor(cls(), dims=(8, 20), draws=400)
    assert "seed" in str(caught.value) or "dims" in str(caught.value)


def test_options_that_fit_no_dimension():
    with pytest.raises(AssertionError, match="options fit none of the dimensions; topk: k=100 must be"):
        check_compressor("topk:k=100", dims=(8, 20))


# ---- broken problems ---------------------------------------------------------------------------------------------------
class OneEntryOff(SmallLeastSquares):
    def batch_gradient(self, i, x, samples, out):
        super().batch_gradient(i, x, samples, out)
        out[3] *= 1.5


class AddsUp(SmallLeastSquares):
    def gradient(self, i, x, out):
        work = np.zeros_like(out)
        super().gradient(i, x, work)
        out += work


class Returns(SmallLeastSquares):
    def gradient(self, i, x, out):
        super().gradient(i, x, out)
        return out.copy()


class WritesToX(SmallLeastSquares):
    def gradient(self, i, x, out):
        super().gradient(i, x, out)
        x -= 0.1


class HasMemory(SmallLeastSquares):
    calls = 0

    def gradient(self, i, x, out):
        self.calls += 1
        super().gradient(i, x, out)
        out *= 1 + 1e-9 * (self.calls > 3)


class BatchWithoutRidge(SmallLeastSquares):
    def batch_gradient(self, i, x, samples, out):
        super().batch_gradient(i, x, samples, out)
        if len(samples) < self.samples:
            out -= (self.reg * x).astype(out.dtype)


class OtherBlock(SmallLeastSquares):
    def block(self, clients, dtype):
        block = super().block(clients, dtype)
        gradients = block.gradients

        def scaled(W, out):
            gradients(W, out)
            out *= 1 + 1e-6

        block.gradients = scaled  # type: ignore[method-assign]
        return block


class Smaller(SmallLeastSquares):
    factors: dict[str, float] = {}  # noqa: RUF012

    def smoothness(self):
        known = super().smoothness()
        return mc.Smoothness(
            **{**vars(known), **{name: factor * vars(known)[name] for name, factor in self.factors.items()}}
        )


class SmallL(Smaller):
    factors = {"L": 0.9}  # noqa: RUF012


class SmallLi(Smaller):
    factors = {"L_i": 0.9}  # noqa: RUF012


class SmallLplus(Smaller):
    factors = {"L_plus": 0.8}  # noqa: RUF012


class SmallLpm(Smaller):
    factors = {"L_pm": 0.7}  # noqa: RUF012


class SmallSamples(SmallLeastSquares):
    def sample_smoothness(self):
        return 0.01 * super().sample_smoothness()


class NotMeasured(SmallLeastSquares):
    measures = ("accuracy", "loss")

    def measure(self, x):
        return (1.0,)


PROBLEM_FAULTS = [
    (OneEntryOff, "the gradient is not that of the loss.*1 of 120 entries are off, most of all entry 3"),
    (AddsUp, "gradient leaves entry 0 of out as it was, or adds to it"),
    (Returns, "gradient returns its result.*Write it into out"),
    (WritesToX, "gradient writes to x"),
    (HasMemory, "gives other bits after a call at another point|two calls give different bits"),
    (BatchWithoutRidge, "the mean of batch_gradient over parts of them differs from the gradient"),
    (OtherBlock, "block.*gradients and gradient.* give different bits"),
    (SmallL, "smoothness.. says L = .*needs at least"),
    (SmallLi, r"smoothness.. says L_i\[\d\] = .*needs at least"),
    (SmallLplus, "smoothness.. says L_plus = .*needs at least"),
    (SmallLpm, "smoothness.. says L_pm = .*needs at least"),
    (SmallSamples, "sample_smoothness.. says"),
    (NotMeasured, r"measure.x. gives \(1\.0,\)"),
]


@pytest.mark.parametrize(("cls", "words"), PROBLEM_FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else "")
def test_a_broken_problem_is_caught(cls, words):
    with pytest.raises(AssertionError, match=f"(?s){cls.__name__}.*{words}"):
        check_problem(cls(), points=2)


def test_what_the_broken_problems_break_is_sound():
    check_problem(SmallLeastSquares(), points=2)


# ---- broken methods ----------------------------------------------------------------------------------------------------
class Shifted(Uplink):
    """g = h + mean C(∇f_i − h_i), h_i += a C: sound, as DIANA. What is below breaks it."""

    h_i, h = ClientState(), ServerState()

    def __init__(self, compressor, a=0.2):
        self.compressor, self.a = compressor, a

    def prepare(self):
        self.codec = self.link.codec(self.compressor)

    def transmit(self, oracle, round):
        V = oracle.value() - self.h_i if self.link.is_worker else None
        self.link.gather(self.codec, V, round, self.mean, self.h_i, self.a)
        self.estimate = self.h + self.mean
        self.h += self.a * self.mean
        return self.estimate


class Undeclared(Shifted):
    h = None  # type: ignore[assignment]

    def prepare(self):
        super().prepare()
        self.h = np.zeros((1, self.link.served_dim), self.link.dtype)


class SameDraws(Shifted):
    def transmit(self, oracle, round):
        keys = self.link.keys(round)
        extra = np.zeros_like(self.mean)
        self.link.exchange.gather(self.codec, oracle.value() - self.h_i, keys, round, extra)
        return super().transmit(oracle, round)


class RoundZero(Shifted):
    def transmit(self, oracle, round):
        return super().transmit(oracle, 0)


class KeysOfRoundZero(Shifted):
    def transmit(self, oracle, round):
        if self.link.is_worker:
            np.subtract(oracle.value(), self.h_i, out=(V := np.zeros_like(self.h_i)))
        self.link.exchange.gather(self.codec, V, self.link.keys(0), round, self.mean, self.h_i, self.a)
        self.h += self.a * self.mean
        return self.h


class Turned(Shifted):
    def transmit(self, oracle, round):
        return -super().transmit(oracle, round)


class Wide(Shifted):
    def transmit(self, oracle, round):
        estimate = super().transmit(oracle, round)
        self.h = self.h.astype(np.float64)
        return estimate.astype(self.link.dtype)


class Reshaped(Shifted):
    steps = ServerState(columns=1)

    def transmit(self, oracle, round):
        self.steps = np.full(3, round)
        return super().transmit(oracle, round)


class OwnDraws(Shifted):
    def transmit(self, oracle, round):
        return super().transmit(oracle, round) * np.random.default_rng().random()  # type: ignore[attr-defined]


class WholeVector(Shifted):
    def transmit(self, oracle, round):
        self.link.gather(self.codec, oracle.value(), round, self.mean)
        halves = np.split(self.mean, [self.mean.shape[1] // 2], axis=1)
        return np.concatenate([halves[1], halves[0]], axis=1) if self.link.exchange.name == "sharded" else self.mean


class Fails(Shifted):
    def transmit(self, oracle, round):
        raise KeyError("h")


def method_of(uplink, **attributes):
    def compose(self, setting, step_size):
        return mc.Parts(uplink(setting.compressor), **{name: make() for name, make in self.parts.items()})

    def step_size(self, setting):
        return self.step

    made = {"compose": compose, "step_size": step_size, "step": 0.02, "parts": {}, "default_compressor": "randk:k=30"}
    return type(f"With{uplink.__name__}", (mc.Method,), {**made, **attributes})()


class Momentum(Optimizer):
    def start(self, x, step_size):
        super().start(x, step_size)
        self.m = np.zeros_like(x)

    def step(self, x, g):
        self.m = 0.9 * self.m + g
        x -= self.step_size * self.m


ONE_MOMENTUM = Momentum()
METHOD_FAULTS = [
    (method_of(Undeclared), "a state that outlives a round is not declared; .*undeclared: .*Undeclared.h.*ServerState"),
    (method_of(SameDraws), r"in round 0 the exchanges 1 \(gather of randk:k=30\) and 2 .* have the same random draws"),
    (method_of(RoundZero), "an exchange of round 1 was given the round number 0"),
    (method_of(KeysOfRoundZero), "has the same random draws in the rounds 0 and 1"),
    (method_of(Turned), r"with the step size 0\.02 of its theory f went from"),
    (method_of(Wide), "Wide.h holds float64, declared is float32"),
    (method_of(Reshaped), r"Reshaped.steps is declared as ServerState, expected is the shape \(1, 1\), it has \(3,\)"),
    (method_of(OwnDraws), "has another x at round 30|two runs with one seed gave different x"),
    (method_of(WholeVector), "with several servers, each with a slice of the coordinates, x has other bits than with one"),
    (method_of(Fails), "the first round raised KeyError: 'h'"),
    (method_of(Shifted, step=-1.0), r"step_size\(setting\) is -1.0"),
    (method_of(Shifted, parts={"optimizer": Momentum}), "is not declared; .*Momentum.m"),
    (method_of(Shifted, parts={"optimizer": lambda: ONE_MOMENTUM}), "compose returns the same optimizer twice"),
]  # fmt: skip


def test_what_the_broken_methods_break_is_sound():
    check_method(method_of(Shifted))


@pytest.mark.parametrize(
    ("method", "words"), METHOD_FAULTS, ids=lambda v: "" if isinstance(v, str) else type(v).__name__
)
def test_a_broken_method_is_caught(method, words):
    with pytest.raises(AssertionError, match=f"(?s){type(method).__name__}.*{words}"):
        check_method(method)


# ---- broken exchanges --------------------------------------------------------------------------------------------------
class Unweighted(LocalExchange):
    def gather(self, codec, V, keys, round, total, add_to=None, scale=1.0, active=None, weights=None, separate=False):
        super().gather(codec, V, keys, round, total, add_to, scale, active, None, separate)


class AlwaysAdds(LocalExchange):
    def broadcast(self, codec, v, keys, round, into, add=False):
        super().broadcast(codec, v, keys, round, into, True)


class DropsMirror(LocalExchange):
    def scatter(self, codec, v, keys, round, into, mirror=None, active=None, add=False):
        super().scatter(codec, v, keys, round, into, None, active, add)


class Uncounted(LocalExchange):
    def record_uplink(self, nbytes, messages, extra=0):
        pass


class Backwards(LocalExchange):
    def chain(self, vector, add):
        add(vector)
        add(vector)


EXCHANGE_FAULTS = [
    (Unweighted, "gather of identity with other weights is not what one process computes"),
    (AlwaysAdds, "broadcast of identity is not what one process computes"),
    (DropsMirror, "scatter of identity, mirrored on the server, is not what"),
    (Uncounted, "no bytes were entered in the ledger"),
    (Backwards, "chain does not add the workers' parts"),
]


def test_the_exchange_of_one_process():
    check_exchange(LocalExchange)


@pytest.mark.parametrize(("kind", "words"), EXCHANGE_FAULTS, ids=lambda v: v.__name__ if isinstance(v, type) else "")
def test_a_broken_exchange_is_caught(kind, words):
    with pytest.raises(AssertionError, match=f"{kind.__name__}.*{words}"):
        check_exchange(kind)


@pytest.mark.process
def test_exchanges_over_mpi(mpi):
    mpi.run(3, [__file__], timeout=240).check()


def main() -> None:
    """On three ranks: every exchange passes; one that loses a message is caught on all of them."""
    comm = world()
    for name in exchanges:
        if exchanges[name].over_mpi:
            check_exchange(exchanges[name], comm, exact=name not in ("allreduce", "hierarchical:sum"))

    class Forgets(exchanges["p2p"]):  # type: ignore[misc]
        def gather(self, codec, V, keys, round, total, *rest, **options):
            super().gather(codec, V, keys, round, total, *rest, **options)
            if total is not None:
                total[0, -1] = 0

    with pytest.raises(AssertionError, match="rank 0: gather of identity is not what one process computes"):
        check_exchange(Forgets, comm, codecs=["identity"])


if __name__ == "__main__":
    sys.exit(main())
