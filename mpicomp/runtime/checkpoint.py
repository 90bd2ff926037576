"""Checkpoints: one shard for each rank and a manifest, written last. A resumed run equals the uninterrupted one bit for bit.

`DIR/checkpoints/round-000000120/` holds `rank-00000.npz`, ... (plain arrays, no pickle), `history.jsonl` and `checkpoint.json` with the
digests of all of them and its own, the round and the totals. A directory without a manifest is not whole. The previous checkpoint stays
until the new one is.

What is saved is what the parts declare (`states.py`): mechanisms, oracles (and those that they wrap) and optimizers; x and the clients'
points; and the states that a problem has of its clients (`client_states.py`). All other randomness is keyed, so there is no generator to
save. A run may go on with another number of workers or another exchange: client rows are looked up by client, and what servers hold slices
of by coordinate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.clock import PHASES
from ..cluster.comm import Comm
from ..errors import CheckpointError
from .config import Config
from .files import read_plain, write_text, write_whole
from .gathering import Gathering, Part
from .history import HISTORY, KEEP, HistoryFiles, read_history
from .session import Session, complete
from .shards import Shard
from .states import state_arrays

FORMAT = 8
FOLDER, MANIFEST = "checkpoints", "checkpoint.json"
VISIBLE_SECONDS = 10.0  # in which another host's file is to be seen here
# Options that may differ between the run that wrote a checkpoint and the one that goes on from it.
FREE = (
    "rounds",
    "tol",
    "eval_every",
    "evaluate",
    "explosion",
    "exchange",
    "threads",
    "out",
    "force",
    "checkpoint_every",
    "checkpoint_seconds",
    "time_limit",
    "stall_timeout",
    "on_failure",
    "trace",
    "verify_bytes",
    "resume",
    "imports",
)


def shard_path(folder: Path, rank: int) -> Path:
    """Where a rank's arrays are."""
    return folder / f"rank-{rank:05d}.npz"


def fingerprint(config: Config) -> dict[str, Any]:
    """The options that a run which goes on must share."""
    return {k: v for k, v in dataclasses.asdict(complete(config)).items() if k not in FREE}


# ---- writing --------------------------------------------------------------------------------------------------------
class Saver:
    """Writes the checkpoints of one run.

    Parameters
    ----------
    comm : of the run; None for one process.
    """

    def __init__(self, session: Session, config: Config, comm: Comm | None):
        self.session, self.config, self.comm = session, config, comm
        self._history = HistoryFiles()

    def save(self, t: int, record: dict[str, Any]) -> None:
        """Write the state after round t. `record` holds the history and totals (only rank 0's is used).

        Raises
        ------
        CheckpointError : a file cannot be written, or rank 0 does not see it; the older checkpoint is whole.
        """
        comm, rank = self.comm, 0 if self.comm is None else self.comm.rank
        folder = Path(self.config.out or ".") / FOLDER / f"round-{t:09d}"
        entry = self._write_shard(folder, rank)
        entries = [entry] if comm is None else comm.gather_json(entry)
        failed = ""
        if entries is not None:
            failed = next((f"rank {r}: {e['error']}" for r, e in enumerate(entries) if e["error"]), "")
            failed = failed or self._finish(folder, t, record, entries)
        if comm is not None:
            failed = comm.bcast_json(failed)
        if failed:
            raise CheckpointError(
                f"cannot write a checkpoint ({failed}); free some space or choose another «out»; older checkpoints are whole"
            )

    def _write_shard(self, folder: Path, rank: int) -> dict[str, Any]:
        """Write this rank's arrays; returns what the manifest says of them."""
        entry: dict[str, Any] = {"error": None, "host": platform.node()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = shard_path(folder, rank)
            arrays: dict[str, Any] = state_arrays(self.session)
            write_whole(path, lambda file: np.savez(file, **arrays))
            with Shard(path) as shard:
                entry |= {"sha256": shard.digest(), "contents": shard.contents}
            entry |= dataclasses.asdict(Part.of(self.session))
        except OSError as error:
            entry["error"] = f"{folder}: {error.strerror}"
        except CheckpointError as error:
            entry["error"] = str(error)
        return entry

    def _finish(self, folder: Path, t: int, record: dict[str, Any], entries: list[dict[str, Any]]) -> str:
        """On rank 0: history, manifest, and then the older checkpoints may go. Returns what went wrong; empty where nothing did."""
        for rank, entry in enumerate(entries):
            if not _arrives(shard_path(folder, rank), entry["contents"]):
                return (
                    f"rank {rank} on {entry['host']} has written {shard_path(folder, rank)}, which rank 0 on {platform.node()} does not "
                    "see: «out» is to be on a file system that all hosts share"
                )
        shards = [{k: v for k, v in entry.items() if k not in ("error", "host", "contents")} for entry in entries]
        session, facts = self.session, {k: v for k, v in record.items() if k != "history"}
        try:
            history = self._history.write(folder, record.get("history", []))
            manifest = {
                "format": FORMAT, "round": t, "config": fingerprint(self.config), "step": session.optimizer.step_size,
                "data": session.data_digest, "shards": shards, "history": history, **facts,
            }  # fmt: skip
            write_text(folder / MANIFEST, json.dumps({**manifest, "sha256": _seal(manifest)}))
            folders = sorted(folder.parent.glob("round-*"))
            kept = folders[: folders.index(folder) + 1][
                -KEEP:
            ]  # later ones could not be set aside when they were found damaged
            for old in folders:
                if old not in kept:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            return f"{folder}: {error.strerror}"
        return ""


def _arrives(path: Path, contents: str) -> bool:
    """The shard that another rank has written can be seen here, by its name and with its content."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        try:
            with Shard(path) as shard:
                if shard.contents == contents:
                    return True
        except CheckpointError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
        list(path.parent.glob("rank-*"))  # a network file system may remember that a file was not there


def _seal(manifest: dict[str, Any]) -> str:
    """The digest of a manifest's content; text read from a file and written again is the same."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


# ---- reading --------------------------------------------------------------------------------------------------------
class Checkpoint:
    """A whole checkpoint.

    Attributes
    ----------
    manifest : as in its file; in place of what the file says of the history, the history itself.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder, self.manifest = folder, manifest
        self.round: int = manifest["round"]

    @classmethod
    def open(cls, folder: Path, whole: bool = True) -> Checkpoint:
        """Read a checkpoint directory.

        Parameters
        ----------
        whole : check all shards and read the history; without, shards are checked when they are read, and there is no history.

        Raises
        ------
        CheckpointError : something is missing, truncated, altered, or of another version; names the file.
        """
        path = folder / MANIFEST
        try:
            manifest = json.loads(read_plain(path))
            if manifest["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} is of version {manifest['format']}; this build reads version {FORMAT}: go on with the mpicomp that wrote it"
                )
            if manifest.pop("sha256") != _seal(manifest):
                raise CheckpointError(f"{path} is not what was written: its checksum differs")
            _check(manifest)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} is not a checkpoint's manifest: {error}") from None
        found = cls(folder, manifest)
        if whole:
            for rank in range(len(manifest["shards"])):
                found._shard(rank).close()
        manifest["history"] = read_history(folder, manifest["history"]) if whole else []
        return found

    def check(self, config: Config) -> None:
        """Raises CheckpointError where the checkpoint is of another configuration, naming what differs."""
        ours, theirs = fingerprint(config), self.manifest["config"]
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                raise CheckpointError(
                    f"{self.folder} was written with {key}={theirs.get(key)!r}, this run has {key}={ours.get(key)!r}; "
                    "use the same options, or another «out»"
                )

    def check_data(self, digest: str) -> None:
        """Raises CheckpointError where the run that wrote the checkpoint had other data; `digest` is empty where it is not known."""
        theirs = self.manifest["data"]
        if digest and theirs and digest != theirs:
            raise CheckpointError(
                f"{self.folder} was written with other data: its digest is {theirs}, this run's data has {digest}; put the data back, or "
                "start afresh with another «out»"
            )

    def check_totals(self, session: Session) -> None:
        """Raises CheckpointError where the totals, or the history on rank 0, are not those of such a run after this round."""
        totals, history = self.manifest.get("totals"), self.manifest["history"]
        shape = session.exchange.ledger.traffic.shape
        if totals is None or np.shape(totals["traffic"]) != shape:
            raise CheckpointError(f"{self.folder / MANIFEST} has no totals of shape {shape}")
        if session.exchange.is_root and not (
            history and history[0]["round"] == 0 and history[-1]["round"] <= self.round
        ):
            raise CheckpointError(f"{self.folder / HISTORY} does not lead from round 0 to round {self.round}")
        missing = [name for name in session.problem.measures if session.exchange.is_root and name not in history[0]]
        if missing:
            raise CheckpointError(
                f"{self.folder / HISTORY} has no column {missing[0]!r}, which the evaluations of this version have"
            )

    def restore(self, session: Session) -> None:
        """Put the saved state into a fresh session of any number of workers: all of it, or nothing.

        Raises
        ------
        CheckpointError : a shard holds other arrays than the session declares; names file and array.
        """
        gathering = Gathering(session)
        shards = self.manifest["shards"]
        if sum(shard["clients"] for shard in shards) != session.exchange.n_clients:
            raise CheckpointError(f"{self.folder} is not of {session.exchange.n_clients} clients")
        for rank, entry in enumerate(shards):
            part = Part(**{key: value for key, value in entry.items() if key != "sha256"})
            if gathering.needs(part):
                with self._shard(rank) as shard:
                    try:
                        gathering.take(shard, part)
                    except CheckpointError as error:
                        raise CheckpointError(f"{shard.path.name}: {error}") from None
        gathering.finish()

    def _shard(self, rank: int) -> Shard:
        shard = Shard(shard_path(self.folder, rank))
        if shard.digest() != self.manifest["shards"][rank]["sha256"]:
            shard.close()
            raise CheckpointError(f"{shard.path} is not what was written: its checksum differs")
        return shard


def _check(manifest: dict[str, Any]) -> None:
    """Raises ValueError where a value of a manifest is none that a run writes. Totals may be missing: not every session counts."""
    if type(manifest["round"]) is not int or manifest["round"] < 0:
        raise ValueError(f"round={manifest['round']!r} is not a number of rounds")
    if not isinstance(manifest["config"], dict) or not isinstance(manifest["data"], str):
        raise ValueError("it has no configuration, or no digest of the data")
    if type(manifest["step"]) is not float or not (0 < manifest["step"] < math.inf):
        raise ValueError(f"step={manifest['step']!r} is not a step size")
    parts = [
        Part(**{key: value for key, value in shard.items() if key != "sha256"}).checked()
        for shard in manifest["shards"]
    ]
    first = 0
    for part in sorted((part for part in parts if part.clients), key=lambda part: part.first):
        if part.first != first:
            raise ValueError(f"client {first} is in no shard, or in two")
        first += part.clients
    if "totals" in manifest:
        totals = manifest["totals"]
        traffic, seconds = np.array(totals["traffic"]), np.array([*totals["seconds"], totals["total"]])
        if traffic.dtype.kind != "i" or (traffic < 0).any() or len(seconds) != len(PHASES) + 1:
            raise ValueError("its totals are not numbers of bytes and seconds")
        if seconds.dtype.kind != "f" or not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise ValueError("its totals are not numbers of seconds")
