"""Where a run's rows go beside `rounds.csv`: `mpicomp.run(..., progress=[trackers.TensorBoard("logs"), trackers.Bar()])`.

Each needs its own package, and only when it is made. The names below are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .bar import Bar as Bar
    from .base import Tracker as Tracker
    from .mlflow import MLflow as MLflow
    from .tensorboard import TensorBoard as TensorBoard
    from .wandb import WandB as WandB
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "trackers.bar": ("Bar",),
            "trackers.base": ("Tracker",),
            "trackers.mlflow": ("MLflow",),
            "trackers.tensorboard": ("TensorBoard",),
            "trackers.wandb": ("WandB",),
        },
    )
