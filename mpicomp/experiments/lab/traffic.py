"""What the nodes' interfaces moved."""

from __future__ import annotations

from typing import NamedTuple


class Traffic(NamedTuple):
    """Bytes and packets that a node's interface sent and received, all programs and all protocol headers."""

    tx_bytes: int
    rx_bytes: int
    tx_packets: int
    rx_packets: int

    def since(self, before: Traffic) -> Traffic:
        """What was moved after `before` was read."""
        return Traffic(*(now - then for now, then in zip(self, before, strict=True)))


def parse(device: str, text: str) -> Traffic:
    """A line of /proc/net/dev: eight figures received, eight sent, bytes and packets first.

    >>> parse("eth0", "  eth0: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0")
    Traffic(tx_bytes=300, rx_bytes=100, tx_packets=4, rx_packets=2)
    """
    name, _, figures = text.strip().partition(":")
    if name != device:
        raise ValueError(f"{text!r} is not of {device}")
    counts = [int(word) for word in figures.split()]
    return Traffic(counts[8], counts[0], counts[9], counts[1])
