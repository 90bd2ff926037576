"""Checkpoints: one shard for each rank and a manifest, written last. A resumed run equals the uninterrupted one bit for bit.

`DIR/checkpoints/round-000000120/` holds `rank-00000.npz`, ... (plain arrays, no pickle) and `checkpoint.json` with the shards' digests and
its own, the round, the history and the totals. A directory without a manifest is not whole. The previous checkpoint stays until the new
one is.

What is saved is what the parts declare (`mpicomp.state`): mechanisms, oracles (and those that they wrap) and optimizers; and x and the
clients' points. All randomness is keyed, so there is no generator to save. A run may go on with another number
of workers or another exchange: client rows are looked up by client, and what servers hold slices of by coordinate.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ..cluster.comm import Comm
from ..errors import CheckpointError, ConfigError
from ..oracles import Oracle
from ..state import ClientState, CommonState, ModelState, ServerClientState, ServerState, declared, held
from .config import Config
from .session import Session, complete

FORMAT = 5
KEEP = 2
FOLDER = "checkpoints"
# Options that may differ between the run that wrote a checkpoint and the one that goes on from it.
FREE = (
    "rounds",
    "tol",
    "eval_every",
    "explosion",
    "exchange",
    "threads",
    "out",
    "checkpoint_every",
    "checkpoint_seconds",
    "time_limit",
    "stall_timeout",
    "on_failure",
    "verify_bytes",
    "resume",
    "imports",
)


# ---- what there is to save ------------------------------------------------------------------------------------------
def oracles(session: Session) -> Iterator[tuple[str, Oracle]]:
    """The run's oracle and those that it wraps, outermost first, each with a name."""
    oracle: Oracle | None = session.oracle.oracle
    depth = 0
    while oracle is not None:
        yield f"oracle{depth}", oracle
        oracle, depth = oracle.oracle, depth + 1


def state_arrays(session: Session) -> dict[str, np.ndarray]:
    """This rank's arrays. `served/...` have the columns of a server's slice, `server/...` are the same on all servers, `worker/...` are
    a worker's: `clients` has a row for each hosted client, `shared` is the same on all workers, `points` is one or the other."""
    arrays: dict[str, Any] = {}
    exchange, x = session.exchange, session.x
    if exchange.is_server:
        arrays["server/x" if session.replicated else "served/x"] = x
        for state in declared(session.optimizer, ModelState):
            sliced = not session.replicated and state.columns is None
            arrays[f"{'served' if sliced else 'server'}/optimizer/{state.name}"] = getattr(
                session.optimizer, state.name
            )
    for way, mechanism in (("uplink", session.uplink), ("downlink", session.downlink)):
        for name, array in held(mechanism, ClientState).items():
            arrays[f"worker/clients/{way}/{name}"] = array
        for state in declared(mechanism, ServerState, ServerClientState):
            sliced = state.columns is None
            arrays[f"{'served' if sliced else 'server'}/{way}/{state.name}"] = vars(mechanism).get(state.name)
        for name, array in held(mechanism, CommonState).items():
            if exchange.is_server:
                arrays[f"server/{way}/{name}"] = array
            if exchange.is_worker:
                arrays[f"worker/shared/{way}/{name}"] = array
    if exchange.is_worker:
        arrays["worker/points/points"] = session.points
        for label, oracle in oracles(session):
            for name, array in held(oracle, ClientState).items():
                arrays[f"worker/points/{label}/{name}"] = array
        if session.replicated:
            for name, array in held(session.optimizer, ModelState).items():
                arrays[f"worker/shared/optimizer/{name}"] = array
    return {name: array for name, array in arrays.items() if array is not None}


# ---- writing --------------------------------------------------------------------------------------------------------
def save(session: Session, config: Config, t: int, record: dict[str, Any], comm: Comm | None) -> None:
    """Write the state after round t. `record` holds the history and totals (only rank 0's is used).

    Raises
    ------
    CheckpointError : a file cannot be written; the older checkpoint is whole.
    """
    rank = 0 if comm is None else comm.rank
    folder = Path(config.out or ".") / FOLDER / f"round-{t:09d}"
    entry: dict[str, Any] = {"error": None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank-{rank:05d}.npz"
        arrays: dict[str, Any] = state_arrays(session)
        _write(path, lambda file: np.savez(file, **arrays))
        clients, served = session.exchange.clients, session.exchange.served
        entry |= {"sha256": _digest(path), "first": int(clients[0]) if len(clients) else 0, "clients": len(clients)}
        entry["served"] = [served.start, served.stop] if session.exchange.is_server else [0, 0]
    except OSError as error:
        entry["error"] = f"{folder}: {error.strerror}"
    entries = [entry] if comm is None else comm.gather_json(entry)
    failed = ""
    if entries is not None:
        failed = next((f"rank {r}: {e['error']}" for r, e in enumerate(entries) if e["error"]), "")
        if not failed:
            failed = _finish(folder, config, t, session, record, entries)
    if comm is not None:
        failed = comm.bcast_json(failed)
    if failed:
        raise CheckpointError(
            f"cannot write a checkpoint ({failed}); free some space or choose another «out»; older checkpoints are whole"
        )


def _finish(
    folder: Path, config: Config, t: int, session: Session, record: dict[str, Any], shards: list[dict[str, Any]]
) -> str:
    known = {"step": session.optimizer.step_size, "data": session.data_digest}
    manifest = {"format": FORMAT, "round": t, "config": fingerprint(config), **known, "shards": shards, **record}
    try:
        sealed = json.dumps({**manifest, "sha256": _seal(manifest)})
        _write(folder / "checkpoint.json", lambda file: file.write(sealed.encode()))
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


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Under another name first, flushed to the disk, then renamed: the file is either whole or not there."""
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: dict[str, Any]) -> str:
    """The digest of a manifest's content; text read from a file and written again is the same."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def fingerprint(config: Config) -> dict[str, Any]:
    """The options that a run which goes on must share."""
    return {k: v for k, v in dataclasses.asdict(complete(config)).items() if k not in FREE}


# ---- reading --------------------------------------------------------------------------------------------------------
class Checkpoint:
    """A whole checkpoint, checked against its digests."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder, self.manifest = folder, manifest
        self.round: int = manifest["round"]
        self._shards: dict[int, Any] = {}

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read and check a checkpoint directory.

        Raises
        ------
        CheckpointError : something is missing, truncated, altered, or of another version; names the file.
        """
        path = folder / "checkpoint.json"
        try:
            manifest = json.loads(path.read_text())
            if manifest["format"] != FORMAT:
                raise CheckpointError(f"{path} is of version {manifest['format']}; this build reads version {FORMAT}")
            if manifest.pop("sha256") != _seal(manifest):
                raise CheckpointError(f"{path} is not what was written: its checksum differs")
            for rank, shard in enumerate(manifest["shards"]):
                file = folder / f"rank-{rank:05d}.npz"
                if _digest(file) != shard["sha256"]:
                    raise CheckpointError(f"{file} is not what was written: its checksum differs")
        except OSError as error:
            raise CheckpointError(f"{error.filename}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a checkpoint's manifest: {error}") from None
        return cls(folder, manifest)

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

    def restore(self, session: Session) -> None:
        """Put the saved state into a fresh session of any number of workers."""
        exchange = session.exchange
        if exchange.is_server:
            for name, target in state_arrays(session).items():
                if name.startswith("server/"):
                    target[...] = self._shard(0)[name]
                elif name.startswith("served/"):
                    target[...] = self._columns(name, exchange.served)
        if not exchange.is_worker:
            return
        source = next(r for r, shard in enumerate(self.manifest["shards"]) if shard["clients"])
        for name in self._shard(source).files:
            if name.startswith("worker/shared/"):
                _assign(session, name, self._shard(source)[name])
            elif name.startswith("worker/"):
                _assign(session, name, self._worker_rows(session, name))

    def _columns(self, name: str, served: slice) -> np.ndarray:
        """The saved columns of a slice, put together from those who served parts of it."""
        pieces, first = [self._shard(0)[name][:, :0]], served.start
        for rank, shard in enumerate(self.manifest["shards"]):
            lo, hi = shard["served"]
            if lo <= first < min(hi, served.stop):
                pieces.append(self._shard(rank)[name][:, first - lo : served.stop - lo])
                first = hi
        return np.concatenate(pieces, axis=1)

    def _worker_rows(self, session: Session, name: str) -> np.ndarray:
        """The saved rows for this rank's clients, or one row where this rank has one for all of them."""
        clients = session.exchange.clients
        target = state_arrays(session).get(name)
        rows = len(target) if target is not None else len(session.points)
        return np.stack([self._row(name, int(i)) for i in clients[: rows if rows == len(clients) else 1]])

    def _row(self, name: str, client: int) -> np.ndarray:
        """The saved row of a client; an array with one row for several clients is the same for all of them."""
        for rank, shard in enumerate(self.manifest["shards"]):
            if shard["first"] <= client < shard["first"] + shard["clients"]:
                array = self._shard(rank)[name]
                return array[client - shard["first"] if len(array) == shard["clients"] else 0]
        raise CheckpointError(f"{self.folder} has no state of client {client}")

    def _shard(self, rank: int) -> Any:
        if rank not in self._shards:
            self._shards[rank] = np.load(self.folder / f"rank-{rank:05d}.npz", allow_pickle=False)
        return self._shards[rank]


def _assign(session: Session, name: str, saved: np.ndarray) -> None:
    """Put an array where `state_arrays` found it; one that is not allocated yet becomes a copy."""
    target = state_arrays(session).get(name)
    if target is not None:
        target[...] = saved
        return
    _, _, label, attribute = name.split("/")
    owners: dict[str, Any] = {"uplink": session.uplink, "downlink": session.downlink, "optimizer": session.optimizer}
    setattr((owners | dict(oracles(session)))[label], attribute, saved.copy())


class Resumable(Protocol):
    """A record that goes on where a checkpoint's ends."""

    def resume(self, t: int, saved: dict[str, Any], /) -> None: ...


def resume(config: Config, session: Session, record: Resumable, comm: Comm | None) -> None:
    """Go on from `--resume DIR|auto`; `auto` starts afresh where there is no checkpoint yet.

    Raises
    ------
    CheckpointError : there is none that is whole, or it is of another configuration.
    """
    if config.resume is None:
        return
    found: dict[str, Any] = {"folder": None}
    if comm is None or comm.rank == 0:
        try:
            checkpoint, notes = find(config)
            if checkpoint is not None:
                checkpoint.check_data(session.data_digest)
            found = {"folder": str(checkpoint.folder) if checkpoint else None, "notes": notes}
        except CheckpointError as error:
            found = {"error": str(error)}
    if comm is not None:
        found = comm.bcast_json(found)
    if "error" in found:
        raise CheckpointError(found["error"])
    if comm is None or comm.rank == 0:
        for note in found["notes"]:
            print(f"mpicomp: {note}")
    if found["folder"] is not None:
        checkpoint = Checkpoint.open(Path(found["folder"]))
        ours, theirs = session.optimizer.step_size, checkpoint.manifest["step"]
        if ours != theirs:
            raise CheckpointError(
                f"{checkpoint.folder} was written with step size {theirs!r}, this run has {ours!r} (a theory that depends on «rounds»?); "
                f"give «step={theirs!r}» to go on"
            )
        try:
            checkpoint.restore(session)
            record.resume(checkpoint.round, checkpoint.manifest)
        except (ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile, OSError) as error:
            raise CheckpointError(
                f"{checkpoint.folder} does not hold the state of this run ({type(error).__name__}: {error}); was it written by another "
                "build of mpicomp, or by hand? Remove it to go on from an older one, or choose another «out»"
            ) from error


def newest(config: Config, until: int | None = None) -> Path | None:
    """The folder of this run's newest checkpoint that has a manifest, of those not after round `until`."""
    whole = sorted(Path(config.out or ".").glob(f"{FOLDER}/round-*/checkpoint.json")) if config.out else []
    early = [path.parent for path in whole if until is None or path.parent.name <= f"round-{until:09d}"]
    return early[-1] if early else None


def refuse_other_checkpoints(config: Config) -> None:
    """Before a run: raises ConfigError where `out` has checkpoints from which this run does not go on; it would mix them with its own."""
    last = newest(config)
    if last is not None and not (config.resume == "auto" or Path(str(config.resume)) in (last, Path(str(config.out)))):
        raise ConfigError(
            f"{last} is a checkpoint of an earlier run: give «resume='auto'» to go on from it, "
            f"choose another «out», or remove {last.parent}"
        )


def _set_aside(folders: list[Path]) -> list[str]:
    """Remove what never was whole, rename what cannot be read: neither must count as one of the checkpoints that are kept."""
    notes = []
    for folder in folders:
        aside = folder.with_name(f"refused-{folder.name}")
        shutil.rmtree(aside if (folder / "checkpoint.json").exists() else folder, ignore_errors=True)
        if folder.exists():
            with suppress(OSError):  # a file system that cannot be written is another message's affair
                folder.rename(aside)
                notes.append(f"{folder} is now {aside.name}")
    return notes


def find(config: Config) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of this configuration, and what a person should know about the choice."""
    auto = config.resume == "auto"
    base = Path(config.out or ".") if auto else Path(str(config.resume))
    folders = [base] if (base / "checkpoint.json").exists() else sorted((base / FOLDER).glob("round-*"), reverse=True)
    notes: list[str] = []
    for folder in folders:
        try:
            checkpoint = Checkpoint.open(folder)
        except CheckpointError as error:
            notes.append(f"cannot go on from {folder} ({error}); trying an older checkpoint")
            continue
        checkpoint.check(config)
        if config.out and base == Path(config.out):
            notes += _set_aside(folders[: folders.index(folder)])
        notes.append(f"going on after round {checkpoint.round} from {folder}")
        return checkpoint, notes
    if auto and not any((folder / "checkpoint.json").exists() for folder in folders):
        _set_aside(folders)
        unfinished = [f"{folder} was never finished" for folder in folders]
        return None, [*unfinished, "no checkpoint yet, starting afresh"]
    reason = "; ".join(notes) if notes else f"no checkpoint in {base / FOLDER}"
    raise CheckpointError(f"{reason}; remove the directory or drop «resume» to start afresh")
