"""The init (pid 1) of a pid namespace.

It is found from a process in the namespace or in one below it. Linux 6.11+ answers an ioctl, commit
ca567df74a28 ("nsfs: add pid translation ioctls"). On older kernels a process inside of the
namespace opens a pidfd of pid 1 (translator.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources.helper import Translator
from pylxcfs.sources.kept import Descriptor, translate

#: _IO(NSIO, 0x2) of linux/nsfs.h: a descriptor of the parent namespace. Linux 4.9+.
NS_GET_PARENT = 0xB702
#: _IOR(NSIO, 0x7, int) of linux/nsfs.h: a pid of the namespace -> the caller's.
NS_GET_TGID_FROM_PIDNS = 0x8004B707

#: Errors of kernels that do not know the ioctl.
_UNKNOWN = frozenset({errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

#: MAX_PID_NS_LEVEL (include/linux/pid_namespace.h).
MOST_LEVELS = 32

METHODS = ("auto", "ioctl", "scm")

#: Seconds in which a namespace is not tried again whose root has stopped the process that entered
#: it: readers wait meanwhile.
_AGAIN_S = 10.0
#: Such namespaces that are remembered.
_MOST_FAILED = 1024


class InitFinder:
    """Finds inits.

    `method`: "auto", or "ioctl" or "scm" to force one.
    """

    def __init__(self, method: str = "auto", translator: Translator | None = None) -> None:
        if method not in METHODS:
            raise ValueError(f"no such method: {method}")
        self.method = method
        self.translator = translator or Translator()
        #: When such namespaces are tried again.
        self._again: dict[int, float] = {}

    def find(self, pid: int, pidns: int = 0) -> int:
        """Return the pid of the init of namespace `pidns`.

        `pidns` is an inode number, 0 for the namespace of `pid`. `pid` is a thread in the
        namespace or in a descendant of it. Raise Gone if it is not, or
        has ended, SourceError where inits cannot be found.
        """
        namespace = Descriptor.open(f"/proc/{pid}/ns/pid")
        if pidns:
            namespace = _ancestor(namespace, pidns)
        if self.method != "scm":
            try:
                return _translate(namespace, 1)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise translate(error, f"/proc/{pid}/ns/pid") from None
                if self.method == "ioctl":
                    raise SourceError("this kernel has no NS_GET_TGID_FROM_PIDNS") from None
            self.method = "scm"
        return self._from_inside(namespace, 1)

    def process(self, pid: int, number: int) -> int:
        """Return the pid of process `number` in the pid namespace of process `pid`.

        Raise Gone if there is none, SourceError where that cannot be found.
        """
        namespace = Descriptor.open(f"/proc/{pid}/ns/pid")
        if self.method != "scm":
            try:
                return _translate(namespace, number)
            except OSError as error:
                if error.errno not in _UNKNOWN or self.method == "ioctl":
                    raise translate(error, f"process {number}") from None
        return self._from_inside(namespace, number)

    def _from_inside(self, namespace: Descriptor, wanted: int) -> int:
        number = os.fstat(namespace.number).st_ino
        if time.monotonic() < self._again.get(number, 0.0):
            raise SourceError(
                f"pid namespace {number}: its root has stopped the process that entered it"
            )
        try:
            return self.translator.process_of(namespace, wanted)
        except SourceError as error:
            if "stopped" in str(error):
                if len(self._again) >= _MOST_FAILED:
                    self._again.clear()
                self._again[number] = time.monotonic() + _AGAIN_S
            raise

    def prepare(self) -> None:
        """Find the server's own init.

        That starts the helper process where one is needed. Raise SourceError where inits cannot be
        found at all.
        """
        self._again.clear()
        self.find(os.getpid())

    def close(self) -> None:
        """End the helper process, if there is one."""
        self.translator.close()


def _ancestor(namespace: Descriptor, pidns: int) -> Descriptor:
    """Return the namespace `pidns`, the given one or an ancestor of it."""
    for _ in range(MOST_LEVELS):
        if os.fstat(namespace.number).st_ino == pidns:
            return namespace
        try:
            namespace = Descriptor(fcntl.ioctl(namespace.number, NS_GET_PARENT))
        except OSError:
            break  # EPERM: the parent is not below the server's own namespace
    raise Gone(f"pid namespace {pidns}: the process is not in it")


def _translate(namespace: Descriptor, number: int) -> int:
    pid: int = fcntl.ioctl(namespace.number, NS_GET_TGID_FROM_PIDNS, number)
    if pid <= 0:
        raise Gone(f"pid namespace: its process {number} is not visible to the server")
    return pid
