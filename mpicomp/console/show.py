"""What a person sees: progress while a run goes on, and tables at its end."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..cluster.clock import PHASES
from ..figures.labels import lone_label
from ..streams import live, rich_console, shown, spelt
from ..units import duration, rate, seconds, size

__all__ = ["PHASES", "Progress", "rate", "run_rows", "seconds", "show_byte_check", "show_run", "size", "table"]


class Progress:
    """Prints a line for an evaluation, at most one each half second; on a terminal the line is rewritten in place."""

    INTERVAL = 0.5

    def __init__(self, config: Any):
        facts = {
            "method": config.method_spec,
            "compressor": config.compressor or "",
            "downlink_compressor": config.downlink_compressor or "",
            "step": config.step,
            "seed": str(config.seed),
        }
        self.label, self.rounds = shown(lone_label(facts)), config.rounds
        self._next, self._live = 0.0, live(sys.stdout)
        self._first: tuple[int, float] | None = None  # round and moment of the first evaluation
        self._unseen: dict[str, Any] | None = None
        self._may_stop = config.tol > 0

    def __call__(self, row: dict[str, Any]) -> None:
        self._unseen = row
        if self._first is None:
            self._first = row["round"], time.monotonic()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.INTERVAL
            self._print(row)

    def finish(self) -> None:
        """The run is over: print the last evaluation, whenever it was."""
        if self._unseen is not None:
            self._print(self._unseen)
        if self._live:
            print()

    def _print(self, row: dict[str, Any]) -> None:
        self._unseen = None
        figures = (
            [f"loss {row['loss']:.6g}", f"‖∇f‖² {row['grad_norm_sq']:.2e}"]
            if row["loss"] is not None
            else _measures(row)
        )
        text = "  ".join(
            [
                f"{self.label:>10}  round {row['round']:>{len(str(self.rounds))}}/{self.rounds}", *figures,
                f"up {size(row['uplink_message'])}  down {size(row['downlink_message'])}  {row['seconds_total']:.1f} s",
                *self._left(row),
            ]
        )  # fmt: skip
        print(f"\r{text}\x1b[K" if self._live else text, end="" if self._live else "\n", flush=True)

    def _left(self, row: dict[str, Any]) -> list[str]:
        """How long the rounds that are left will take, at the speed so far; nothing at first, and after the last."""
        if self._first is None:
            return []
        done, took, left = row["round"] - self._first[0], time.monotonic() - self._first[1], self.rounds - row["round"]
        if done <= 0 or left <= 0 or took < self.INTERVAL:
            return []
        return [f"{'at most ' if self._may_stop else ''}{duration(took / done * left)} left"]


def _measures(row: dict[str, Any]) -> list[str]:
    """What a problem measured by itself: the columns between f and ‖∇f‖² and the bytes."""
    names = list(row)
    own = names[names.index("grad_norm_sq") + 1 : names.index("uplink_payload")]
    return [f"{shown(name)} {row[name]:.4g}" for name in own if row[name] is not None]


def table(title: str, header: list[str], rows: list[list[str]], text: bool = False) -> None:
    """Print a table; the first column is text, the others are figures unless `text`. Nothing in it is markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def plain(cell: str, style: str = "") -> Text:
        return Text(spelt(shown(cell)), style)

    body = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        body.add_column(plain(name), justify="left" if i == 0 or text else "right", overflow="fold")
    for row in rows:
        body.add_row(*map(plain, row))
    console = rich_console(sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(plain(title, "bold"), body, sep="\n")


def figure(value: float | None, digits: int) -> str:
    """A number, or that it was not evaluated.

    >>> figure(0.25, 4), figure(None, 4)
    ('0.25', 'not evaluated')
    """
    return "not evaluated" if value is None else f"{value:.{digits}g}"


def experimental_notes(config: Any) -> list[str]:
    """A line for the configuration's method and each of its compressors whose theory is marked experimental.

    Unknown names are passed over: the run itself refuses them, on all ranks at once.
    """
    from ..compressors import compressors
    from ..methods import methods

    if config.method not in methods:
        return []
    method = methods[config.method]
    specs = [config.compressor or method.default_compressor, config.downlink_compressor]
    reasons = {f"method {config.method!r}": method.experimental}
    for spec in filter(None, specs):
        if (name := spec.partition(":")[0]) in compressors:
            reasons[f"compressor {name!r}"] = compressors[name].experimental
    return [f"{what} is experimental: {why}" for what, why in reasons.items() if why]


_LEVELS = {"shared_memory": "in memory", "intra_node": "MPI, within nodes", "inter_node": "MPI, between nodes"}


def run_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of a run's table."""
    up, down, took = summary["bytes"]["uplink"], summary["bytes"]["downlink"], summary["seconds"]
    plain = f"{summary['method']} · {summary['compressor']}"  # results of an earlier version have no heading
    rows = [
        ("method", f"{summary.get('heading', plain)}"),
        ("problem", f"{summary['problem']} · {summary['data'] or '-'} · d = {summary['dim']}"),
        *([("regularisation λ", _regularization(summary))] if summary.get("reg") is not None else []),
        ("clients on ranks", f"{summary['clients']} on {summary['ranks']} ({summary['exchange']})"),
        ("step γ", f"{summary['step']:.6g}"),
        ("rounds", f"{summary['rounds']}"),
        ("loss", figure(summary["loss"], 9)),
        ("‖∇f‖²", figure(summary["grad_norm_sq"], 4)),
        *((name, figure(value, 4)) for name, value in summary.get("measures", {}).items()),
        ("bytes up (payload)", f"{size(up['message'])} ({size(up['payload'])})"),
        ("bytes down (payload)", f"{size(down['message'])} ({size(down['payload'])})"),
        ("bytes total", size(up["message"] + down["message"])),
        *((f"  {what}", size(up[level] + down[level])) for level, what in _LEVELS.items() if level in up),
        ("seconds in rounds", seconds(took["total"])),
        *((f"  {phase}", seconds(took[phase])) for phase in PHASES),
        (
            "round, median [95 %]",
            "{} [{}, {}]".format(*(seconds(took[f"round_median{end}"]) for end in ("", "_low", "_high"))),
        ),
        ("set-up, compiling", f"{seconds(took['setup'])}, {seconds(took['warmup'])}"),
        ("iterate sha256", summary["iterate_sha256"][:16]),
    ]
    if summary["diverged"]:
        rows.append(("stopped", f"diverged in round {summary['rounds']}"))
    elif summary["reached_tol"]:
        rows.append(("stopped", "‖∇f‖² reached --tol"))
    return rows


def _regularization(summary: dict[str, Any]) -> str:
    kind = summary.get("regularizer")
    return f"{summary['reg']:g}" + (f" ({kind})" if kind and summary["reg"] else "")


def show_byte_check(byte_check: dict[str, Any], traffic: dict[str, Any]) -> None:
    """The rounds' payload and messages, the MPI calls by purpose by ledger and byte_check, and the hosts' interfaces."""
    rows = []
    for direction, counts in traffic.items():
        for name in ("payload", "message"):
            rows.append([f"{direction} {name}", "", f"{counts[name]}", "", ""])
    rows.append(["downlink, each broadcast once", "", f"{traffic['downlink']['broadcast']}", "", ""])
    for purpose, function, calls, nbytes, counted_calls, counted in byte_check["rows"]:
        rows.append([f"{purpose} {function}", f"{calls}", f"{nbytes}", f"{counted_calls}", f"{counted}"])
    sums = [str(sum(row[k] for row in byte_check["rows"])) for k in range(2, 6)]
    rows.append(["all MPI", *sums])
    for host, moved in byte_check["interfaces"].items():
        for name, (received, sent) in moved.items():
            if received or sent:
                rows.append([f"{host} {name}, all programs", "", "", "in, out", f"{received}, {sent}"])
    table("Bytes", ["", "ledger calls", "ledger bytes", "calls counted", "bytes counted"], rows)
    for difference in byte_check["differences"]:
        print(f"mpicomp: {difference}", file=sys.stderr)
    print("ledger and MPI agree to the byte" if byte_check["equal"] else "mpicomp: ledger and MPI DIFFER")


def show_run(summary: dict[str, Any], out: str | None) -> None:
    """The table at the end of a run; seconds by phase are the largest of any rank."""
    table("Result", ["", summary["method"]], [list(row) for row in run_rows(summary)])
    if summary.get("exchange_choice"):
        print(f"--exchange auto chose {summary['exchange']}: {summary['exchange_choice']}")
    if out:
        print(f"results in {shown(out)}")
