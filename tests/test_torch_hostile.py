"""The loops of mpicomp.torch in programs that skip, repeat, freeze, fail and differ. They run in a job of `scripts/test torch`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import mpicomp as mc  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.torch
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
LAUNCH = [sys.executable, "-m", "mpicomp", "launch", "-n", "3", "--", "python"]


def run_program(argv: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    return model(x).square().mean()


def made(model: nn.Module, **options):
    from mpicomp.torch import DistributedOptimizer

    agg = mc.Aggregator(None, trained(model), **options.pop("aggregator", {}))
    optimizer = torch.optim.SGD(trained(model).values(), lr=0.1)
    return DistributedOptimizer(optimizer, model.named_parameters(), agg, **options), agg


# ---- one process -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_that_is_left_out_does_not_take_the_next_average(overlap):
    """Synchronized, looked at, and skipped: the next step averages its own gradients."""
    model = network()
    optimizer, agg = made(model, overlap=overlap)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.synchronize()
        assert agg.calls == step + 1
        optimizer.synchronize()  # once for these gradients
        assert agg.calls == step + 1
        if step % 2:
            optimizer.step()
    optimizer.zero_grad()
    loss_of(model, 9).backward()
    optimizer.step()
    assert agg.calls == 5


def test_a_closure_is_averaged_after_it_has_run():
    model, plain = network(), network()
    optimizer, agg = made(model)
    other = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(3):
        for net, opt in ((model, optimizer), (plain, other)):

            def closure(net=net, opt=opt, step=step):
                opt.zero_grad()
                loss = loss_of(net, step)
                loss.backward()
                return loss

            assert opt.step(closure) > 0
        assert agg.calls == step + 1
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
    from mpicomp.torch import DistributedOptimizer

    with pytest.raises(mc.ConfigError, match="LBFGS"):
        DistributedOptimizer(torch.optim.LBFGS(plain.parameters()), plain.named_parameters(), agg)


def test_a_backward_pass_too_many_is_not_lost():
    model = network()
    optimizer, _ = made(model, overlap=True)
    loss_of(model, 0).backward()
    with pytest.raises(mc.ConfigError, match="has had its 2th backward pass since the last average"):
        loss_of(model, 1).backward()
    optimizer.synchronize()


def test_frozen_parameters():
    """The message's remedy works for every loop; aggregators of all parameters are refused."""
    from mpicomp.torch import DiLoCo, DistributedOptimizer, EF21Muon

    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    everything = mc.Aggregator(None, dict(model.named_parameters()))
    sgd = torch.optim.SGD(trained(model).values(), lr=0.1)
    for make in (
        lambda agg: DistributedOptimizer(sgd, model.named_parameters(), agg),
        lambda agg: DiLoCo(model, torch.optim.SGD(model.parameters(), lr=0.1), agg, every=1),
        lambda agg: EF21Muon(model.named_parameters(), agg),
    ):
        with pytest.raises(mc.ConfigError, match=r"parameter '0\.weight' .* if p\.requires_grad"):
            make(everything)
        make(mc.Aggregator(None, trained(model)))
    optimizer = EF21Muon(model.named_parameters(), mc.Aggregator(None, trained(model)))
    loss_of(model, 0).backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_muon_resumes_before_its_first_step():
    from mpicomp.torch import EF21Muon

    model = network()
    make = lambda: EF21Muon(model.named_parameters(), mc.Aggregator(None, trained(model)))  # noqa: E731
    first = make()
    loss_of(model, 0).backward()
    model[0].bias.grad[:] = float("nan")
    with pytest.raises(mc.AggregationError, match="holds nan"):
        first.step()
    again = make()
    again.load_state_dict(first.state_dict())
    model.zero_grad()
    loss_of(model, 0).backward()
    again.step()


def test_tensors_that_have_no_mean():
    like = {"a": torch.zeros(3), "b": torch.zeros(2, 3)}
    agg = mc.Aggregator(None, like, uplink="ef21:topk:k=9")
    with pytest.raises(mc.AggregationError, match=r"'a' is of dtype torch\.complex64"):
        agg.mean({"a": torch.ones(3, dtype=torch.complex64), "b": None})
    with pytest.raises(mc.AggregationError, match="'b' is expanded"):
        agg.mean_({"a": torch.ones(3), "b": torch.ones(3).expand(2, 3)})
    agg.start("a", torch.ones(3, dtype=torch.complex64))
    with pytest.raises(mc.AggregationError, match="complex64"):
        agg.wait()
    out = agg.mean({"a": torch.ones(3, requires_grad=True) * 2, "b": torch.ones(3).expand(2, 3)})
    assert torch.equal(out["a"], torch.full((3,), 2.0)) and not out["a"].requires_grad
    numpy = agg.mean({"a": torch.ones(3).numpy(), "b": torch.ones(2, 3).numpy()})
    assert isinstance(numpy["a"], torch.Tensor) and torch.equal(numpy["a"], torch.ones(3))


def test_parameters_that_are_leaves_take_the_mean_in_place():
    model = network()
    agg = mc.Aggregator(None, trained(model))
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    agg.mean_(trained(model))
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in trained(model).items())


# ---- several ranks ---------------------------------------------------------------------------------------------------
DDP = """
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
import mpicomp as mc
from mpicomp.torch import CommState, hook

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(10, 20), nn.Linear(20, 1), nn.Linear(3, 3)
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.frozen = nn.Parameter(torch.ones(10), requires_grad=False)
    def forward(self, x):
        x = torch.tanh(self.a(x * self.frozen))
        return self.b(x) + self.empty.sum()

def train(kind, hooked, uneven=False, **options):
    torch.manual_seed(0)
    net = Net()
    if kind == "static_graph" or kind == "views":
        net.unused.requires_grad_(False)
    if kind == "bfloat16":
        net = net.bfloat16()
    ddp = DDP(net, bucket_cap_mb=0.0005, **options)
    parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
    if hooked:
        agg = mc.Aggregator(dist.group.WORLD, parameters, uplink="ef21:identity", bucket_nbytes=100, timeout=60)
        ddp.register_comm_hook(CommState(agg), hook)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    draws = torch.Generator().manual_seed(rank)
    def steps(count):
        for _ in range(count):
            x = torch.randn(8, 10, generator=draws).to(net.a.weight.dtype)
            ddp(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    if uneven:
        with ddp.join():
            steps(3 + rank)
    else:
        steps(5)
    if hooked:
        agg.close()
    return torch.cat([p.detach().ravel().float() for p in net.parameters()])

for kind, uneven, options in (
    ("unused", False, {"find_unused_parameters": True}),
    ("static_graph", False, {"static_graph": True}),
    ("views", False, {"gradient_as_bucket_view": True}),
    ("join", True, {"find_unused_parameters": True}),
    ("bfloat16", False, {"find_unused_parameters": True}),
):
    plain, own = train(kind, False, uneven, **options), train(kind, True, uneven, **options)
    others = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(others, own)
    assert all(torch.equal(own, other) for other in others), kind
    assert torch.isfinite(own).all()
    near = {"rtol": 0.1, "atol": 0.02} if kind == "bfloat16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(own, plain, **near, msg=lambda text: kind + ": " + text)

# an aggregator of this process alone would leave every rank by itself
try:
    CommState(mc.Aggregator(None, dict(Net().named_parameters())))
    raise SystemExit("no error")
except mc.ConfigError as error:
    assert "the aggregator is of one rank, the process group has 3" in str(error), error

# a rank that does not come is missed after the timeout, by whatever call
for uplink in ("direct", "ef21:topk:k=5"):
    agg = mc.Aggregator(dist.group.WORLD, np.zeros(300), uplink=uplink, timeout=2.0)
    agg.mean(np.ones(300))
    if rank != 1:
        try:
            agg.mean(np.ones(300))
            raise SystemExit("no error")
        except mc.RankFailure as error:
            assert "waits in call 2 of the aggregator" in str(error), error
    dist.barrier()
if rank == 0:
    print("all well")
dist.destroy_process_group()
"""

DIFFERENT = """
import torch
from mpi4py import MPI
from torch import nn
import mpicomp as mc
from mpicomp.torch import DiLoCo, DistributedOptimizer, EF21Muon

comm = MPI.COMM_WORLD
torch.set_num_threads(1)
torch.manual_seed(comm.rank)  # other weights on every rank

def said(make, words):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1))
    aggregator = mc.Aggregator(comm, dict(model.named_parameters()), uplink="ef21:topk:k=3", timeout=20)
    try:
        optimizer = make(model, aggregator)
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        raise SystemExit("no error")
    except mc.ConfigError as error:
        assert words in str(error), error
    aggregator.close()

sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
seed = "seed them alike, or broadcast rank 0's"
said(lambda model, agg: DistributedOptimizer(sgd(model), model.named_parameters(), agg), seed)
said(lambda model, agg: DistributedOptimizer(sgd(model), model.named_parameters(), agg, overlap=True), seed)
said(lambda model, agg: EF21Muon(model.named_parameters(), agg), seed)
said(lambda model, agg: DiLoCo(model, sgd(model), agg, every=2), seed)
# an option that is wrong on one rank is told to all of them
said(lambda model, agg: DiLoCo(model, sgd(model), agg, every=0 if comm.rank == 1 else 2), "rank 1: every=0")
if comm.rank == 0:
    print("all well")
"""

SERVER = """
import io
import torch
from mpi4py import MPI
from torch import nn
import mpicomp as mc
from mpicomp.torch import DiLoCo, DistributedOptimizer, EF21Muon

comm = MPI.COMM_WORLD
torch.set_num_threads(1)

def made(kind, exchange, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    bucket = 16 if kind == "overlap" else None
    options = {"uplink": "ef21:topk:fraction=0.3", "exchange": exchange, "timeout": 60, "bucket_nbytes": bucket}
    agg = mc.Aggregator(comm, dict(model.named_parameters()), **options)
    if kind == "muon":
        optimizer = loop = EF21Muon(model.named_parameters(), agg)
    elif kind == "diloco":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loop = DiLoCo(model, optimizer, agg, every=2)
    else:
        adam = torch.optim.AdamW(model.parameters())
        optimizer = loop = DistributedOptimizer(adam, model.named_parameters(), agg, overlap=kind == "overlap")
    return model, optimizer, loop, agg

def steps(model, optimizer, seed):
    draws = torch.Generator().manual_seed(comm.rank + 10 * seed)
    for _ in range(4):
        x = torch.randn(8, 4, generator=draws).to(model[0].weight.dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().float().ravel() for p in model.parameters()]).numpy().tobytes()

for dtype in (torch.float32, torch.bfloat16):
    for kind in ("muon", "optimizer", "overlap", "diloco"):
        for exchange in ("auto", "p2p"):
            model, optimizer, loop, agg = made(kind, exchange, dtype)
            assert len(set(comm.allgather(steps(model, optimizer, 0)))) == 1, (dtype, kind, exchange)
            file = io.BytesIO()
            torch.save([model.state_dict(), loop.state_dict()], file)
            file.seek(0)
            again, other, resumed, second = made(kind, exchange, dtype)
            weights, state = torch.load(file, weights_only=True)
            again.load_state_dict(weights)
            resumed.load_state_dict(state)
            assert steps(model, optimizer, 1) == steps(again, other, 1), (dtype, kind, exchange)
            agg.close()
            second.close()
if comm.rank == 0:
    print("all well")
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("argv", "program"), [(TORCHRUN, DDP), (LAUNCH, DIFFERENT), (LAUNCH, SERVER)], ids=["ddp", "different", "server"]
)
def test_programs_of_three_ranks(argv, program, tmp_path):
    """DDP with unused, frozen, empty and bfloat16 parameters, static graphs, bucket views, join and a rank that stays away; models that
    differ between ranks; and a rank that only serves, in half precision."""
    (tmp_path / "program.py").write_text(program)
    assert "all well" in run_program([*argv, str(tmp_path / "program.py")], tmp_path)
