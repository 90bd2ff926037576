"""What the servers of the slices of a vector find out together, so that each writes its part of the whole vector's message.

An agreement is a conversation: each server says a little about its slice, hears what all of them have said, and so on, until all know the
same numbers. It is written once, for one server, as a generator: it yields what it says and is sent what was heard, its own among it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import sqrt
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from ..errors import WireError
from ..kernels import njit
from ..kernels.bits import CHUNK, unsigned
from ..kernels.quantize import block_sums, total_of
from ..kernels.select import candidate_capacity, largest, max_magnitude
from ..kernels.sizes import NORM_BLOCK, PARTIAL_SUMS

Talk: TypeAlias = Generator[np.ndarray, Sequence[np.ndarray], np.ndarray]


class Agreement(Protocol):
    """What is agreed on, of vectors of one kind.

    Attributes
    ----------
    grid : slices begin at multiples of it.
    """

    @property
    def grid(self) -> int: ...

    def room(self, rows: int, width: int) -> int:
        """No array that the server of a slice of this width says about so many rows has more bytes."""
        ...

    def talk(self, x: np.ndarray, own: int, slices: int) -> Talk:
        """The part of one server in the conversation.

        Parameters
        ----------
        x : its slice of each vector, float32 or float64, shape (m, w), C-contiguous; w may be 0. own, slices : its number, of how many.

        Yields
        ------
        1-D: what it says. It is sent the arrays that the servers of all slices have said, in order of slices, as bytes.

        Returns
        -------
        A row for each row of x: what the codec of its part is given.

        Raises
        ------
        WireError : what was heard is not what a server says.
        """
        ...


class Norm:
    """The norm of whole vectors, with the bits that `kernels.quantize.norm` and `max_magnitude` have for them.

    Parameters
    ----------
    order : 1, 2, or 0 for the largest magnitude.
    mean_of : in place of the norm Σ|x_j|/d (order 1) or √(Σ x_j²/d), d this number; None for the norm.
    """

    def __init__(self, order: int, mean_of: int | None = None):
        self.order, self.mean_of = order, mean_of

    @property
    def grid(self) -> int:
        """Blocks of sums are whole."""
        return NORM_BLOCK if self.order else 1

    def _said(self, width: int) -> int:
        """Numbers about a row."""
        return -(-width // NORM_BLOCK) if self.order else 1

    def room(self, rows: int, width: int) -> int:
        return 8 * rows * self._said(width)

    def talk(self, x: np.ndarray, own: int, slices: int) -> Talk:
        rows = len(x)
        sums = np.zeros((rows, self._said(x.shape[1])))
        _measure(x, self.order, np.empty(PARTIAL_SUMS), sums)
        heard = yield sums.ravel()
        tables = []
        for table in heard:
            if table.nbytes % (8 * rows):
                raise WireError(f"corrupted norm of a slice: {table.nbytes} bytes for {rows} vectors")
            tables.append(table.view(np.float64).reshape(rows, -1))
        table = np.concatenate(tables, axis=1)
        if np.any(table < 0):
            raise WireError("corrupted norm of a slice: a negative number")
        return self.combined(table)

    def combined(self, table: np.ndarray) -> np.ndarray:
        """The numbers, shape (m,), from those of all blocks, or slices, shape (m, blocks)."""
        if not self.order:
            return np.asarray(np.max(table, axis=1))  # NaN where one is
        totals = np.array([total_of(sums) for sums in table])
        if self.mean_of is not None:
            totals /= self.mean_of
        return np.sqrt(totals) if self.order == 2 else totals


@njit
def _measure(x: np.ndarray, order: int, partial_sums: np.ndarray, sums: np.ndarray) -> None:
    for j in range(x.shape[0]):
        if order > 0:
            block_sums(x[j], order, partial_sums, sums[j])
        elif x.shape[1] > 0:
            sums[j, 0] = np.float64(max_magnitude(x[j]))


class Kth:
    """The k-th largest magnitude of whole vectors, and how many of the entries that equal it a slice keeps among the k largest.

    Magnitudes are compared as integers, as in `kernels.select`. Each server sorts its own k largest, and says how many these are and which
    stand at some ranks: close together up to twice the k/S-th of S slices, further and further apart beyond. What all have said leaves a
    short range of magnitudes in which the threshold lies. Then each says how many of its own are above the range, and those in it.

    Parameters
    ----------
    k : number of entries.
    """

    grid: ClassVar[int] = 1

    def __init__(self, k: int):
        self.k = k
        self._scratch: dict[int, tuple[np.ndarray, ...]] = {}

    def room(self, rows: int, width: int) -> int:
        return 8 * rows * (2 + min(self.k, width))

    def talk(self, x: np.ndarray, own: int, slices: int) -> Talk:
        word = unsigned(x).dtype
        magnitudes = [self._largest(row) for row in x]
        heard = yield _joined([[len(m), *m[self._ranks(len(m), slices)]] for m in magnitudes], word)
        sketches = [self._sketches(said, word, len(x), slices) for said in heard]
        ranges = [self._range([sketch[j] for sketch in sketches]) for j in range(len(x))]
        if all(ends is None for ends in ranges):
            return np.array([_EVERYTHING] * len(x), np.uint64)
        said = []
        for m, ends in zip(magnitudes, ranges, strict=True):
            above, reached = (0, 0) if ends is None else (int(np.sum(m >= ends[1])), int(np.sum(m >= ends[0])))
            said.append([above, reached - above, *m[above:reached]])
        heard = yield _joined(said, word)
        shares = [_rows(said, word, len(x), 2, lambda head: int(head[1])) for said in heard]
        return np.array(
            [
                _EVERYTHING if ends is None else self._share([share[j] for share in shares], own)
                for j, ends in enumerate(ranges)
            ],
            np.uint64,
        )

    def _largest(self, x: np.ndarray) -> np.ndarray:
        """The magnitudes of the k largest entries, the largest first."""
        width = len(x)
        if width == 0:
            return np.zeros(0, unsigned(x).dtype)
        k = min(self.k, width)
        if width not in self._scratch:
            room = candidate_capacity(width, k)
            self._scratch[width] = (
                np.empty(room, np.int64), np.empty(room, np.uint64), np.empty(256, np.int64), np.empty(CHUNK, np.uint8)
            )  # fmt: skip
        indices, keys, *rest = self._scratch[width]
        word = unsigned(x).dtype
        found = keys[: largest(x, k, indices, keys, *rest)].astype(word) & word.type(np.iinfo(word).max >> 1)
        return np.sort(found)[::-1]

    def _ranks(self, count: int, slices: int) -> np.ndarray:
        """Of so many magnitudes, the ranks that are said; the last one is the smallest."""
        near = -(-2 * self.k // slices)
        step = max(1, round(sqrt(near / 2)))
        ranks, rank = [], step - 1
        while rank < count - 1:
            ranks.append(rank)
            rank += step
            step += 0 if rank < near else step
        return np.array([*ranks, count - 1] if count else [], np.int64)

    def _sketches(
        self, said: np.ndarray, word: np.dtype, rows: int, slices: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each row of a slice: the magnitudes that were said, the smallest first, and how many of the slice's are at least as large."""
        found = _rows(said, word, rows, 1, lambda head: len(self._ranks(min(int(head[0]), self.k), slices)))
        if any(int(head[0]) > self.k for head, _ in found):
            raise WireError(f"corrupted magnitudes of a slice: more than {self.k}")
        return [(keys[::-1], self._ranks(int(head[0]), slices)[::-1] + 1) for head, keys in found]

    def _range(self, sketches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[int, int] | None:
        """[lower, upper), in which the k-th largest lies; None where there are fewer than k."""
        if sum(int(counts[0]) for _, counts in sketches if len(counts)) < self.k:
            return None
        candidates = np.unique(np.concatenate([keys for keys, _ in sketches]))
        least, most = np.zeros(len(candidates), np.int64), np.zeros(len(candidates), np.int64)
        for keys, counts in sketches:
            if not len(keys):
                continue
            place = np.searchsorted(keys, candidates)  # the smallest that was said of those at least as large
            least += np.append(counts, 0)[place]
            most += np.concatenate([counts[:1] + 1, counts])[place] - 1
        upper = candidates[most < self.k]
        return int(candidates[least >= self.k][-1]), int(upper[0]) if len(upper) else _ABOVE_ALL

    def _share(self, shares: list[tuple[np.ndarray, np.ndarray]], own: int) -> tuple[int, int]:
        """The threshold, and how many of this slice's magnitudes that equal it are taken: those of lower slices come first."""
        inside = np.sort(np.concatenate([keys for _, keys in shares]))[::-1]
        place = self.k - sum(int(head[0]) for head, _ in shares) - 1
        if not 0 <= place < len(inside):
            raise WireError(f"corrupted magnitudes of slices: there is no number {place} of {len(inside)}")
        threshold = inside[place]
        left = place + 1 - int(np.sum(inside > threshold))
        before = sum(int(np.sum(keys == threshold)) for _, keys in shares[:own])
        return int(threshold), min(max(left - before, 0), int(np.sum(shares[own][1] == threshold)))


_ABOVE_ALL = 2**63
_EVERYTHING = 1, 2**62  # threshold and ties of a selection of all that is not zero


def _joined(rows: Sequence[Sequence[int]], word: np.dtype) -> np.ndarray:
    return np.concatenate([np.array(row, word) for row in rows])


def _rows(
    said: np.ndarray, word: np.dtype, rows: int, head: int, count: Callable[[np.ndarray], int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a server has said of each row: `head` numbers, and as many magnitudes as these say.

    Raises
    ------
    WireError : there are fewer, or more.
    """
    words = said.view(word) if said.nbytes % word.itemsize == 0 else np.zeros(0, word)
    found, at = [], 0
    for _ in range(rows):
        first = words[at : at + head]
        after = at + head + (count(first) if len(first) == head else 0)
        found.append((first, words[at + head : after]))
        at = after
    if at != len(words) or not len(words):
        raise WireError(f"corrupted magnitudes of a slice: {said.nbytes} bytes")
    return found
