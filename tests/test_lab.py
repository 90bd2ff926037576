"""The network lab: nodes are apart, jobs run on them with the same bits, links are limited, nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpicomp.cluster.launcher import INTEL, MPICH, OPEN_MPI, Launcher, Mpi
from mpicomp.errors import ConfigError, LabError
from mpicomp.experiments.lab import NetworkLab, Traffic
from mpicomp.experiments.lab import namespaces as spaces
from mpicomp.experiments.lab.links import Link, shape
from mpicomp.experiments.lab.network import _through_the_lab
from mpicomp.experiments.lab.traffic import parse

RUN = [
    "-m",
    "mpicomp",
    "run",
    "--method",
    "marina",
    "--compressor",
    "permk",
    "--clients",
    "6",
    "--problem",
    "quadratic",
]
RUN += ["--set", "problem.dim=5000", "--rounds", "100", "--seed", "3"]
WHO = """
import socket
from mpi4py import MPI
world = MPI.COMM_WORLD
node = world.Split_type(MPI.COMM_TYPE_SHARED)
said = world.gather([world.rank, socket.gethostname(), node.size])
if said:
    print(said)
"""


# ---- words ------------------------------------------------------------------------------------------------------------
def test_links_in_tc_words() -> None:
    assert Link.of("100mbit", 0.5) == Link(1e8, 5e-4)
    assert Link.of(None, 0) == Link()
    for rate in ("fast", "100", "10mbyte", "0mbit", "1.2.3gbit", ""):
        with pytest.raises(ConfigError, match="for example 100mbit"):
            Link.of(rate or "0bit", 0)
    with pytest.raises(ConfigError, match="-1"):
        Link.of("1gbit", -1)


def test_shaping_is_at_both_ends_and_the_delay_at_one() -> None:
    assert shape([7], Link(1e9, 1e-3)).splitlines() == [
        "tc qdisc del dev port1 root 2>/dev/null || :",
        "tc qdisc add dev port1 root handle 2: tbf rate 1000000000bit burst 125000 latency 300ms",
        "nsenter -t 7 -n tc qdisc del dev eth0 root 2>/dev/null || :",
        "nsenter -t 7 -n tc qdisc add dev eth0 root handle 1: netem delay 1000us limit 1000000",
        "nsenter -t 7 -n tc qdisc add dev eth0 parent 1:1 handle 2: tbf rate 1000000000bit burst 125000 latency 300ms",
    ]
    assert [line for line in shape([7, 8], Link()).splitlines() if "add" in line] == []


def test_figures_of_an_interface() -> None:
    line = "  eth0: 1000 10 0 0 0 0 0 0 2000 20 1 0 0 0 0 0\n"
    assert parse("eth0", line) == Traffic(tx_bytes=2000, rx_bytes=1000, tx_packets=20, rx_packets=10)
    assert parse("eth0", line).since(Traffic(1, 2, 3, 4)) == Traffic(1999, 998, 17, 6)
    with pytest.raises(ValueError, match="eth1"):
        parse("eth1", line)


@pytest.mark.parametrize(
    ("flavour", "version", "agent"),
    [
        (MPICH, "5.0.2", "-launcher-exec"),
        (INTEL, "2021.18", "-launcher-exec"),
        (OPEN_MPI, "5.0.11", "plm_ssh_agent"),
        (OPEN_MPI, "4.1.4", "plm_rsh_agent"),
    ],
)
def test_each_launcher_starts_its_daemons_through_the_lab(flavour: str, version: str, agent: str) -> None:
    options, variables = _through_the_lab(Launcher("mpirun", Mpi(flavour, version)))
    assert options[options.index(agent) + 1] == spaces.ENTER
    assert "eth0" in variables.values()


def test_a_missing_program_is_named_with_its_package(monkeypatch) -> None:
    monkeypatch.setattr(spaces.shutil, "which", lambda name, path: None if name in ("ip", "tc") else f"/bin/{name}")
    with pytest.raises(LabError, match=r"needs ip, tc, not found on PATH; apt-get install iproute2$"):
        NetworkLab(2)


def test_refuses_before_anything_is_made() -> None:
    with pytest.raises(ConfigError, match="0 nodes"):
        NetworkLab(0)
    with pytest.raises(ConfigError, match="1000gbyte"):
        NetworkLab(2, "1000gbyte")


def test_needs_neither_numpy_nor_mpi() -> None:
    code = "import sys, mpicomp.experiments.lab; sys.exit(bool({'mpi4py', 'numpy', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---- jobs -------------------------------------------------------------------------------------------------------------
@pytest.mark.process
def test_ranks_live_on_their_nodes(lab_here, each_mpi) -> None:
    """Rank r is on node r // per_node, and shares memory with exactly the ranks of that node."""
    with NetworkLab(2) as lab:
        done = lab.run([each_mpi.python, "-c", WHO], per_node=2, timeout=60)
        routes = lab.spaces.script(
            "for pid in $(cat /dev/shm/nodes); do nsenter -t $pid -n ip route; done"
        ).splitlines()
    assert done.code == 0, done.stderr
    assert str([[0, "node1", 2], [1, "node1", 2], [2, "node2", 2], [3, "node2", 2]]) in done.stdout
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    assert len(routes) == 2 and all(("congctl cubic" in route) == ("cubic" in known) for route in routes)


@pytest.mark.process
def test_a_run_has_the_bits_of_the_in_process_run_and_its_bytes_pass_the_interfaces(lab_here, mpi, tmp_path) -> None:
    """At 50 Mbit/s no interface moves more than the link allows in the time, with a factor 2 for what may pass at once."""
    alone = subprocess.run([sys.executable, *RUN, "--out", tmp_path / "alone"], capture_output=True, timeout=120)
    assert alone.returncode == 0, alone.stderr
    with NetworkLab(nodes=3, rate="50mbit") as lab:
        done = lab.run([sys.executable, *RUN, "--out", str(tmp_path / "lab")], timeout=120)
    assert done.code == 0, done.stdout + done.stderr
    ours, theirs = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("lab", "alone"))
    assert ours["ranks"] == 3
    assert ours["iterate_sha256"] == theirs["iterate_sha256"]
    up, down = (ours["bytes"][way]["message"] for way in ("uplink", "downlink"))
    assert min(up, down) > 1_000_000
    assert done.interfaces["node1"].rx_bytes >= up
    assert done.interfaces["node1"].tx_bytes >= down
    assert sum(done.interfaces[f"node{k}"].tx_bytes for k in (2, 3)) >= up
    for moved in done.interfaces.values():
        assert max(moved.tx_bytes, moved.rx_bytes) * 8 / done.seconds < 2 * 50e6
    # the rounds alone, whose time has no start-up in it
    assert down * 8 / ours["seconds"]["total"] < 2 * 50e6


@pytest.mark.process
def test_a_delay_is_there_both_ways(lab_here) -> None:
    """A round trip is never shorter than twice the delay, and the shortest of twenty is when the delay is taken away."""
    with NetworkLab(2, "1gbit") as lab:
        try:
            lab.set_delay(20)
        except LabError as error:
            pytest.skip(str(error))
        assert _round_trip(lab) >= 40
        lab.set_delay(0)
        assert _round_trip(lab) < 40


PING = """
import socket, sys, time
if sys.argv[1] == "serve":
    server = socket.create_server(("", 7000))
    print("ready", flush=True)
    link, _ = server.accept()
    while data := link.recv(100):
        link.sendall(data)
else:
    link = socket.create_connection(("node2", 7000))
    def trip():
        start = time.monotonic()
        link.sendall(b"x")
        link.recv(100)
        return 1000 * (time.monotonic() - start)
    print(min(trip() for _ in range(20)))
"""


def _round_trip(lab: NetworkLab) -> float:
    """Milliseconds of a byte from node1 to node2 and back, the shortest of twenty."""
    command = [sys.executable, "-c", PING]
    with subprocess.Popen(lab.spaces.command([*command, "serve"], node=2), stdout=subprocess.PIPE) as server:
        assert server.stdout and server.stdout.readline() == b"ready\n"
        asked = subprocess.run(
            lab.spaces.command([*command, "ask"], node=1), capture_output=True, text=True, timeout=30, check=True
        )
    return float(asked.stdout)


@pytest.mark.process
def test_a_job_that_does_not_end_is_ended(lab_here, mpi) -> None:
    """With all its processes on all nodes, and the lab goes on."""
    with NetworkLab(2) as lab:
        done = lab.run([sys.executable, "-c", "import time; time.sleep(600)"], timeout=2)
        assert done.code == 124 and "not over after 2 s" in done.stderr
        assert "sleep(600)" not in _processes(lab)
        failed = lab.run([sys.executable, "-c", "import sys; sys.exit(7)"], timeout=60)
        assert failed.code == 7


# ---- nothing is left behind -------------------------------------------------------------------------------------------
def _processes(lab: NetworkLab) -> str:
    return lab.spaces.script("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' || :")


def _gone(keeper: int) -> bool:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{keeper}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{keeper}").exists()


@pytest.mark.process
def test_an_exception_takes_the_lab_down(lab_here) -> None:
    interfaces = sorted(os.listdir("/sys/class/net"))
    with pytest.raises(ZeroDivisionError), NetworkLab(2, "1gbit") as lab:
        inside = subprocess.Popen(
            lab.spaces.command(["sh", "-c", "echo here; exec sleep 600"], node=2), stdout=subprocess.PIPE
        )
        assert inside.stdout and inside.stdout.readline() == b"here\n"
        keeper = lab.spaces.keeper
        1 / 0  # noqa: B018
    assert _gone(keeper)
    assert inside.wait(timeout=10) != 0
    inside.stdout.close()
    assert keeper not in [found.keeper for found, _ in spaces.running()]
    assert sorted(os.listdir("/sys/class/net")) == interfaces


OWNER = """
import sys, time
from mpicomp.experiments.lab import NetworkLab
with NetworkLab(2) as lab:
    print(lab.spaces.keeper, flush=True)
    lab.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_lab_ends_with_its_owner(lab_here, mpi, number) -> None:
    """Also in the middle of a run, and also where the owner cannot do anything any more."""
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    signal.signal(signal.SIGINT, heard)
    assert owner.stdout
    keeper = int(owner.stdout.readline())
    time.sleep(0.5)
    owner.send_signal(number)
    assert owner.wait(timeout=20) != 0
    owner.stdout.close()
    assert _gone(keeper)


@pytest.mark.process
@pytest.mark.alone
def test_bytes_of_mpi_against_those_of_the_interface(lab_here, mpi, monkeypatch) -> None:
    """What the network adds is headers: at most some for each message, next to nothing for large ones (docs/reference/bytes.md)."""
    monkeypatch.setenv("COLUMNS", "200")
    done = _mpicomp("run", "--nodes", "2", "--", "bench", "wire")
    assert done.returncode == 0, done.stderr
    numbers = [[float(word.replace(",", "").strip("+%")) for word in line.replace(" %", "").split()] for line in done.stdout.splitlines()
               if re.match(r"\s*[\d,]+ +[\d,]+ +[\d,]+ +[\d,]+ ", line)]  # fmt: skip
    assert [row[0] for row in numbers] == [64 * 4**k for k in range(10)]
    for size, messages, handed, sent, *_ in numbers:
        headers = sent - handed
        # Ethernet, IPv4 and TCP without options: 54 bytes, of each segment; TCP may put small messages together, to 64 KiB
        assert handed == size * messages and 54 * -(-handed // 65536) <= headers
        assert headers <= 250 * messages + 0.02 * handed
    assert 1 < numbers[-1][3] / numbers[-1][2] < 1.02


# ---- the command line -------------------------------------------------------------------------------------------------
def _mpicomp(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mpicomp", "lab", *args], capture_output=True, text=True, timeout=120)


@pytest.mark.process
def test_the_command_line(lab_here, mpi) -> None:
    up = _mpicomp("up", "--nodes", "2", "--rate", "1gbit")
    assert up.returncode == 0, up.stderr
    number = up.stdout.strip()
    try:
        assert _mpicomp("enter", "--lab", number, "2", "--", "hostname").stdout == "node2\n"
        assert "no node 3" in _mpicomp("enter", "--lab", number, "3", "--", "hostname").stderr
        assert _mpicomp("links", "--lab", number, "--rate", "10mbit").returncode == 0
        assert "10 Mbit/s" in _mpicomp("status").stdout
        run = _mpicomp("run", "--lab", number, "--", "run", "--problem", "nonsense")
        assert run.returncode == 2 and "unknown problem" in run.stderr
        assert "node2" in run.stdout
    finally:
        down = _mpicomp("down", number)
    assert down.stdout == f"lab {number} is down\n" and _gone(int(number))
    assert f"there is no lab {number}" in _mpicomp("down", number).stderr
