"""The one place for people who extend mpicomp: base classes, their declarations of state, and what registers parts.

A part is a class. Register it by a decorator, in a file that `--import FILE` names, or in a package by an entry point of the group
`mpicomp.compressors`, `mpicomp.methods`, `mpicomp.problems`, `mpicomp.uplinks`, `mpicomp.downlinks`, `mpicomp.optimizers` or
`mpicomp.exchanges`. Objects and classes can also be handed to `mpicomp.run` as they are. `mpicomp.testing` checks them.

The names are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import attach

if TYPE_CHECKING:
    from .api import register_compressor as register_compressor
    from .api import register_downlink as register_downlink
    from .api import register_exchange as register_exchange
    from .api import register_method as register_method
    from .api import register_optimizer as register_optimizer
    from .api import register_problem as register_problem
    from .api import register_uplink as register_uplink
    from .compressors.base import Compressor as Compressor
    from .compressors.bit_mask import BitMask as BitMask
    from .compressors.codec import Codec as Codec
    from .compressors.codec import Cutting as Cutting
    from .compressors.codec import Difference as Difference
    from .compressors.codec import MessageKey as MessageKey
    from .compressors.codec import Sum as Sum
    from .compressors.codec import cut_by_fields as cut_by_fields
    from .compressors.identity import Identity as Identity
    from .exchanges.base import Exchange as Exchange
    from .exchanges.base import ExchangeSetting as ExchangeSetting
    from .exchanges.base import Vectors as Vectors
    from .exchanges.local import LocalExchange as LocalExchange
    from .exchanges.mpi import MPIExchange as MPIExchange
    from .exchanges.p2p import P2PExchange as P2PExchange
    from .kernels import njit as njit
    from .kernels.random import Keys as Keys
    from .mechanisms.base import Downlink as Downlink
    from .mechanisms.base import Link as Link
    from .mechanisms.base import Uplink as Uplink
    from .methods.base import Method as Method
    from .methods.base import Parts as Parts
    from .methods.base import Setting as Setting
    from .optimizers.base import Optimizer as Optimizer
    from .oracles.base import Oracle as Oracle
    from .oracles.full import Full as Full
    from .oracles.minibatch import Minibatch as Minibatch
    from .oracles.tracked import Tracked as Tracked
    from .oracles.tracked import Wrapping as Wrapping
    from .participation import Participation as Participation
    from .problems.base import Block as Block
    from .problems.base import BlockProblem as BlockProblem
    from .problems.base import FunctionProblem as FunctionProblem
    from .problems.base import Problem as Problem
    from .problems.base import Smoothness as Smoothness
    from .state import ClientState as ClientState
    from .state import CommonState as CommonState
    from .state import ModelState as ModelState
    from .state import ServerClientState as ServerClientState
    from .state import ServerState as ServerState
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "api": (
                "register_compressor",
                "register_downlink",
                "register_exchange",
                "register_method",
                "register_optimizer",
                "register_problem",
                "register_uplink",
            ),
            "compressors.base": ("Compressor",),
            "compressors.bit_mask": ("BitMask",),
            "compressors.codec": ("Codec", "Cutting", "Difference", "MessageKey", "Sum", "cut_by_fields"),
            "compressors.identity": ("Identity",),
            "exchanges.base": ("Exchange", "ExchangeSetting", "Vectors"),
            "exchanges.local": ("LocalExchange",),
            "exchanges.mpi": ("MPIExchange",),
            "exchanges.p2p": ("P2PExchange",),
            "kernels": ("njit",),
            "kernels.random": ("Keys",),
            "mechanisms.base": ("Downlink", "Link", "Uplink"),
            "methods.base": ("Method", "Parts", "Setting"),
            "optimizers.base": ("Optimizer",),
            "oracles.base": ("Oracle",),
            "oracles.full": ("Full",),
            "oracles.minibatch": ("Minibatch",),
            "oracles.tracked": ("Tracked", "Wrapping"),
            "participation": ("Participation",),
            "problems.base": ("Block", "BlockProblem", "FunctionProblem", "Problem", "Smoothness"),
            "state": ("ClientState", "CommonState", "ModelState", "ServerClientState", "ServerState"),
        },
    )
