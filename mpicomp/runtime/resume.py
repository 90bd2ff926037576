"""Which checkpoint a run goes on from: the newest that is whole, of this configuration and of these data."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..cluster.comm import Comm
from ..errors import CheckpointError, ConfigError
from .checkpoint import FOLDER, MANIFEST, Checkpoint
from .config import Config
from .session import Session


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
        leads = comm is None or comm.rank == 0
        checkpoint = Checkpoint.open(Path(found["folder"]), whole=leads)
        ours, theirs = session.optimizer.step_size, checkpoint.manifest["step"]
        if ours != theirs:
            raise CheckpointError(
                f"{checkpoint.folder} was written with step size {theirs!r}, this run has {ours!r} (a theory that depends on «rounds»?); "
                f"give «step={theirs!r}» to go on"
            )
        try:
            checkpoint.check_totals(session)
            checkpoint.restore(session)
        except CheckpointError as error:
            raise CheckpointError(
                f"{checkpoint.folder} does not hold the state of this run: {error}. Was it written by another build of mpicomp, or by "
                "hand? Remove it to go on from an older one, or choose another «out»"
            ) from None
        record.resume(checkpoint.round, checkpoint.manifest)


def newest(config: Config, until: int | None = None) -> Path | None:
    """The folder of this run's newest checkpoint that has a manifest, of those not after round `until`."""
    whole = sorted(Path(config.out or ".").glob(f"{FOLDER}/round-*/{MANIFEST}")) if config.out else []
    early = [path.parent for path in whole if until is None or path.parent.name <= f"round-{until:09d}"]
    return early[-1] if early else None


def refuse_other_checkpoints(config: Config) -> None:
    """Before a run: raises ConfigError where `out` has checkpoints from which this run does not go on; it would mix them with its own."""
    last = newest(config)
    if last is not None and not (config.resume == "auto" or Path(str(config.resume)) in (last, Path(str(config.out)))):
        raise ConfigError(
            f"{last} is a checkpoint of an earlier run: give «resume='auto'» to go on from it, "
            f"choose another «out», or give «force=True», or remove {last.parent}"
        )


def _set_aside(folders: list[Path]) -> list[str]:
    """Remove what never was whole, rename what cannot be read: neither must count as one of the checkpoints that are kept."""
    notes = []
    for folder in folders:
        aside = folder.with_name(f"refused-{folder.name}")
        shutil.rmtree(aside if (folder / MANIFEST).exists() else folder, ignore_errors=True)
        if folder.exists():
            with suppress(OSError):  # a file system that cannot be written is another message's affair
                folder.rename(aside)
                notes.append(f"{folder} is now {aside.name}")
    return notes


def find(config: Config) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of this configuration, and what a person should know about the choice."""
    auto = config.resume == "auto"
    base = Path(config.out or ".") if auto else Path(str(config.resume))
    folders = [base] if (base / MANIFEST).exists() else sorted((base / FOLDER).glob("round-*"), reverse=True)
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
    if auto and not any((folder / MANIFEST).exists() for folder in folders):
        _set_aside(folders)
        unfinished = [f"{folder} was never finished" for folder in folders]
        return None, [*unfinished, "no checkpoint yet, starting afresh"]
    reason = "; ".join(notes) if notes else f"no checkpoint in {base / FOLDER}"
    raise CheckpointError(f"{reason}; remove the directory or drop «resume» to start afresh")
