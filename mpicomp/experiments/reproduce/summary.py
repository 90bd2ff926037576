"""The one table of all studies: paper × claim × verdict × effect ± error × seeds, from the records that `mpicomp reproduce` writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .effects import UNDECIDED, weakest
from .reproduction import Claim, Verdict, papers
from .seconds import WINNER_IN_TIME

TIMED = "seconds of one machine, one run"
HEADING = ("study", "claim", "verdict", "effect ± standard error, what the claim needs", "seeds")


def verdict_record(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    """A verdict for `verdicts.json`, plain values.

    Its "effect", "needs" and "seeds" are those of the effect that is nearest to what the claim needs, in standard errors; empty where the
    claim is about what repeats bit for bit.
    """
    nearest = weakest(verdict.effects)
    shown = {"effect": "", "needs": "", "seeds": 0}
    if nearest is not None:
        shown = {"effect": f"{nearest.name} {nearest.size()}".strip(), "needs": nearest.need(), "seeds": nearest.seeds}
    effects = [
        {
            "name": effect.name,
            "effect": effect.size(),
            "needs": effect.need(),
            "seeds": effect.seeds,
            "outcome": effect.outcome,
            "seeds_to_decide": f"{effect.seeds_to_decide:g}",
            "values": [f"{value:.6g}" for value in effect.values],
        }
        for effect in verdict.effects
    ]
    return {
        "claim": claim.name,
        "text": claim.text,
        "outcome": verdict.outcome,
        "numbers": verdict.numbers,
        "least_seeds": claim.least_seeds,
        **shown,
        "effects": effects,
    }


def record_without_runs(name: str, scale: str) -> dict[str, Any]:
    """The record of a study that was not run at a scale: every claim is undecided."""
    unknown = Verdict(UNDECIDED, "not run at this scale with the rules of these pages")
    study = papers[name]
    return {"study": name, "scale": scale, "verdicts": [verdict_record(claim, unknown) for claim in study.claims]}


def summary_rows(records: Iterable[dict[str, Any]]) -> list[list[str]]:
    """A row of HEADING for each verdict of the records."""
    rows = []
    for record in records:
        for verdict in record["verdicts"]:
            if verdict["effect"]:
                effect, seeds = f"{verdict['effect']} ({verdict['needs']})", str(verdict["seeds"] or "—")
            elif verdict["outcome"] == UNDECIDED:
                effect, seeds = verdict["numbers"], "—"
            else:
                effect, seeds = TIMED if verdict["claim"] == WINNER_IN_TIME else "repeats bit for bit", "—"
            rows.append([record["study"], verdict["text"], verdict["outcome"], effect, seeds])
    return rows


def markdown(rows: Iterable[Iterable[str]]) -> str:
    """The rows under HEADING as a Markdown table; the study is a link to its page, the verdict bold."""
    lines = ["| " + " | ".join(HEADING) + " |", "|" + "---|" * len(HEADING)]
    for study, text, outcome, effect, seeds in rows:
        cells = (f"[{study}]({study}.md)", text, f"**{outcome}**", effect, seeds)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
