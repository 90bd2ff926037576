"""The ledger against witnesses below it: what mpicomp says it handed to MPI is what MPI was handed, to the byte.

With any MPI that brings a compiler wrapper, the PMPI library of `--verify-bytes` (`cluster/pmpi`) counts calls and bytes by function, for
each run and purpose apart; with Open MPI, the library's own monitoring counts what was sent from whom to whom.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lanes import shortened

import mpicomp as mc
from mpicomp.cluster import byte_check
from mpicomp.errors import EnvironmentMismatch
from mpicomp.kernels.cache import cache_directory

RANKS = 4
EXCHANGES = ("p2p", "collective")
PURPOSES = ("setup", "round", "evaluation")

# every mechanism; messages of fixed and of changing length; broadcast and scatter; both precisions
METHODS: list[dict[str, Any]] = [
    {"method": "gd", "compressor": "identity", "wire_dtype": "float32"},
    {"method": "diana", "compressor": "randk:k=4"},
    {"method": "ef21", "compressor": "topk:k=3"},
    {"method": "ef21-p", "compressor": "topk:k=3"},
    {"method": "marina", "compressor": "permk"},
    {"method": "marina-p", "compressor": "permk"},
    {"method": "marina-p", "compressor": "randk:k=4,mask=shared", "eval_every": 1, "tol": 1e-3},
]
COMMON: dict[str, Any] = {
    "problem": "quadratic", "problem_options": {"dim": 43, "noise": 0.5, "reg": 0.01}, "clients": 10, "rounds": 15,
    "step": 0.02, "init": "normal:3", "eval_every": 7, "allow_unsafe": True,
}  # fmt: skip
RUNS = [{**COMMON, **method, "exchange": exchange} for method in METHODS for exchange in EXCHANGES]

SCRIPT = """
import ctypes, json, sys
from pathlib import Path
from mpi4py import MPI
import mpicomp as mc
import mpicomp.runtime.loop as loop

purposes, kept = [], []
witness = getattr(ctypes.CDLL(None), "pmpicount_purpose", lambda number: None)

class Verified(loop.Comm):
    "Tells the PMPI library each change of purpose."
    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "purpose":
            key = (len(kept), value)
            if key not in purposes:
                purposes.append(key)
            witness(purposes.index(key))

loop.Comm = Verified
out, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
for options in runs:
    ledgers = []
    class Kept(Verified):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            ledgers.append(self.ledger)
    loop.Comm = Kept
    result = mc.run(comm=MPI.COMM_WORLD, **options)
    (ledger,) = ledgers
    kept.append({
        "functions": [[purpose, function, *count] for (purpose, function), count in sorted(ledger.functions.items())],
        "bytes": result.summary.get("bytes"),
        "manifest": [rank["mpi_calls"] for rank in result.manifest.get("ranks", [])],
    })
(out / f"ledger.{MPI.COMM_WORLD.rank}").write_text(json.dumps({"runs": kept, "purposes": purposes}))
"""

Counts = dict[tuple[str, str], list[int]]


def run_all(mpi: Any, directory: Path, runs: list[dict[str, Any]], **how: Any) -> list[list[dict[str, Any]]]:
    """The ledgers of the runs, [rank][run], with their counts under "functions" by (purpose, function)."""
    (directory / "runs.py").write_text(SCRIPT)
    mpi.run(RANKS, [directory / "runs.py", directory, json.dumps(runs)], timeout=90, **how).check()
    ledgers = []
    for rank in range(RANKS):
        stored = json.loads((directory / f"ledger.{rank}").read_text())
        for run in stored["runs"]:
            run["functions"] = {(purpose, function): count for purpose, function, *count in run["functions"]}
        ledgers.append(stored["runs"])
    return ledgers


def pmpi_counts(directory: Path) -> list[list[Counts]]:
    """What the PMPI library wrote, in the same form."""
    counts = []
    for rank in range(RANKS):
        stored = json.loads((directory / f"ledger.{rank}").read_text())
        runs: list[Counts] = [{} for _ in stored["runs"]]
        for line in (directory / f"count.{rank}").read_text().splitlines():
            number, function, calls, nbytes = line.split()
            run, purpose = stored["purposes"][int(number)]
            runs[run][purpose, function] = [int(calls), int(nbytes)]
        counts.append(runs)
    return counts


def bytes_of(counts: Counts, *functions: str, purpose: str = "round") -> int:
    return sum(nbytes for (why, name), (_, nbytes) in counts.items() if why == purpose and name in functions)


def build(mpi: Any) -> Path:
    """The PMPI library for an MPI, built with the compiler wrapper beside its Python."""
    try:
        return byte_check.build(mpi.python, mpi.is_open_mpi)
    except EnvironmentMismatch as error:
        pytest.skip(str(error))


@pytest.mark.process
def test_ledger_equals_a_pmpi_count(each_mpi, tmp_path):
    library = build(each_mpi)
    before = ["env", f"LD_PRELOAD={library}", f"PMPICOUNT={tmp_path / 'count'}"]
    ledgers = run_all(each_mpi, tmp_path, RUNS, before=before)
    counted = pmpi_counts(tmp_path)
    for index, options in enumerate(RUNS):
        what = f"{options['method']} {options['compressor']} {options['exchange']}"
        for rank in range(RANKS):
            assert ledgers[rank][index]["functions"] == counted[rank][index], f"{what}, rank {rank}"
        counts = [counted[rank][index] for rank in range(RANKS)]
        traffic, manifest = ledgers[0][index]["bytes"], ledgers[0][index]["manifest"]
        # the files of the results say the same of the rounds
        for rank in range(RANKS):
            written = {
                tuple(name.split(" ")): count for name, count in manifest[rank].items() if name.startswith("round")
            }
            assert written == {key: count for key, count in counts[rank].items() if key[0] == "round"}, what
        workers = sum(bytes_of(c, "Isend", "Send", "Gather", "Gatherv") for c in counts[1:])
        server = bytes_of(counts[0], "Isend", "Send", "Bcast", "Scatterv")
        assert traffic["uplink"]["message"] == workers, what
        assert traffic["downlink"]["message" if options["exchange"] == "p2p" else "broadcast"] == server, what
        assert min(workers, server) > 0


def monitored(directory: Path, kind: str) -> list[list[int]]:
    """Bytes that Open MPI's monitoring saw go from each rank to each: "E" by point-to-point calls, "C" by collectives."""
    sent = [[0] * RANKS for _ in range(RANKS)]
    for rank in range(RANKS):
        for line in (directory / f"monitor.{rank}.prof").read_text().splitlines():
            if line.startswith(f"{kind}\t"):
                source, destination, amount = line.split("\t")[1:4]
                sent[int(source)][int(destination)] += int(amount.split()[0])
    return sent


@pytest.mark.process
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ledger_equals_open_mpis_monitoring(open_mpi, exchange, tmp_path):
    settings = {"enable": "2", "enable_output": "3", "filename": str(tmp_path / "monitor")}
    extra = [word for key, value in settings.items() for word in ("--mca", f"pml_monitoring_{key}", value)]
    ledgers = run_all(open_mpi, tmp_path, [run for run in RUNS if run["exchange"] == exchange], extra=extra)

    def handed(rank: int, *functions: str) -> int:
        return sum(bytes_of(run["functions"], *functions, purpose=why) for run in ledgers[rank] for why in PURPOSES)

    assert {why for runs in ledgers for run in runs for why, _ in run["functions"]} == set(PURPOSES)
    point_to_point = monitored(tmp_path, "E")
    assert [sum(row) for row in point_to_point] == [handed(rank, "Send", "Isend") for rank in range(RANKS)]
    # From the root, monitoring counts a broadcast once for each receiver, and a gather too, as the root takes part in it.
    # What synchronises (barriers, Dup, Split) is the same in all directions.
    collective = monitored(tmp_path, "C")
    from_root = sum(collective[0][rank] - collective[rank][0] for rank in range(1, RANKS))
    gathered = sum(handed(rank, "Gather", "Gatherv") for rank in range(1, RANKS))
    assert from_root == (RANKS - 1) * handed(0, "Bcast") + handed(0, "Scatterv") + gathered > 0


# ---- mpicomp run --verify-bytes -----------------------------------------------------------------------------------------
RUN = ["run", "-q", "--no-table", "--verify-bytes", "--rounds", "12", "--clients", "6", "--step", "0.1"]
LYING = """
import sys
from mpicomp.cluster.ledger import Ledger
from mpicomp.cli import main
true = Ledger.handed
Ledger.handed = lambda self, purpose, function, nbytes: true(
    self, purpose, function, nbytes + (purpose == "round" and function == "Isend" and self.functions[purpose, function][0] == 3))
main()
"""


@pytest.mark.night
@pytest.mark.process
@pytest.mark.parametrize("exchange", shortened(["p2p", "hierarchical", "collective", "sharded"], 2, "another exchange"))
def test_verify_bytes(each_mpi, exchange):
    build(each_mpi)
    argv = ["-m", "mpicomp", *RUN, "--exchange", exchange, "--method", "marina-p", "--compressor", "permk"]
    job = each_mpi.run(RANKS, argv, NO_COLOR="1").check()
    assert "ledger and MPI agree to the byte" in job.out
    (total,) = re.findall(r"all MPI +(\d+) +(\d+) +(\d+) +(\d+)", job.out)
    assert total[:2] == total[2:] and int(total[1]) > 10_000


@pytest.mark.process
def test_verify_bytes_finds_one_byte(mpi, tmp_path):
    build(mpi)
    (tmp_path / "lying.py").write_text(LYING)
    job = mpi.run(RANKS, [tmp_path / "lying.py", *RUN])
    assert job.code == 1 and "DIFFER" in job.out
    assert sorted(re.findall(r"rank (\d), round Isend: the ledger has", job.err)) == ["0", "1", "2", "3"]


@pytest.mark.full(reason="a message")
@pytest.mark.process
def test_verify_bytes_without_a_compiler_says_what_is_missing(mpi, tmp_path):
    job = mpi.run(2, ["-m", "mpicomp", *RUN], PATH="/nowhere", XDG_CACHE_HOME=str(tmp_path))
    assert job.code != 0 and "needs a C compiler and the MPI headers" in job.err and "Traceback" not in job.err


NOWHERE = ("/usr/bin/env", "PATH=/nowhere")  # no compiler


def fresh(directory: Path) -> dict[str, str]:
    """A cache without a PMPI library, but with the kernels of this Python's."""
    (directory / "mpicomp").mkdir(parents=True)
    (directory / "mpicomp" / "numba").symlink_to(cache_directory().parents[1])
    return {"XDG_CACHE_HOME": str(directory)}


@pytest.mark.night
@pytest.mark.process
def test_verify_bytes_without_a_compiler_reads_open_mpis_monitoring(open_mpi, tmp_path):
    cache = fresh(tmp_path)
    before = ["/usr/bin/env", "PATH=/nowhere"]
    job = open_mpi.run(
        RANKS, ["-m", "mpicomp", *RUN], before=before, timeout=120, TERM="xterm", NO_COLOR="1", COLUMNS="200", **cache
    ).check()
    assert job.err.count("needs a C compiler") == 1 and "counting with Open MPI's own monitoring instead" in job.err
    assert "ledger and MPI agree to the byte" in job.out and re.search(
        r"round point to point +(\d+) +(\d+) +\1 +\2 ", job.out
    )


MONITORED = """
import json, sys
from mpi4py import MPI
import mpicomp as mc
from mpicomp.cluster.ledger import Ledger

true, said = Ledger.handed, []
for number, (exchange, wrong) in enumerate(json.loads(sys.argv[2])):
    def handed(self, purpose, function, nbytes):
        true(self, purpose, function, nbytes + (purpose == "round" and function == wrong and self.functions[purpose, function][0] == 3))
    Ledger.handed = handed
    result = mc.run(comm=MPI.COMM_WORLD, problem="quadratic", method="marina-p", compressor="permk", clients=6, rounds=12, step="0.1",
                    exchange=exchange, verify_bytes=True, out=f"{sys.argv[1]}/{number}", checkpoint_every=5)
    said.append([result.byte_check, result.summary and result.summary["bytes"]])
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(said))
"""


@pytest.mark.night
@pytest.mark.process
def test_open_mpis_monitoring_as_the_witness(open_mpi, tmp_path):
    """Every exchange agrees to the byte, with what is summed over the ranks too; a byte too many in the ledger is found where it is."""
    true = ("p2p", "collective", "sharded", "hierarchical")
    wrong = {
        "Isend": ("p2p", "point to point"),
        "Gatherv": ("collective", "all to one"),
        "Scatterv": ("collective", "one to all"),
    }
    cases = [(exchange, None) for exchange in true] + [
        (exchange, function) for function, (exchange, _) in wrong.items()
    ]
    (tmp_path / "monitored.py").write_text(MONITORED)
    settings = {"OMPI_MCA_pml_monitoring_enable": "2", "OMPI_MCA_osc": "^monitoring"}
    job = open_mpi.run(RANKS, [tmp_path / "monitored.py", tmp_path, json.dumps(cases)], timeout=120, **settings).check()
    said = json.loads(job.out.splitlines()[-1])
    for exchange, (found, traffic) in zip(true, said, strict=False):
        assert found["equal"] and not found["differences"], exchange
        counted = {kind: nbytes for purpose, kind, *_, nbytes in found["rows"] if purpose == "round"}
        kinds = {"all to one", "one to all"} if exchange == "collective" else {"point to point"}
        assert set(counted) == kinds and {row[0] for row in found["rows"]} == {*PURPOSES, "checkpoint"}, exchange
        if exchange in EXCHANGES:
            assert sum(counted.values()) == traffic["uplink"]["message"] + traffic["downlink"]["message"]
    for (_, kind), (found, _) in zip(wrong.values(), said[len(true) :], strict=True):
        who = {
            "point to point": ["rank 0", "rank 1", "rank 2", "rank 3"],
            "all to one": ["all ranks"],
            "one to all": ["rank 0"],
        }[kind]
        assert not found["equal"]
        assert [text.split(":")[0] for text in found["differences"]] == [f"{name}, round {kind}" for name in who]


@pytest.mark.full(reason="a message")
@pytest.mark.process
def test_a_script_has_to_ask_for_a_witness(mpi, tmp_path):
    (tmp_path / "monitored.py").write_text(MONITORED)
    job = mpi.run(2, [tmp_path / "monitored.py", tmp_path, '[["p2p", null]]'])
    assert job.code != 0 and "mpicomp run --verify-bytes" in job.err and "OMPI_MCA_pml_monitoring_enable=2" in job.err


def test_verify_bytes_in_one_process_is_refused():
    with pytest.raises(mc.ConfigError, match="nothing goes through MPI"):
        mc.run(problem="quadratic", verify_bytes=True)


def test_a_header_of_another_mpi_is_refused(mpi, tmp_path, monkeypatch):
    build(mpi)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentMismatch, match="another MPI"):
        byte_check.build(mpi.python, not mpi.is_open_mpi)


def test_interface_counters(tmp_path):
    for name, counts in (("eth0", (123, 45)), ("broken", ("x", ""))):
        (tmp_path / name / "statistics").mkdir(parents=True)
        for way, count in zip(("rx", "tx"), counts, strict=True):
            (tmp_path / name / "statistics" / f"{way}_bytes").write_text(f"{count}\n")
    assert byte_check.interfaces(tmp_path) == {"eth0": [123, 45]}
    assert byte_check.interfaces(tmp_path / "nowhere") == {}
