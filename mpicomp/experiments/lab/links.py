"""The wires between the nodes: an eth0 in each, a limited rate in both directions, a delay.

`BRIDGE`: a veth pair for each node on a kernel bridge; token buckets (tc tbf) on both ends, netem for a delay. `SWITCH`: where a delay is
wanted and the kernel has no netem, taps on a small switch program (`switch.c`), which keeps rate and delay itself. The functions
write shell scripts for `Namespaces.script`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime import ConfigError
from .namespaces import NETWORK

BRIDGE, SWITCH = "bridge", "switch"
CONGESTION = "cubic"  # of TCP between nodes, where the kernel has it, whatever the machine uses itself
DEVICE = "eth0"
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
# A bucket lets one burst pass at full speed, so it is kept small: a millisecond, at least two packets. Less is not kept up at 1 Gbit/s.
_BURST_SECONDS, _BURST_BYTES = 1e-3, 3100


@dataclass(frozen=True)
class Link:
    """What joins a node to the switch.

    rate : bit/s in each direction; 0 no limit. delay : seconds from a node to another, one way.
    """

    rate: float = 0.0
    delay: float = 0.0

    @classmethod
    def of(cls, rate: str | None, delay_ms: float) -> Link:
        """A link in tc's words, as "100mbit", "1gbit" or None, and milliseconds.

        >>> Link.of("2.5gbit", 0.5)
        Link(rate=2500000000.0, delay=0.0005)
        """
        found = re.fullmatch(r"([0-9.]+)([a-z]+)", rate or "1bit")
        try:
            bits = float(found.group(1)) * _UNITS[found.group(2)] if found else 0.0
        except (KeyError, ValueError):
            bits = 0.0
        if bits <= 0:
            raise ConfigError(
                f"rate {rate!r} is none; allowed: a number and one of {', '.join(_UNITS)}, for example 100mbit"
            )
        if not 0 <= delay_ms <= 10_000:
            raise ConfigError(f"delay {delay_ms!r} ms is not possible; allowed: 0 to 10000")
        return cls(bits if rate else 0.0, delay_ms / 1000)


def bridge(pids: Sequence[int]) -> str:
    """Wire the nodes, of which a process id is given, to a bridge."""
    lines = ["ip link add br0 type bridge", "ip link set br0 up"]
    for k, pid in enumerate(pids, 1):
        lines.append(f"ip link add port{k} type veth peer name {DEVICE} netns {pid}")
        lines.append(f"ip link set port{k} master br0 up")
    return _script([*lines, *addresses(pids)])


def switch(program: Path, pids: Sequence[int]) -> str:
    """Wire the nodes to the switch program; it returns to the shell when all taps are there, and stays behind."""
    start = shlex.join([str(program), "/dev/shm/control", *map(str, pids)])
    return _script(["mkfifo /dev/shm/control", start, *addresses(pids)])


def unwire(pids: Sequence[int]) -> str:
    """Take all wires away: the other end of a veth pair goes with its eth0, a tap with the program."""
    gone = [f"nsenter -t {pid} -n ip link del {DEVICE} 2>/dev/null || :" for pid in pids]
    return _script(["[ ! -p /dev/shm/control ] || { echo end >/dev/shm/control; rm /dev/shm/control; }", *gone,
                    "ip link del br0 2>/dev/null || :"])  # fmt: skip


def addresses(pids: Sequence[int]) -> list[str]:
    """Give each node's eth0 its address and put it up."""
    lines = []
    for k, pid in enumerate(pids, 1):
        route = f"{NETWORK}.0.0/16 dev {DEVICE} proto kernel scope link src {NETWORK}.0.{k} congctl {CONGESTION}"
        up = f"ip addr add {NETWORK}.0.{k}/16 dev {DEVICE}; ip link set {DEVICE} up; ip route replace {route} 2>/dev/null || :"
        lines.append(f"nsenter -t {pid} -n sh -ec '{up}'")
    return lines


def shape(pids: Sequence[int], link: Link) -> str:
    """Give the bridge's wires their rate, at both ends of each, and the delay at the node's end."""
    lines = []
    for k, pid in enumerate(pids, 1):
        lines += _disciplines("tc", f"port{k}", Link(link.rate))
        lines += _disciplines(f"nsenter -t {pid} -n tc", DEVICE, link)
    return _script(lines)


def command(link: Link) -> str:
    """Tell the switch program the rate, in bit/s, and the delay, in nanoseconds."""
    return f"echo {link.rate:.0f} {link.delay * 1e9:.0f} >/dev/shm/control\n"


def _disciplines(tc: str, device: str, link: Link) -> list[str]:
    lines = [f"{tc} qdisc del dev {device} root 2>/dev/null || :"]
    parent = "root"
    if link.delay:  # its limit is in packets: those of a second at 10 Gbit/s
        lines.append(f"{tc} qdisc add dev {device} root handle 1: netem delay {link.delay * 1e6:.0f}us limit 1000000")
        parent = "parent 1:1"
    if link.rate:
        burst = max(_BURST_BYTES, link.rate / 8 * _BURST_SECONDS)
        lines.append(
            f"{tc} qdisc add dev {device} {parent} handle 2: tbf rate {link.rate:.0f}bit burst {burst:.0f} latency 300ms"
        )
    return lines


def _script(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
