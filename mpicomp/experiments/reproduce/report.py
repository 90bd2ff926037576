"""From a study's name to its verdicts, files and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import __version__, csv_cell, unknown
from .drawing import have_matplotlib, save
from .evidence import Evidence
from .reproduction import SCALES, Claim, Reproduction, Verdict, papers
from .runner import ExperimentRunner
from .summary import markdown, summary_rows, verdict_record


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict.

    Attributes
    ----------
    expected : the outcome that is known for this scale, None where there is none.
    """

    claim: Claim
    verdict: Verdict
    expected: str | None

    @property
    def changed(self) -> bool:
        """The outcome is not the one that is known: the code, the study or the machine's arithmetic changed."""
        return self.expected is not None and self.expected != self.verdict.outcome


def reproduce(
    name: str,
    scale: str = "small",
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    ranks: int = 5,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Judged], Path]:
    """Run a study and write `verdicts.json`, `curves.csv`, `tables/*.csv` and, where matplotlib is installed, `figures/`.

    Parameters
    ----------
    name : of a study in `papers`. scale : one of SCALES. out : the directory, by default `runs/reproduce/NAME-SCALE`.
    data_dir, ranks, say : as for `ExperimentRunner`.

    Returns
    -------
    (the claims with their verdicts, the directory).

    Raises
    ------
    ConfigError, DataError : an unknown name or scale, a data set that is not here.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    study = papers[name]()
    runner = ExperimentRunner(out or Path("runs", "reproduce", f"{name}-{scale}"), data_dir, ranks, say)
    study.measure(runner, study.sizes[scale])
    judged = judge(study, runner.evidence, scale)
    write(study, scale, runner, judged)
    if have_matplotlib():
        save(study.figures, runner.evidence, runner.out / "figures")
    else:
        say("no figures without matplotlib: pip install 'mpicomp[plot]', then the same command again draws them")
    return judged, runner.out


def judge(study: Reproduction, evidence: Evidence, scale: str) -> list[Judged]:
    """All claims of a study."""
    return [Judged(claim, claim.verdict(evidence), claim.expected.get(scale)) for claim in study.claims]


def write(study: Reproduction, scale: str, runner: ExperimentRunner, judged: list[Judged]) -> None:
    """verdicts.json, curves.csv and tables/NAME.csv, from which everything can be told and drawn again."""
    evidence = runner.evidence
    verdicts: list[dict[str, Any]] = [
        {**verdict_record(j.claim, j.verdict), "expected": j.expected, "changed": j.changed} for j in judged
    ]
    record = {
        "study": study.name,
        "paper": study.paper,
        "scale": scale,
        "mpicomp": __version__,
        "verdicts": verdicts,
        "runs": {label: str(s.directory.relative_to(runner.out)) for label, s in evidence.curves.items()},
    }
    (runner.out / "verdicts.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    curves = [
        {"curve": label, "ranks": stored.summary["ranks"], "step": stored.summary["step"], **row}
        for label, stored in evidence.curves.items()
        for row in stored.rows
    ]
    _write_csv(runner.out / "curves.csv", curves)
    (runner.out / "tables").mkdir(exist_ok=True)
    for name, rows in evidence.tables.items():
        _write_csv(runner.out / "tables" / f"{name}.csv", rows)


def write_summary(directories: list[Path]) -> tuple[list[list[str]], Path]:
    """The verdicts of all the studies' directories in one table, written beside these as `verdicts.md`: its rows and its path."""
    rows = summary_rows(json.loads((directory / "verdicts.json").read_text("utf-8")) for directory in directories)
    path = directories[0].parent / "verdicts.md"
    path.write_text(markdown(rows) + "\n", "utf-8")
    return rows, path


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
