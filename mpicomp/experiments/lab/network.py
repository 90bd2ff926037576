"""A lab with its wires, and MPI jobs on its nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from ..runtime import OPEN_MPI, ConfigError, Launcher, find_launcher, launcher_for, master, rank_command
from . import links, traffic
from .links import BRIDGE, SWITCH, Link
from .namespaces import ENTER, Namespaces
from .switch import build
from .traffic import Traffic

TIMED_OUT = 124  # as timeout(1) has it
NAP = "50"  # microseconds between looks at a request, where ranks share cores: see `cluster.comm`
MPICH_BY_TCP = {
    "MPIR_CVAR_CH4_NETMOD": "ofi",
    "FI_PROVIDER": "tcp",
    "FI_TCP_IFACE": "eth0",
    "UCX_NET_DEVICES": "eth0",
}

TORCH_BY_TCP = {"GLOO_SOCKET_IFNAME": "eth0", "TP_SOCKET_IFNAME": "eth0"}


@dataclass(frozen=True)
class LabRun:
    """A finished job: exit code (124 where the time was over), what it printed, its time from start to end in seconds, and what each
    node's interface moved meanwhile, by the node's name."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    interfaces: dict[str, Traffic]


class NetworkLab:
    """Nodes node1, node2, ... on a network of their own, with links of a limited rate and a delay.

    >>> with NetworkLab(nodes=3, rate="100mbit") as lab:                                             # doctest: +SKIP
    ...     done = lab.run([sys.executable, "-m", "mpicomp", "run", "--clients", "20"])
    ...     print(done.code, done.interfaces["node1"].tx_bytes)

    Parameters
    ----------
    nodes : number of nodes. rate : of each node's link, in each direction, in tc's words; None no limit.
    delay_ms : one way between any two nodes, in milliseconds. keep : the lab outlives this process, until `close`.

    Raises
    ------
    ConfigError : a value that is not allowed. LabError : this machine or user cannot have such a lab; with the remedy.
    """

    def __init__(self, nodes: int, rate: str | None = None, delay_ms: float = 0.0, *, keep: bool = False):
        self.link = Link.of(rate, delay_ms)
        self.spaces = Namespaces.start(nodes, keep=keep)
        try:
            self._kind = ""
            self._set(self.link)
        except BaseException:
            self.close()
            raise

    @classmethod
    def attach(cls, spaces: Namespaces) -> NetworkLab:
        """The lab of these namespaces, that another process made."""
        lab = cls.__new__(cls)
        lab.spaces = spaces
        kind, rate, delay = (spaces.shelf / "link").read_text("utf-8").split()
        lab._kind, lab.link = kind, Link(float(rate), float(delay))
        return lab

    def __enter__(self) -> NetworkLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs in the lab, and the lab."""
        self.spaces.close()

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return len(self.spaces.nodes)

    def set_rate(self, rate: str | None) -> None:
        """Change the rate of all links, as "1gbit"; None no limit."""
        self._set(replace(self.link, rate=Link.of(rate, 0.0).rate))

    def set_delay(self, delay_ms: float) -> None:
        """Change the delay, in milliseconds one way. The first delay on a kernel without netem wires the nodes anew: not during a run."""
        self._set(replace(self.link, delay=Link.of(None, delay_ms).delay))

    def interfaces(self) -> dict[str, Traffic]:
        """What each node's interface has moved since the nodes were wired."""
        text = self.spaces.script("for pid in $(cat /dev/shm/nodes); do grep eth0: /proc/$pid/net/dev; done")
        return {f"node{k}": traffic.parse(links.DEVICE, line) for k, line in enumerate(text.splitlines(), 1)}

    def run(
        self,
        command: Sequence[str],
        per_node: int = 1,
        timeout: float = 300.0,
        env: Mapping[str, str] | None = None,
        *,
        capture: bool = True,
        program: bool = False,
    ) -> LabRun:
        """Run an MPI job: rank r on node r // per_node + 1, under the launcher of the MPI that mpi4py loads.

        When it is over, in whatever way, none of its processes is left.

        Parameters
        ----------
        command : program and arguments of each rank. Where the program is a Python, it is that Python's MPI.
        per_node : ranks on each node.
        timeout : seconds, after which the job is ended with code 124.
        env : variables beside this process's own; they win.
        capture : keep what the job prints; else it goes where this process prints.
        program : the command is any program, which gets the variables of torch.distributed, with rank 0 on node1.
        """
        if per_node < 1:
            raise ConfigError(f"per_node = {per_node} is not possible; allowed: 1 or more ranks on each node")
        outside = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}  # here srun knows no node
        python = command[0] if Path(command[0]).name.startswith("python") else sys.executable
        launcher = launcher_for(command, outside) if program else find_launcher(outside, python)
        options, variables = _through_the_lab(launcher)
        if program:
            command = rank_command(command, *master(["node1"], "", []))
            variables |= TORCH_BY_TCP
        argv = launcher.command(
            self.nodes * per_node,
            command,
            hosts=[f"node{k}:{per_node}" for k in range(1, self.nodes + 1)],
            extra=options,
            env=outside,
        )
        variables |= launcher.environment(root=True)  # also a user is root in the lab
        if self.nodes * per_node > (os.cpu_count() or 1):
            variables["MPICOMP_NAP"] = NAP
        before = self.interfaces()
        start = time.monotonic()
        process = subprocess.Popen(
            self.spaces.command(argv, node=1, alone=True),
            env={**variables, "MPICOMP_CACHE_HOST": os.uname().nodename, **outside, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        code = None
        try:
            out, err = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            code, err = TIMED_OUT, f"{err or ''}\nmpicomp lab: not over after {timeout:g} s; ended\n"
        finally:
            process.kill()
            process.wait()
        seconds = time.monotonic() - start
        moved = {name: now.since(before[name]) for name, now in self.interfaces().items()}
        return LabRun(128 - code if code < 0 else code, out or "", err or "", seconds, moved)

    def _set(self, link: Link) -> None:
        kind = SWITCH if self._kind == SWITCH or (link.delay and not self._has_netem()) else BRIDGE
        pids, script = self.spaces.nodes, self.spaces.script
        if kind != self._kind:
            program = build() if kind == SWITCH else None
            if self._kind:
                script(links.unwire(pids))
            script(links.switch(program, pids) if program else links.bridge(pids))
        script(links.shape(pids, link) if kind == BRIDGE else links.command(link))
        script(f"echo {kind} {link.rate!r} {link.delay!r} >/dev/shm/link")
        self._kind, self.link = kind, link

    def _has_netem(self) -> bool:
        asked = "tc qdisc add dev lo root netem delay 1ms 2>/dev/null && tc qdisc del dev lo root && echo yes || :"
        return bool(self.spaces.script(asked))


def _through_the_lab(launcher: Launcher) -> tuple[list[str], dict[str, str]]:
    """Options and variables with which a launcher starts its daemons by `enter` in place of ssh, and MPI talks by eth0."""
    if launcher.mpi.flavour != OPEN_MPI:  # Hydra
        return ["-iface", "eth0", "-launcher", "ssh", "-launcher-exec", ENTER], dict(MPICH_BY_TCP)
    if launcher.mpi.major >= 5:
        daemons = ["--prtemca", "plm_ssh_agent", ENTER, "--prtemca", "prte_if_include", "eth0"]
    else:
        daemons = ["--mca", "plm_rsh_agent", ENTER, "--mca", "oob_tcp_if_include", "eth0"]
    options = [*daemons, "--map-by", "slot", "--bind-to", "none"]
    # more ranks than cores, but no node has more than its slots: without the last, waiting ranks would keep the cores busy
    return options, {
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl_tcp_if_include": "eth0",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
