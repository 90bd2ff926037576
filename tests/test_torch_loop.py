"""Loops of PyTorch around the aggregator: DDP's hook, the optimizer, tensors of all kinds. The examples are run as users run them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import mpicomp as mc  # noqa: E402

pytestmark = pytest.mark.torch
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3"]
LAUNCH = [sys.executable, "-m", "mpicomp", "launch", "-n", "3", "--", "python"]


def run_program(argv: list[str], cwd: Path = ROOT) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*TORCHRUN, "examples/torch_ddp_hook.py"], "the same on all ranks: "),
        ([*LAUNCH, "examples/torch_ddp_hook.py", "--mpi"], "the same on all ranks: "),
        ([*LAUNCH, "examples/torch_optimizer.py"], "ends with the same bits: True"),
    ],
    ids=["torchrun", "ddp-mpi", "optimizer"],
)
def test_examples(argv, said):
    assert said in run_program(argv)


DDP = """
import sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
import mpicomp as mc
from mpicomp.torch import CommState, hook
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1)).double()

def train(model, steps):
    draws = torch.Generator().manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        for last in (False, True):  # two passes a step
            x = torch.randn(8, 10, generator=draws, dtype=torch.float64)
            if last or not isinstance(model, DDP):
                model(x).square().mean().backward()
            else:
                with model.no_sync():
                    model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().ravel() for p in model.parameters()])

plain = train(DDP(network(), bucket_cap_mb=0.005), 10)
for uplink, bucket in (("direct", None), ("ef21:identity", 8000), ("ef14:topk:fraction=0.3", 4000)):
    model = network()
    ddp = DDP(model, bucket_cap_mb=0.005)  # several buckets, which are rebuilt after the first step
    parameters = dict(model.named_parameters())
    agg = mc.Aggregator(dist.group.WORLD, parameters, uplink=uplink, bucket_nbytes=bucket, timeout=60)
    ddp.register_comm_hook(CommState(agg), hook)
    flat = train(ddp, 10)
    others = [torch.empty_like(flat) for _ in range(size)]
    dist.all_gather(others, flat)
    assert all(torch.equal(flat, other) for other in others), uplink
    if uplink != "ef14:topk:fraction=0.3":
        torch.testing.assert_close(flat, plain, rtol=1e-9, atol=1e-12)
    assert agg.calls == 10, agg.calls
    x = torch.ones(4, 10, dtype=torch.float64)
    try:
        (ddp(x).sum() * (float("nan") if rank == 1 else 1.0)).backward()
        raise SystemExit("no error")
    except Exception as error:
        assert "rank 1: tensor" in str(error) and "holds nan at entry 0" in str(error), error
    agg.close()
if rank == 0:
    print("all well")
dist.destroy_process_group()
"""


@pytest.mark.process
def test_ddp_with_the_hook_is_ddp(tmp_path):
    """Without compression the weights are DDP's own; with it they are the same on all ranks; a NaN is named; buckets may be rebuilt."""
    (tmp_path / "ddp.py").write_text(DDP)
    assert "all well" in run_program([*TORCHRUN, str(tmp_path / "ddp.py")], tmp_path)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2)).to(dtype)


def aggregator_of(model: nn.Module, **options) -> mc.Aggregator:
    return mc.Aggregator(None, dict(model.named_parameters()), **options)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("every", [1, 2])
def test_an_optimizer_without_compression_is_the_optimizer(overlap, every):
    from mpicomp.torch import DistributedOptimizer

    def train(model, optimizer):
        draws = torch.Generator().manual_seed(5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        for _ in range(6):
            for _ in range(every):
                model(torch.randn(4, 6, generator=draws)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    one, other = network(), network()
    train(one, torch.optim.AdamW(one.parameters(), lr=0.01))
    agg = aggregator_of(other)
    adam = torch.optim.AdamW(other.parameters(), lr=0.01)
    distributed = DistributedOptimizer(adam, other.named_parameters(), agg, overlap=overlap, every=every)
    assert distributed is adam
    train(other, distributed)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert agg.calls == 6
    agg.close()


def test_the_mean_can_be_clipped_and_the_state_goes_on():
    from mpicomp.torch import DistributedOptimizer

    def make():
        model = network()
        agg = aggregator_of(model, uplink="ef14:sign")
        return model, DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model.named_parameters(), agg)

    def train(model, optimizer, steps):
        for step in steps:
            model(torch.randn(4, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.synchronize()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            norm = torch.cat([p.grad.ravel() for p in model.parameters()]).norm()
            assert norm < 0.5001
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = make()
    train(model, optimizer, range(4))
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(4, 8))
    again, other = make()
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(again, other, range(4, 8))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    del saved["optimizer"]["mpicomp"]
    with pytest.raises(mc.ConfigError, match="without the aggregator's memory"):
        other.load_state_dict(saved["optimizer"])


def test_what_an_optimizer_refuses():
    from mpicomp.torch import CommState, DistributedOptimizer

    model = network()
    agg = aggregator_of(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(mc.ConfigError, match=r"parameter '2\.bias' is only in one"):
        DistributedOptimizer(sgd, list(model.named_parameters())[:-1], agg)
    with pytest.raises(mc.ConfigError, match="every=0"):
        DistributedOptimizer(sgd, model.named_parameters(), agg, every=0)
    with pytest.raises(mc.ConfigError, match="parameters by name"):
        CommState(mc.Aggregator(None, np.zeros(3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_dtype(dtype):
    """The memory is in float32 (float64 for float64), so that nothing is lost where steps are small."""
    like = torch.zeros(4, 3, dtype=dtype)
    agg = mc.Aggregator(None, [like], uplink="ef21:topk:k=6")
    value = torch.arange(12, dtype=dtype).reshape(3, 4).t()  # not contiguous
    for _ in range(2):
        (out,) = agg.mean([value])
    assert out.dtype == dtype and torch.equal(out, value) and not out.requires_grad
    state = agg.state_dict()["tensors"]["0"]["uplink/g_i"]
    assert state.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    inside = value.clone()
    (back,) = agg.mean_([inside])
    assert back is inside


def test_gradients_that_are_missing_or_sparse():
    agg = mc.Aggregator(None, {"a": torch.zeros(3), "b": torch.zeros(5, 2)})
    sparse = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 2), (5, 2), check_invariants=True)
    out = agg.mean({"a": None, "b": sparse})
    inside = agg.mean_({"a": torch.ones(3), "b": sparse})
    assert torch.equal(inside["b"], sparse.to_dense()) and inside["a"].all()
    assert torch.equal(out["a"], torch.zeros(3)) and torch.equal(out["b"], sparse.to_dense())
    with pytest.raises(mc.ConfigError, match="tensor '0' is of dtype int64"):
        mc.Aggregator(None, [torch.zeros(3, dtype=torch.int64)])
