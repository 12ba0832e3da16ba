"""The protocol of a service and systemd: sd_notify(3) and sd_listen_fds(3).

What is said when is the keeper's business. Standard library only.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

_FIRST_FD = 3

#: Variables that are meant for one process, not for its children.
_OURS = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "FDSTORE",
)


class Notifier:
    """Sends states to NOTIFY_SOCKET; does nothing where there is none."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        store = env.get("FDSTORE", "")
        #: systemd 254 sets FDSTORE; the unit sets it for those before.
        self.keeps_descriptors = bool(address) and store.isdecimal() and int(store) > 0
        self.watchdog_s = _watchdog(env) if address else 0.0

    def send(self, *lines: str, fds: Sequence[int] = ()) -> bool:
        """Send the lines as one message; False if they did not arrive."""
        if not self._address:
            return False
        message = "\n".join(lines).encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.connect(self._address)
                channel.setblocking(False)
                socket.send_fds(channel, [message], list(fds))
        except OSError:
            return False
        return True


def listen_fds(env: Mapping[str, str]) -> dict[str, int]:
    """Return systemd's descriptors by name; the last of a name counts."""
    count = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return {}
    numbers = range(_FIRST_FD, _FIRST_FD + int(count))
    names = env.get("LISTEN_FDNAMES", "").split(":")
    return dict(zip(names, numbers, strict=False))


def forget(env: MutableMapping[str, str]) -> None:
    """Remove the variables that children must not see."""
    for name in _OURS:
        env.pop(name, None)


def _watchdog(env: Mapping[str, str]) -> float:
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = env.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0


def stderr_is_journal(env: Mapping[str, str]) -> bool:
    """Tell whether the stderr of this very process is the journal."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
