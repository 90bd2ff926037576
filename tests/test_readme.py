"""What README.md shows a newcomer really runs, and is as short as it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LISTINGS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_there_are_three_listings():
    assert len(LISTINGS) == 3


@pytest.mark.parametrize("listing", LISTINGS, ids=["problem", "compressor", "method"])
def test_listing(listing):
    lines = [line for line in listing.splitlines() if line.strip()]
    assert len(lines) < 20
    subprocess.run([sys.executable, "-W", "error", "-c", listing], check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./]+)\)", (ROOT / "README.md").read_text()))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()
