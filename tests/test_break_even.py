"""The break-even link of two sets of runs: by hand, and its interval against simulated runs whose true link is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpicomp.experiments.study.breakeven import break_even_of
from mpicomp.experiments.study.compare import LOCAL_PHASES, Stored


def run(work, nbytes: float, reach: int | None = None) -> Stored:
    """A run whose k-th block of rounds takes work[k] seconds and sends so many bytes up; ‖∇f‖² is 0 from row `reach` on."""
    total = np.concatenate([[0.0], np.cumsum(work)])
    reach = len(work) if reach is None else reach
    rows = [
        {
            "round": float(k), "grad_norm_sq": float(k < reach), "uplink_message": nbytes * k, "downlink_message": 0.0, "seconds_total": t,
            **{f"seconds_{phase}": t if phase == LOCAL_PHASES[0] else 0.0 for phase in LOCAL_PHASES},
        }
        for k, t in enumerate(total)
    ]  # fmt: skip
    return Stored(Path("run"), {}, rows)


def test_equal_blocks_leave_nothing_uncertain():
    few, many = run([2.0] * 10, 100.0), run([1.0] * 10, 300.0)
    found = break_even_of([few], [many], 0.5)
    assert found.speed == found.low == found.high == 8 * (3000 - 1000) / (20 - 10)


def test_only_what_was_needed_counts():
    late = run([2.0] * 10 + [99.0] * 5, 100.0, reach=10)
    assert break_even_of([late], [run([1.0] * 10, 300.0)], 0.5).high == 1600


def test_it_pays_nowhere_or_everywhere():
    dense = run([1.0] * 10, 100.0)
    assert break_even_of([run([2.0] * 10, 200.0)], [dense], 0.5).speed == 0
    assert break_even_of([run([0.5] * 10, 50.0)], [dense], 0.5).speed == np.inf


def test_few_blocks_give_no_interval():
    found = break_even_of([run([2.0] * 3, 1.0)], [run([1.0] * 10, 9.0)], 0.5)
    assert found.speed > 0 and not found.known


def test_seeds_widen_the_interval():
    many = [run([1.0] * 10, 300.0)]
    alike = break_even_of([run([2.0] * 10, 100.0)] * 3, many, 0.5)
    apart = break_even_of([run([s] * 10, 100.0) for s in (1.5, 2.0, 2.5)], many, 0.5)
    assert alike.low == alike.high == alike.speed == apart.speed and apart.low < apart.speed < apart.high


def test_the_interval_holds_the_true_link_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    true, held = 8 * (300 - 100) / (2.0 - 1.0), 0
    for _ in range(300):
        few, many = run(rng.gamma(4.0, 0.5, 40), 100.0), run(rng.gamma(4.0, 0.25, 40), 300.0)
        found = break_even_of([few], [many], 0.5)
        held += found.low <= true <= found.high
    assert 0.89 <= held / 300 <= 0.99  # percentile intervals of few samples are a little short
