"""The init (pid 1) of the pid namespace that a process is in, by its pid here.

Linux 6.11+ answers an ioctl, commit ca567df74a28 ("nsfs: add pid translation ioctls"). On older
kernels translator.py lets a process inside of the namespace send its credentials.
"""

from __future__ import annotations

import errno
import fcntl
import os

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources.kept import translate
from pylxcfs.sources.translation import Translator

#: _IOR(NSIO, 0x7, int) of linux/nsfs.h: a pid of the namespace -> the caller's.
NS_GET_TGID_FROM_PIDNS = 0x8004B707

#: What kernels answer that do not know the ioctl.
_UNKNOWN = frozenset({errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

METHODS = ("auto", "ioctl", "scm")


class InitFinder:
    """Finds inits. `method`: "auto", or one of "ioctl" and "scm" to force it."""

    def __init__(self, method: str = "auto", translator: Translator | None = None) -> None:
        if method not in METHODS:
            raise ValueError(f"no such method: {method}")
        self.method = method
        self.translator = translator or Translator()

    def find(self, pid: int) -> int:
        """Return the init's pid; raise Gone or SourceError where it cannot be found."""
        if self.method != "scm":
            try:
                return self._ask_kernel(pid)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise translate(error, f"/proc/{pid}/ns/pid") from None
                if self.method == "ioctl":
                    raise SourceError("this kernel has no NS_GET_TGID_FROM_PIDNS") from None
            self.method = "scm"  # it will not learn it
        return self.translator.init_of(pid)

    def prepare(self) -> None:
        """Find our own init, so that what takes time is done: starting the helper, if need be.

        Raise SourceError where inits cannot be found here at all.
        """
        self.find(os.getpid())

    def close(self) -> None:
        """End the helper process, if there is one."""
        self.translator.close()

    def _ask_kernel(self, pid: int) -> int:
        descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            init: int = fcntl.ioctl(descriptor, NS_GET_TGID_FROM_PIDNS, 1)
        finally:
            os.close(descriptor)
        if init <= 0:
            raise Gone(f"/proc/{pid}/ns/pid: its init is out of sight")
        return init
