"""A rank's part of a checkpoint: an archive of plain arrays, each of which is looked at before it is read."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from .files import open_plain

_ENDING = ".npy"
_ENCRYPTED = 1
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """What a saved array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Shard:
    """An archive that `numpy.savez` wrote, opened for reading.

    Attributes
    ----------
    contents : a text in which any two archives with different arrays differ, from the directory at the archive's end.

    Raises
    ------
    CheckpointError : it cannot be read, or is no such archive; names the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None
        try:
            self._file = open_plain(path)
            self._archive = zipfile.ZipFile(self._file)
            members = self._archive.infolist()
            self._check(members)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError, OverflowError) as error:
            self.close()
            raise CheckpointError(f"{path} is not an archive of arrays: {error}") from None
        self.contents = repr([(m.filename, m.CRC, m.file_size) for m in members])

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        names = [member.filename for member in members]
        if len(set(names)) < len(names) or not all(name.endswith(_ENDING) for name in names):
            raise ValueError("its members are not arrays of different names")
        for member in members:
            if member.flag_bits & _ENCRYPTED:
                raise ValueError(f"{member.filename} is encrypted")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename} is compressed")

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @property
    def names(self) -> set[str]:
        """Of its arrays."""
        return {name.removesuffix(_ENDING) for name in self._archive.namelist()}

    def digest(self) -> str:
        """sha256 of the file."""
        assert self._file is not None
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()  # type: ignore[arg-type]

    def header(self, name: str) -> Header:
        """Shape and dtype of an array; raises CheckpointError, which names the array."""
        with self._member(name) as file:
            return self._header(name, file)

    def array(self, name: str) -> np.ndarray:
        """An array; errors as `header`."""
        with self._member(name) as file:
            shape, dtype = self._header(name, file)
        try:
            with self._member(name) as file:
                array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # to the end, where the checksum is compared
                    raise ValueError("it is longer than its array")
        except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from None
        assert (array.shape, array.dtype) == (shape, dtype)
        return array

    def _member(self, name: str) -> IO[bytes]:
        try:
            return self._archive.open(name + _ENDING)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from None
        except KeyError:
            raise CheckpointError(f"{name} is missing") from None

    def _header(self, name: str, file: IO[bytes]) -> Header:
        """As it is at the head of a member, which must be as long as it says: nothing larger is made room for."""
        try:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _HEADERS[version](file)
            if dtype.hasobject or dtype.kind not in "fiu":
                raise ValueError(f"it holds {dtype}, not numbers")
            size = self._archive.getinfo(name + _ENDING).file_size
            if file.tell() + int(np.prod([*map(int, shape), dtype.itemsize], dtype=object)) != size:
                raise ValueError(f"it is not as long as {shape} of {dtype}")
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, RecursionError) as error:
            raise CheckpointError(f"{name} is not a plain array: {error}") from None
        return Header(tuple(shape), dtype)
