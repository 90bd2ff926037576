"""`--import FILE_OR_MODULE`: parts of one's own, without packaging."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError, ImportedPartError, MpicompError

VARIABLE = "MPICOMP_IMPORT"  # for the processes that a command starts: a list in JSON


def import_parts(names: Iterable[str]) -> None:
    """Import files (`parts.py`, `~/lib/parts.py`) and modules (`package.parts`), whose decorators register their parts; each one once.

    Raises
    ------
    ConfigError : there is no such file or module, or it raises an error when it is imported; names it and the error.
    """
    for name in names:
        is_file = name.endswith(".py") or os.sep in name
        try:
            if is_file:
                _import_file(Path(name).expanduser())
            else:
                importlib.import_module(name)
        except MpicompError as error:
            error.add_note(f"while importing {name}")
            raise
        except ImportError as error:
            missing = f"; is {name!r} a file? then write ./{name}.py" if not is_file else ""
            raise ImportedPartError(f"cannot import {name}: {error}{missing}") from error
        except (Exception, SystemExit, GeneratorExit) as error:
            raise ImportedPartError(f"cannot import {name}: {type(error).__name__}: {error}") from error


def resolved(name: str, folder: str | Path = ".") -> str:
    """The name of a module as it is; a file's path made absolute, from `folder` on."""
    if not name.endswith(".py") and os.sep not in name:
        return name
    return str((Path(folder) / Path(name).expanduser()).absolute())


def inherited(environment: str | None = None) -> list[str]:
    """What the process that started this one imports.

    >>> inherited('["a.py", "b"]')
    ['a.py', 'b']
    """
    text = os.environ.get(VARIABLE, "") if environment is None else environment
    try:
        names = json.loads(text) if text else []
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ConfigError(f"{VARIABLE}={text[:80]!r} is not a list of names in JSON; unset it, mpicomp sets it itself")
    return [str(name) for name in names]


def pass_on(names: Iterable[str]) -> None:
    """Have the processes that this one starts import the same."""
    os.environ[VARIABLE] = json.dumps(list(dict.fromkeys([*inherited(), *names])))


def _import_file(path: Path) -> None:
    whole = path.absolute()
    name = f"mpicomp_import_{path.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None or not whole.is_file():
        raise ImportError("there is no such file")
    if str(whole.parent) not in sys.path:
        sys.path.append(str(whole.parent))  # for the files beside it; last, so that none of them hides a module
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
