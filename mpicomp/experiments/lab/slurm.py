"""A whole SLURM in a network lab: slurmctld on node1, munged and slurmd on every node, nothing outside of it.

All of its files (configuration, key, state, logs) are in the nodes' /dev/shm and end with the lab; so do its processes. Needs root, and
Debian's packages slurm-wlm and munge or the like.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Sequence
from types import TracebackType

from ..runtime import ConfigError, LabError
from .namespaces import NETWORK, SHELF
from .network import MPICH_BY_TCP, NetworkLab

HOME = "/dev/shm/slurm"  # on each node
CONF = f"{HOME}/slurm.conf"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
_PATIENCE = 30.0  # seconds until all nodes are idle
_MEMORY = 1000  # MB that each node is said to have; nothing enforces it

# NoInAddrAny: daemons listen on the address of their node.
# cred_expire: a job that was requeued waits so many seconds, by default 120; 10 is the least.
_SETTINGS = f"""\
ClusterName=lab
SlurmctldHost=node1({NETWORK}.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={HOME}/munge/socket,cred_expire=10
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={HOME}/state
SlurmctldPidFile={HOME}/slurmctld.pid
SlurmctldLogFile={HOME}/slurmctld.log
SlurmdSpoolDir={HOME}/spool
SlurmdPidFile={HOME}/slurmd.pid
SlurmdLogFile={HOME}/slurmd.log
TmpFS=/dev/shm/tmp
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmi2
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=1,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""


def configuration(nodes: int, cpus: int) -> str:
    """The text of slurm.conf for so many nodes of so many CPUs each."""
    lines = [
        f"NodeName=node{k} NodeAddr={NETWORK}.0.{k} CPUs={cpus} RealMemory={_MEMORY} State=UNKNOWN"
        for k in range(1, nodes + 1)
    ]
    partition = f"PartitionName=lab Nodes=node[1-{nodes}] Default=YES MaxTime=60 State=UP OverSubscribe=NO"
    return _SETTINGS + "\n".join([*lines, partition]) + "\n"


class SlurmLab:
    """A network lab whose nodes are those of a SLURM; a context manager.

    Parameters
    ----------
    nodes : number of nodes, node1 to nodeN. cpus : CPUs that SLURM gives out on each; more than the machine has is fine.
    rate, delay_ms : of the links, as for `NetworkLab`.

    Raises
    ------
    ConfigError : a value that is not allowed. LabError : SLURM is not installed or did not start, or there can be no network lab.
    """

    def __init__(self, nodes: int = 4, cpus: int = 2, rate: str | None = None, delay_ms: float = 0.0):
        if cpus < 1:
            raise ConfigError(f"{cpus} CPUs on a node are not possible; allowed: 1 or more")
        missing = [
            name for name in DAEMONS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None
        ]
        if missing or os.geteuid():
            why = f"{', '.join(missing)} not found" if missing else "it needs root"
            raise LabError(f"no SLURM lab: {why}; as root: apt-get install -y --no-install-recommends slurm-wlm munge")
        self.network = NetworkLab(nodes, rate, delay_ms)
        try:
            self._start(cpus)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SlurmLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all jobs, daemons and the network."""
        self.network.close()

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on node1, where sbatch, squeue and srun know this SLURM."""
        variables = {"SLURM_CONF": CONF, "MPICOMP_CACHE_HOST": os.uname().nodename, **MPICH_BY_TCP}
        return self.network.spaces.command(["env", *(f"{k}={v}" for k, v in variables.items()), *argv], node=1)

    def _start(self, cpus: int) -> None:
        nodes, munge, shared = self.network.nodes, f"{HOME}/munge", f"{SHELF}/slurm"
        # a plugin is named so that slurmd looks for no cgroups, of which it uses none
        self._on(
            1,
            f"""
            mkdir {shared}; cd {shared}
            printf '%s' {shlex.quote(configuration(nodes, cpus))} >slurm.conf
            echo CgroupPlugin=cgroup/v1 >cgroup.conf
            mkdir munge; head -c 128 /dev/urandom >munge/key; chmod 600 munge/key
        """,
        )
        for k in range(1, nodes + 1):
            self._on(
                k,
                f"""
                cp -r {shared} {HOME}; mkdir {HOME}/state
                munged --force --num-threads=2 --key-file={munge}/key --socket={munge}/socket --pid-file={munge}/pid \\
                    --log-file={munge}/log --seed-file={munge}/seed
                {"slurmctld -i" if k == 1 else ""}
                slurmd -N node{k}
            """,
            )
        deadline = time.monotonic() + _PATIENCE
        while self._on(1, "sinfo -h -N -t idle -o %N").split() != [f"node{k}" for k in range(1, nodes + 1)]:
            if time.monotonic() > deadline:
                raise LabError(f"SLURM's nodes did not come up: {self._on(1, f'sinfo; tail -n 5 {HOME}/*.log')}")
            time.sleep(0.1)

    def _on(self, node: int, text: str) -> str:
        """Run a shell script on a node, with SLURM's configuration; returns what it printed."""
        enter = shlex.join(["/dev/shm/enter", f"node{node}"])
        script = f"set -e; export SLURM_CONF={CONF} PATH=$PATH:/usr/sbin:/sbin\n{text}"
        return self.network.spaces.script(f"{enter} {shlex.quote(script)}")
