"""What `mount` and `unmount` do: check the host, become the keeper; find the keeper, end it.

Everything that can be refused is refused here, before anything is mounted. Knows the keeper's
arguments, and nothing of what it does with them.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import site
import subprocess
import sys
from typing import Any, NoReturn

from pylxcfs.cli.kinds import Switch
from pylxcfs.cli.options import BY_NAME, Config, Option
from pylxcfs.errors import HostError, MountpointError
from pylxcfs.keeper import child, fusemount, holder, instance, mountpoint, sdnotify
from pylxcfs.keeper.keeper import CONNECTION

#: Where the package is imported from.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: -I -S starts an interpreter that looks at nothing but the standard library: fast, small, and
#: with no code from site-packages that could fail. The package's place has to be told then.
_KEEPER = "import sys; sys.path.insert(0, {root!r}); import pylxcfs.keeper.start as k; k.main()"

#: The keeper gives a server 7 s to end.
_END_MS = 15_000
_SYSTEMCTL_S = 5.0


def become_keeper(config: Config) -> NoReturn:
    """Check everything, then replace this process by the keeper."""
    _need_root()
    if not os.path.exists("/dev/fuse"):
        raise HostError(
            "there is no /dev/fuse", "load it: modprobe fuse (in a container: --device /dev/fuse)"
        )
    if config.mountpoint == BY_NAME["mountpoint"].default:
        with contextlib.suppress(OSError):  # `check` will say what is wrong with it
            os.mkdir(config.mountpoint)
    path = mountpoint.resolve(config.mountpoint)
    _make_runtime_dir(config.runtime_dir)
    pid_fd = instance.claim(config.pid_path)
    try:
        _prepare(path, config)
    except BaseException:
        os.unlink(config.pid_path)
        raise
    argv = keeper_argv(config, path, pid_fd)
    if _ROOT not in site.getsitepackages():
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    child.block_signals()  # from here on they wait for the keeper
    os.set_inheritable(pid_fd, True)
    os.execv(argv[0], argv)  # noqa: S606 (no shell, on purpose)


def keeper_argv(config: Config, path: str, pid_fd: int) -> list[str]:
    """Return the keeper's command line, with the server's behind it."""
    keeper = {
        "--mountpoint": path,
        "--runtime-dir": config.runtime_dir,
        "--pidfile": config.pid_path,
        "--pid-fd": str(pid_fd),
        "--watchdog": str(config.watchdog),
        "--max-failures": str(config.max_failures),
    }
    return [
        *(sys.executable, "-I", "-S", "-c", _KEEPER.format(root=_ROOT)),
        *(word for pair in keeper.items() for word in pair),
        *(["--keep-mounted"] if config.keep_mounted else []),
        "--",
        *(sys.executable, "-P", "-m", "pylxcfs", "serve"),
        *server_flags(config),
        path,
    ]


def server_flags(config: Config) -> list[str]:
    """Return the flags that were given, and no others: a reload may find the rest changed."""
    words = ["--config", config.origin.path] if config.origin.path else []
    for name, value in config.origin.flags.items():
        if name != "mountpoint":
            words += _words(BY_NAME[name], value)
    return words


def _words(option: Option, value: Any) -> list[str]:  # noqa: ANN401  of any kind
    flag = option.flags[0]
    if isinstance(option.kind, Switch):
        on, _, off = flag.partition("/")
        return [on if value else off]
    if isinstance(value, tuple):
        return [flag, ",".join(value)]
    return [flag, str(value)]


def _need_root() -> None:
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo")


def _make_runtime_dir(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"the runtime directory {path} cannot be made: {error.strerror}",
            "name another with --runtime-dir",
        ) from error


def _prepare(path: str, config: Config) -> None:
    """See that `path` can be mounted on, or has a mount that the keeper will adopt."""
    kept = CONNECTION in sdnotify.listen_fds(os.environ) or holder.is_held(config.runtime_dir)
    if kept and mountpoint.is_ours(path):
        return
    dead = mountpoint.clean_dead(path)
    mountpoint.check(path, may_have_files="nonempty" in config.fuse_options)
    if dead:
        count = mountpoint.namespaces_holding(dead)
        sys.stderr.write(
            f"pylxcfs: replacing a dead mount at {path};"
            f" {count} containers still hold files of it and must be restarted\n"
        )


def unmount(config: Config, unless_restart: str | None = None) -> None:
    """End the keeper or the holder of the mountpoint, and unmount what is left."""
    _need_root()
    path = mountpoint.resolve(config.mountpoint)
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
    while mountpoint.is_ours(path):
        fusemount.detach(path)


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

    A restart is a job of systemd's, a stop is another; without a job it ended by itself, and is
    restarted if that was a failure. If systemd does not answer the mount had better stay.
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
