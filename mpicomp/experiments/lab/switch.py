"""Builds the switch program for delays, from `switch.c`, when it is first needed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from ..runtime import LabError, cached, compile_first

SOURCE = Path(__file__).parent / "switch.c"
TAPS = "/dev/net/tun"


def build() -> Path:
    """The switch program of this host, built unless it is there.

    Raises
    ------
    LabError : there is no C compiler, or it failed, or the user may not open taps.
    """
    if not os.access(TAPS, os.R_OK | os.W_OK):
        raise LabError(
            f"a delay needs tc's netem, which this kernel lacks, or {TAPS}, which this user may not open. Be root, or take delay 0"
        )
    program = cached("lab", f"switch-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}")
    compilers = filter(None, map(shutil.which, ("cc", "gcc", "clang")))
    reasons = compile_first(program, [[compiler, "-O2", str(SOURCE)] for compiler in compilers])
    if reasons is not None:
        raise LabError(
            "a delay needs tc's netem, which this kernel lacks, or a C compiler to build the lab's own switch: "
            f"{'; '.join(reasons) or 'there is no cc'}. apt-get install gcc libc6-dev, or take delay 0"
        )
    return program
