"""Counts which blocks of the compiled kernels run: what a coverage-guided fuzzer needs. (Tools for Python see nothing of Numba's code.)

`install` replaces the decorators of `mpicomp.kernels` before any kernel is made. Each kernel is then compiled from a syntax tree in which
every branch, loop body and what follows a loop begins with `__hit__(number)`: one byte of `HITS` more, in machine code.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types as numba_types
from numba.extending import intrinsic

HITS = np.zeros(1 << 14, np.uint8)
BLOCKS: list[str] = []  # file:line of each number
_ADDRESS = HITS.ctypes.data


@intrinsic
def hit(typing, number):
    """HITS[number] += 1, up to 255."""

    def generate(context, builder, signature, args):
        byte, address = ir.IntType(8), ir.Constant(ir.IntType(64), _ADDRESS)
        place = builder.gep(builder.inttoptr(address, byte.as_pointer()), [builder.trunc(args[0], ir.IntType(32))])
        before = builder.load(place)
        full = builder.icmp_unsigned("==", before, byte(255))
        builder.store(builder.select(full, before, builder.add(before, byte(1))), place)
        return context.get_dummy_value()

    return numba_types.void(numba_types.int64), generate


class _Marks(ast.NodeTransformer):
    """Puts a mark at the beginning of each block."""

    def __init__(self, file: str, first: int):
        self.file, self.first = file, first

    def _mark(self, line: int) -> ast.stmt:
        BLOCKS.append(f"{self.file}:{self.first + line - 1}")
        return ast.parse(f"__hit__({len(BLOCKS) - 1})").body[0]

    def _marked(self, body: list[ast.stmt]) -> list[ast.stmt]:
        marked: list[ast.stmt] = [self._mark(body[0].lineno)]
        for statement in body:
            marked.append(self.visit(statement))
            if isinstance(statement, ast.For | ast.While):
                marked.append(self._mark(statement.end_lineno or statement.lineno))
        return marked

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list, node.body = [], self._marked(node.body)
        return node

    def visit_If(self, node: ast.If) -> ast.If:
        node.body = self._marked(node.body)
        node.orelse = self._marked(node.orelse) if node.orelse else [self._mark(node.lineno)]
        return node

    def _loop(self, node: Any) -> Any:
        node.body = self._marked(node.body)
        return node

    visit_For = visit_While = _loop


def instrumented(function: Callable) -> Callable:
    """The function with its blocks counted; its globals and closure are the same objects."""
    lines, first = inspect.getsourcelines(function)
    file = inspect.getsourcefile(function) or "?"
    tree = ast.parse(textwrap.dedent("".join(lines)))
    tree.body[0] = _Marks(file.rsplit("/", 1)[-1], first).visit(tree.body[0])
    free = function.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(free)}):\n    pass")
    outer.body[0].body = [*tree.body, ast.parse("pass").body[0]]  # type: ignore[attr-defined]
    code = compile(ast.fix_missing_locations(outer), file, "exec")
    for name in ("outer", function.__name__):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
    cells = dict(zip(free, function.__closure__ or (), strict=True))
    function.__globals__["__hit__"] = hit
    closure = tuple(cells[name] for name in code.co_freevars)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made


def install() -> None:
    """From now on every kernel that is made counts its blocks. (No cache: the counters' address is this process's.)"""
    import mpicomp.kernels as kernels

    def njit(function):
        return numba.njit(instrumented(function), nogil=True, error_model="numpy")

    def lean(function):
        return numba.njit(instrumented(function), nogil=True, error_model="numpy", _nrt=False)

    kernels.njit, kernels.lean = njit, lean  # type: ignore[assignment]
