"""No kernel touches memory beyond its arrays, also where Numba's bounds checks cannot see."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "guarded.py"
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages are made with Linux's mprotect"),
]


def test_the_guard_sees_one_byte_too_far():
    assert subprocess.run([sys.executable, str(SCRIPT), "overstep"], timeout=60).returncode == -signal.SIGSEGV


@pytest.mark.full(reason="compiles every codec anew")
@pytest.mark.night
@pytest.mark.parametrize("dtypes", ["one", "all"])
def test_every_codec_stays_within_its_arrays(dtypes):
    done = subprocess.run([sys.executable, str(SCRIPT), dtypes], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"ended by signal {-done.returncode} in {done.stdout.splitlines()[-1]}\n{done.stderr}"
    assert "stayed within their bounds" in done.stdout
