"""Every error that pylxcfs raises on purpose, with exit codes.

    PylxcfsError
    +-- FormatError          kernel text that does not have its documented format
    +-- SourceError          a file of the kernel cannot be read (now)
    |   +-- Gone             ... because its process, cgroup or namespace has ended
    +-- Refused              a request that is answered with an errno
    +-- DocumentError        a configuration document that cannot be parsed
    +-- UserError            a command cannot be executed; has a hint and an exit code
        +-- UsageError       exit 2: bad option, bad configuration
        +-- HostError        exit 3: not root, no /dev/fuse, a missing program or kernel feature
        +-- MountpointError  exit 4: missing, not a directory, not empty, in use
        +-- InstanceError    exit 5: another instance runs

This module imports nothing of the package, and every other module may import it.
"""

from __future__ import annotations

import os


class PylxcfsError(Exception):
    """Base class of all errors raised on purpose."""


class FormatError(PylxcfsError):
    """Kernel text cannot be parsed: the file `what`, at `line`."""

    def __init__(self, what: str, line: bytes = b"") -> None:
        super().__init__(f"{what}: cannot parse {line[:80]!r}")
        self.what = what
        self.line = line


class SourceError(PylxcfsError):
    """A kernel file cannot be read, or has no usable value."""


class Gone(SourceError):
    """The process, cgroup or namespace has ended."""


class Refused(PylxcfsError):
    """The caller gets `errno`."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class DocumentError(PylxcfsError):
    """A configuration document does not parse, or does not validate."""


class UserError(PylxcfsError):
    """A message for the user, with a `hint` and an exit code."""

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(UserError):
    """A bad option, argument or config file."""

    exit_code = 2


class HostError(UserError):
    """The machine lacks something: root, /dev/fuse, a kernel feature."""

    exit_code = 3


class MountpointError(UserError):
    """The mountpoint cannot be used."""

    exit_code = 4


class InstanceError(UserError):
    """Another instance holds the pid file or the mountpoint."""

    exit_code = 5
