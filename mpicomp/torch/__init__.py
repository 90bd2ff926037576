"""mpicomp for PyTorch. The names below are loaded when first used; only then PyTorch is, which `pip install 'mpicomp[torch]'` brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .ddp import CommState as CommState
    from .ddp import hook as hook
    from .diloco import DiLoCo as DiLoCo
    from .muon import EF21Muon as EF21Muon
    from .optimizer import DistributedOptimizer as DistributedOptimizer
    from .problem import TorchProblem as TorchProblem
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "torch.ddp": ("CommState", "hook"),
            "torch.diloco": ("DiLoCo",),
            "torch.muon": ("EF21Muon",),
            "torch.optimizer": ("DistributedOptimizer",),
            "torch.problem": ("TorchProblem",),
        },
    )
