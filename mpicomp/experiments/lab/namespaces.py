"""Nodes made of Linux namespaces: each has a network, host name, /etc/hosts, /dev/shm and SysV IPC of its own.

A lab is one process tree in a PID namespace. Its first process, the keeper, owns a network that only switches; below it one sleeping
process stands for each node. Nothing has a name outside: no entry in /run/netns, no interface of the machine, no file on a disk.
The keeper reads from a pipe that its owner holds; when the owner ends, by whatever way, the keeper reads the end of the pipe and ends
too, the kernel kills all processes of its PID namespace, and the networks go with them. So there are no stale labs to find.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..runtime import ConfigError, LabError

NETWORK = "10.77"
MAX_NODES = 250
SHELF = "/proc/1/root/dev/shm"  # the keeper's /dev/shm, as every process of the lab sees it
ENTER = f"{SHELF}/enter"  # stands for ssh: enter [OPTIONS] NODE COMMAND...
_NAME = "mpicomp-lab"
_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "mount": "mount"}
_PROGRAMS |= {"ip": "iproute2", "tc": "iproute2", "sh": "dash"}
_REMEDY = (
    "a lab needs root with CAP_SYS_ADMIN, or a kernel that lets users make namespaces of their own "
    "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0; "
    "in Docker: --privileged)"
)

# One node. /sys is mounted anew, so that /sys/class/net shows the node's interfaces; where that is forbidden the old one stays.
_NODE = f"""
mount -t tmpfs tmpfs /dev/shm
mkdir -m 1777 /dev/shm/tmp
cp {SHELF}/hosts /dev/shm/hosts
mount --bind /dev/shm/hosts /etc/hosts
rm /dev/shm/hosts
mount -t sysfs sysfs /sys 2>/dev/null || :
hostname "node$1"
echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6 || :
ip link set lo up
echo $$ >&3
exec sleep infinity </dev/null >/dev/null 2>&1 3>&-
"""

_WAIT = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); sys.stdin.read()"

# The keeper: $1 nodes, $2 the node's script, $3 the shelf's `enter`, $4 a Python. That waits for the end of the pipe, and as it ignores
# SIGCHLD, the kernel reaps the lab's orphans (a shell would not keep the signal ignored).
_KEEPER = f"""
mount -t tmpfs tmpfs /dev/shm
cd /dev/shm
echo 1 2>/dev/null >/proc/sys/net/ipv6/conf/default/disable_ipv6 || :
printf '%s\\n' "$3" >enter
chmod 755 enter
echo "127.0.0.1 localhost" >hosts
for k in $(seq "$1"); do echo "{NETWORK}.0.$k node$k" >>hosts; done
mkfifo up
exec 3<>up
for k in $(seq "$1"); do
    {{ unshare --net --uts --ipc --mount sh -ec "$2" node "$k" || echo failed >&3; }} &
    read -r pid <&3
    [ "$pid" != failed ]
    echo "$pid" >>nodes
done
exec 3>&-
rm up
echo ready
exec "$4" -ISc "{_WAIT}" "$0" >/dev/null 2>&1
"""

_ENTER = f"""#!/bin/sh
# stands for ssh: the rest of the line is a command for the node's shell
while [ "${{1#-}}" != "$1" ]; do shift; done
pid=$(sed -n "${{1#node}}p" {SHELF}/nodes)
shift
export TMPDIR=/dev/shm/tmp
exec nsenter --target "$pid" --net --uts --ipc --mount sh -c "$*"
"""


class Namespaces:
    """The namespaces of a running lab.

    Parameters
    ----------
    keeper : the process id of the lab's keeper; also the lab's name.
    own_user : the lab has a user namespace of its own, since a user without root made it.
    """

    def __init__(self, keeper: int, own_user: bool):
        self.keeper, self.own_user = keeper, own_user
        self.shelf = Path(f"/proc/{keeper}/root/dev/shm")
        self.nodes = [int(line) for line in (self.shelf / "nodes").read_text("utf-8").split()]

    @classmethod
    def start(cls, nodes: int, *, keep: bool = False) -> Namespaces:
        """Make a lab.

        Parameters
        ----------
        nodes : how many. keep : the lab outlives this process, until `close`; else it ends with it.

        Raises
        ------
        ConfigError : the number is not allowed. LabError : this machine or user cannot have a lab; with the remedy.
        """
        if not 1 <= nodes <= MAX_NODES:
            raise ConfigError(f"a lab of {nodes} nodes is not possible; allowed: 1 to {MAX_NODES}")
        require_programs()
        user = ["--user", "--map-root-user"] if os.geteuid() else []
        apart = ["--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--uts", "--ipc"]
        kind = "kept" if keep else f"owned-{os.getpid()}"
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [
                "unshare",
                *user,
                *apart,
                "sh",
                "-ec",
                _KEEPER,
                f"{_NAME}-{kind}",
                str(nodes),
                _NODE,
                _ENTER,
                sys.executable,
            ],
            stdin=read_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[write_end] if keep else [],
            start_new_session=True,  # Ctrl-C is for the owner
            env={**os.environ, "PATH": _path()},
        )
        os.close(read_end)
        if keep:
            os.close(write_end)
        assert process.stdout and process.stderr
        if process.stdout.readline() != b"ready\n":
            reason = process.stderr.read().decode().strip() or "no reason given"
            process.wait()
            raise LabError(f"no network lab: {reason}; {_REMEDY}")
        process.stdout.close()
        process.stderr.close()
        lab = cls(
            int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8", "replace")), bool(user)
        )
        lab._process, lab._pipe = process, None if keep else write_end
        return lab

    _process: subprocess.Popen[bytes] | None = None
    _pipe: int | None = None

    def close(self) -> None:
        """End all processes of the lab; its networks go with them."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def command(self, argv: Sequence[str], *, node: int = 0, alone: bool = False) -> list[str]:
        """The command that runs `argv` inside the lab, in the current directory.

        Parameters
        ----------
        node : on which node, from 1; 0 is the switch.
        alone : in a PID namespace of its own: killing the command, or the end of `argv`, ends all that it started, on every node.
        """
        user = ["--user", "--preserve-credentials"] if self.own_user else []
        inside = ["nsenter", f"--target={self.keeper}", *user, "--mount", "--net", "--uts", "--ipc", "--pid", "--"]
        if alone:
            inside += ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child"]
            inside += ["sh", "-c", '"$@"; exit $?', "run"]  # the shell, as first process, reaps what loses its parent
        if node:
            return [*inside, ENTER, f"node{node}", f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(argv)}"]
        return [*inside, *argv]

    def script(self, text: str) -> str:
        """Run a shell script on the switch; returns what it printed.

        Raises
        ------
        LabError : a command of it failed.
        """
        done = subprocess.run(
            self.command(["sh", "-e"]),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "PATH": _path()},
        )
        if done.returncode:
            raise LabError(f"the lab's network could not be set: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def running() -> Iterator[tuple[Namespaces, str]]:
    """Each lab of this machine that this user may enter, and who owns it: "kept" or "owned-PID"."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(argv) != 4 or argv[2] != _WAIT:
                continue
            status = (folder / "status").read_text("utf-8", "replace")
            inner = re.search(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)
            own_user = os.readlink(folder / "ns" / "user") != os.readlink("/proc/self/ns/user")
            if inner and inner.group(1) == "1":
                yield Namespaces(int(folder.name), own_user), argv[3].removeprefix(f"{_NAME}-")
        except OSError:  # it ended, or is another user's
            continue


def require_programs() -> None:
    """Check that this machine can be asked for a lab at all.

    Raises
    ------
    LabError : it is not Linux, or a program is missing; names the package.
    """
    if sys.platform != "linux":
        raise LabError(f"a network lab is made of Linux namespaces; this is {sys.platform}. Use a Linux machine or VM")
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        packages = " ".join(sorted({_PROGRAMS[name] for name in missing}))
        raise LabError(f"a network lab needs {', '.join(missing)}, not found on PATH; apt-get install {packages}")


def _path() -> str:
    """PATH with the directories of the system's programs, which a user's may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
