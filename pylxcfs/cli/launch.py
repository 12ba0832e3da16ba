"""`mount` and `unmount`: become the keeper, and end it.

Every refusal is made here, before anything is mounted. Knows the arguments of the keeper, and
nothing of what it does with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import signal
import site
import subprocess
import sys
from typing import NoReturn

from pylxcfs.cli import runtime
from pylxcfs.cli.options import BY_NAME, Config
from pylxcfs.errors import HostError, MountpointError, UsageError
from pylxcfs.keeper import child, fusemount, holder, instance, mountpoint, resources, sdnotify
from pylxcfs.views import VIEWS

_log = logging.getLogger(__name__)

#: Where the package is imported from.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: -I -S starts an interpreter with nothing but the standard library: fast, small, and without
#: code from site-packages that could fail. It has to be told where the package is.
_KEEPER = "import sys; sys.path.insert(0, {root!r}); import pylxcfs.keeper.start as k; k.main()"

#: The keeper adds the descriptors, and makes the resolver's command of it (last word `resolve`).
_SERVER = (sys.executable, "-P", "-m", "pylxcfs", "serve")

#: Descriptors in systemd's fd store that tell of a mount that is kept. The second is what
#: the version without a caller mount called it.
_STORED = frozenset({"pylxcfs-own", "pylxcfs-connection"})

#: The keeper gives a server 7 s to end.
_END_MS = 15_000
_SYSTEMCTL_S = 5.0

#: Inode numbers of a machine's first namespaces: PROC_CGROUP_INIT_INO, PROC_PID_INIT_INO
#: (include/linux/proc_ns.h).
_HOSTS_NAMESPACES = {"cgroup": 0xEFFFFFFB, "pid": 0xEFFFFFFC}


def become_keeper(config: Config, invalid: UsageError | None = None) -> NoReturn:
    """Check everything, then replace this process by the keeper.

    `invalid` says that the configuration is the last good one, and what is wrong with the new
    one: that is an error unless there is a mount to adopt.
    """
    offered = is_offered(config)
    kept = offered and mountpoint.is_ours(config.mountpoint)
    if invalid is not None:
        if not kept:
            raise invalid
        _log.warning("the last good configuration is used: %s; %s", invalid, invalid.hint)
    _need_root()
    if config.metrics_listen:
        from pylxcfs.monitor import listening  # slow to load

        try:
            listening.need_package()
        except HostError as error:
            if not kept:
                raise
            _log.warning("%s; %s", error, error.hint)
    if config.resources or resources.LISTEN in sdnotify.listen_fds(os.environ):
        from pylxcfs.cli.resources import need_package  # most do without it

        try:
            need_package()
        except HostError as error:
            if config.resources and not kept:
                raise
            _log.warning("%s; %s", error, error.hint)
    own = own_namespaces()
    if own:
        _log.warning(
            "this is a %s namespace of its own: only containers that were started in it get their"
            " own values, all others see the host's; to serve the whole host: docker run"
            " --cgroupns=host --pid=host, Kubernetes hostPID: true, or nsenter --target 1 --cgroup"
            " --pid",
            " and a ".join(own),
        )
    if not os.path.exists("/dev/fuse"):
        raise HostError(
            "there is no /dev/fuse", "load it: modprobe fuse (in a container: --device /dev/fuse)"
        )
    check_places(config)
    if config.mountpoint == BY_NAME["mountpoint"].default:
        with contextlib.suppress(OSError):  # `check` says what is wrong with it
            os.mkdir(config.mountpoint)
    with runtime.writing(config.runtime_dir):
        os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # not exist_ok=True, which asks the mount
            os.mkdir(runtime.caller_mount(config), mode=0o755)
    with runtime.writing(os.path.dirname(config.pid_path)):
        pid_fd = instance.claim(config.pid_path)
    try:
        if not kept:
            _prepare(config, clean_caller_mount=not offered)
        runtime.save(config)
        config_fd = document_fd(config)
    except BaseException:
        os.unlink(config.pid_path)
        raise
    argv = keeper_argv(config, pid_fd, config_fd)
    if _ROOT not in site.getsitepackages():
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    child.block_signals()  # from here on they wait for the keeper
    for number in (pid_fd, config_fd):
        os.set_inheritable(number, True)
    os.execv(argv[0], argv)  # noqa: S606 (no shell, on purpose)


def own_namespaces(pid: int | None = None) -> list[str]:
    """Return the kinds of namespaces that hide containers of the host from a process.

    Without `pid` from this one.

    Paths of cgroups outside of a cgroup namespace begin with "/..", and of callers outside of a
    pid namespace no pid is known (Documentation/admin-guide/cgroup-v2.rst, pid_namespaces(7)).
    """
    return [
        kind
        for kind, number in _HOSTS_NAMESPACES.items()
        if os.stat(f"/proc/{pid or 'self'}/ns/{kind}").st_ino != number
    ]


def keeper_argv(config: Config, pid_fd: int, config_fd: int) -> list[str]:
    """Return the keeper's command line, with the server's behind it."""
    keeper = {
        "--mountpoint": config.mountpoint,
        "--runtime-dir": config.runtime_dir,
        "--pidfile": config.pid_path,
        "--pid-fd": str(pid_fd),
        "--config-fd": str(config_fd),
        "--watchdog": str(config.watchdog),
        "--max-failures": str(config.max_failures),
        "--files": ",".join(view.host for view in VIEWS),
    }
    return [
        *(sys.executable, "-I", "-S", "-c", _KEEPER.format(root=_ROOT)),
        *(word for pair in keeper.items() for word in pair),
        *(["--devices"] if config.enable_devices else []),
        *(["--keep-mounted"] if config.keep_mounted else []),
        *(["--companion"] if config.heal or config.attach_new or config.move_new else []),
        *(["--seccomp-agent"] if config.seccomp_agent else []),
        *(["--resources"] if config.resources else []),
        *(["--metrics"] if config.metrics_listen else []),
        *("--", *_SERVER),
    ]


def document_fd(config: Config) -> int:
    """Return a memfd that holds the configuration document."""
    number = os.memfd_create("pylxcfs-config")
    with open(number, "wb", closefd=False) as file:
        file.write(config.document())
    return number


def is_offered(config: Config) -> bool:
    """Tell whether systemd or a holder keeps a mount for the next keeper."""
    stored = not _STORED.isdisjoint(sdnotify.listen_fds(os.environ))
    return stored or holder.is_held(config.runtime_dir)


def check_places(config: Config) -> None:
    """Refuse paths that a mount would hide."""
    place, runtime_dir = config.mountpoint, config.runtime_dir
    if _is_inside(runtime_dir, place):
        raise UsageError(
            f"the runtime directory {runtime_dir} lies inside the mountpoint {place}",
            "name another with --runtime-dir",
        )
    if _is_inside(place, runtime_dir):
        raise UsageError(
            f"the mountpoint {place} lies inside the runtime directory {runtime_dir}",
            "name another mountpoint, or another directory with --runtime-dir",
        )
    for mount in (place, runtime.caller_mount(config)):
        if _is_inside(config.pid_path, mount):
            raise UsageError(
                f"the pid file {config.pid_path} lies inside the mount at {mount}",
                "name another with --pidfile",
            )


def _is_inside(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def _need_root() -> None:
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo")


def _prepare(config: Config, *, clean_caller_mount: bool) -> None:
    """Remove dead mounts, and check that both mounts can be made.

    A caller mount of which the descriptor is kept answers nobody now; the keeper detaches it.
    """
    dead = mountpoint.clean_dead(config.mountpoint)
    mountpoint.check(config.mountpoint, may_have_files="nonempty" in config.fuse_options)
    if clean_caller_mount:
        dead += mountpoint.clean_dead(runtime.caller_mount(config))
        mountpoint.check(runtime.caller_mount(config), may_have_files=True)
    if dead:
        count = mountpoint.namespaces_holding(dead)
        sys.stderr.write(
            f"pylxcfs: replacing a dead mount at {config.mountpoint};"
            f" {count} containers still hold files of it and must be restarted\n"
        )


def unmount(config: Config, unless_restart: str | None = None) -> None:
    """End the keeper or the holder, and unmount what remains."""
    _need_root()
    path = config.mountpoint
    if unless_restart is not None and _starts_again(unless_restart):
        return
    was_mounted = mountpoint.is_ours(path)
    keeper = instance.owner(config.pid_path)
    if keeper is not None:
        served = instance.mountpoint_of(keeper)
        if served != path:
            raise MountpointError(
                f"the instance of {config.pid_path} serves {served}, not {path}",
                f"name its own: pylxcfs unmount --runtime-dir DIR {shlex.quote(path)}",
            )
        _end(keeper)
    elif not (holder.end(config.runtime_dir, path) or was_mounted or unless_restart):
        sys.stderr.write(f"pylxcfs: nothing of pylxcfs is mounted at {path}\n")
    places = [path]
    if not holder.is_held(config.runtime_dir):  # for another mountpoint
        places.append(runtime.caller_mount(config))
    for place in places:
        while mountpoint.is_ours(place):
            fusemount.detach(place)


def _end(pid: int) -> None:
    """Tell the keeper to end for good, and wait until it has."""
    try:
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, child.END_FOR_GOOD)
    except ProcessLookupError:
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(_END_MS):
        raise HostError(f"the keeper (pid {pid}) does not end", f"see its log, then: kill -9 {pid}")
    os.close(pidfd)


def _starts_again(unit: str) -> bool:
    """Tell, in the unit's ExecStopPost, whether another start follows.

    A restart is one kind of systemd's jobs, a stop another; without a job it ended by itself,
    and is restarted if that was a failure. If systemd does not answer, the mount stays.
    """
    command = ["systemctl", "list-jobs", "--no-legend", "--plain", "--full", unit]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"pylxcfs: cannot ask systemd, the mount stays: {error}\n")
        return True
    for line in answer.stdout.splitlines():
        words = line.split()  # number, unit, type, state
        if words[1:2] == [unit]:
            return words[2] != "stop"
    return os.environ.get("SERVICE_RESULT", "success") != "success"
