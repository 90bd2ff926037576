"""Image sets as arrays of pixels."""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from .sets import DATA_SETS
from .sources import load


def images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a set known by name.

    Returns
    -------
    (pixels, float64 in [0, 1], shape (N, height, width); labels, int64, shape (N,)).

    Raises
    ------
    DataError : no such set, or not one of images.

    >>> pixels, labels = images("digits")
    >>> pixels.shape, float(pixels.max()), labels[:3].tolist()
    ((1797, 8, 8), 1.0, [0, 1, 2])
    """
    known = DATA_SETS.get(data)
    if known is None or known.shape is None:
        names = ", ".join(name for name, each in DATA_SETS.items() if each.shape)
        raise DataError(f"{data!r} is not a set of images; known: {names}")
    rows = load(data)
    pixels = np.zeros((len(rows.labels), rows.features))
    pixels[np.repeat(np.arange(len(pixels)), np.diff(rows.indptr)), rows.indices] = rows.values / known.white
    return pixels.reshape(-1, *known.shape), rows.labels.astype(np.int64)
