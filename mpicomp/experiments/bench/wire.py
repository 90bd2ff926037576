"""`mpicomp bench wire`: what the network adds to the bytes that MPI is handed, by the size of a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..lab.traffic import Traffic, parse
from ..runtime import Comm, ConfigError

SIZES = tuple(64 * 4**k for k in range(10))  # 64 B to 16 MiB
COUNTERS = Path("/proc/net/dev")  # of the network that this process is in


def wire(comm: Any, device: str = "eth0", total: int = 1 << 26, most: int = 2000) -> list[dict[str, Any]]:
    """Rank 0 sends messages of each size to rank 1, which must be on another host; its interface is read before and after.

    Parameters
    ----------
    comm : mpi4py communicator. device : the interface. total, most : so many bytes of each size, at most so many messages.

    Returns
    -------
    A row for each size, on rank 0: "size", "messages", "mpi" (bytes handed to MPI), "sent" and "received" (bytes of the interface,
    less those of the two barriers around), "packets" sent.

    Raises
    ------
    ConfigError : fewer than two ranks, or there is no such interface.
    """
    if comm is None or comm.Get_size() < 2:
        raise ConfigError("bench wire needs ranks on two hosts: mpicomp lab run --nodes 2 -- bench wire")
    ours, rows = Comm(comm), []
    _send(ours, 64, 10)
    idle = [_moved(ours, device, 64, 0) for _ in range(5)]
    barriers = Traffic(*(int(v) for v in np.median(np.array(idle), axis=0)))
    for size in SIZES:
        messages = max(1, min(most, total // size))
        _send(ours, size, 1)  # connections and buffers are made
        before = ours.ledger.functions["setup", "Send"][1]
        moved = _moved(ours, device, size, messages).since(barriers)
        handed = ours.ledger.functions["setup", "Send"][1] - before
        rows.append(
            {
                "size": size,
                "messages": messages,
                "mpi": handed,
                "sent": moved.tx_bytes,
                "received": moved.rx_bytes,
                "packets": moved.tx_packets,
            }
        )
    ours.free()
    return rows if comm.Get_rank() == 0 else []


def _send(comm: Comm, size: int, messages: int) -> None:
    buf = np.zeros(size, np.uint8)
    for _ in range(messages):
        if comm.rank == 0:
            comm.send(buf, 1)
        elif comm.rank == 1:
            comm.recv(buf, 0)


def _moved(comm: Comm, device: str, size: int, messages: int) -> Traffic:
    comm.barrier()
    before = _read(device)
    _send(comm, size, messages)
    comm.barrier()
    return _read(device).since(before)


def _read(device: str) -> Traffic:
    lines = COUNTERS.read_text("utf-8").splitlines()
    found = [line for line in lines if line.strip().startswith(f"{device}:")]
    if not found:
        there = ", ".join(line.partition(":")[0].strip() for line in lines[2:])
        raise ConfigError(f"no interface {device!r} here; there are {there}: give --device")
    return parse(device, found[0])
