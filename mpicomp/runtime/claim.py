"""One run at a time in a directory of results: a lock that says who holds it, and is known to be stale once that process has ended."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from ..errors import ConfigError, UserError
from .files import read_plain

LOCK = "run.lock"
ATTEMPTS = 20
SCHEDULER_SECONDS = 20.0
_LIVE = (
    "PENDING",
    "RUNNING",
    "SUSPENDED",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
    "STOPPED",
    "STAGE_OUT",
)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes
    ----------
    host, pid : where, and its number there. born : when it was started, in the kernel's ticks.
    machine, boot, space : of the host: its id, that of its last start, and the process's PID namespace.
    job, requeued : number of its SLURM job, and how often that had been put back into the queue.
    since : when the lock was taken. token : unique.
    """

    host: str
    pid: int
    born: str = ""
    machine: str = ""
    boot: str = ""
    space: str = ""
    job: str = ""
    requeued: int = 0
    since: str = ""
    token: str = ""

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        job, count = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            platform.node(),
            os.getpid(),
            (_state(os.getpid()) or ("", ""))[1],
            *_kernel(),
            job,
            int(count) if count.isdigit() else 0,
            datetime.now(UTC).isoformat(timespec="seconds"),
            uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """The holder that a lock names; None where there is no lock.

        Raises
        ------
        ConfigError : the file is not a lock.
        """
        try:
            found = cls(**json.loads(read_plain(path)))
            if any(type(getattr(found, f.name)).__name__ != f.type for f in fields(cls)) or found.pid < 1:
                raise ValueError("a value has another type")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; remove it where no run uses {path.parent}") from None
        except (ValueError, TypeError, RecursionError):
            raise ConfigError(
                f"{path} is not a lock that mpicomp wrote; remove it where no run uses {path.parent}"
            ) from None
        return found

    def has_ended(self) -> bool:
        """The process is no more, as far as that can be known here: by its number on this host, by a restart of the host, by SLURM."""
        here = Holder.here()
        if (self.boot, self.space) == (here.boot, here.space) and (here.boot or self.host == here.host):
            return not _lives(self.pid, self.born)
        if (self.host, self.machine) == (here.host, here.machine) and self.machine and self.boot != here.boot:
            return True
        if self.job and self.job == here.job:
            return self.requeued < here.requeued
        return bool(self.job) and _job_is_over(self.job)

    def __str__(self) -> str:
        job = f" in SLURM job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class Claim:
    """The lock of a directory, from `take` until the end of the context.

    Parameters
    ----------
    path : of the lock; None for none. who : holds it, where it is refused.
    shared : other ranks depend on this process. After an error that they may not see, the job is about to be ended, and no file system is
        asked for anything more; the lock is then stale.
    """

    def __init__(self, path: Path | None, who: str = "another run", shared: bool = False):
        self.path, self._who, self._shared = path, who, shared
        self._mine: Holder | None = None

    def take(self) -> bool:
        """Take the lock; False where this claim has it already.

        Raises
        ------
        ConfigError : a process that lives, or may live, has it; or the directory cannot be written.
        """
        if self.path is None or self._mine is not None:
            return False
        mine = Holder.here()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                if _create(self.path, mine):
                    self._mine = mine
                    return True
                holder = Holder.read(self.path)
                if holder is not None and not holder.has_ended():
                    raise ConfigError(
                        f"{self.path.parent} is in use by {self._who} ({holder}): wait for it, or choose another «out»; where that process "
                        f"is gone, remove {self.path}"
                    )
                if holder is not None:
                    _remove(self.path, holder)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ConfigError(
                f"cannot write results to {self.path.parent}: {error.strerror}; {'free some space or ' * full}choose another «out»"
            ) from None
        raise ConfigError(f"{self.path} changes hands all the time; give each run an «out» of its own")

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        alike = kind is None or issubclass(kind, UserError)
        if self.path is not None and self._mine is not None and (alike or not self._shared):
            with suppress(OSError, ConfigError):
                _remove(self.path, self._mine)
            self._mine = None


def _create(path: Path, mine: Holder) -> bool:
    """Make the lock, with its content from the first moment on; False where there is one."""
    text = json.dumps(asdict(mine), indent=1) + "\n"
    part = path.with_name(f".{path.name}-{mine.token}")
    try:
        part.write_text(text, "utf-8")
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        return True
    finally:
        part.unlink(missing_ok=True)


def _remove(path: Path, holder: Holder) -> None:
    """Remove the lock of this holder, and no other one that has been put in its place meanwhile."""
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    found = Holder.read(aside)
    if found is not None and found.token != holder.token:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _lives(pid: int, born: str) -> bool:
    """There is a process of this number, started at that time, which is not just waiting to be buried."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    state = _state(pid)
    return state is None or (state[0] not in "ZX" and born in ("", state[1]))


def _state(pid: int) -> tuple[str, str] | None:
    """(state, start in ticks) of a process; None where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return None


@cache
def _kernel() -> tuple[str, str, str]:
    """(machine, boot, space) of this process; empty where the system does not tell."""
    found = []
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        try:
            found.append(Path(path).read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError):
            found.append("")
    try:
        found.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        found.append("")
    return found[0], found[1], found[2]


def _job_is_over(job: str) -> bool:
    """SLURM says that it has no such job any more; False where it cannot be asked."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SCHEDULER_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return False
    if done.returncode:
        return "Invalid job id" in done.stderr
    return not any(state.startswith(_LIVE) for state in done.stdout.split())
