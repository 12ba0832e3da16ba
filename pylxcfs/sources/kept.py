"""Reads kernel files whole, again and again, through descriptors that stay open.

Everything in sources/ that opens a kernel file whole does it here, with the one translation of
OSError: Gone for a process or cgroup that has ended, SourceError for the rest. Knows nothing of
the files' meaning.

A descriptor is closed with the last reference to it, never by hand: a thread that is in pread()
holds one, so the number cannot become another container's file meanwhile.
"""

from __future__ import annotations

import errno
import os
import threading
import time

from pylxcfs.errors import Gone, SourceError

#: Bytes of the first read; more is read until the file's end.
_FIRST_SIZE = 4096

#: Seconds after which a missing file is tried again.
_ABSENT_SECONDS = 1.0

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EOPNOTSUPP})
_ENDED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESRCH})


def translate(error: OSError, path: str) -> SourceError:
    """Return the error to raise for an OSError from reading `path`."""
    kind = Gone if error.errno in _ENDED else SourceError
    return kind(f"{path}: {error.strerror}")


def read_whole(path: str) -> bytes:
    """Open, read to the end, close. Raise Gone or SourceError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_to_end(descriptor, _FIRST_SIZE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise translate(error, path) from None


def read_start(path: str, size: int) -> bytes:
    """Return the first bytes of a file, from one read of `size`.

    Raise Gone or SourceError.
    """
    descriptor = Descriptor.open(path)
    try:
        return os.read(descriptor.number, size)
    except OSError as error:
        raise translate(error, path) from None


def read_optional(path: str) -> bytes | None:
    """Return the whole file, or None where there is none. Raise SourceError."""
    try:
        return read_whole(path)
    except Gone:
        return None


def _read_to_end(descriptor: int, size: int) -> bytes:
    data = os.pread(descriptor, size, 0)
    if not data:
        return data
    chunks = [data]
    offset = len(data)
    # A short read is not the end: files of many records return about a page at a time.
    while data := os.pread(descriptor, size, offset):
        chunks.append(data)
        offset += len(data)
    return b"".join(chunks)


class Descriptor:
    """A file descriptor that is closed with the last reference to it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)

    @classmethod
    def open(cls, path: str) -> Descriptor:
        """Open for reading; raise Gone or SourceError."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise translate(error, path) from None


class KeptFile:
    """A kernel file of one record, as a cgroup's files are.

    Opened at the first read. Each read starts at offset 0, where the kernel prints the current
    values. With a `name`, `path` is its directory, which a container's dozens of files share.
    """

    __slots__ = ("__weakref__", "_absent_until", "_descriptor", "_name", "_path", "_size")

    def __init__(self, path: str, name: str | None = None) -> None:
        self._path = path
        self._name = name
        self._descriptor: Descriptor | None = None
        self._size = _FIRST_SIZE
        self._absent_until = 0.0

    @property
    def path(self) -> str:
        """The path it is opened by."""
        return self._path if self._name is None else f"{self._path}/{self._name}"

    def read(self) -> bytes | None:
        """Return the whole text; None where there is no such file.

        Raise Gone or SourceError.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open()
            if descriptor is None:
                return None
        try:
            data = self._pread(descriptor.number)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            self._descriptor = None
            raise translate(error, self.path) from None
        return data

    def attribute(self, name: str) -> bytes | None:
        """Return an extended attribute; None without it, or before the first read."""
        descriptor = self._descriptor
        if descriptor is None:
            return None
        try:
            return os.getxattr(descriptor.number, name)
        except OSError:
            return None

    def close(self) -> None:
        """Close the file. The next read opens it again."""
        self._descriptor = None

    def _open(self) -> Descriptor | None:
        if self._absent_until > time.monotonic():
            return None
        try:
            number = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise translate(error, self.path) from None
            if not os.path.exists(os.path.dirname(self.path)):
                raise Gone(f"{self.path}: its directory has ended") from None
            self._absent_until = time.monotonic() + _ABSENT_SECONDS
            return None
        descriptor = self._descriptor = Descriptor(number)
        return descriptor

    def _pread(self, number: int) -> bytes:
        data = os.pread(number, self._size, 0)
        if len(data) < self._size:
            return data
        data = _read_to_end(number, self._size)
        self._size = max(self._size, 2 * len(data))
        return data


class SharedFile(KeptFile):
    """A file that several containers share by its path.

    It is the file that has the path now: a container that is started again has the cgroup path of
    the one before, which may still hold this object.
    """

    __slots__ = ()

    def read(self) -> bytes | None:
        """Return the whole text; None where there is no such file.

        Raise Gone or SourceError.
        """
        if self._descriptor is not None:
            try:
                return super().read()
            except Gone:
                pass
        return super().read()


class KeptRecords(KeptFile):
    """A kernel file of many records (cpuinfo); a read returns some."""

    __slots__ = ("_lock",)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    def _pread(self, number: int) -> bytes:
        # Two threads on one descriptor would mix two texts: the kernel's buffer belongs to it.
        if not self._lock.acquire(blocking=False):
            return read_whole(self.path)
        try:
            data = _read_to_end(number, self._size)
        finally:
            self._lock.release()
        self._size = max(self._size, len(data) + _FIRST_SIZE)
        return data


class PinnedFile:
    """A process's file of one record, as its `cgroup` is (proc_single_show, fs/proc/base.c).

    Opened at once and never again, as its pid may be another's by then.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = Descriptor.open(path)

    def read(self) -> bytes:
        """Return the whole text. Raise Gone when the process has ended."""
        number = self._descriptor.number
        try:
            data = os.pread(number, _FIRST_SIZE, 0)
            return data if len(data) < _FIRST_SIZE else _read_to_end(number, _FIRST_SIZE)
        except OSError as error:
            raise translate(error, self.path) from None
