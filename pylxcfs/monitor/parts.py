"""Optional parts of an instance: which are on, and whether they work.

    resources    the socket where processes ask about their resources: a request is sent to it
    cgroup       the tree like cgroupfs: the server says what is missing (server/counters.py)
    devices      the directories of devices: likewise

RUNTIME_DIR/config.json says which are on. Root alone may read it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pylxcfs.errors import DocumentError
from pylxcfs.monitor import instance
from pylxcfs.monitor.instance import Place
from pylxcfs.server import settings

#: Option, directory in the own mount, and what to do where the server says that it does not work.
_OF_SERVER: Final = {
    "cgroup": ("enable_cgroup", "cgroup", "see docs/cgroup.md, Needs; then restart the instance"),
    "devices": (
        "enable_devices",
        "sys",
        "allow bpf(2) (docs/hpc.md, cgroup v2); then restart the instance",
    ),
}
_LOG: Final = "see the log: journalctl -u pylxcfs"
#: A restart takes the old socket, which no path leads to, from the fd store.
_NEW: Final = (
    "stop and start the instance (a restart keeps the old socket), then restart the containers"
    " that have it bound"
)
_NEW_OF_SYSTEMD: Final = (
    "systemctl stop pylxcfs.socket pylxcfs.service; systemctl start pylxcfs.socket; then restart"
    " the containers that have it bound"
)
#: Inode and path of a socket that listens (unix_seq_show, net/unix/af_unix.c), but of none that
#: the keeper has made: those are bound through /proc/self/fd (keeper/listening.py).
_BOUND: Final = re.compile(
    r"^\S+ \S+ \S+ 00010000 \S+ \S+ +(\d+) (/(?!proc/self/fd/).+)$", re.MULTILINE
)


class Part(NamedTuple):
    """One part that is on."""

    #: Its socket or directory.
    place: str
    #: None: not known.
    works: bool | None
    text: str
    #: What to do, "" where nothing has to be done.
    hint: str = ""


def gather(place: Place, state: Mapping[str, Any]) -> dict[str, dict[str, Any] | None] | None:
    """Return the parts of an instance by name, as `status --json` prints them; None: it is off.

    `state` is what instance.gather has returned. None without an instance, and where its
    configuration cannot be read.
    """
    if state["keeper"] is None:
        return None
    try:
        with open(os.path.join(place.runtime_dir, "config.json"), "rb") as file:
            options = settings.load(file.read())["options"]
    except (OSError, DocumentError):
        return None
    found: dict[str, Part | None] = {"resources": None}
    given = _socket_of_systemd(state["keeper"]["pid"])
    if given is not None:
        found["resources"] = ask(given, _NEW_OF_SYSTEMD)
    elif options.get("resources"):
        found["resources"] = ask(os.path.join(place.runtime_dir, "resources.sock"), _NEW)
    problems = (state["counters"] or {}).get("problems")
    for name, (option, directory, hint) in _OF_SERVER.items():
        found[name] = None
        if options.get(option):
            path = os.path.join(state["mountpoint"], directory)
            found[name] = _told(path, problems, option, hint)
    return {name: part and part._asdict() for name, part in found.items()}


def _told(path: str, problems: Mapping[str, str] | None, option: str, hint: str) -> Part:
    if problems is None:
        return Part(path, None, "the server does not say whether it works", _LOG)
    if option in problems:
        return Part(path, False, f"it does not work: {problems[option]}", hint)
    return Part(path, True, "works")


def ask(path: str, again: str = _NEW) -> Part:
    """Send a request to the socket of the resources service; `again`: how to get a new socket."""

    def broken(text: str, hint: str) -> Part:
        return Part(path, False, text, hint)

    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            # Docker makes one where the source of -v is missing.
            return broken("a directory is in the place of the socket", f"rmdir {path}; {again}")
        if not stat.S_ISSOCK(mode):
            return broken("another file is in the place of the socket", f"rm {path}; {again}")
        answer = json.loads(instance.exchange(path, b"self\n"))
    except FileNotFoundError:
        return broken("the socket is gone", again)
    except ConnectionRefusedError:
        return broken("the process that made the socket has ended: nobody listens", again)
    except (OSError, ValueError) as error:
        if importlib.util.find_spec("h11") is None:
            return broken(
                "no answer: the package h11 is not installed",
                "pip install 'pylxcfs[resources]', then systemctl reload pylxcfs",
            )
        match error:
            case TimeoutError():
                text = "no answer within a second: the service may be starting"
            case OSError():
                text = f"no answer: {error.strerror}"
            case _:
                text = "the connection was closed without an answer in JSON"
        return broken(text, _LOG)
    match answer:
        case {"scope": _}:
            return Part(path, True, "answers")
        case {"error": text, "hint": hint}:
            return broken(f"the answer is an error: {text}", str(hint))
    return broken("the answer is not that of the resources service", _LOG)


def _socket_of_systemd(keeper: int) -> str | None:
    """Return the path of the socket that systemd has passed to the keeper; None without one."""
    try:
        with open(f"/proc/{keeper}/net/unix", encoding="utf-8", errors="surrogateescape") as file:
            found = _BOUND.findall(file.read())
        paths: dict[str, str] = {f"socket:[{inode}]": path for inode, path in found}
        for name in os.listdir(f"/proc/{keeper}/fd"):
            path = paths.get(os.readlink(f"/proc/{keeper}/fd/{name}"))
            if path is not None:
                return path
    except OSError:
        pass  # it has ended, or belongs to another user
    return None
