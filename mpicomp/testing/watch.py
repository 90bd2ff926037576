"""An exchange in one process that keeps a record of the random draws, to see that no two messages share them."""

from __future__ import annotations

from typing import Any

from ..compressors import Codec
from ..exchanges.local import LocalExchange
from ..kernels.random import Keys
from ..mechanisms.base import Link


class Draws:
    """Which exchange had which keys, and the first two that had the same.

    Attributes
    ----------
    shared_in_round : (round, one, other); shared_over_rounds : (round, other round, exchange). None where there are none.
    wrong_round : (round, the round that a mechanism gave to its link); None where there is none.
    named : the next exchange names its draw (`draw=`), so sharing is what it asks for.
    """

    def __init__(self) -> None:
        self.shared_in_round: tuple[int, str, str] | None = None
        self.shared_over_rounds: tuple[int, int, str] | None = None
        self.wrong_round: tuple[int, int] | None = None
        self.named = False
        self.round = 0  # of the run, counted by the first exchange of each
        self._seen: dict[int, tuple[int, str]] = {}
        self._in_round = 0

    def enter(self, kind: str, codec: Codec, keys: Keys) -> None:
        """An exchange of this kind begins."""
        if codec.compressor.deterministic:
            return
        self._in_round += 1
        what = f"{self._in_round} ({kind} of {codec.compressor.spec})"
        before = self._seen.setdefault(int(keys.private), (self.round, what))
        named, self.named = self.named, False
        if named or before == (self.round, what):
            return
        t, other = before
        if t == self.round:
            self.shared_in_round = self.shared_in_round or (t, other, what)
        else:
            self.shared_over_rounds = self.shared_over_rounds or (t, self.round, what)

    def next_round(self) -> None:
        self.round, self._in_round = self.round + 1, 0


class WatchedExchange(LocalExchange):
    """A LocalExchange that enters its calls in `draws`."""

    draws: Draws

    def gather(self, codec: Codec, V: Any, keys: Keys, *rest: Any, **options: Any) -> None:
        self.draws.enter("gather", codec, keys)
        super().gather(codec, V, keys, *rest, **options)

    def broadcast(self, codec: Codec, v: Any, keys: Keys, *rest: Any, **options: Any) -> None:
        self.draws.enter("broadcast", codec, keys)
        super().broadcast(codec, v, keys, *rest, **options)

    def scatter(self, codec: Codec, v: Any, keys: Keys, *rest: Any, **options: Any) -> None:
        self.draws.enter("scatter", codec, keys)
        super().scatter(codec, v, keys, *rest, **options)


def watched_link(draws: Draws) -> type[Link]:
    """The class of links that tell `draws` of exchanges which name their draw."""

    class WatchedLink(Link):
        def _drawn(self, codec: Codec, round: int, draw: int | None, peek: bool = False) -> Keys:
            draws.named = draw is not None
            if round != draws.round:
                draws.wrong_round = draws.wrong_round or (draws.round, round)
            return super()._drawn(codec, round, draw, peek)

    return WatchedLink
