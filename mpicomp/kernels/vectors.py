"""Vectors of 512 bits, for our kernels alone, where the processor has them and does not slow down for them (Intel since Ice Lake).

LLVM takes 256 bits for all of Intel's; the kernels are then up to 1.5 times slower. Each of their functions carries LLVM's attribute
`prefer-vector-width` for itself, so that Numba's settings, and what other people compile, stay as they are. Bits do not depend on it.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core.codegen import get_host_cpu_features
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering

_WIDE = '"prefer-vector-width"="512"'


def wanted() -> bool:
    """The processor gains by it, and the user has chosen neither processor nor features (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES)."""
    config: Any = numba.config
    chosen = config.CPU_NAME is not None or config.CPU_FEATURES is not None
    return not chosen and "+avx512vbmi2" in get_host_cpu_features().split(",")


class _WideLower(Lower):
    def setup_function(self, fndesc: Any) -> None:
        super().setup_function(fndesc)
        set.add(self.function.attributes, _WIDE)  # `add` of the attributes themselves knows none that has a value


@register_pass(mutates_CFG=True, analysis_only=False)
class _WideLowering(NativeLowering):
    _name = "mpicomp_native_lowering"

    @property
    def lowering_class(self) -> Any:
        return _WideLower


class WideCompiler(Compiler):
    """Numba's compiler; what it makes prefers vectors of 512 bits."""

    def define_pipelines(self) -> list[Any]:
        pipelines: list[Any] = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (_WideLowering if step is NativeLowering else step, text) for step, text in pipeline.passes
            ]
            pipeline.finalize()
        return pipelines


OPTIONS: dict[str, Any] = {"pipeline_class": WideCompiler} if wanted() else {}  # for `numba.njit`
