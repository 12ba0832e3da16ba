"""The machine itself: host files as they are, its clock, its CPUs.

Implements the Host that views read. Knows no container. The root directory is given to the
constructor, so that a captured host can stand in for the real one.
"""

from __future__ import annotations

import os
import time

from pylxcfs.errors import Gone, SourceError
from pylxcfs.formats import cpulist, stat
from pylxcfs.sources.kept import KeptRecords, read_optional, read_whole, translate

#: Host files that stay open: those that views read all the time, not each file of sysfs that is
#: read once.
_KEPT_BELOW = "proc/"
_ONLINE = "sys/devices/system/cpu/online"

#: Seconds after which the list of online CPUs is read again; hotplug is rare.
_ONLINE_SECONDS = 1.0


class HostFiles:
    """The host's files below `root`."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        #: For how long `recent` returns the same reading, in nanoseconds.
        self.recent_ns = 0
        self._recent: dict[str, tuple[bytes, int]] = {}
        self._kept: dict[str, KeptRecords] = {_ONLINE: self._keep(_ONLINE)}
        self._online: tuple[int, ...] = ()
        self._online_until = 0.0

    def read(self, path: str) -> bytes:
        """Read a host file whole, `path` relative to the root ("proc/meminfo").

        Raise Gone or SourceError.
        """
        kept = self._kept.get(path)
        if kept is None:
            if not path.startswith(_KEPT_BELOW) or path.count("/") > 2:
                return read_whole(self._path(path))
            kept = self._kept[path] = self._keep(path)
        try:
            data = kept.read()
        except Gone:
            data = kept.read()
        if data is None:
            raise Gone(f"{kept.path}: there is no such file")
        return data

    def recent(self, path: str) -> bytes:
        """Return the file's text, at most `recent_ns` old. Raise Gone or SourceError."""
        text, until_ns = self._recent.get(path, (b"", 0))
        now_ns = time.monotonic_ns()
        if now_ns >= until_ns:
            text = self.read(path)
            # Another thread may have read a later one meanwhile.
            if self._recent.get(path, (b"", 0))[1] <= now_ns:
                self._recent[path] = text, now_ns + self.recent_ns
        return text

    def read_optional(self, path: str) -> bytes | None:
        """Return the whole file, or None where there is none."""
        return read_optional(self._path(path))

    def list(self, path: str) -> list[str]:
        """Return the names in a host directory, in no order.

        `path` is relative to the root. Raise Gone or SourceError.
        """
        try:
            return os.listdir(self._path(path))
        except OSError as error:
            raise translate(error, self._path(path)) from None

    def readlink(self, path: str) -> str:
        """Return where a symbolic link of the host leads.

        `path` is relative to the root. Raise Gone or SourceError.
        """
        try:
            return os.readlink(self._path(path))
        except OSError as error:
            raise translate(error, self._path(path)) from None

    def now_ns(self) -> int:
        """Return CLOCK_BOOTTIME in nanoseconds."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def awake_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def online_cpus(self) -> tuple[int, ...]:
        """Return the online CPUs' numbers, ascending, at most a second old.

        Raise SourceError.
        """
        now = time.monotonic()
        if now >= self._online_until:
            try:
                online = cpulist.parse(self.read(_ONLINE))
            except Gone:
                online = self._cpus_of_stat()  # no sysfs is mounted
            if not online:
                raise SourceError(f"{_ONLINE}: no CPU is online")
            self._online = online
            self._online_until = now + _ONLINE_SECONDS
        return self._online

    def close(self) -> None:
        """Close all files. The next read opens them again."""
        for kept in list(self._kept.values()):
            kept.close()

    def _cpus_of_stat(self) -> tuple[int, ...]:
        text = self.read_optional("proc/stat")
        return tuple(stat.parse(text).cpus) if text is not None else ()

    def _keep(self, path: str) -> KeptRecords:
        return KeptRecords(self._path(path))

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path)
