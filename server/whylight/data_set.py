"""Pictures that an operator lets methods look at, by name: a folder or a zip archive; knows no model and no torch.

No request ever names a path: it names a data set, and what is in it was listed when it was first asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from whylight.errors import NotFound, Unsupported, WhylightError
from whylight.limits import Limits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from whylight.models.transform import Transform

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class Listed:
    """A file of a data set: its path inside, with slashes, its bytes, and what changes when it changes."""

    path: str
    size: int
    stamp: int

    @property
    def label(self) -> str:
        """The name of the folder that it is in; empty at the top."""
        return PurePosixPath(self.path).parent.name


class DataSet:
    """The pictures under a folder or in a zip archive, sorted by path, read one by one within the limits of requests.

    Any number of threads may read. Hidden files are left out, and links to folders are not followed.

    Raises:
        Unsupported: the folder or archive cannot be read (DATA_SET_UNREADABLE).
    """

    def __init__(self, name: str, path: str | Path, limits: Limits | None = None) -> None:
        self.name = name
        self._path = Path(path)
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        try:
            self._archive = None if self._path.is_dir() else zipfile.ZipFile(self._path)
            found = _in_folder(self._path) if self._archive is None else _in_archive(self._archive)
        except (OSError, zipfile.BadZipFile) as error:
            why = getattr(error, "strerror", None) or "no zip archive"
            raise Unsupported(f"the data set {name!r} cannot be read: {why}", reason="DATA_SET_UNREADABLE") from error
        self.files: tuple[Listed, ...] = tuple(sorted(found, key=lambda file: file.path))

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digest(self) -> str:
        """What changes when a file comes, goes or changes: SHA-256 of the listing, in hexadecimal."""
        lines = "\n".join(f"{file.path}\0{file.size}\0{file.stamp}" for file in self.files)
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()

    def fitted(self, index: int, transform: Transform) -> npt.NDArray[np.uint8] | None:
        """Return a picture as a model takes it, uint8 `[H, W, channels]`, before normalisation.

        None means that the file is no readable picture within the limits: callers leave it out and count it.
        """
        from whylight.decode import decode_image
        from whylight.explainer.inputs import fit_picture

        file = self.files[index]
        if file.size > self._limits.message_bytes:
            return None
        try:
            return fit_picture(transform, "", decode_image(self._read(file), self._limits), "").pixels
        except (WhylightError, OSError, zipfile.BadZipFile, RuntimeError) as error:
            # zipfile says RuntimeError of what is encrypted, or packed in a way that it does not know.
            if isinstance(error, WhylightError) and error.reason == "INPUT_UNSUPPORTED":
                raise  # the model takes no pictures at all
            return None

    def _read(self, file: Listed) -> bytes:
        # The listing is older than this: never read more than was listed.
        if self._archive is None:
            with (self._path / file.path).open("rb") as stream:
                return stream.read(file.size)
        with self._lock, self._archive.open(file.path) as stream:
            return stream.read(file.size)


@dataclass(frozen=True)
class DataSets:
    """All data sets of a server, and the folder in which methods may keep what they found out about them.

    `paths` are folders and zip archives by name; without `cache`, nothing is kept.
    """

    paths: Mapping[str, str | Path]
    cache: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def open(self, name: str, *, field: str = "options.data_set") -> DataSet:
        """Return a data set, listed anew.

        Raises:
            NotFound: there is none of this name (DATA_SET_NOT_FOUND, at `field`); the message has close matches.
            Unsupported: it cannot be read, or has no picture (DATA_SET_UNREADABLE).
        """
        if name not in self.paths:
            close = difflib.get_close_matches(name, self.paths, 3)
            hint = f"; close ones are {', '.join(map(repr, close))}" if close else ""
            raise NotFound(f"no data set {name!r} is here{hint}", reason="DATA_SET_NOT_FOUND", field=field)
        found = DataSet(name, self.paths[name], self.limits)
        if not len(found):
            raise Unsupported(f"the data set {name!r} has no picture", reason="DATA_SET_UNREADABLE", field=field)
        return found


NO_DATA_SETS = DataSets({})


def _in_folder(folder: Path) -> list[Listed]:
    found = []
    for place, folders, files in os.walk(folder, onerror=_raised):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if _is_picture(name) and path.is_file():
                state = path.stat()
                found.append(Listed(path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns))
    return found


def _in_archive(archive: zipfile.ZipFile) -> list[Listed]:
    return [
        Listed(file.filename, file.file_size, file.CRC)
        for file in archive.infolist()
        if not file.is_dir() and _is_picture(PurePosixPath(file.filename).name)
    ]


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES


def _raised(error: Any) -> None:
    raise error
