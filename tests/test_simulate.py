"""Rounds replayed by SimGrid: against times that follow from the links by hand, and what the command says to wrong input.

Where SimGrid's `smpirun` is not installed the tests that need it are skipped; `scripts/simgrid` installs it.
"""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.cli import app
from mpicomp.cluster.trace import Call, read_call, read_trace
from mpicomp.errors import ConfigError, DataError, EnvironmentMismatch
from mpicomp.experiments.simulate import replay as replaying
from mpicomp.experiments.simulate.closed import closed_form
from mpicomp.experiments.simulate.lower import Lowering, messages_of_bcast
from mpicomp.experiments.simulate.plan import Planned, Where, replay_recorded
from mpicomp.experiments.simulate.platforms import WITHIN_DELAY, WITHIN_RATE, Platform
from mpicomp.experiments.simulate.recorder import Measured, Recorder
from mpicomp.runtime.config import Config

needs_simgrid = pytest.mark.skipif(
    shutil.which("smpirun") is None, reason="SimGrid is not installed; scripts/simgrid installs Debian's libsimgrid-dev"
)
STAR = Platform.of("star:1gbit", 0.01)
RATE, DELAY = 125e6, 1e-5  # bytes/s and seconds of that star


def command(*argv: str) -> None:
    app(["model", "simulate", *argv], standalone_mode=False)


CONFIG = Config(
    method="ef21", compressor="topk:k=50", problem="quadratic", problem_options={"dim": 2000, "reg": 0.1}, clients=8, rounds=5, step="0.01"
)  # fmt: skip


def rounds_of(*calls: Call) -> list[Call]:
    return [Call("round", "Round"), *calls, Call("round", "End")]


def say(function: str, peer: int = -1, **what: object) -> Call:
    return Call("round", function, peer, **what)  # type: ignore[arg-type]


def time_of(ranks: list[list[Call]], platform: Platform = STAR, nodes: list[int] | None = None) -> float:
    return replay_recorded(ranks, nodes or list(range(len(ranks))), platform)


# ---- collectives, as messages ---------------------------------------------------------------------------------------------
def moved(ranks: list[list[Call]]) -> tuple[np.ndarray, int]:
    """Bytes that go from each rank to each in a lowered trace, and how many messages; every message that is sent is received."""
    size, sent, received = len(ranks), {}, {}
    table = np.zeros((size, size))
    for rank, calls in enumerate(ranks):
        for line in Lowering(rank, size).play(calls).lines:
            own, word, *rest = line.split()
            assert int(own) == rank
            if word in ("send", "isend"):
                key = rank, int(rest[0]), int(rest[1])
                assert key not in sent
                sent[key] = int(rest[2])
                table[rank, int(rest[0])] += int(rest[2])
            elif word in ("recv", "irecv"):
                received[int(rest[0]), rank, int(rest[1])] = int(rest[2])
    assert sent.keys() == received.keys()
    assert all(received[key] == max(nbytes, 1) for key, nbytes in sent.items())
    return table, len(sent)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 12, 16])
@pytest.mark.parametrize("nbytes", [0, 5, 5000, 20_011, 600_000])
def test_a_broadcast_reaches_everybody_whole(size, nbytes):
    """Everybody but the root receives at least the bytes, by the fewest messages that the algorithm has; a receive takes what was sent."""
    table, messages = moved([rounds_of(say("Bcast", 0, nbytes=nbytes))] * size)
    assert np.all(table.sum(axis=0)[1:] >= nbytes)
    assert table.sum() < 2.5 * size * nbytes + 1
    assert messages == messages_of_bcast(nbytes, size)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
@pytest.mark.parametrize("nbytes", [8, 2048, 100_000])
def test_a_sum_moves_what_the_model_says(size, nbytes):
    """Recursive doubling moves b log₂ Q into each of the Q ranks, halving and doubling 2 b (Q−1)/Q; ranks beyond Q hand over and get b."""
    table, _ = moved([rounds_of(say("Allreduce", nbytes=nbytes))] * size)
    full = 2 ** int(math.log2(size))
    inner = nbytes * math.log2(full) if nbytes <= 2048 else 2 * nbytes * (full - 1) / full
    assert table.sum() == pytest.approx(full * inner + 2 * (size - full) * nbytes, abs=4 * size * 8)


@pytest.mark.parametrize("size", [2, 5, 8])
def test_gathers_scatters_and_barriers(size):
    table, messages = moved([rounds_of(say("Gather", 0, nbytes=8))] * size)
    assert messages == size - 1 and table[:, 0].sum() >= 8 * math.ceil(math.log2(size))
    counts = tuple(10 * r for r in range(size))
    up = [rounds_of(say("Gatherv", 0, nbytes=counts[r], counts=counts if r == 0 else ())) for r in range(size)]
    assert moved(up)[0][:, 0].tolist() == list(counts)
    down = [
        rounds_of(say("Scatterv", 0, nbytes=sum(counts) if r == 0 else counts[r], counts=counts if r == 0 else ()))
        for r in range(size)
    ]
    assert moved(down)[0][0].tolist() == list(counts)
    assert moved([rounds_of(say("Barrier"))] * size)[1] == size * math.ceil(math.log2(size))


# ---- the simulator ----------------------------------------------------------------------------------------------------------
@needs_simgrid
def test_one_message_takes_its_bytes_and_the_delay():
    n = 1_000_000
    send = [say("Isend", 1, nbytes=n, request=0, seconds=0.002), say("Wait", request=0)]
    recv = [say("Irecv", 0, request=0), say("Wait", nbytes=n, request=0)]
    assert time_of([rounds_of(*send), rounds_of(*recv)]) == pytest.approx(0.002 + n / RATE + DELAY, rel=1e-3)
    within = time_of([rounds_of(*send), rounds_of(*recv)], nodes=[0, 0])
    assert within == pytest.approx(0.002 + n / WITHIN_RATE + WITHIN_DELAY, rel=1e-3)


@needs_simgrid
def test_messages_to_one_node_share_its_link_and_both_ways_do_not():
    n, workers = 500_000, 4
    server = [say("Irecv", r, request=r) for r in range(1, workers + 1)]
    server += [say("Wait", nbytes=n, request=r) for r in range(1, workers + 1)]
    worker = [say("Isend", 0, nbytes=n, request=0), say("Wait", request=0)]
    time = time_of([rounds_of(*server), *[rounds_of(*worker)] * workers])
    assert time == pytest.approx(workers * n / RATE + DELAY, rel=1e-2)
    both = [
        rounds_of(
            say("Irecv", 1 - r, request=0), say("Isend", 1 - r, nbytes=n, request=1), say("Wait", nbytes=n, request=0),
            say("Wait", request=1),
        )
        for r in range(2)
    ]  # fmt: skip
    assert time_of(both) == pytest.approx(n / RATE + DELAY, rel=1e-2)


@needs_simgrid
@pytest.mark.parametrize("exchange", shortened(["p2p", "collective", "sharded"], 1, "another exchange"))
def test_the_closed_form_agrees_on_a_star(exchange):
    """Where the links take most of the time, two independent models of a round agree within 15 %."""
    config = Config(
        method="gd", problem="quadratic", problem_options={"dim": 4000, "reg": 0.1}, clients=8, rounds=5, step="0.01"
    )
    planned = Planned.of(Recorder(config, 2), exchange, Where(16, 1, 1e-6))
    slow = Platform.of("star:20mbit", 0.01)
    formula = closed_form(planned, slow)
    assert formula == pytest.approx(planned.simulate(slow), rel=0.15)


@needs_simgrid
@pytest.mark.full(reason="four simulations of sixteen ranks, and the star's tests are in the quick lane")
def test_oversubscription_costs_time_and_leaders_save_it():
    """A broadcast by a ring crosses a switch's few uplinks once; parts to and from everybody cross them all the time."""
    config = Config(
        method="gd", problem="quadratic", problem_options={"dim": 20_000, "reg": 0.1}, clients=16, rounds=5, step="0.01"
    )
    recorder = Recorder(config, 1)
    planned = Planned.of(recorder, "sharded", Where(16, 1))
    free, narrow = (planned.simulate(Platform.of(f"fat-tree:100mbit:4:{over}", 0.001)) for over in (1, 4))
    assert narrow > 2 * free
    star = [
        Planned.of(recorder, e, Where(4, 4)).simulate(Platform.of("star:100mbit", 0.001))
        for e in ("p2p", "hierarchical")
    ]
    assert star[1] < 0.75 * star[0]


@needs_simgrid
def test_the_command_tables_and_keeps_the_files(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.to_toml())
    argv = [str(path), "--nodes", "3,5", "--exchange", "p2p,allreduce", "--rounds", "2", "--keep", str(tmp_path / "k")]
    command(*argv, "--json")
    found = json.loads(capsys.readouterr().out)
    rows = {(row["exchange"], row["nodes"]): row for row in found["rows"]}
    assert "cannot carry" in rows["allreduce", 3]["refused"]
    row = rows["p2p", 5]
    assert row["ranks"] == 5 and row["messages"] == 8 and row["simulated"] > 0
    lines = (tmp_path / "k" / "p2p-5" / "ranks.trace").read_text().splitlines()
    sent = sum(int(line.split()[-1]) for line in lines if " isend " in line)
    result = mc.run(CONFIG, rounds=4)
    assert found["simgrid"].startswith("SimGrid version") and sent > 0
    # a message of top-k has k values and their indices, the same in every round; the broadcast is dense
    up = result.summary["bytes"]["uplink"]["payload"] / 4
    assert sent == pytest.approx(2 * (up + 4 * 16 + 4 * (8 * 2000 + 16)), rel=0.02)
    command(*argv)
    assert "A round on star" in capsys.readouterr().out


@needs_simgrid
def test_a_directory_of_a_run_gives_its_seconds(tmp_path):
    mc.run(CONFIG, out=str(tmp_path / "run"))
    measured = Measured.of(tmp_path / "run")
    recorder = Recorder(CONFIG, 2, measured=Measured(7.0, measured.encode, measured.decode, 3.0))
    round = recorder.rounds("p2p", 3)[0]
    assert round.compute == 7.0 and round.step == 3.0
    planned = Planned.of(recorder, "p2p", Where(3, 1), clients=2)
    assert planned.simulate(STAR) == pytest.approx(10.0, rel=0.01)


# ---- what is refused ----------------------------------------------------------------------------------------------------------
def test_a_missing_simgrid_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(replaying.shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentMismatch, match=r"smpirun, not found on PATH; apt-get install libsimgrid-dev"):
        replaying.program()
    with pytest.raises(EnvironmentMismatch, match="libsimgrid-dev"):
        command(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["star", "star:", "star:fast", "fat-tree:1gbit:0", "fat-tree:1gbit:5:2", "ring:1gbit", "star:1gbit:3", "none.xml"],
)
def test_platforms_that_are_none(text):
    with pytest.raises(ConfigError):
        Platform.of(text, 0.001)


def test_a_platform_of_ones_own_gives_its_hosts(tmp_path):
    path = tmp_path / "p.xml"
    path.write_text(
        '<platform version="4.1"><cluster id="c" prefix="n" suffix="x" radical="0-2,7"/><host id="h"/></platform>'
    )
    platform = Platform.of(str(path), 0.0)
    assert platform.hosts(4) == ["h", "n0x", "n1x", "n2x"]
    with pytest.raises(ConfigError, match="has 5 hosts, and 6 nodes"):
        platform.hosts(6)
    path.write_text("no platform")
    with pytest.raises(ConfigError, match="is no SimGrid platform"):
        platform.hosts(1)


def test_places_and_exchanges_that_cannot_be():
    recorder = Recorder(CONFIG, 1)
    with pytest.raises(ConfigError, match="at least two ranks"):
        Where(1, 1)
    with pytest.raises(ConfigError, match="nobody has written down the calls"):
        Planned.of(recorder, "mine", Where(2, 1))
    with pytest.raises(ConfigError, match="cannot carry this method's messages"):
        Planned.of(recorder, "allreduce", Where(2, 1))
    with pytest.raises(ConfigError, match="messages in these rounds, more than"):
        Planned.of(recorder, "sharded", Where(4096, 1))
    with pytest.raises(ConfigError, match="4 clients cannot be spread over 7 workers"):
        Planned.of(recorder, "p2p", Where(8, 1), clients=4)


def test_clients_beyond_the_recorded_ones_repeat_them():
    """Top-k's messages keep their length; Perm-K's shrink as the clients share the coordinates among more."""
    recorder = Recorder(CONFIG, 1)
    gather = Planned.of(recorder, "p2p", Where(30, 1)).rounds[0].operations[0]
    few = recorder.rounds("p2p", 4)[0].operations[0]
    assert len(gather.lengths) == 29 and gather.lengths.tolist() == [few.lengths[i % 8] for i in range(29)]
    shared = Config(
        **{**vars(CONFIG), "method": "marina", "method_options": {"p": 1e-9}, "compressor": "permk", "step": "0.001"}
    )
    recorder = Recorder(shared, 1)
    gather = Planned.of(recorder, "p2p", Where(41, 1)).rounds[0].operations[0]
    assert gather.lengths.max() == mc.compressor("permk").bind(2000, 40, "float64").max_nbytes


def test_traces_that_are_damaged(tmp_path):
    with pytest.raises(DataError, match="has no trace"):
        read_trace(tmp_path)
    (tmp_path / "trace.json").write_text('{"ranks": 1, "nodes": [0], "round_seconds": []}')
    (tmp_path / "rank-00000.trace").write_text("round Isend 1 1 8 0 0.5 -\nround Bang 1 1 8 0 0.5 -\n")
    with pytest.raises(DataError, match=r"line 2, is no call of a trace"):
        read_trace(tmp_path)
    for line in ("round Isend 1 1 -8 0 0.5 -", "round Isend 1 1 8 0 nan -", "round Isend 1"):
        with pytest.raises(ValueError):
            read_call(line)
    (tmp_path / "rank-00000.trace").write_text("")
    with pytest.raises(DataError, match="no round"):
        replay_recorded(read_trace(tmp_path)[1], [0], STAR)
    (tmp_path / "trace.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "in one process: nothing goes through MPI"),
        ({"verify_bytes": True}, "cannot go together"),
        ({"on_failure": "continue"}, "cannot go together"),
    ],
)
def test_runs_that_cannot_be_traced(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        mc.run(problem="quadratic", problem_options={"dim": 4}, clients=2, rounds=1, trace=str(tmp_path), **options)


@needs_simgrid
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["."], "neither a run's directory nor a trace"),
        (["none.toml"], "cannot read the configuration"),
        ([".", "--rounds", "0"], "must be positive"),
        ([".", "--nodes", "many"], "neither a run's directory nor a trace"),
    ],
)
def test_wrong_numbers_and_sources(argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        command(*argv)
