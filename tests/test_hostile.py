"""Parts of one's own that write to what is not theirs, data that is not what it was, and other ways to a wrong result without a word."""

from __future__ import annotations

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.extend import Block, ClientState, Downlink, Optimizer, Uplink

N, D = 4, 20
TARGETS = np.random.default_rng(0).normal(size=(N, D))
OPTIONS = {"rounds": 30, "step": 0.1}


def problem(loss=None, gradient=None, **options):
    return mc.FunctionProblem(
        loss or (lambda i, x: 0.5 * float(np.sum((x - TARGETS[i]) ** 2))),
        gradient or (lambda i, x: x - TARGETS[i]),
        dim=D, n_clients=N, constants=mc.Smoothness.bounds(np.ones(N)), **options,
    )  # fmt: skip


CLEAN = mc.run(problem=problem(), method="ef21", compressor="topk:k=5", **OPTIONS).summary["iterate_sha256"]


# ---- x is not the callee's ------------------------------------------------------------------------------------------
def in_place(i, x):
    x -= TARGETS[i]
    return x


def loss_in_place(i, x):
    x -= TARGETS[i]
    return 0.5 * float(x @ x)


@pytest.mark.parametrize("functions", [{"gradient": in_place}, {"loss": loss_in_place}], ids=["gradient", "loss"])
def test_functions_that_write_to_x_are_refused(functions):
    with pytest.raises(ValueError, match="read-only") as caught:
        mc.run(problem=problem(**functions), method="gd", **OPTIONS)
    notes = " ".join(caught.value.__notes__)
    assert "x is not yours to write to" in notes and "client 0" in notes


@pytest.mark.parametrize("functions", [{"gradient": in_place}, {"loss": loss_in_place}], ids=["gradient", "loss"])
def test_functions_may_ask_for_a_copy(functions):
    result = mc.run(problem=problem(copies_points=True, **functions), method="ef21", compressor="topk:k=5", **OPTIONS)
    assert result.summary["iterate_sha256"] == CLEAN


class OwnBlock(Block):
    spoils = "gradients"

    def losses(self, W, out):
        for j, i in enumerate(self.clients):
            out[j] = 0.5 * np.sum((W[j if len(W) > 1 else 0] - TARGETS[i]) ** 2)
        if self.spoils == "losses":
            W[:] = 7

    def gradients(self, W, out):
        out[:] = W - TARGETS[self.clients]
        if self.spoils == "gradients":
            W[:] = 7


@pytest.mark.parametrize("spoils", ["losses", "gradients"])
def test_blocks_that_write_to_the_points_are_refused(spoils):
    class OwnProblem(mc.Problem):
        n_clients, dim = N, D

        def block(self, clients, dtype):
            block = OwnBlock(self, clients, np.dtype(dtype))
            block.spoils = spoils
            return block

    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=OwnProblem(), method="gd", **OPTIONS)


def test_an_uplink_may_write_to_the_gradients_that_it_gets():
    """They are its own copies: the next difference is taken to what the gradients were."""

    class Spoiling(Uplink):
        g_i = ClientState()

        def prepare(self):
            self.codec = self.link.codec(mc.compressor("topk:k=5"))

        def transmit(self, oracle, round):
            link, delta = self.link, None
            if link.is_worker:
                delta = oracle.value() if round == 0 else oracle.difference()
                self.g_i += delta  # what the gradients are, by their differences
                delta[:] = 1e9
            link.gather(link.values(), self.g_i if link.is_worker else None, round, self.mean)
            return self.mean

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(Spoiling())

    exact = mc.run(problem=problem(), method="gd", **OPTIONS).x
    np.testing.assert_allclose(mc.run(problem=problem(), method=Plain(), **OPTIONS).x, exact, rtol=1e-12)


def test_a_downlink_that_writes_to_the_model_changes_nothing():
    class Spoiling(Downlink):
        def prepare(self):
            self.codec = self.link.values()

        def begin(self, v):
            self.w = v.copy()
            return self.w

        def transmit(self, v, round):
            self.link.broadcast(self.codec, v, round, self.w)
            if self.link.is_server:
                v[:] = 1e9
            return self.w

    from mpicomp.mechanisms.direct import DirectUplink

    class Plain(mc.Method):
        def compose(self, setting, step_size):
            return mc.Parts(DirectUplink(), Spoiling())

    exact = mc.run(problem=problem(), method="gd", **OPTIONS).x
    np.testing.assert_array_equal(mc.run(problem=problem(), method=Plain(), **OPTIONS).x, exact)


def test_an_optimizer_that_writes_to_the_estimate_is_refused():
    class Spoiling(Optimizer):
        def step(self, x, g):
            g *= self.step_size
            x -= g

    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=problem(), method="ef21", optimizer=Spoiling(), **OPTIONS)


def test_measures_cannot_write_to_the_model():
    class Measuring(mc.FunctionProblem):
        measures = ("first",)

        def measure(self, x):
            x[0] = 7
            return (7.0,)

    own = Measuring(
        lambda i, x: 0.0, lambda i, x: 0 * x, dim=D, n_clients=N, constants=mc.Smoothness.bounds(np.ones(N))
    )
    with pytest.raises(ValueError, match="read-only"):
        mc.run(problem=own, method="gd", **OPTIONS)
