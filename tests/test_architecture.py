"""The rooms of docs/architecture.md against the code: imports point down only, and only `cluster` moves bytes by MPI."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mpicomp"

# A module may import rooms of a smaller number, and its own.
FLOORS = {
    "version": 0, "errors": 0, "registry": 1, "kernels": 1, "wire": 2, "compressors": 3, "data": 3, "problems": 4,
    "participation": 4, "mechanisms": 5, "oracles": 5, "optimizers": 5, "cluster": 6, "methods": 7, "runtime": 8, "api": 8,
    "lab": 9, "slurm": 9, "study": 10, "bench": 10, "estimation": 10, "reproduce": 11, "cli": 12, "__main__": 13, "__init__": 13,
}  # fmt: skip
MAY_NAME_MPI4PY = {"cluster", "bench", "runtime/results.py"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions, without `if TYPE_CHECKING`."""
    package = ["mpicomp", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} if node.module else {f"{stem}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = room(path)
    for name in imports(path):
        if name.startswith("mpicomp."):
            other = name.split(".")[1]
            if other != own and other in FLOORS:
                assert FLOORS[other] < FLOORS[own], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_cluster_knows_mpi(path):
    if any(name.split(".")[0] == "mpi4py" for name in imports(path)):
        where = path.relative_to(PACKAGE)
        assert room(path) in MAY_NAME_MPI4PY or str(where) in MAY_NAME_MPI4PY, f"{where} imports mpi4py"


def test_kernels_need_only_numpy_and_numba():
    allowed = {"numpy", "numba", "mpicomp", "__future__", "enum", "typing", "functools", "math", "collections"}
    allowed |= {
        "os",
        "platform",
        "pathlib",
        "hashlib",
        "fcntl",
        "contextlib",
        "warnings",
    }  # for the cache, and the choice of a form
    allowed |= {"llvmlite"}  # Numba's own, for instructions that Python has no word for
    for path in (PACKAGE / "kernels").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_help_loads_neither_numpy_nor_mpi():
    code = "import sys; sys.argv = ['mpicomp', '--help']\ntry:\n    from mpicomp.cli import main; main()\nexcept SystemExit: pass\n"
    code += "heavy = {'numpy', 'numba', 'mpi4py'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
