"""PyTorch itself, for the modules of this package: or one error that says how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import needed

INSTALL = "pip install 'mpicomp[torch]' --extra-index-url https://download.pytorch.org/whl/cpu"

if TYPE_CHECKING:
    import torch as torch
else:
    torch = needed("torch", "mpicomp.torch", INSTALL)
