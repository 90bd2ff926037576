"""TorchProblem: PyTorch's own gradients, keyed randomness, buffers as documented, and the same bits for any placement."""

from __future__ import annotations

import copy
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import mpicomp as mc
from mpicomp.errors import ConfigError, DataError, EnvironmentMismatch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch import nn  # noqa: E402 - only where there is a torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split  # noqa: E402

from mpicomp.torch import TorchProblem  # noqa: E402

N, ROWS = 5, 47
F = nn.functional


def images(rows: int = ROWS * N, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(rows, 1, 6, 6, generator=generator)
    return X, (X[:, 0, :3].sum((1, 2)) > X[:, 0, 3:].sum((1, 2))).long()


def dealt(X: torch.Tensor, y: torch.Tensor, clients: int = N) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Unequal shares, which differ in scale."""
    cuts = np.linspace(0, 1, clients + 1) ** 1.3 * len(X)
    return [((1 + 0.3 * i) * X[int(a) : int(b)], y[int(a) : int(b)]) for i, (a, b) in enumerate(pairwise(cuts))]


class Net(nn.Module):
    """Convolution, BatchNorm, dropout."""

    def __init__(self, dropout: float = 0.4, norm: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(48, 2)

    def forward(self, x):
        return self.out(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


def made(dropout: float = 0.4, norm: bool = True, **options: Any) -> TorchProblem:
    X, y = images()
    given = {"metrics": ["accuracy"], "test": images(60, 1), "seed": 3, **options}
    return TorchProblem(lambda: Net(dropout, norm), nn.CrossEntropyLoss(), dealt(X, y), **given)


def run(problem: mc.Problem, **options: Any) -> mc.Result:
    given: dict[str, Any] = {
        "method": "ef21", "compressor": "topk:fraction=0.2", "step": 0.2, "rounds": 12, "eval_every": 4, "batch": 8, "seed": 5,
    }  # fmt: skip
    return mc.run(problem=problem, **{**given, **options})


def columns(result: mc.Result) -> list[tuple[Any, ...]]:
    return [(row["round"], row["loss"], row["grad_norm_sq"], row["accuracy"]) for row in result.history]


# ---- gradients ----------------------------------------------------------------------------------------------------------
class Tied(nn.Module):
    """Embedding and output share a matrix; the positions are frozen; one layer is not used."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.positions = nn.Parameter(torch.randn(5, 4), requires_grad=False)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.words.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens):
        return self.out(torch.tanh(self.mix(self.words(tokens) + self.positions)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rnn, self.out = (
            nn.Embedding(11, 3, sparse=True),
            nn.LSTM(3, 4, batch_first=True),
            nn.Linear(4, 11),
        )

    def forward(self, tokens):
        return self.out(self.rnn(self.words(tokens))[0][:, -1])


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 11, (40, 5), generator=generator), torch.randint(0, 11, (40,), generator=generator)


NETWORKS = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), lambda: images(40)),
    "convolution": (lambda: Net(0.0), lambda: images(40)),
    "tied, frozen": (Tied, tokens),
    "recurrent, sparse": (Recurrent, tokens),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_torch(network, dtype):
    make, data = NETWORKS[network]
    X, y = data()
    torch.manual_seed(0)
    model = make()
    problem = TorchProblem(model, nn.CrossEntropyLoss(), [(X, y), (X[:9], y[:9])])
    own = copy.deepcopy(model).to(getattr(torch, dtype))
    inputs = X.to(getattr(torch, dtype)) if X.is_floating_point() else X
    samples = np.array([3, 1, 3, 8])
    x = (problem.paper_start() + 0.1).astype(dtype)
    nn.utils.vector_to_parameters(torch.from_numpy(x.copy()), [p for p in own.parameters() if p.requires_grad])
    out = np.empty(problem.dim, dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        problem.begin_round(0, 1)
        problem.batch_gradient(1, x, samples, out)
        nn.CrossEntropyLoss()(own.train()(inputs[samples]), y[samples]).backward()
    finally:
        torch.set_num_threads(threads)
    expected = np.concatenate([
        np.zeros(p.numel()) if p.grad is None else p.grad.to_dense().numpy().ravel()
        for p in own.parameters() if p.requires_grad
    ])  # fmt: skip
    np.testing.assert_array_equal(out, expected.astype(dtype))
    assert np.abs(out).max() > 0


@pytest.mark.parametrize("chunk", [1000, 7, 1])
def test_full_gradients_and_losses_in_chunks(chunk):
    X, y = images(40)
    problem = TorchProblem(lambda: Net(0.4, norm=False), nn.CrossEntropyLoss(), [(X, y)], chunk=chunk)
    x, out = problem.paper_start(), np.empty(problem.dim)
    problem.begin_evaluation({})
    problem.gradient(0, x, out)
    model = problem.trained(x).double()
    loss = F.cross_entropy(model(X.double()), y)
    loss.backward()
    np.testing.assert_allclose(
        out, np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]), rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(problem.loss(0, x), loss.item(), rtol=1e-12)
    assert mc.check_gradient(problem, x + 0.01) < 1e-5


def test_the_order_of_x_is_that_of_the_parameters():
    problem = TorchProblem(Tied, nn.CrossEntropyLoss(), [tokens()])
    assert list(problem.shapes) == ["words.weight", "mix.weight", "mix.bias", "unused.weight", "unused.bias"]
    assert problem.dim == 44 + 16 + 4 + 9 + 3
    trained = problem.trained(np.arange(problem.dim, dtype=np.float64))
    assert trained.out.weight is trained.words.weight and trained.words.weight[0, 3] == 3 and trained.mix.bias[0] == 60
    torch.testing.assert_close(trained.positions, problem.trained(problem.paper_start()).positions)


# ---- keys ---------------------------------------------------------------------------------------------------------------
class Masks(nn.Module):
    """Multiplies by a mask of its own, and remembers it."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(6)), []

    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.seen = self.seen  # shared by all copies
        return twin

    def forward(self, x):
        if self.training:
            mask = torch.bernoulli(torch.full((6,), 0.5))
            self.seen.append(tuple(mask.tolist()))
            x = x * mask
        return x @ self.weight


def masks_of(method: str, batch: int, **options: Any) -> list[list[tuple[float, ...]]]:
    """The masks by round, two clients."""
    X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    model = Masks()
    problem = TorchProblem(model, lambda output, target: (output - target).square().mean(), [(X, X[:, 0])] * 2)
    rounds: list[list[tuple[float, ...]]] = []
    begin, begin_run = problem.begin_round, problem.begin_run

    def begin_round(round, key):
        rounds.append([])
        model.seen.clear()
        begin(round, key)
        model.seen = model.seen

    def restart():
        rounds.clear()
        begin_run()

    problem.begin_round, problem.begin_run = begin_round, restart
    write = problem._write_gradient

    def spied(*arguments):
        before = len(model.seen)
        write(*arguments)
        if problem._round_key is not None:
            rounds[-1].extend(model.seen[before:])

    problem._write_gradient = spied
    mc.run(problem=problem, method=method, batch=batch, step=0.01, rounds=6, eval_every=3, **options)
    return rounds


@pytest.mark.parametrize("batch", [0, 4])
def test_a_difference_has_one_mask(batch):
    """MARINA: at the previous point and at the current one, for each client its own, each round another."""
    rounds = masks_of("marina", batch, compressor="permk", method_options={"p": 1e-9})
    assert len(rounds) == 6
    for masks in rounds[1:]:
        assert len(masks) == 4 and len(set(masks)) == 2  # two clients at two points
    assert len({mask for masks in rounds for mask in masks}) >= 6


def test_local_steps_have_masks_of_their_own():
    rounds = masks_of("local-sgd", 0, method_options={"local_steps": 3})
    assert len(rounds) == 6 * 3 and len({tuple(masks) for masks in rounds}) > 10


def test_the_generators_are_left_as_they_were():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - users do
    random.seed(1)
    problem = made()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    run(problem)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[2] == random.getstate() and before[3] == torch.get_num_threads()


class Augmented(Dataset):
    """Noise of three generators."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, j):
        noise = 0.1 * torch.randn(()) + 0.1 * float(np.random.normal()) + 0.1 * random.gauss(0, 1)  # noqa: NPY002
        return self.X[j] + noise, int(self.y[j])


def test_augmentation_is_keyed():
    X, y = images()
    problem = TorchProblem(lambda: Net(), nn.CrossEntropyLoss(), [Augmented(*part) for part in dealt(X, y)])
    a, b = run(problem), run(problem)
    assert a.summary["iterate_sha256"] == b.summary["iterate_sha256"]
    assert a.summary["iterate_sha256"] != run(problem, seed=6).summary["iterate_sha256"]


def test_a_second_run_is_the_first_one_again():
    problem = made()
    assert columns(run(problem)) == columns(run(problem)) == columns(run(made()))


# ---- buffers ------------------------------------------------------------------------------------------------------------
def test_buffers_change_once_in_a_round_and_not_in_evaluations():
    """The last evaluation of a round counts, at the current point, from the buffers with which the round began."""
    problem = made(dropout=0.0)
    x, out, samples = problem.paper_start(), np.empty(problem.dim), np.arange(7)
    first = {k: v.copy() for k, v in problem.state(2).items()}
    assert set(first) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    problem.begin_round(0, 1)
    problem.batch_gradient(2, x + 1, samples, out)
    problem.batch_gradient(2, x, samples, out)
    problem.begin_evaluation({})
    problem.gradient(2, x, out)
    problem.loss(2, x)
    model = Net(0.0).double()
    model.load_state_dict(
        {k: v.double() if v.is_floating_point() else v for k, v in problem.trained(x).state_dict().items()}
    )
    model.train()(dealt(*images())[2][0][:7].double())
    after = problem.state(2)
    np.testing.assert_allclose(after["norm.running_mean"], model.norm.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(after["norm.running_var"], model.norm.running_var.numpy(), rtol=1e-12)
    assert after["norm.num_batches_tracked"] == 1 and first["norm.num_batches_tracked"] == 0
    for name, array in problem.state(1).items():
        np.testing.assert_array_equal(array, first[name])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_evaluations_have_the_mean_of_the_buffers(dtype):
    problem = made(dropout=0.0)
    result = run(problem, dtype=dtype)
    trained = problem.trained(result.x)
    for name in ("running_mean", "running_var"):
        mean = np.mean([problem.state(i)[f"norm.{name}"] for i in range(N)], axis=0)
        np.testing.assert_allclose(getattr(trained.norm, name).numpy(), mean, rtol=1e-6)
    X, y = images(60, 1)
    assert (trained(X).argmax(1) == y).float().mean().item() == pytest.approx(result.history[-1]["accuracy"])
    losses = [F.cross_entropy(trained(A), b).item() for A, b in dealt(*images())]
    assert np.mean(losses) == pytest.approx(result.history[-1]["loss"], rel=1e-4)


def test_training_helps():
    result = run(
        made(dropout=0.1),
        method="cd-adam",
        compressor="sign",
        step=0.01,
        rounds=250,
        optimizer="adamw:warmup=10,schedule=cosine",
    )
    assert result.history[-1]["accuracy"] > 0.75 > result.history[0]["accuracy"]


# ---- placement and resume -----------------------------------------------------------------------------------------------
RUNS: list[dict[str, Any]] = [
    {},
    {"dtype": "float32", "optimizer": "sgd:momentum=0.9,nesterov=true,schedule=cosine,warmup=3"},
    {"method": "marina", "compressor": "permk", "batch": 0, "step": 0.1, "rounds": 5},
    {"method": "marina", "compressor": "randk:fraction=0.2", "step": 0.1},
    {"method": "local-sgd", "compressor": "identity", "method_options": {"local_steps": 2}, "step": 0.1},
    {
        "method": "cd-adam",
        "compressor": "topk:k=9",
        "downlink_compressor": "identity",
        "step": 0.01,
        "wire_dtype": "float32",
    },
]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("exchange", ["p2p", "sharded", "collective"])
@pytest.mark.parametrize("options", RUNS, ids=str)
def test_any_number_of_ranks_gives_the_same_bits(options, exchange):
    """x, f, ‖∇f‖² and the accuracy: of one process, of two ranks and of three."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    problem, seen = made(), []
    for ranks in range(2, world.size + 1):
        part = world.Split(0 if world.rank < ranks else MPI.UNDEFINED, world.rank)
        if part != MPI.COMM_NULL:
            result = run(problem, comm=part, exchange=exchange, **options)
            if world.rank == 0:
                seen.append((result.summary["iterate_sha256"], columns(result)))
            part.Free()
    if world.rank == 0:
        alone = run(problem, **options)
        seen.append((alone.summary["iterate_sha256"], columns(alone)))
    seen = world.bcast(seen)
    world.Free()
    assert len(seen) >= 2 and all(one == seen[0] for one in seen)


@pytest.mark.mpi(min_size=2)
def test_ranks_whose_models_differ_are_found():
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    torch.manual_seed(world.rank)
    problem = TorchProblem(Net(), nn.CrossEntropyLoss(), dealt(*images()))
    with pytest.raises(DataError, match="rank 1"):
        run(problem, comm=world)
    world.Free()


@pytest.mark.parametrize("options", RUNS, ids=str)
def test_resume_is_exact(options, tmp_path):
    """With dropout and BatchNorm; the problem that goes on is a new one."""
    whole = run(made(), **options)
    rounds = whole.config.rounds
    short = {**options, "rounds": rounds // 2 + 1}
    if "schedule" in str(options):
        short["optimizer"] = options["optimizer"] + f",rounds={rounds}"
        whole = run(made(), **{**options, "optimizer": short["optimizer"]})
    run(made(), **short, out=str(tmp_path), checkpoint_every=2)
    again = run(made(), **{**short, "rounds": rounds}, out=str(tmp_path), checkpoint_every=2, resume="auto")
    assert again.summary["resumed_at"] > 0
    assert again.summary["iterate_sha256"] == whole.summary["iterate_sha256"]
    last = columns(again)[-1]
    assert last == columns(whole)[-1]


def test_other_data_or_another_model_does_not_resume(tmp_path):
    given: dict[str, Any] = {"out": str(tmp_path), "checkpoint_every": 4}
    run(made(), **given)
    for seed, model_seed in ((9, 3), (0, 4)):

        def make(model_seed: int = model_seed) -> nn.Module:
            torch.manual_seed(model_seed)
            return Net()

        problem = TorchProblem(make, nn.CrossEntropyLoss(), dealt(*images(seed=seed)), seed=3)
        with pytest.raises(mc.CheckpointError, match="other data"):
            run(problem, **given, rounds=20, resume="auto")


# ---- starts, models, metrics, data --------------------------------------------------------------------------------------
def test_a_run_begins_at_the_models_weights():
    problem = made()
    result = run(problem, rounds=0)
    np.testing.assert_array_equal(result.x, problem.paper_start())
    assert result.config.init == "paper" and np.abs(result.x).max() > 0
    np.testing.assert_array_equal(run(problem, rounds=0, init="zero").x, 0)


def test_the_users_model_is_left_alone():
    torch.manual_seed(0)
    model = Net()
    before = copy.deepcopy(model.state_dict())
    problem = TorchProblem(model, nn.CrossEntropyLoss(), dealt(*images()))
    result = run(problem)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    trained = problem.trained(result.x)
    assert not trained.training and next(trained.parameters()).dtype == torch.float32
    assert not torch.equal(trained.conv.weight, model.conv.weight)


def test_a_function_makes_the_model_from_the_seed():
    def weights(seed: int) -> np.ndarray:
        return TorchProblem(Net, nn.CrossEntropyLoss(), [images(20)], seed=seed).paper_start()

    np.testing.assert_array_equal(weights(3), weights(3))
    assert not np.array_equal(weights(3), weights(4))


def test_metrics_weigh_samples_alike():
    X, y = images(50, 1)
    metrics = {
        "accuracy": "accuracy",
        "loss": "loss",
        "confidence": lambda output, target: output.softmax(1).max(1).values.mean(),
    }
    problem = made(metrics=metrics, test=TensorDataset(X, y), chunk=7)
    assert problem.measures == ("accuracy", "test_loss", "confidence")
    result = run(problem, rounds=4)
    trained = problem.trained(result.x).double()
    output = trained(X.double()).detach()
    expected = [
        (output.argmax(1) == y).double().mean(),
        F.cross_entropy(output, y),
        output.softmax(1).max(1).values.mean(),
    ]
    np.testing.assert_allclose(
        [result.history[-1][name] for name in problem.measures], [float(v) for v in expected], rtol=1e-5
    )
    assert made(metrics=(), test=(X, y)).measures == ("test_loss",)


class Words(Dataset):
    """Samples that are dictionaries."""

    def __len__(self):
        return 12

    def __getitem__(self, j):
        return {"ids": torch.tensor([j % 11, 3]), "label": j % 2, "weight": 0.5}


def test_samples_of_any_form():
    model = nn.Sequential(nn.Embedding(11, 3), nn.Flatten(), nn.Linear(6, 2))

    def forward(model, batch):
        assert batch["weight"].dtype == model[2].weight.dtype
        return model(batch["ids"]), batch["label"]

    problem = TorchProblem(
        model, nn.CrossEntropyLoss(), [Words(), Words()], forward=forward, test=Words(), metrics=["accuracy"]
    )
    assert run(problem, batch=3).history[-1]["loss"] < run(problem, rounds=0).history[-1]["loss"]
    listed = TorchProblem(
        nn.Linear(2, 1), nn.MSELoss(), [[(np.array([1.0, 2.0 * j]), [3.0]) for j in range(5)]] * 2,
        collate=lambda samples: (torch.tensor(np.array([a for a, _ in samples])), torch.tensor([b for _, b in samples])),
    )  # fmt: skip
    assert run(listed, batch=0, step=0.01).history[-1]["loss"] < run(listed, rounds=0).history[-1]["loss"]


def test_data_of_random_split_and_lazy_sequences():
    X, y = images()
    parts = random_split(TensorDataset(X, y), [100, 100, 35], generator=torch.Generator().manual_seed(0))
    asked = []

    class Lazy:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            asked.append(i)
            return parts[i]

    a = run(TorchProblem(Net, nn.CrossEntropyLoss(), parts))
    b = run(TorchProblem(Net, nn.CrossEntropyLoss(), Lazy()))
    assert a.summary["iterate_sha256"] == b.summary["iterate_sha256"] and asked == [0, 1, 2]


def test_weights_of_the_loss_have_the_dtype_of_the_run():
    X, y = images()
    problem = TorchProblem(Net, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), dealt(X, y))
    for dtype in ("float32", "float64"):
        assert np.isfinite(run(problem, dtype=dtype).x).all()


def test_what_the_records_say(tmp_path):
    result = run(made(), out=str(tmp_path))
    assert result.summary["problem"] == "torch" and "accuracy" in (tmp_path / "rounds.csv").read_text().splitlines()[0]
    facts = result.manifest["problem"]
    assert facts["model"] == "Net" and facts["parameters"]["out.weight"] == [2, 48]


# ---- mistakes -----------------------------------------------------------------------------------------------------------
class Stream(IterableDataset):
    def __iter__(self):
        yield 1


X, Y = images(20)
FROZEN = nn.Linear(36, 2).requires_grad_(False)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TorchProblem(FROZEN, F.cross_entropy, [(X, Y)]), "no parameter that requires gradients"),
        (lambda: TorchProblem(nn.LazyLinear(2), F.cross_entropy, [(X, Y)]), "call the model once"),
        (lambda: TorchProblem(nn.Linear(2, 2, dtype=torch.complex64), F.cross_entropy, [(X, Y)]), "complex"),
        (lambda: TorchProblem("net", F.cross_entropy, [(X, Y)]), "neither an nn.Module"),
        (lambda: TorchProblem(lambda: 3, F.cross_entropy, [(X, Y)]), "returned int"),
        (lambda: TorchProblem(Net, F.cross_entropy, []), "a data set for each client"),
        (lambda: TorchProblem(Net, F.cross_entropy, TensorDataset(X, Y)), "random_split"),
        (lambda: TorchProblem(Net, F.cross_entropy, [(X, Y)], metrics=["accuracy"]), "need test data"),
        (lambda: TorchProblem(Net, F.cross_entropy, [(X, Y)], metrics=["acuracy"], test=(X, Y)), "unknown metric"),
        (lambda: TorchProblem(Net, F.cross_entropy, [(X, Y)], chunk=0), "chunk=0"),
        (lambda: TorchProblem(Net, F.cross_entropy, [(X, Y)], test=Stream()), "the test, Stream"),
        (lambda: TorchProblem(Net, F.cross_entropy, [(X, Y[:3])]).n_samples(0), "client 0 have 20, 3 rows"),
        (lambda: TorchProblem(Net, F.cross_entropy, [Stream()]).n_samples(0), "no length"),
        (lambda: TorchProblem(Net, F.cross_entropy, [[]]).n_samples(0), "empty"),
        (lambda: TorchProblem(Net, F.cross_entropy, [DataLoader(TensorDataset(X, Y))]).n_samples(0), "loader.dataset"),
        (lambda: made().trained(np.zeros(3)), "has shape"),
        (lambda: run(made(), step="theory"), "step=0.05"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(make, words):
    with pytest.raises((ConfigError, mc.TheoryError), match=words):
        make()


@pytest.mark.parametrize(
    "loss, data, words",
    [
        (nn.CrossEntropyLoss(reduction="none"), (X, Y), "shape .* one number"),
        (lambda output, target: 3.0, (X, Y), "returned float"),
        (nn.CrossEntropyLoss(), [torch.ones(1, 6, 6), torch.ones(1, 6, 6)][:1] * 2, "client 0"),
    ],
)
def test_wrong_losses_name_the_client(loss, data, words):
    with pytest.raises(Exception, match=words) as caught:
        run(TorchProblem(Net, loss, [data, data]), batch=2)
    assert "client 0" in [*getattr(caught.value, "__notes__", []), str(caught.value)[:8]]


def test_without_an_evaluation_the_buffers_are_not_known():
    problem = made()
    result = run(problem, evaluate="none")
    with pytest.raises(ConfigError, match="evaluate='measures'"):
        problem.trained(result.x)
    plain = made(norm=False)
    plain.trained(run(plain, evaluate="none").x)


def test_a_missing_torch_is_one_clear_error(monkeypatch):
    from mpicomp.extras import needed

    with pytest.raises(EnvironmentMismatch, match=r"mpicomp\.torch: .*'not_there' is not installed.*pip install"):
        needed("not_there", "mpicomp.torch", "pip install 'mpicomp[torch]'")
