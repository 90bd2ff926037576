"""EF21-Muon (Gruntkowska, Gaponov, Tovmasyan and Richtárik 2025) as an optimizer of PyTorch, for loops of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..aggregator import Aggregator
from ..errors import ConfigError, unknown
from ..optimizers.muon import COEFFICIENTS, RADII, radius_of
from .alike import ALIKE, check_names, load_memory, parameters_of, remembered_dtype, with_memory
from .library import torch


class EF21Muon(torch.optim.Optimizer):
    """Every rank sends how its momentum has changed, compressed; all take the same step in the spectral norm.

        M_i ← (1−η) M_i + η ∇f_i(X, ξ_i),   G ← the aggregator's mean of the M_i,   X ← (1 − γλ) X − γ ρ O(G),   η = 1 − momentum

    for each tensor; M_i begins as the first gradient. −O(G) is where ⟨G, ·⟩ is least in a unit ball: O(G) = UVᵀ of the singular value
    decomposition G = UΣVᵀ for matrices, and for tensors of more dimensions as matrices of the first one and all others; sign(G) for
    vectors. The aggregator's uplink makes it EF21-Muon: "ef21:...", by rules for each layer by itself.

    In the paper one server steps and sends the model's change. Here every rank has G and steps by itself, so that what travels down is
    G, and a compressed downlink is the aggregator's, for instance downlink="ef21-p:cast:to=bfloat16". Method `ef21-muon` of `mpicomp.run`
    is the paper's algorithm in both directions. The steps are the same on all ranks bit for bit where their processors are of one kind
    and PyTorch has the same number of threads.

    Parameters
    ----------
    named_parameters : of the model, (name, parameter), or groups of them with options of their own, as any optimizer of PyTorch takes;
        the same that the aggregator was made for.
    aggregator : made with dict(model.named_parameters()).
    lr : γ. momentum : in [0, 1). weight_decay : λ ≥ 0.
    radius : ρ of a matrix of a rows and b columns: "one"; "original", √max(1, a/b); or "rms", √max(a, b)/5. 1 for vectors.
    iterations : of Newton–Schulz, which approximates O(G); 0 for the decomposition itself.

    Raises
    ------
    ConfigError : parameters without names, or others than the aggregator's; options outside their range.
    """

    def __init__(
        self,
        named_parameters: Iterable[Any],
        aggregator: Aggregator,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        radius: str = "original",
        iterations: int = 5,
    ):
        options = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "radius": radius,
            "iterations": iterations,
        }
        super().__init__(named_parameters, options)
        self.aggregator = aggregator
        for group in self.param_groups:
            _check(group)
        check_names(aggregator, self._named())
        self._compared = False
        if aggregator.weighted:
            raise ConfigError("EF21Muon weighs all ranks alike; make the aggregator without weighted=True")

    def _named(self) -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
        return {
            name: (parameter, group)
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if parameter.requires_grad
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; all ranks call it. Returns what `closure` returns.

        Raises
        ------
        AggregationError : a rank's gradients are not finite; on all ranks, and parameters and momenta have not changed.
        ConfigError : in the first step, ranks have other parameters than rank 0; on all ranks.
        RankFailure : a rank has not come for `timeout` seconds of the aggregator.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        named, moved = self._named(), {}
        for name, (parameter, group) in named.items():
            moved[name] = self._momentum(parameter, group["momentum"])
        means = self.aggregator.mean(moved)  # a server's vectors are not sent, but say in which dtype the mean is
        if not self._compared:  # all ranks are here, and none has taken a step
            found = parameters_of({name: p for name, (p, _) in named.items()})
            self.aggregator.compare(f"EF21Muon with {found}", ALIKE)
            self._compared = True
        for name, (parameter, group) in named.items():
            if self.aggregator.hosts:
                self.state[parameter]["momentum"] = moved[name]
            if group["weight_decay"]:
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            G = means[name]
            if G.ndim < 2:
                direction, size = torch.sign(G), 1.0
            else:
                matrix = G.reshape(G.shape[0], -1)
                direction = orthogonalized(matrix, group["iterations"]).view_as(G)
                size = radius_of(group["radius"], matrix.shape)
            parameter.add_(direction.to(parameter), alpha=-group["lr"] * size)
        return loss

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """M_i with the new gradient, not yet the state: float64 for float64 parameters, else float32."""
        dtype = remembered_dtype(parameter)
        last = self.state[parameter].get("momentum")
        if parameter.grad is None:
            return torch.zeros_like(parameter, dtype=dtype) if last is None else last * momentum
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        gradient = gradient.to(dtype)
        return gradient.clone() if last is None else last * momentum + gradient * (1.0 - momentum)

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, with this rank's error memory under "mpicomp": each rank saves its own."""
        return with_memory(super().state_dict(), self.aggregator)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state that this rank's `state_dict` gave; with the model's, all bits are as without the interruption."""
        rest = load_memory(state_dict, self.aggregator)
        super().load_state_dict(rest)
        saved = rest["state"]
        for number, parameter in enumerate(p for group in self.param_groups for p in group["params"]):
            if "momentum" in saved.get(number, {}):  # PyTorch would round it to a half-precision parameter's dtype
                self.state[parameter]["momentum"] = (
                    saved[number]["momentum"].to(parameter.device, remembered_dtype(parameter)).clone()
                )


def _check(group: dict[str, Any]) -> None:
    if "param_names" not in group:
        raise ConfigError("EF21Muon needs the parameters' names: give model.named_parameters(), not model.parameters()")
    if not group["lr"] >= 0:
        raise ConfigError(f"EF21Muon: lr={group['lr']} is negative")
    if not 0 <= group["momentum"] < 1:
        raise ConfigError(f"EF21Muon: momentum={group['momentum']} is not in [0, 1)")
    if not group["weight_decay"] >= 0:
        raise ConfigError(f"EF21Muon: weight_decay={group['weight_decay']} is negative")
    if group["radius"] not in RADII:
        raise unknown("radius of EF21Muon:", group["radius"], RADII)
    iterations = group["iterations"]
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ConfigError(f"EF21Muon: iterations={iterations} is a whole number, 0 for an exact decomposition")


def orthogonalized(G: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """UVᵀ of G = UΣVᵀ, shape (a, b), by Newton–Schulz in G's dtype; see `mpicomp.optimizers.muon.orthogonalized`."""
    largest = G.abs().max() if G.numel() else G.new_zeros(())
    if largest == 0:
        return torch.zeros_like(G)
    if iterations == 0:
        u, s, v = torch.linalg.svd(G, full_matrices=False)
        found = s > s[0] * max(G.shape) * torch.finfo(G.dtype).eps  # the others have no direction
        return u[:, found] @ v[found]
    X = G / largest
    X = X / X.norm()
    if G.shape[0] > G.shape[1]:
        X = X.mT
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if G.shape[0] > G.shape[1] else X
