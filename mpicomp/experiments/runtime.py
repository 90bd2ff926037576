"""The door from the experiments to the runtime: all that they use of it, loaded when first used.

Whatever is not named here the runtime may change without a look at the experiments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ..aggregator import Aggregator as Aggregator
    from ..api import compressor as compressor
    from ..cluster.clock import COMPUTE as COMPUTE
    from ..cluster.clock import ENCODE as ENCODE
    from ..cluster.clock import PHASES as PHASES
    from ..cluster.clock import STEP as STEP
    from ..cluster.clock import median_interval as median_interval
    from ..cluster.comm import Comm as Comm
    from ..cluster.comm import world as world
    from ..cluster.environment import declared_size as declared_size
    from ..cluster.launcher import OPEN_MPI as OPEN_MPI
    from ..cluster.launcher import Launcher as Launcher
    from ..cluster.launcher import become as become
    from ..cluster.launcher import find_launcher as find_launcher
    from ..cluster.launcher import physical_cores as physical_cores
    from ..cluster.ledger import BROADCAST_BYTES as BROADCAST_BYTES
    from ..cluster.ledger import DOWNLINK as DOWNLINK
    from ..cluster.ledger import LEVELS as LEVELS
    from ..cluster.ledger import MESSAGE_BYTES as MESSAGE_BYTES
    from ..cluster.ledger import UPLINK as UPLINK
    from ..cluster.native import cached as cached
    from ..cluster.native import compile_first as compile_first
    from ..cluster.placement import Placement as Placement
    from ..cluster.process import ended_with_parent as ended_with_parent
    from ..cluster.program import launcher_for as launcher_for
    from ..cluster.program import master as master
    from ..cluster.program import rank_command as rank_command
    from ..cluster.program import resolve as resolve
    from ..cluster.ring import PIECE_NBYTES as PIECE_NBYTES
    from ..cluster.ring import TAG_RING as TAG_RING
    from ..cluster.ring import moves_less as moves_less
    from ..cluster.ring import ring_bounds as ring_bounds
    from ..cluster.trace import Call as Call
    from ..cluster.trace import read_trace as read_trace
    from ..compressors import Codec as Codec
    from ..compressors import Compressor as Compressor
    from ..compressors import MessageKey as MessageKey
    from ..compressors import compressors as compressors
    from ..compressors.codec import Difference as Difference
    from ..compressors.codec import Sum as Sum
    from ..compressors.identity import Identity as Identity
    from ..compressors.layers import LayeredCodec as LayeredCodec
    from ..console.options import Import as Import
    from ..console.options import launched_world as launched_world
    from ..console.options import take_config as take_config
    from ..console.options import with_run_options as with_run_options
    from ..console.show import run_rows as run_rows
    from ..console.show import table as table
    from ..data import DATA_SETS as DATA_SETS
    from ..errors import ConfigError as ConfigError
    from ..errors import DataError as DataError
    from ..errors import EnvironmentMismatch as EnvironmentMismatch
    from ..errors import LabError as LabError
    from ..errors import MpicompError as MpicompError
    from ..errors import SlurmError as SlurmError
    from ..errors import StopNow as StopNow
    from ..errors import TheoryError as TheoryError
    from ..errors import UserError as UserError
    from ..errors import unknown as unknown
    from ..exchanges.base import GROUP_NBYTES as GROUP_NBYTES
    from ..exchanges.base import ExchangeSetting as ExchangeSetting
    from ..exchanges.base import Plan as Plan
    from ..exchanges.base import exchanges as exchanges
    from ..exchanges.hierarchical import TAG_POSTED as TAG_POSTED
    from ..exchanges.hierarchical import TAG_READ as TAG_READ
    from ..exchanges.hierarchical import TAG_TAKEN as TAG_TAKEN
    from ..exchanges.hierarchical import TAG_WRITTEN as TAG_WRITTEN
    from ..exchanges.kinds import exchange_kind as exchange_kind
    from ..exchanges.local import LocalExchange as LocalExchange
    from ..exchanges.p2p import IN_TURN_NBYTES as IN_TURN_NBYTES
    from ..exchanges.p2p import SLOTS as SLOTS
    from ..exchanges.p2p import TAG_DOWN as TAG_DOWN
    from ..exchanges.p2p import TAG_UP as TAG_UP
    from ..exchanges.sharded import TAG_AGREE as TAG_AGREE
    from ..exchanges.sharded import LocalShardedExchange as LocalShardedExchange
    from ..exchanges.sliced import LocalSlicedExchange as LocalSlicedExchange
    from ..exchanges.slicing import alignment_of as alignment_of
    from ..figures.axes import GRADIENT as GRADIENT
    from ..figures.axes import HORIZONTAL as HORIZONTAL
    from ..figures.curves import curve as curve
    from ..figures.draw import Plot as Plot
    from ..figures.draw import check_ending as check_ending
    from ..figures.draw import plot as plot
    from ..figures.labels import Bundle as Bundle
    from ..figures.labels import bundles as bundles
    from ..figures.labels import labels as labels
    from ..figures.labels import problem_differences as problem_differences
    from ..figures.runs import Run as Run
    from ..figures.style import COLOURS as COLOURS
    from ..figures.style import GREY as GREY
    from ..figures.style import LINES as LINES
    from ..figures.style import MARKERS as MARKERS
    from ..figures.style import MissingExtra as MissingExtra
    from ..figures.style import colours as colours
    from ..figures.style import import_matplotlib as import_matplotlib
    from ..figures.terminal import Look as Look
    from ..kernels import lean as lean
    from ..kernels import njit as njit
    from ..kernels.bits import CHUNK as CHUNK
    from ..kernels.blocks import ends_of_blocks as ends_of_blocks
    from ..kernels.blocks import powers_of_blocks as powers_of_blocks
    from ..kernels.cache import cache_use as cache_use
    from ..kernels.hadamard import transform as transform
    from ..kernels.indices import choose_coding as choose_coding
    from ..kernels.indices import read_indices as read_indices
    from ..kernels.indices import write_indices as write_indices
    from ..kernels.quantize import round_to_grid as round_to_grid
    from ..kernels.random import uplink_keys as uplink_keys
    from ..kernels.select import max_magnitude as max_magnitude
    from ..kernels.sizes import PAIR as PAIR
    from ..mechanisms.base import Link as Link
    from ..methods import methods as methods
    from ..methods.marina import cheapest_probability as cheapest_probability
    from ..methods.marina import marina_step as marina_step
    from ..optimizers import optimizers as optimizers
    from ..optimizers.base import descend as descend
    from ..problems import Block as Block
    from ..problems import Problem as Problem
    from ..problems import Smoothness as Smoothness
    from ..problems import problems as problems
    from ..problems.mean import Mean as Mean
    from ..problems.quadratic import Quadratic as Quadratic
    from ..registry import Registry as Registry
    from ..registry import format_spec as format_spec
    from ..registry import option_names as option_names
    from ..registry import parse_spec as parse_spec
    from ..registry import parse_value as parse_value
    from ..runtime.claim import Claim as Claim
    from ..runtime.config import Config as Config
    from ..runtime.control import EXIT_RESUME as EXIT_RESUME
    from ..runtime.exchanges import exchange_setting as exchange_setting
    from ..runtime.files import read_plain as read_plain
    from ..runtime.files import write_text as write_text
    from ..runtime.loop import run as run
    from ..runtime.optima import optima as optima
    from ..runtime.record import PAUSE as PAUSE
    from ..runtime.results import Result as Result
    from ..runtime.results import check_directory as check_directory
    from ..runtime.session import Composition as Composition
    from ..runtime.session import Session as Session
    from ..runtime.session import build_problem as build_problem
    from ..runtime.session import choose_parts as choose_parts
    from ..runtime.view import named as named
    from ..runtime.warmup import refusal as refusal
    from ..streams import csv_cell as csv_cell
    from ..streams import spelt as spelt
    from ..units import rate as rate
    from ..units import seconds as seconds
    from ..units import size as size
    from ..version import __version__ as __version__
    from ..wire import CONTROL_FLAGS as CONTROL_FLAGS
    from ..wire import HEADER_NBYTES as HEADER_NBYTES
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "aggregator": ["Aggregator"],
            "api": ["compressor"],
            "cluster.clock": ["COMPUTE", "ENCODE", "PHASES", "STEP", "median_interval"],
            "cluster.comm": ["Comm", "world"],
            "cluster.environment": ["declared_size"],
            "exchanges.base": ["ExchangeSetting", "Plan", "GROUP_NBYTES", "exchanges"],
            "cluster.launcher": ["Launcher", "OPEN_MPI", "become", "find_launcher", "physical_cores"],
            "cluster.ledger": ["BROADCAST_BYTES", "DOWNLINK", "LEVELS", "MESSAGE_BYTES", "UPLINK"],
            "exchanges.local": ["LocalExchange"],
            "cluster.native": ["cached", "compile_first"],
            "cluster.process": ["ended_with_parent"],
            "exchanges.p2p": ["SLOTS", "TAG_DOWN", "TAG_UP", "IN_TURN_NBYTES"],
            "exchanges.kinds": ["exchange_kind"],
            "cluster.placement": ["Placement"],
            "cluster.program": ["launcher_for", "master", "rank_command", "resolve"],
            "cluster.ring": ["PIECE_NBYTES", "TAG_RING", "moves_less", "ring_bounds"],
            "compressors": ["Codec", "Compressor", "MessageKey", "compressors"],
            "compressors.codec": ["Difference", "Sum"],
            "console.options": ["Import", "launched_world", "take_config", "with_run_options"],
            "console.show": ["run_rows", "table"],
            "units": ["rate", "seconds", "size"],
            "data": ["DATA_SETS"],
            "errors": [
                "EnvironmentMismatch",
                "ConfigError",
                "DataError",
                "LabError",
                "MpicompError",
                "SlurmError",
                "StopNow",
                "TheoryError",
                "UserError",
                "unknown",
            ],
            "figures.axes": ["GRADIENT", "HORIZONTAL"],
            "figures.curves": ["curve"],
            "figures.draw": ["Plot", "check_ending", "plot"],
            "figures.labels": ["Bundle", "bundles", "labels", "problem_differences"],
            "figures.runs": ["Run"],
            "figures.style": [
                "COLOURS",
                "GREY",
                "LINES",
                "MARKERS",
                "MissingExtra",
                "colours",
                "import_matplotlib",
            ],
            "figures.terminal": ["Look"],
            "kernels": ["lean", "njit"],
            "kernels.bits": ["CHUNK"],
            "kernels.blocks": ["ends_of_blocks", "powers_of_blocks"],
            "kernels.cache": ["cache_use"],
            "kernels.hadamard": ["transform"],
            "kernels.indices": ["choose_coding", "read_indices", "write_indices"],
            "kernels.quantize": ["round_to_grid"],
            "kernels.random": ["uplink_keys"],
            "kernels.select": ["max_magnitude"],
            "kernels.sizes": ["PAIR"],
            "mechanisms.base": ["Link"],
            "methods": ["methods"],
            "methods.marina": ["cheapest_probability", "marina_step"],
            "optimizers": ["optimizers"],
            "optimizers.base": ["descend"],
            "problems": ["Block", "Problem", "Smoothness", "problems"],
            "problems.mean": ["Mean"],
            "problems.quadratic": ["Quadratic"],
            "registry": ["Registry", "format_spec", "option_names", "parse_spec", "parse_value"],
            "runtime.claim": ["Claim"],
            "runtime.config": ["Config"],
            "runtime.control": ["EXIT_RESUME"],
            "runtime.exchanges": ["exchange_setting"],
            "runtime.files": ["read_plain", "write_text"],
            "runtime.loop": ["run"],
            "runtime.optima": ["optima"],
            "runtime.record": ["PAUSE"],
            "runtime.results": ["Result", "check_directory"],
            "runtime.session": ["Composition", "Session", "build_problem", "choose_parts"],
            "runtime.view": ["named"],
            "runtime.warmup": ["refusal"],
            "streams": ["csv_cell", "spelt"],
            "version": ["__version__"],
            "cluster.trace": ["Call", "read_trace"],
            "compressors.identity": ["Identity"],
            "compressors.layers": ["LayeredCodec"],
            "exchanges.hierarchical": ["TAG_POSTED", "TAG_READ", "TAG_TAKEN", "TAG_WRITTEN"],
            "exchanges.sharded": ["TAG_AGREE", "LocalShardedExchange"],
            "exchanges.sliced": ["LocalSlicedExchange"],
            "exchanges.slicing": ["alignment_of"],
            "wire": ["CONTROL_FLAGS", "HEADER_NBYTES"],
        },
    )
