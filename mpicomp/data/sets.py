"""The data sets that are known by name, shipped as xz text in `files/`.

`scripts/build_data.py` rebuilds them from UCI's files, `scripts/build_images.py` the image sets from a Python package;
`files/NOTICE` names their authors and licences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, unknown

FILES = Path(__file__).parent / "files"


@dataclass(frozen=True)
class DataSet:
    """What `mpicomp list data` says of a set, and what its text must be: `sha256` is that of the uncompressed text.

    Of an image set, whose features are pixels, `shape` is (height, width) and `white` the largest value of a pixel.
    """

    rows: int
    features: int
    task: str
    source: str
    sha256: str
    shape: tuple[int, int] | None = None
    white: float = 1.0


DATA_SETS = {
    "mushrooms": DataSet(
        8124,
        112,
        "poisonous (+1) or edible (-1) mushroom, one-hot",
        "UCI Mushroom (1987), LIBSVM's coding",
        "6e3cada8c4d0405913448d8612f4ce578d22411cec6b4d4aa4473eeabda5d249",
    ),
    "a9a": DataSet(
        32561,
        123,
        "income above 50,000 dollars a year (+1) or not (-1), one-hot",
        "UCI Adult (1996), training part, LIBSVM's coding",
        "76b604b2c3f738783537bd3b32893eae66af54b8a41aee534fac1ecea45c1535",
    ),
    "a9a.t": DataSet(
        16281,
        123,
        "the same as a9a",
        "UCI Adult (1996), test part, LIBSVM's coding",
        "0c3135eb9b9d83a4fa007d6e1a3b719f029db78884dafd5a46a4d7eeb4c2b018",
    ),
    "news4": DataSet(
        9630,
        1000,
        "topic of a newsgroup's article (comp 0, rec 1, sci 2, talk 3), which words occur in it",
        "UCI Twenty Newsgroups (1999), training part by date, 16 of its groups",
        "1c693719accdf5f98a15be05bcffedb52d7d59ec4e84b76c4e3cbf2886b3f877",
    ),
    "news4.t": DataSet(
        6421,
        1000,
        "the same as news4",
        "UCI Twenty Newsgroups (1999), test part by date",
        "36a86edcc11ceeb4610c4ab930ba39d8de6a7c1ee43f3374d01f1759c9e667b3",
    ),
    "digits": DataSet(
        1797,
        64,
        "images of handwritten digits, 8 × 8 pixels of 0 to 16; the label is the digit",
        "UCI Optical Recognition of Handwritten Digits (1998), test part, from scikit-learn",
        "b82d89c2691202b8add34b5bf633e936062defcf92753a8db0ff078f68214ee0",
        shape=(8, 8),
        white=16.0,
    ),
}


def located(data: str, features: int | None) -> tuple[Path, int | None]:
    """The file of a set known by name, or at a path, and its number of columns where that is known.

    Raises
    ------
    DataError : there is no such set and no such file.
    """
    known = DATA_SETS.get(data)
    if known is not None:
        return FILES / f"{data}.svm.xz", known.features if features is None else features
    if not Path(data).exists():
        raise DataError(f"no such file, and {unknown('data set', data, DATA_SETS)}")
    return Path(data), features
