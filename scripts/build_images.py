#!/usr/bin/env python3
"""Rebuild the image sets that mpicomp ships from a data member of a Python package, which is opened as an archive and never imported.

    pip download --no-deps scikit-learn==1.7.2
    scripts/build_images.py --scikit-learn scikit_learn-*.whl

The member must have the sha256 that `MEMBERS` states, whatever the wheel's version or platform, and the text the one in
`mpicomp.data.DATA_SETS`; a text with another one is not written.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from build_data import write

from mpicomp.data.sets import FILES

MEMBERS = {
    "digits": (
        "sklearn/datasets/data/digits.csv.gz",
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    ),
}


def member(wheel: Path, name: str) -> bytes:
    """A data member of a wheel, if its sha256 is the one stated."""
    path, expected = MEMBERS[name]
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise SystemExit(f"{wheel}: {path} has sha256 {digest}, expected {expected}; nothing is written")
    return content


def digit_rows(content: bytes) -> Iterator[str]:
    """The images as LIBSVM text: the digit, then the pixels that are not zero."""
    for line in gzip.decompress(content).decode().split():
        *pixels, digit = (int(float(field)) for field in line.split(","))
        yield " ".join([str(digit), *(f"{c}:{value}" for c, value in enumerate(pixels, 1) if value)]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scikit-learn", type=Path, required=True, help="a wheel of scikit-learn")
    parser.add_argument("--out", type=Path, default=FILES, help="directory to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    write("digits", digit_rows(member(options.scikit_learn, "digits")), options.out)


if __name__ == "__main__":
    main()
