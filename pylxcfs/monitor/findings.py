"""What `doctor` looks at, and what it says of it: each finding with what to do.

A finding is fine, a warning (something works less well), or an error (containers do not get their
values). Facts come from the other modules of this room; this one judges them.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psutil

from pylxcfs.errors import PylxcfsError
from pylxcfs.monitor import bindings, containers, kernel
from pylxcfs.monitor.kernel import Fuse
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.kept import read_optional

FINE: Final = "fine"
WARNING: Final = "warning"
ERROR: Final = "error"
SEVERITIES: Final = (FINE, WARNING, ERROR)

#: Descriptors for each container, and for everything else (server/server.py).
_FDS_EACH: Final = 24
_FDS_OTHER: Final = 1024 + 256
#: With room for fewer containers than that a busy host would open and close files all the time.
_FEW: Final = 200

#: Programs by which a runtime is known, and what it needs.
_RUNTIMES: Final = {
    "Docker": (("dockerd",), "pylxcfs docker-args, or pylxcfs cdi install (Docker 28)"),
    "Podman": (("podman",), "pylxcfs hooks install, or pylxcfs docker-args"),
    "containerd": (("containerd",), "pylxcfs cdi install (containerd 2), or pylxcfs oci-runtime"),
    "CRI-O": (("crio",), "pylxcfs hooks install"),
    "Kubernetes": (("kubelet",), "container/kubernetes/pod.yaml"),
    "LXC": (("lxc-start",), "lxc.include of container/lxc/pylxcfs.conf"),
    "Incus": (("incusd", "lxd"), "container/lxc/pylxcfs.conf in raw.lxc"),
    "systemd-nspawn": (("systemd-nspawn",), "pylxcfs attach, or --attach-new"),
    "runc": (("runc",), "pylxcfs oci-spec --patch CONFIG"),
    "crun": (("crun",), "pylxcfs oci-spec --patch CONFIG"),
}


class Finding(NamedTuple):
    """One line of `doctor`."""

    subject: str
    severity: str
    text: str
    #: What to do, "" where nothing has to be done.
    hint: str = ""


def of_instance(state: dict[str, Any]) -> Iterator[Finding]:
    """Judge what instance.gather has returned."""
    name = state["state"]
    if state["keeper"] is None:
        if name == "held":
            yield Finding("instance", WARNING, state["text"], "start it: pylxcfs mount")
        else:
            yield Finding("instance", WARNING, "no instance runs", "start it: pylxcfs mount")
        return
    if name == "serving":
        yield Finding("instance", FINE, f"serving at {state['mountpoint']}")
    else:
        hint = "see its log: journalctl -u pylxcfs"
        yield Finding("instance", ERROR, f"{name}: {state['text']}", hint)
    for mount in state["mounts"]:
        if mount["alive"] is False:
            text = f"the {mount['kind']} mount at {mount['mountpoint']} is not served"
            yield Finding("mounts", ERROR, text, "see the log; restart: pylxcfs mount")
    if state["server"] and state["counters"] is None and os.geteuid() == 0:
        yield Finding(
            "server",
            WARNING,
            "it does not answer with its counters",
            "it may be of an older version: kill -USR1 KEEPER replaces it",
        )
    for part in ("keeper", "server"):
        version = (state[part] or {}).get("version")
        if version and version != state["version"]:
            signal = "kill -USR1 KEEPER replaces it" if part == "server" else "restart the unit"
            text = f"{part} {version} runs, {state['version']} is installed"
            yield Finding("version", WARNING, text, signal)
    failed = (state["counters"] or {}).get("fallbacks", {}).get("error", 0)
    if failed:
        text = f"{failed} reads got the host's file because of a bug"
        yield Finding("server", WARNING, text, "report the traceback in its log")


def of_parts(found: Mapping[str, dict[str, Any] | None] | None) -> Iterator[Finding]:
    """Judge what parts.gather has returned."""
    for name, part in (found or {}).items():
        if part is not None:
            severity = {True: FINE, False: ERROR, None: WARNING}[part["works"]]
            yield Finding(name, severity, f"{part['text']}, {part['place']}", part["hint"])


def of_kernel(fuse: Fuse) -> Iterator[Finding]:
    """Test features of the kernel."""
    if not os.path.exists("/dev/fuse"):
        hint = "load it: modprobe fuse (in a container: --device /dev/fuse)"
        yield Finding("FUSE", ERROR, "there is no /dev/fuse", hint)
    elif fuse.works is None:
        yield Finding("FUSE", WARNING, "it could not be tested", "run doctor as root")
    elif not fuse.works:
        hint = "mount(2) is refused: see LSMs below, dmesg, and CAP_SYS_ADMIN"
        yield Finding("FUSE", ERROR, "a FUSE filesystem cannot be mounted", hint)
    else:
        yield Finding("FUSE", FINE, "a FUSE filesystem can be mounted")
    if fuse.resends is not None:
        yield _feature(
            "FUSE resend",
            fuse.resends,
            "reads survive a server that is killed",
            "reads in flight fail with ECONNABORTED when a server is killed",
            "Linux 6.9 has it",
        )
    for name, has, good, bad, hint in (
        (
            "pidfd",
            kernel.has_pidfds(),
            "processes can be held",
            "containers cannot be told from later ones",
            "Linux 5.3 has it",
        ),
        (
            "init of namespaces",
            kernel.finds_inits(),
            "by ioctl NS_GET_TGID_FROM_PIDNS",
            "by a helper process, as the ioctl NS_GET_TGID_FROM_PIDNS is missing",
            "Linux 6.11 has it; nothing else has to be done",
        ),
        (
            "attach",
            kernel.opens_trees(),
            "running containers can be given their files",
            "running containers cannot be given their files",
            "Linux 5.6 has openat2 and open_tree",
        ),
        (
            "attach without a gap",
            kernel.mounts_beneath(),
            "by MOVE_MOUNT_BENEATH",
            "while a file is replaced, a reader may see the host's for a moment",
            "Linux 6.5 has MOVE_MOUNT_BENEATH",
        ),
    ):
        yield _feature(name, has, good, bad, hint)


def _feature(name: str, has: bool | None, good: str, bad: str, hint: str) -> Finding:
    if has is None:
        return Finding(name, WARNING, "it could not be tested", "run doctor as root")
    if has:
        return Finding(name, FINE, good)
    severity = ERROR if name == "pidfd" else WARNING
    return Finding(name, severity, bad, hint)


def of_cgroups(root: str = "/") -> Iterator[Finding]:
    """Judge the cgroup hierarchies."""
    try:
        found = Hierarchies.discover(root)
    except PylxcfsError as error:
        yield Finding("cgroups", ERROR, str(error), "mount /proc")
        return
    listed = read_optional(f"{found.v2.mountpoint}/cgroup.controllers") if found.v2 else None
    unified = os.fsdecode(listed or b"").split()
    mode = "hybrid" if found.v1 and found.v2 else "v1" if found.v1 else "v2" if found.v2 else ""
    if not mode:
        hint = "mount it: mount -t cgroup2 none /sys/fs/cgroup"
        yield Finding("cgroups", ERROR, "no cgroup filesystem is mounted here", hint)
        return
    yield Finding("cgroups", FINE, f"{mode}; v2 has {' '.join(unified) or 'no controllers'}")
    effects = {
        "memory": "containers see the host's memory",
        "cpu": "containers see no CPU quota",
        "cpuset": "containers see every CPU",
        "pids": "load averages begin with a guess",
    }
    for name, effect in effects.items():
        if name not in unified and name not in found.v1:
            hint = f"enable it: cgroup_enable={name} on the kernel's command line, or +{name} in"
            hint += " cgroup.subtree_control"
            yield Finding("cgroups", WARNING, f"no controller {name}: {effect}", hint)


def of_lsms(root: str = "/") -> Iterator[Finding]:
    """Judge the security modules that may refuse mounts or reads."""
    listed = read_optional(os.path.join(root, "sys/kernel/security/lsm"))
    if listed is None:
        text = "not known, as securityfs is not mounted"
        yield Finding("LSMs", FINE, text)
        return
    names = os.fsdecode(listed).strip().split(",")
    yield Finding("LSMs", FINE, ", ".join(names))
    enforcing = read_optional(os.path.join(root, "sys/fs/selinux/enforce"))
    if "selinux" in names and enforcing == b"1":
        yield Finding(
            "SELinux",
            WARNING,
            "it is enforcing, and may refuse containers to read FUSE files",
            "if reads fail with EACCES: setsebool -P virt_sandbox_use_fusefs 1",
        )
    if "apparmor" in names:
        hint = "in a container of its own: --security-opt apparmor=unconfined"
        yield Finding("AppArmor", FINE, "the default profiles let containers read the files", hint)


def of_namespaces(own: Sequence[str], who: str) -> Finding:
    """Judge the namespaces of the daemon, or of this process."""
    if not own:
        return Finding("namespaces", FINE, f"{who} sees the whole host")
    return Finding(
        "namespaces",
        WARNING,
        f"{who} is in a {' and a '.join(own)} namespace of its own: containers outside of it see"
        " the host's values",
        "docker run --cgroupns=host --pid=host, Kubernetes hostPID: true",
    )


def of_runtimes() -> Iterator[Finding]:
    """Name the runtimes on PATH, and what each needs."""
    for name, (programs, needs) in _RUNTIMES.items():
        if any(shutil.which(program) for program in programs):
            yield Finding("runtime", FINE, name, needs)


def of_descriptors(server: int | None) -> Finding:
    """Judge how many containers' files the server may keep open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard  # a server raises its own
    if server is not None:
        try:
            limit, _ = psutil.Process(server).rlimit(psutil.RLIMIT_NOFILE)
        except psutil.Error:
            limit = hard
    del soft
    fit = max(0, (limit - _FDS_OTHER) // _FDS_EACH)
    text = f"{limit} open files: room for {fit} containers"
    if fit >= _FEW:
        return Finding("descriptors", FINE, text)
    hint = "LimitNOFILE=524288 in the unit, or ulimit -n"
    return Finding("descriptors", WARNING, text, hint)


def of_packages(needed: Container[str]) -> Iterator[Finding]:
    """Name optional packages that are missing; `needed`: modules of options that are on."""
    for module, extra, what in (
        ("rich", "top", "pylxcfs top"),
        ("prometheus_client", "metrics", "--metrics-listen"),
        ("h11", "resources", "--resources"),
    ):
        if importlib.util.find_spec(module) is None:
            severity, text = FINE, f"{what} is not available"
            if module in needed:
                severity, text = ERROR, f"{what} is on, and needs {module}, which is not installed"
            yield Finding("packages", severity, text, f"pip install 'pylxcfs[{extra}]'")


def of_containers(listing: Sequence[dict[str, Any]] | None) -> Iterator[Finding]:
    """Judge what the files of containers are bound to."""
    if listing is None:
        yield Finding("containers", WARNING, "they could not be examined", "run doctor as root")
        return
    hints = {
        bindings.DEAD: (ERROR, "pylxcfs attach NAME gives it new ones, or mount with --heal"),
        bindings.FOREIGN: (WARNING, "pylxcfs attach NAME gives it its own"),
        bindings.HOST: (WARNING, "pylxcfs attach NAME gives it its own"),
    }
    counts = dict.fromkeys(hints, 0)
    for one in listing:
        for kind, (severity, hint) in hints.items():
            files = [path for path, bound in one["files"].items() if bound == kind]
            if files:
                counts[kind] += 1
                name = containers.printable(one["name"], 40)
                text = f"{name} (pid {one['pid']}): {len(files)} {kind} files"
                yield Finding("containers", severity, text, hint.replace("NAME", str(one["pid"])))
    if not counts[bindings.DEAD]:
        text = f"{len(listing)} run, none with dead files"
        yield Finding("containers", FINE, text)


def of_others(keeper: int | None) -> Iterator[Finding]:
    """Name other programs that serve such files."""
    for process in psutil.process_iter(["name", "pid"]):
        name, pid = process.info["name"], process.info["pid"]
        if name == "lxcfs":
            text = f"C LXCFS runs (pid {pid})"
            yield Finding("others", WARNING, text, "containers get one or the other: disable one")
        elif name == "pylxcfs-keeper" and pid != keeper:
            text = f"another instance of pylxcfs runs (pid {pid})"
            yield Finding("others", FINE, text)


def worst(found: Sequence[Finding]) -> int:
    """Return the index in SEVERITIES of the worst finding."""
    return max((SEVERITIES.index(one.severity) for one in found), default=0)
