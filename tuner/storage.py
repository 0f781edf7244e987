"""Folders and files that every node of a cluster sees: on a shared disk or in object storage.

Object storage is reached as Ray reaches it: through pyarrow, or fsspec for what pyarrow lacks.
Credentials come from the environment or the machine's role. Needs no ray.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from pyarrow import ArrowInvalid, fs

from tuner.errors import ConfigError


def own_folder() -> Path:
    """Where this machine keeps copies of what others hold."""
    return Path(tempfile.gettempdir()) / f"isoflop-{os.getuid()}"


@dataclass(frozen=True)
class Place:
    """A file or folder. A plain record: it travels to workers by value."""

    uri: str
    """An absolute path, or a URI such as `s3://bucket/prefix`; what stands behind `?` are options
    of the file system, e.g. `?endpoint_override=127.0.0.1:9000&scheme=http`."""

    @classmethod
    def of(cls, text: str | Path) -> Self:
        """The place a person names.

        Raises:
            ConfigError: nothing is known of such places.
        """
        place = cls(str(text) if "://" in str(text) else str(Path(text).expanduser().absolute()))
        try:
            place.opened  # noqa: B018  is looked up, and kept
        except (ArrowInvalid, ValueError, ImportError) as error:
            raise ConfigError(
                f"--storage {text}: {error}; name a folder, or s3://BUCKET/PREFIX, gs://…"
            ) from None
        return place

    def __truediv__(self, name: str) -> Self:
        """What lies in this folder under `name`."""
        parts = urlsplit(self.uri)
        return type(self)(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}")))

    @property
    def beside(self) -> Path:
        """The folder that this one lies in; of object storage, one of this machine's own."""
        return own_folder() if self.is_remote else Path(self.uri).parent

    def __str__(self) -> str:
        """The address without its options."""
        return self.uri.partition("?")[0]

    @property
    def is_remote(self) -> bool:
        """It is in object storage."""
        return "://" in self.uri

    @cached_property
    def opened(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path in it."""
        if not self.is_remote:
            return fs.LocalFileSystem(), self.uri
        try:
            return fs.FileSystem.from_uri(self.uri)
        except ArrowInvalid:
            from fsspec.core import url_to_fs  # noqa: PLC0415  for what pyarrow does not know

            found, path = url_to_fs(self.uri)
            return fs.PyFileSystem(fs.FSSpecHandler(found)), path

    def __getstate__(self) -> dict[str, str]:
        """The address alone: connections stay at home."""
        return {"uri": self.uri}

    def read(self) -> bytes | None:
        """What the file holds; None if there is none."""
        try:
            with self._reached() as (system, path), system.open_input_stream(path) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Whether the file is there."""
        try:
            # Opened, not looked up: a network file system remembers what it looked up.
            with self._reached() as (system, path), system.open_input_stream(path):
                return True
        except FileNotFoundError:
            return False

    def write(self, content: bytes) -> None:
        """Write the file, whole or not at all."""
        if self.is_remote:
            with self._reached() as (system, path):
                _put(system, path, content)
            return
        path = Path(self.uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        try:
            with self._reached() as (system, path):
                system.delete_file(path)
        except FileNotFoundError:
            return

    def upload(self, file: Path) -> None:
        """Copy a file of this machine here."""
        if not self.is_remote:
            Path(self.uri).parent.mkdir(parents=True, exist_ok=True)
        with self._reached() as (system, path):
            fs.copy_files(str(file.absolute()), path, destination_filesystem=system)

    def download(self, file: Path) -> bool:
        """Copy what is here to a file of this machine; False if there is nothing."""
        with self._reached() as (system, path):
            if system.get_file_info(path).type != fs.FileType.File:
                return False
            fs.copy_files(path, str(file.absolute()), source_filesystem=system)
        return True

    @contextmanager
    def _reached(self) -> Iterator[tuple[fs.FileSystem, str]]:
        """The file system, and the path in it; whatever goes wrong there is an `OSError`.

        Clients of object storage raise what they like: botocore's errors, aiohttp's, pyarrow's.
        """
        try:
            yield self.opened
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self}: {type(error).__name__}: {error}") from error


def _put(system: fs.FileSystem, path: str, content: bytes) -> None:
    """Write an object, whole or not at all: one that is closed halfway would be published."""
    stood = _stamp(system, path)
    file = system.open_output_stream(path)
    try:
        with file:
            file.write(content)
    except BaseException:
        if _stamp(system, path) != stood:
            system.delete_file(path)
        raise


def _stamp(system: fs.FileSystem, path: str) -> tuple[int | None, datetime | None]:
    """Size and time of a file; another once it is written to."""
    found = system.get_file_info(path)
    return found.size, found.mtime
