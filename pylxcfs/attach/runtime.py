"""An OCI runtime that adds the views to each container, and then becomes runc or crun.

    python3 -ISE runtime.py [--pylxcfs-runtime PROGRAM] [--pylxcfs-mountpoint DIR]
        [--pylxcfs-seccomp SOCKET] [--pylxcfs-resources SOCKET] ARGUMENTS...

For engines without CDI (Docker before 28): the arguments are the runtime's own. At `create` and
`run` the bundle's config.json gets the hook of hook.py, and with a socket of the seccomp agent a
filter that notifies it of two calls. If that cannot be done the container starts
without views, and stderr and syslog say why. `patch` changes nothing but what it adds, to the byte.
The resources socket is bound where it is served and the runtime can make the target (`takes`).

Standard library only, without anything of pylxcfs: engines call the runtime for each `exec`, too.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Table: TypeAlias = dict[str, Any]

_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class NotPatched(ValueError):
    """The text is no runtime specification that can be patched."""


#: Where containers see the resources socket.
RESOURCES = "run/pylxcfs/resources.sock"

#: The calls that the seccomp agent answers.
NOTIFIED = ("sched_getaffinity", "sysinfo")
_NOTIFY = "SCMP_ACT_NOTIFY"
#: By machine: a filter ends programs of an architecture that it does not name.
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "s390x": ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
}


def notified(profile: Table, socket: str) -> Table:
    """Return a seccomp profile that notifies of the two calls at a socket. Raise NotPatched.

    It is `linux.seccomp`, or a profile of containers/common and Docker. Everything but the two
    names stays: nothing is allowed that was not, and every architecture of it is notified.
    """
    rules = profile.get("syscalls")
    if not isinstance(rules, list) or not isinstance(profile.get("defaultAction"), str):
        raise NotPatched('no seccomp profile: no "syscalls" and "defaultAction" in it')
    kept = []
    for rule in rules:
        names = rule.get("names") if isinstance(rule, dict) else None
        if not isinstance(names, list):
            raise NotPatched('no seccomp profile: a rule has no "names"')
        left = [name for name in names if name not in NOTIFIED]
        if left:
            kept.append({**rule, "names": left})
    kept.append({"names": list(NOTIFIED), "action": _NOTIFY})
    return {**profile, "listenerPath": socket, "syscalls": kept}


def _allowing() -> Table:
    """Return a filter that allows everything, for a container without one."""
    architectures = _ARCHITECTURES.get(os.uname().machine, [])
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": []}


def patch(
    text: str,
    hook: Table | None = None,
    mounts: Sequence[Table] = (),
    socket: str | None = None,
) -> str:
    """Return the text of a config.json with a createContainer hook and mounts added.

    A mount whose destination is there already, and a hook that is there, are not added. With a
    socket the container's seccomp filter notifies the agent there; one that has no filter gets one
    that allows every other call.
    """
    config = _parsed(text)
    known = {mount.get("destination") for mount in _tables(config, "mounts")}
    new = [mount for mount in mounts if mount["destination"] not in known]
    if new:
        text = _append(text, ("mounts",), new)
    if hook is not None:
        hooks = config.get("hooks")
        if hook not in _list(hooks if isinstance(hooks, dict) else {}, "createContainer"):
            text = _append(text, ("hooks", "createContainer"), [hook])
    if socket is not None:
        linux = config.get("linux")
        found = linux.get("seccomp") if isinstance(linux, dict) else None
        text = _replace(text, ("linux", "seccomp"), notified(found or _allowing(), socket))
    return text


def _parsed(text: str) -> Table:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise NotPatched(f"config.json: {error}") from None
    if not isinstance(config, dict):
        raise NotPatched("config.json: no object")
    return config


def _list(table: Table, key: str) -> list[Any]:
    found = table.get(key)
    return found if isinstance(found, list) else []


def _tables(table: Table, key: str) -> list[Table]:
    return [one for one in _list(table, key) if isinstance(one, dict)]


def _append(text: str, path: Sequence[str], items: Sequence[Table]) -> str:
    """Append items to the array at a path of keys, which is made if it is not there."""
    start = _skip(text, 0)
    for depth, key in enumerate(path):
        spans, end = _members(text, start)
        if key not in spans or text[spans[key][0] : spans[key][1]] == "null":
            value = json.dumps(items)
            for missing in reversed(path[depth + 1 :]):
                value = f"{{{json.dumps(missing)}: {value}}}"
            if key in spans:
                first, last = spans[key]
                return text[:first] + value + text[last:]
            comma = ", " if spans else ""
            return f"{text[:end]}{comma}{json.dumps(key)}: {value}{text[end:]}"
        start, after = spans[key]
    if text[start] != "[":
        raise NotPatched(f"config.json: {'.'.join(path)} is no array")
    place = after - 1
    while text[place - 1] in " \t\r\n":
        place -= 1
    comma = "" if text[place - 1] == "[" else ", "
    added = ", ".join(json.dumps(item) for item in items)
    return f"{text[:place]}{comma}{added}{text[place:]}"


def _replace(text: str, path: Sequence[str], value: Table) -> str:
    """Put a value at a path of keys, of which the last may not be there."""
    start = _skip(text, 0)
    for key in path[:-1]:
        spans, _ = _members(text, start)
        if key not in spans:
            raise NotPatched(f"config.json: there is no {key}")
        start = spans[key][0]
    spans, end = _members(text, start)
    if path[-1] in spans:
        first, last = spans[path[-1]]
        return text[:first] + json.dumps(value) + text[last:]
    comma = ", " if spans else ""
    return f"{text[:end]}{comma}{json.dumps(path[-1])}: {json.dumps(value)}{text[end:]}"


def _members(text: str, start: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Return the spans of an object's values by key, and where its last member ends."""
    if text[start] != "{":
        raise NotPatched("config.json: an object was expected")
    spans: dict[str, tuple[int, int]] = {}
    position = end = start + 1
    while True:
        position = _skip(text, position)
        if text[position] == "}":
            return spans, end
        if text[position] == ",":
            position = _skip(text, position + 1)
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # the colon
        _, end = _DECODER.raw_decode(text, position)
        spans[key] = position, end
        position = end


def _skip(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    assert blanks is not None, "it matches nothing, too"
    return blanks.end()


#: A hook that fails stops the container. hook.py never fails, but its file or its Python may be
#: gone: while an upgrade replaces them, and where pylxcfs was removed and this was not.
_NEVER_FAIL = '"$@" || logger -t pylxcfs "oci-hook: nothing was bound: $1 exits $?"; exit 0'


def hook_of(mountpoint: str, paths: Sequence[str], python: str = sys.executable) -> Table:
    """Return the createContainer hook."""
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook.py")
    words = [python, "-ISE", file, mountpoint, *paths]
    return {"path": "/bin/sh", "args": ["sh", "-c", _NEVER_FAIL, "sh", *words]}


def mount_of(mountpoint: str, path: str) -> Table:
    """Return the bind mount of one view."""
    return _bind(os.path.join(mountpoint, path), path)


def resources_mount(socket: str) -> Table:
    """Return the bind mount of the resources socket. connect(2) needs no writable mount."""
    return _bind(socket, RESOURCES)


def _bind(source: str, path: str) -> Table:
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return {"destination": f"/{path}", "type": "bind", "source": source, "options": options}


def is_socket(path: str) -> bool:
    """Return whether a path is a socket. It is not connected to: that may start a service."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def takes(config: Table, bundle: str) -> bool:
    """Return whether the runtime of a bundle can make the file RESOURCES.

    Where it cannot, it would refuse to start the container; in a volume the file would stay.
    """
    above = ("/run", "/run/pylxcfs")
    # /var/run is a link to /run in most images.
    over = [
        mount
        for mount in _tables(config, "mounts")
        if os.path.normpath(str(mount.get("destination"))).removeprefix("/var") in above
    ]
    if over:
        return over[-1].get("type") == "tmpfs" and "ro" not in _list(over[-1], "options")
    try:
        place = os.path.join(bundle, config["root"]["path"])
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            return False
        status = os.stat(place)
        for name in RESOURCES.split("/"):
            place = os.path.join(place, name)
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                break
            is_last = name == "resources.sock"
            if stat.S_ISDIR(status.st_mode) == is_last or stat.S_ISLNK(status.st_mode):
                return False
        return _may_write(config, status)
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _may_write(config: Table, status: os.stat_result) -> bool:
    """Return whether the root of a container's user namespace may write there."""
    linux = config.get("linux")
    linux = linux if isinstance(linux, dict) else {}
    if all(one.get("type") != "user" for one in _tables(linux, "namespaces")):
        return True
    owners = (("uidMappings", status.st_uid), ("gidMappings", status.st_gid))
    return all(
        any(0 <= number - one.get("hostID", 0) < one.get("size", 0) for one in _tables(linux, key))
        for key, number in owners
    )


def patch_file(
    path: str,
    hook: Table | None,
    mounts: Sequence[Table] = (),
    socket: str | None = None,
    resources: str | None = None,
) -> bool:
    """Patch a config.json in its place. Raise OSError, NotPatched.

    `resources`: the socket, which is bound where the container takes it. Return whether it is.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read()
    bound = (
        resources is not None
        and is_socket(resources)
        and takes(_parsed(text), os.path.dirname(path))
    )
    if resources is not None and bound:
        mounts = [*mounts, resources_mount(resources)]
    patched = patch(text, hook, mounts, socket)
    if patched == text:
        return bound
    mode = os.stat(path).st_mode & 0o777
    number = os.open(f"{path}.pylxcfs", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(number, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(patched)
    os.replace(f"{path}.pylxcfs", path)
    return bound


#: What is covered: all that pylxcfs serves.
PATHS = (
    *("proc/cpuinfo", "proc/diskstats", "proc/loadavg", "proc/meminfo", "proc/pressure"),
    *("proc/slabinfo", "proc/stat", "proc/swaps", "proc/uptime", "proc/vmstat"),
    *("sys/devices/system/cpu", "sys/devices/system/memory", "sys/devices/system/node"),
)
#: What is covered where the mount has it (--enable-devices).
DEVICES = (
    *("sys/block", "sys/bus/pci/devices", "sys/dev/block", "sys/dev/char"),
    *(
        f"sys/class/{name}"
        for name in (
            *("accel", "block", "bsg", "drm", "hidraw", "infiniband", "infiniband_mad"),
            *("infiniband_verbs", "input", "kfd", "mem", "misc", "nvme", "nvme-generic"),
            *("scsi_generic", "sound", "tpm", "tty", "usbmisc", "vfio", "video4linux"),
            "virtio-ports",
        )
    ),
)


def main() -> None:
    """Patch the bundle where a container is made, and become the runtime."""
    words = sys.argv[1:]
    ours = {"--pylxcfs-runtime": "runc", "--pylxcfs-mountpoint": "/var/lib/pylxcfs"}
    ours |= {"--pylxcfs-seccomp": "", "--pylxcfs-resources": f"/{RESOURCES}"}
    while words and words[0] in ours:
        ours[words[0]] = words[1]
        del words[:2]
    runtime, mountpoint, socket, resources = ours.values()
    if "create" in words or "run" in words:
        try:
            paths = [path for path in PATHS if os.path.exists(f"/{path}")]
            paths += [path for path in DEVICES if os.path.lexists(f"{mountpoint}/{path}")]
            config = os.path.join(_bundle(words), "config.json")
            # Without the socket the runtime would refuse to start the container.
            agent = socket if os.path.exists(socket) else None
            patch_file(config, hook_of(mountpoint, paths), (), agent, resources)
        except (OSError, NotPatched) as error:
            _say(f"the container starts without views: {error}")
    try:
        os.execvp(runtime, [runtime, *words])  # noqa: S606 (no shell, on purpose)
    except OSError as error:
        _say(f"{runtime}: {error.strerror}")
        sys.exit(127)


def _say(text: str) -> None:
    """Write a line to stderr and, as engines drop that, to syslog."""
    sys.stderr.write(f"pylxcfs oci-runtime: {text}\n")
    import syslog  # hardly any start needs it

    syslog.openlog("pylxcfs", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, f"oci-runtime: {text}")


def _bundle(words: Sequence[str]) -> str:
    for position, word in enumerate(words):
        if word in ("--bundle", "-b") and position + 1 < len(words):
            return words[position + 1]
        if word.startswith("--bundle="):
            return word.partition("=")[2]
    return "."


if __name__ == "__main__":
    main()
