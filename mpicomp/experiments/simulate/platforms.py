"""Simulated networks: `star:25gbit`, `fat-tree:25gbit:32:2`, `dragonfly:25gbit:4`, or a file in SimGrid's format."""

from __future__ import annotations

import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path

from ..lab.links import Link
from ..runtime import ConfigError

STAR, FAT_TREE, DRAGONFLY, FILE = "star", "fat-tree", "dragonfly", "file"
WITHIN_RATE, WITHIN_DELAY = 10e9, 0.5e-6  # bytes/s and seconds between two ranks of a node, by shared memory
_USAGE = (
    "star:RATE, fat-tree:RATE[:NODES_A_SWITCH[:OVERSUBSCRIPTION]], dragonfly:RATE[:NODES_A_ROUTER] or a SimGrid platform's .xml; "
    "for example star:25gbit, fat-tree:100gbit:32:2, dragonfly:100gbit:4"
)
_CHASSIS, _ROUTERS = 2, 8  # of a dragonfly: chassis of a group, routers of a chassis


@dataclass(frozen=True)
class Platform:
    """A network.

    Attributes
    ----------
    kind : STAR, FAT_TREE, DRAGONFLY or FILE. text : as it was given. link : of a node, its rate in bit/s and its one-way delay to another
        node through one switch. leaf : nodes of a leaf switch or router. over : how much less a leaf switch has upwards.
    path : of a FILE. payload : share of a link's rate that carries messages; the rest are the network's own headers.
    """

    kind: str
    text: str
    link: Link
    leaf: int = 0
    over: int = 1
    path: Path | None = None
    payload: float = 1.0

    @classmethod
    def of(cls, text: str, delay_ms: float, payload: float = 1.0) -> Platform:
        """From the text of `--platform`, and milliseconds.

        >>> Platform.of("fat-tree:25gbit:16:2", 0.001).over
        2

        Raises
        ------
        ConfigError : it is none.
        """
        if not 0 < payload <= 1:
            raise ConfigError(f"--payload {payload:g} is no share; give a number above 0 and up to 1")
        if text.endswith(".xml"):
            path = Path(text)
            if not path.is_file():
                raise ConfigError(f"there is no platform {text}; allowed: {_USAGE}")
            return cls(FILE, text, Link(0.0, 0.0), path=path)
        kind, *parts = text.split(":")
        most = {STAR: 1, FAT_TREE: 3, DRAGONFLY: 2}.get(kind, 0)
        try:
            numbers = [int(part) for part in parts[1:]]
        except ValueError:
            numbers = [0]
        if not 1 <= len(parts) <= most or min(numbers, default=1) < 1:
            raise ConfigError(f"platform {text!r} is none; allowed: {_USAGE}")
        link = Link.of(parts[0] or "none", delay_ms)
        if kind == FAT_TREE:
            leaf, over = (*numbers, *(32, 1)[len(numbers) :])
            if leaf % over:
                raise ConfigError(
                    f"platform {text!r}: the oversubscription {over} must divide the {leaf} nodes of a switch"
                )
            return cls(kind, text, link, leaf, over, payload=payload)
        return cls(kind, text, link, (numbers or [4])[0] if kind == DRAGONFLY else 0, payload=payload)

    def hosts(self, nodes: int) -> list[str]:
        """Names of the first `nodes` hosts.

        Raises
        ------
        ConfigError : a file has fewer, or is none.
        """
        if self.kind != FILE:
            return [f"node-{k}" for k in range(nodes)]
        assert self.path is not None
        try:
            root = xml.etree.ElementTree.fromstring(self.path.read_text("utf-8"))
        except (xml.etree.ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{self.path} is no SimGrid platform: {error}") from None
        found = [host.get("id", "") for host in root.iter("host")]
        for cluster in root.iter("cluster"):
            prefix, suffix = cluster.get("prefix", ""), cluster.get("suffix", "")
            found += [f"{prefix}{k}{suffix}" for k in _radical(cluster.get("radical", ""))]
        if len(found) < nodes:
            raise ConfigError(f"{self.path} has {len(found)} hosts, and {nodes} nodes are asked for")
        return found[:nodes]

    def xml(self, nodes: int) -> str:
        """The platform of so many nodes, in SimGrid's format (version 4.1)."""
        if self.path is not None:
            return self.path.read_text("utf-8")
        count, topology = nodes, ""
        if self.kind == FAT_TREE:
            switches = -(-nodes // self.leaf)
            count = switches * self.leaf
            topology = f'topology="FAT_TREE" topo_parameters="2;{self.leaf},{switches};1,{self.leaf // self.over};1,1"'
        elif self.kind == DRAGONFLY:
            of_group = _CHASSIS * _ROUTERS * self.leaf
            groups = -(-nodes // of_group)
            count = groups * of_group
            topology = f'topology="DRAGONFLY" topo_parameters="{groups},1;{_CHASSIS},1;{_ROUTERS},1;{self.leaf}"'
        return (
            "<?xml version='1.0'?>\n"
            '<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">\n'
            '<platform version="4.1">\n'
            f'<cluster id="nodes" prefix="node-" suffix="" radical="0-{count - 1}" speed="1Gf" {topology}\n'
            f'  bw="{self.payload * self.link.rate / 8:.0f}Bps" lat="{self.link.delay / 2:.9f}s" sharing_policy="SPLITDUPLEX"\n'
            f'  loopback_bw="{WITHIN_RATE:.0f}Bps" loopback_lat="{WITHIN_DELAY:.9f}s"/>\n'
            "</platform>\n"
        )


def _radical(text: str) -> list[int]:
    """The numbers of a cluster's hosts, such as 0-3,8."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        low, dash, high = part.partition("-")
        found += range(int(low), int(high or low) + 1) if dash else [int(low)]
    return found
