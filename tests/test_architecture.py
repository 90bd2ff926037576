"""The rooms of docs/explanation/architecture.md against the code: imports point down only, and only `cluster` moves bytes by MPI."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mpicomp"

# A module may import rooms of a smaller number, and its own.
FLOORS = {
    "version": 0, "errors": 0, "_lazy": 0, "state": 0, "arrays": 0, "folders": 0, "streams": 0, "registry": 1,
    "extras": 1, "trackers": 2, "figures": 2, "units": 0, "torch": 11,
    "kernels": 1, "wire": 2, "compressors": 3, "data": 3, "problems": 4,
    "participation": 4, "mechanisms": 6, "oracles": 5, "optimizers": 5, "cluster": 6, "exchanges": 7, "methods": 8,
    "runtime": 9, "aggregator": 9,
    "api": 10, "extend": 11,
    "console": 10, "experiments": 11, "testing": 11, "cli": 12, "__main__": 13, "__init__": 13,
}  # fmt: skip
# The rooms of the experiments, likewise. They use the runtime through `experiments.runtime` alone.
EXPERIMENT_FLOORS = {
    "runtime": 0,
    "records": 1,
    "lab": 1,
    "slurm": 2,
    "study": 2,
    "bench": 2,
    "reproduce": 3,
    "simulate": 3,
    "tuning": 3,
    "advice": 4,
    "commands": 5,
    "__init__": 6,
}
MAY_NAME_MPI4PY = {"cluster", "experiments/bench", "runtime/results.py"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path, types: bool = False) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions; with `types` those under `if TYPE_CHECKING`, too."""
    package = ["mpicomp", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} if node.module else {f"{stem}.{alias.name}" for alias in node.names}
    return found


def experiment_room(module: str) -> str:
    """The room of the experiments that a module's absolute name is in; empty where it is in none."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["mpicomp", "experiments"] and len(parts) > 2 else ""


EACH_MODULE = pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))


@EACH_MODULE
def test_imports_point_down(path):
    own = room(path)
    for name in imports(path):
        if name.startswith("mpicomp."):
            other = name.split(".")[1]
            if other != own:
                assert FLOORS[other] < FLOORS[own], f"{path.relative_to(ROOT)} imports {name}"


@EACH_MODULE
def test_experiments_have_one_door_each_way(path):
    where, parts = path.relative_to(ROOT), path.relative_to(PACKAGE).parts
    if parts[0] == "experiments":
        own = parts[1].removesuffix(".py")
        for name in imports(path):
            if name.startswith("mpicomp."):
                other = experiment_room(name)
                assert other or own == "runtime", f"{where} imports {name}, not through experiments.runtime"
                assert not other or other == own or EXPERIMENT_FLOORS[other] < EXPERIMENT_FLOORS[own], (
                    f"{where} imports {name}"
                )
    else:
        through = {name for name in imports(path) if name.startswith("mpicomp.experiments")}
        assert through <= ({"mpicomp.experiments.commands"} if str(where) == "mpicomp/cli/__init__.py" else set()), (
            where
        )


@pytest.mark.parametrize(
    "heading, floors", [("## The packages", FLOORS), ("`experiments`, whose own", EXPERIMENT_FLOORS)]
)
def test_the_page_shows_these_rooms_in_this_order(heading, floors):
    """Every room stands in the picture of docs/explanation/architecture.md, none below one that it imports from."""
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    picture = page[page.index(heading) :].split("```text\n")[1].split("```")[0]
    shown = [name for line in picture.splitlines() for name in line[:25].split()]
    hidden = {"runtime", "__init__"} if floors is EXPERIMENT_FLOORS else {"version", "_lazy", "__main__", "__init__"}
    assert set(shown) | hidden == set(floors)
    heights = [floors[name] for name in shown]
    assert heights == sorted(heights, reverse=True), [f"{n} {floors[n]}" for n in shown]


def test_no_modules_import_each_other():
    """Not even for types, and not inside functions."""
    names = {
        ".".join(["mpicomp", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): p
        for p in modules()
    }
    graph = {
        name: {other for other in imports(path, types=True) if other in names and other != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", ["mpicomp", "mpicomp.extend", "mpicomp.trackers", "mpicomp.experiments.runtime"])
def test_names_loaded_when_first_used_are_those_that_type_checkers_see(module):
    loaded = importlib.import_module(module)
    block = next(
        n
        for n in ast.parse(Path(str(loaded.__file__)).read_text()).body
        if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    )
    declared = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared == set(loaded.__all__) - {"__version__"} | ({"__version__"} & declared)
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None
        assert name in dir(loaded)


@EACH_MODULE
def test_only_the_cluster_knows_mpi(path):
    if any(name.split(".")[0] == "mpi4py" for name in imports(path)):
        where = str(path.relative_to(PACKAGE))
        assert any(where.startswith(allowed) for allowed in MAY_NAME_MPI4PY), f"{where} imports mpi4py"


def test_kernels_need_only_numpy_and_numba():
    allowed = {"numpy", "numba", "mpicomp", "__future__", "enum", "typing", "functools", "math", "collections"}
    # for the cache and the choice of a form
    allowed |= {"os", "platform", "pathlib", "hashlib", "pickle", "re", "warnings", "contextlib"}
    allowed |= {"llvmlite"}  # Numba's own, for instructions that Python has no word for
    for path in (PACKAGE / "kernels").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_help_loads_neither_numpy_nor_mpi():
    code = "import sys; sys.argv = ['mpicomp', '--help']\ntry:\n    from mpicomp.cli import main; main()\nexcept SystemExit: pass\n"
    code += "heavy = {'numpy', 'numba', 'mpi4py'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
