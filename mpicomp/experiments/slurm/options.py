"""sbatch's own options: which there are, and how a value of one is written in a script's #SBATCH line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from ..runtime import ConfigError, unknown

# long names; those in the first group take a value, those in the second may have one behind =, those in the third have none
_VALUE = [
    "account", "acctg-freq", "array", "bb", "bbf", "begin", "burst-buffer", "chdir", "cluster-constraint", "clusters", "comment",
    "constraint", "container", "container-id", "core-spec", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task",
    "deadline", "delay-boot", "dependency", "distribution", "error", "exclude", "export", "export-file", "extra", "extra-node-info",
    "gid", "gpu-bind", "gpu-freq", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "gres-flags", "hint", "input",
    "job-name", "licenses", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus",
    "network", "nodefile", "nodelist", "nodes", "ntasks", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket",
    "open-mode", "output", "partition", "prefer", "priority", "profile", "qos", "reservation", "segment", "signal",
    "sockets-per-node", "switches", "thread-spec", "threads-per-core", "time", "time-min", "tmp", "tres-bind", "tres-per-task", "uid",
    "wait-all-nodes", "wckey",
]  # fmt: skip
_PERHAPS = [
    "exclusive", "get-user-env", "immediate", "nice", "no-kill", "oom-kill-step", "power", "propagate",
]  # fmt: skip
_NONE = [
    "contiguous", "hold", "ignore-pbs", "kill-on-invalid-dep", "no-requeue", "overcommit", "oversubscribe", "parsable", "quiet",
    "reboot", "requeue", "resv-ports", "spread-job", "stepmgr", "test-only", "use-min-nodes", "verbose", "wait",
]  # fmt: skip
SHORT = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "I": "immediate", "i": "input", "J": "job-name",
    "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit", "p": "partition",
    "Q": "quiet", "q": "qos", "S": "core-spec", "s": "oversubscribe", "t": "time", "v": "verbose", "W": "wait", "w": "nodelist",
    "x": "exclude",
}  # fmt: skip
_PLAIN = re.compile(r"[\w.,:;/%+@=^~?!$&|*()<>\[\]{}-]*", re.ASCII)
_HETEROGENEOUS = re.compile("(het|pack)(?=job)", re.IGNORECASE)


def taken(words: Sequence[str], ours: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """The options of sbatch among the words of a command line, as directives with whole names, and all other words in their order.

    Parameters
    ----------
    ours : options that a command has itself, as "--time" or "-t", each with whether it takes a value; they stay where they are.

    Raises
    ------
    ConfigError : an option that neither has; an option whose value is missing, or that takes none.

    >>> taken(["run", "--gres=gpu:1", "-w", "node1", "-N", "2", "a.toml"], ours={"-N": True})
    (['--gres=gpu:1', '--nodelist=node1'], ['run', '-N', '2', 'a.toml'])
    """
    directives, rest, left = [], [], list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            rest.append(word)
        elif name in ours or (not word.startswith("--") and word[:2] in ours):
            separate = ours.get(word, False) and left
            rest += [word, *([left.pop(0)] if separate else [])]
        else:
            if not word.startswith("--"):  # -w node1, -wnode1
                name, value = f"--{SHORT.get(word[1], word[1])}", word[2:]
                equals = "=" if value else ""
            directives.append(_directive(name.removeprefix("--"), equals, value, left, word))
    return directives, rest


def _directive(name: str, equals: str, value: str, left: list[str], word: str) -> str:
    if name in _VALUE:
        if not equals and not left:
            raise ConfigError(f"sbatch's option {word} needs a value, as --{name}=VALUE")
        return f"--{name}={value if equals else left.pop(0)}"
    if name in _NONE and equals:
        raise ConfigError(f"sbatch's option --{name} takes no value, but {value!r} was given")
    if name not in _NONE and name not in _PERHAPS:
        raise unknown(
            "option", word.partition("=")[0], [f"--{known}" for known in (*_VALUE, *_PERHAPS, *_NONE)], brief=True,
            where=": neither this command nor sbatch has it (options of what the job runs go behind --)",
        )  # fmt: skip
    return f"--{name}{equals}{value}"


def one_line(name: str, text: str) -> str:
    """The text, where it can stand in one line of a script.

    Raises
    ------
    ConfigError : it has a character that ends a line, or another control character.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp"):
            raise ConfigError(
                f"{name} {text!r} has the control character {character!r}; a batch script takes one line of text without any"
            )
    return text


def quoted(value: str) -> str:
    """A value as sbatch reads it in an #SBATCH line: it knows both quotes, takes a backslash before any character also within them, and
    ends at a #. Words that it takes for the border between the parts of a heterogeneous job are broken up by one.

    >>> quoted("cpu"), quoted('my "job" #1')
    ('cpu', '"my \\\\"job\\\\" #1"')
    """
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    escaped = _HETEROGENEOUS.sub(r"\1\\", escaped)
    return escaped if _PLAIN.fullmatch(value) and value else f'"{escaped}"'
