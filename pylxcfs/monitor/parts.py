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
#: A restart takes the old socket, which no path leads to, from the fd store or from systemd.
_NEW: Final = (
    "stop and start the instance, and pylxcfs.socket if that listens (a restart keeps the old"
    " socket), then restart the containers that have it bound"
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
    if (path := state["keeper"]["resources"]) is not None:
        found["resources"] = ask(path)
    elif options.get("resources"):  # the keeper has not got the socket
        found["resources"] = ask(os.path.join(place.runtime_dir, "resources.sock"))
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


def ask(path: str) -> Part:
    """Send a request to the socket of the resources service."""

    def broken(text: str, hint: str) -> Part:
        return Part(path, False, text, hint)

    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            # Docker makes one where the source of -v is missing.
            return broken("a directory is in the place of the socket", f"rmdir {path}; {_NEW}")
        if not stat.S_ISSOCK(mode):
            return broken("another file is in the place of the socket", f"rm {path}; {_NEW}")
        answer = json.loads(instance.exchange(path, b"self\n"))
    except FileNotFoundError:
        return broken("the socket is gone", _NEW)
    except ConnectionRefusedError:
        return broken("the process that made the socket has ended: nobody listens", _NEW)
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
