"""The commands, made from the table of options; other modules do the work.

`mount` ends by becoming the keeper (exec). An error is one line that says what is wrong and one
that says what to do, on stderr; exit codes are in EXIT_CODES. Data go to stdout.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from pylxcfs import __version__, log
from pylxcfs.cli import launch, options, runtime
from pylxcfs.cli.kinds import FuseOptions, Kind, Switch
from pylxcfs.cli.options import ALIASES, BY_NAME, OPTIONS, Alias, Config, Option
from pylxcfs.errors import DocumentError, HostError, UsageError, UserError
from pylxcfs.keeper import instance

_log = logging.getLogger(__name__)

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Also in the help text, the man page and docs/options.md.
EXIT_CODES = {
    0: "done; mount: told to end, or unmounted; status: it serves; doctor: nothing found",
    1: "an error in pylxcfs, or a server that could not start on a new mount; doctor: warnings",
    2: "usage or configuration; doctor: errors",
    3: "root, /dev/fuse or a writable directory is missing; status: no instance runs",
    4: "the mountpoint is missing, not a directory, not empty, or in use",
    5: "another instance runs on the same pid file",
    6: "status: an instance runs, but its files are not served by a server",
    7: "attach, detach: something could not be done in a container",
}

#: What the keeper does on each signal; also in the man page and docs/options.md.
SIGNALS = {
    "SIGTERM, SIGINT": "The server saves its state and ends, and both mounts are removed. With"
    " keep_mounted, or under a unit with an fd store, they stay for the next start.",
    "SIGHUP": "The configuration is read again. One that does not validate changes nothing.",
    "SIGUSR1": "The server is replaced, as after an upgrade.",
    "SIGUSR2": "Containers see the host's values; after the next one, their own again.",
    "SIGQUIT": "The stacks of the server are logged.",
}


class _Value(click.ParamType[Any]):
    """The kind of an option, as a type of click."""

    def __init__(self, kind: Kind[Any]) -> None:
        self.name = kind.metavar
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401  click's signature
        try:
            return self._kind.text(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_PATH = _Value(BY_NAME["mountpoint"].kind)


class _Pid(click.IntRange):
    """A pid. The name is for the error."""

    name = "number"

    def __init__(self) -> None:
        super().__init__(1)


def _click_option(option: Option) -> Callable[[_Command], _Command]:
    text = f"{option.help}  [{option.limits}default: {option.default_text}; {option.env}]"
    if isinstance(option.kind, Switch):
        return click.option(*option.flags, option.name, default=None, help=text)
    return click.option(
        *option.flags,
        option.name,
        type=_Value(option.kind),
        metavar=option.kind.metavar,
        multiple=isinstance(option.kind, FuseOptions),
        help=text,
    )


def _click_alias(alias: Alias) -> Callable[[_Command], _Command]:
    return click.option(*alias.flags, _alias_key(alias), is_flag=True, help=alias.help)


def _alias_key(alias: Alias) -> str:
    return "alias_" + alias.flags[0].lstrip("-").replace("-", "_")


def _options(*names: str) -> Callable[[_Command], _Command]:
    """Add --config and these options; without names all, and the aliases."""

    def decorate(command: _Command) -> _Command:
        rows = [BY_NAME[name] for name in names] or [row for row in OPTIONS if row.flags]
        for alias in () if names else reversed(ALIASES):
            command = _click_alias(alias)(command)
        for row in reversed(rows):
            command = _click_option(row)(command)
        return click.option(
            "--config",
            "config_file",
            type=_PATH,
            metavar="PATH",
            help=f"TOML file.  [default: {options.DEFAULT_FILE} if it exists; PYLXCFS_CONFIG]",
        )(command)

    return decorate


_mountpoint = click.argument("mountpoint", required=False, type=_PATH)


def _flags(context: click.Context) -> dict[str, Any]:
    """Return the options that were given on the command line."""
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    flags = {name: value for name, value in given.items() if name in BY_NAME}
    if "fuse_options" in flags:
        flags["fuse_options"] = tuple(item for items in flags["fuse_options"] for item in items)
    for alias in ALIASES:
        if alias.name and _alias_key(alias) in given:
            flags.setdefault(alias.name, alias.value)
    return flags


def _load_or_last_good(context: click.Context) -> tuple[Config, UsageError | None]:
    return runtime.load_or_last_good(_flags(context), os.environ, context.params["config_file"])


def _mountpoint_of_instance(context: click.Context) -> str:
    """Return where an instance serves, or would serve if one was started."""
    return _place_of_instance(context)[0]


def _place_of_instance(context: click.Context) -> tuple[str, str]:
    """Return mountpoint and runtime directory of an instance, which need not run."""
    config, _ = _load_or_last_good(context)
    keeper = instance.owner(config.pid_path)
    place = (keeper and instance.mountpoint_of(keeper)) or config.mountpoint
    return place, config.runtime_dir


def _warn(invalid: UsageError | None) -> None:
    if invalid is not None:
        _log.warning("the last good configuration is used: %s; %s", invalid, invalid.hint)


def _exit_codes() -> str:
    return "".join(f"\n  {code}  {text}" for code, text in EXIT_CODES.items())


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:" + _exit_codes(),
)
@click.version_option(__version__, "-v", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """Let each container read its own numbers in /proc and /sys."""


@cli.command(
    short_help="Serve the files.",
    epilog=f"MOUNTPOINT is {BY_NAME['mountpoint'].default} unless given.",
)
@click.version_option(__version__, "-v", "--version", message="pylxcfs %(version)s")
@_mountpoint
@_options()
@click.pass_context
def mount(context: click.Context, /, **_: object) -> None:
    """Serve the files at MOUNTPOINT, in the foreground, until SIGTERM or SIGINT.

    SIGHUP reloads the configuration, SIGUSR1 replaces the server (after an upgrade), SIGUSR2
    switches between the containers' values and the host's, SIGQUIT logs stacks.
    """
    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    launch.become_keeper(config, invalid)


@cli.command(short_help="End the instance, and unmount.")
@_mountpoint
@_options("pidfile", "runtime_dir")
@click.option("--unless-restart", metavar="UNIT", hidden=True, help="For its ExecStopPost.")
@click.pass_context
def unmount(context: click.Context, /, unless_restart: str | None, **_: object) -> None:
    """End the instance that serves MOUNTPOINT, and unmount for good."""
    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    launch.unmount(config, unless_restart)


@cli.command(short_help="Show whether an instance serves, and to which containers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_options("pidfile", "runtime_dir")
@click.pass_context
def status(context: click.Context, /, as_json: bool, **_: object) -> int:
    """Show whether an instance serves, its processes and parts, and the containers on this host.

    For each container: its limits, and what its files are bound to. "own" is the directory of the
    container, "caller" the mount where each reader gets its own values, "dead" a mount without a
    server, "other" another instance.

    Exit code 0 if it serves, 3 if no instance runs, 6 if one runs and does not serve.
    """
    from pylxcfs.cli import status as state_of  # psutil is slow to load

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    state = state_of.gather(config)
    click.echo(json.dumps(state, indent=2) if as_json else state_of.render(state))
    return state_of.exit_code(state)


@cli.command(short_help="Show containers and the server, live.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two readings.",
)
@_options("pidfile", "runtime_dir")
@click.pass_context
def top(context: click.Context, /, interval: float, **_: object) -> None:
    """Show the usage of each container against its limits, and what the server does, live.

    Keys: q ends it, s changes the order, up and down move the list, space takes a reading now.
    Needs the package rich: pip install 'pylxcfs[top]'.
    """
    from pylxcfs.cli import top as screen

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    screen.run(config, interval)


@cli.command(short_help="Test what pylxcfs needs on this host.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_options("pidfile", "runtime_dir")
@click.pass_context
def doctor(context: click.Context, /, as_json: bool, **_: object) -> int:
    """Test the kernel, cgroups, namespaces, runtimes and containers of this host.

    Each finding says what to do. Nothing is changed. Exit code 0 without findings, 1 with
    warnings, 2 with errors.
    """
    from pylxcfs.cli import doctor as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    found = work.examine(config)
    click.echo(json.dumps(found, indent=2) if as_json else work.render(found))
    return work.exit_code(found)


_containers = click.argument("containers", nargs=-1, metavar="PID|NAME...")
_all = click.option("--all", "every", is_flag=True, help="Every container on this host.")
_files = click.option(
    "--files",
    metavar="FILE,...",
    help="Files and directories, as proc/meminfo,sys/devices/system/cpu.  [default: all]",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.command(short_help="Give running containers their files.")
@_containers
@_all
@_files
@_as_json
@_options("pidfile", "runtime_dir")
@click.pass_context
def attach(
    context: click.Context,
    /,
    containers: tuple[str, ...],
    every: bool,
    files: str | None,
    as_json: bool,
    **_: object,
) -> int:
    """Mount the views over the files of containers that run, from outside.

    A container is named by a process in it, or by the name or id that its runtime gave it. Dead or
    older mounts of pylxcfs are replaced; what somebody else has mounted is left, and named.
    """
    from pylxcfs.cli import attach as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    done = work.attach(config, containers, every, files)
    click.echo(json.dumps(done, indent=2) if as_json else work.render(done))
    return work.exit_code(done)


@cli.command(short_help="Remove the files from running containers.")
@_containers
@_all
@_files
@_as_json
@_options("pidfile", "runtime_dir")
@click.pass_context
def detach(
    context: click.Context,
    /,
    containers: tuple[str, ...],
    every: bool,
    files: str | None,
    as_json: bool,
    **_: object,
) -> int:
    """Remove what pylxcfs has mounted in containers that run; they see the kernel's files again."""
    from pylxcfs.cli import attach as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    done = work.detach(containers, every, files)
    click.echo(json.dumps(done, indent=2) if as_json else work.render(done))
    return work.exit_code(done)


_action = click.argument("action", type=click.Choice(["install", "uninstall", "print"]))


def _directory(default: str) -> Callable[[_Command], _Command]:
    text = f"Where the file belongs.  [default: {default}]"
    return click.option("--directory", type=_PATH, metavar="PATH", default=default, help=text)


@cli.command(short_help="Let engines with CDI know the files.")
@_action
@_directory("/etc/cdi")
@_options("pidfile", "runtime_dir")
@click.pass_context
def cdi(context: click.Context, /, action: str, directory: str, **_: object) -> None:
    """Write the CDI specification of the devices pylxcfs.io/view=all, =proc and =cpu.

    For docker run --device pylxcfs.io/view=all (Docker 28), podman run --device, and containerd 2.
    Where the instance serves resources the device pylxcfs.io/view=resources is the socket.
    """
    from pylxcfs.attach import engines
    from pylxcfs.cli import engines as work

    place, directory_of = _place_of_instance(context)

    def content() -> bytes:
        return engines.cdi(place, work.served(place), work.resources_served(directory_of))

    click.echo(work.change(action, directory, engines.CDI_FILE, content))


@cli.command(short_help="Let Podman and CRI-O know the files by an annotation.")
@_action
@_directory("/usr/share/containers/oci/hooks.d")
@_options("pidfile", "runtime_dir")
@click.pass_context
def hooks(context: click.Context, /, action: str, directory: str, **_: object) -> None:
    """Write the hooks.d file, for containers with the annotation io.pylxcfs.view=all."""
    from pylxcfs.attach import engines
    from pylxcfs.cli import engines as work

    place = _mountpoint_of_instance(context)
    content = lambda: engines.hooks(place, work.served(place))  # noqa: E731
    click.echo(work.change(action, directory, engines.HOOKS_FILE, content))


@cli.command(short_help="Print the arguments of docker run.")
@_files
@_options("pidfile", "runtime_dir")
@click.pass_context
def docker_args(context: click.Context, /, files: str | None, **_: object) -> None:
    """Print the arguments that bind the files, as in: docker run $(pylxcfs docker-args) debian.

    The resources socket is run/pylxcfs/resources.sock, where the instance serves it.
    """
    from pylxcfs.attach import engines
    from pylxcfs.cli import engines as work

    place, directory = _place_of_instance(context)
    click.echo(engines.docker_args(place, *work.with_resources(files, place, directory)))


@cli.command(short_help="Add the files to the config.json of an OCI bundle.")
@click.option("--patch", "path", required=True, type=_PATH, metavar="PATH", help="The config.json.")
@click.option(
    "--mounts/--no-mounts",
    default=True,
    help="Bind mounts of what runc allows, and of the resources socket.",
)
@click.option("--hook/--no-hook", default=True, help="The hook, which covers every file.")
@click.option("--syscalls", is_flag=True, help="Notify the seccomp agent of two calls.")
@_files
@_options("pidfile", "runtime_dir")
@click.pass_context
def oci_spec(
    context: click.Context,
    /,
    path: str,
    mounts: bool,
    hook: bool,
    syscalls: bool,
    files: str | None,
    **_: object,
) -> None:
    """Add hook and mounts to a runtime specification, and leave the rest to the byte."""
    from pylxcfs.cli import engines as work

    place, directory = _place_of_instance(context)
    socket = os.path.join(directory, "seccomp.sock") if syscalls else None
    said = work.patch_spec(place, directory, path, files, mounts=mounts, hook=hook, socket=socket)
    if said:
        click.echo(said, err=True)


_VERBATIM = {"ignore_unknown_options": True, "help_option_names": ["--pylxcfs-help"]}


@cli.command(
    short_help="Bind the files in a container that is being made.", context_settings=_VERBATIM
)
@click.argument("words", nargs=-1, metavar="MOUNTPOINT PATH...", type=click.UNPROCESSED)
def oci_hook(words: tuple[str, ...]) -> None:
    """Act as a createContainer hook: the state is on stdin, and the exit code is always 0."""
    from pylxcfs.cli import engines as work

    work.become("hook", list(words))


@cli.command(short_help="Act as an OCI runtime that adds the files.", context_settings=_VERBATIM)
@click.option("--daemon-json", is_flag=True, help="Print what Docker's daemon.json needs.")
@click.option("--syscalls", is_flag=True, help="With --daemon-json: ask the seccomp agent, too.")
@click.argument("words", nargs=-1, metavar="ARGUMENTS...", type=click.UNPROCESSED)
@_options("pidfile", "runtime_dir")
@click.pass_context
def oci_runtime(
    context: click.Context,
    /,
    daemon_json: bool,
    syscalls: bool,
    words: tuple[str, ...],
    **_: object,
) -> None:
    """Add the hook and the resources socket to the bundle at create, and become runc.

    For engines without CDI: docker run --runtime pylxcfs.
    """
    from pylxcfs.attach import engines, runtime
    from pylxcfs.cli import engines as work

    if daemon_json:
        place, directory = _place_of_instance(context)
        socket = os.path.join(directory, "seccomp.sock") if syscalls else None
        resources = work.resources_place(directory)
        text = engines.docker_runtime(place, sys.executable, runtime.__file__, socket, resources)
        click.echo(text.decode().rstrip("\n"))
    else:
        work.become("runtime", list(words))


@cli.command(short_help="Answer system calls of containers, without a mount.")
@_options("runtime_dir", "cache_ttl", "cpu_view", "loadavg", "disable_swap", "log_level")
@click.pass_context
def seccomp_agent(context: click.Context, /, **_: object) -> None:
    """Answer sysinfo(2) and sched_getaffinity(2) of containers, in the foreground.

    As part of an instance: pylxcfs mount --seccomp-agent.
    """
    from pylxcfs.cli import syscalls as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    work.run_alone(config)


@cli.command(short_help="Write a seccomp profile that asks the agent.")
@click.option(
    "--base",
    default="docker",
    metavar="docker|podman|PATH",
    help="The profile to start from.  [default: docker]",
)
@click.option("--output", type=_PATH, metavar="PATH", help="[default: stdout]")
@_options("runtime_dir")
@click.pass_context
def seccomp_profile(context: click.Context, /, base: str, output: str | None, **__: object) -> None:
    """Write a runtime's default profile in which two calls are notified, and no other changed."""
    from pylxcfs.cli import syscalls as work

    config, _ = _load_or_last_good(context)
    text = work.profile(config, base)
    if output is None:
        click.echo(text.decode(), nl=False)
    else:
        work.write(output, text)


@cli.command(hidden=True)
@click.argument("numbers", nargs=5, type=int)
def agent(numbers: tuple[int, int, int, int, int]) -> None:
    """Answer system calls as a child of the process that holds the listeners."""
    from pylxcfs.cli import syscalls as work

    work.serve(*numbers)


@cli.command(short_help="Print what a process may use, uses, and has left.")
@click.option("--pid", type=_Pid(), help="The process.  [default: this one]")
@click.option("--devices", is_flag=True, help="Print the devices that it may open instead.")
@click.option("--watch", is_flag=True, help="Print it again after each change of a limit.")
@_as_json
@_options("cpu_view", "disable_swap", "init_pid_method", "log_level")
@click.pass_context
def resources(
    context: click.Context,
    /,
    pid: int | None,
    devices: bool,
    watch: bool,
    as_json: bool,
    **_: object,
) -> None:
    """Print CPUs, memory, processes, pressure and more of a process, and where each value is from.

    No instance has to run. With --watch until the process ends, or SIGTERM; with --json a line each
    time.
    """
    if devices and watch:
        raise UsageError("--devices and --watch exclude each other", "leave out one of them")
    if watch:
        # The default action would be ignored in pid 1 of a container (pid_namespaces(7)).
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        context.call_on_close(lambda: signal.signal(signal.SIGTERM, before))
    config = options.load(_flags(context), os.environ, context.params["config_file"])
    log.setup(config.log_level)
    from pylxcfs.cli import resources as work
    from pylxcfs.server.settings import Settings

    settings = Settings.parse(config.document())
    pid = pid or os.getpid()
    if watch:
        for text in work.texts_of_changes(settings, pid, as_json=as_json):
            click.echo(text)
    else:
        text_of = work.devices_text if devices else work.text
        click.echo(text_of(settings, pid, as_json=as_json))


@cli.command(short_help="Tell processes what they may use, without a mount.")
@_options("runtime_dir", "cpu_view", "loadavg", "disable_swap", "init_pid_method", "log_level")
@click.pass_context
def resources_service(context: click.Context, /, **_: object) -> None:
    """Answer on RUNTIME_DIR/resources.sock, or on systemd's socket, in the foreground.

    As part of an instance: pylxcfs mount --resources. Needs the package h11: pip install
    'pylxcfs[resources]'.
    """
    from pylxcfs.cli import resources as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    work.run_alone(config)


@cli.command(hidden=True)
@click.argument("listener", type=int)
@click.argument("config_fd", type=int)
def answer_resources(listener: int, config_fd: int) -> None:
    """Answer on the resources socket, as a child of the keeper."""
    from pylxcfs.cli import resources as work

    work.serve(listener, config_fd)


_every = click.option("--all", "every", is_flag=True, help="Every pod that does not say off.")
_namespaces = click.option(
    "--namespaces",
    default="",
    metavar="NAME,...",
    help="Every pod of these namespaces that does not say off.",
)
_selector = click.option(
    "--namespace-selector",
    "selector",
    default="",
    metavar="SELECTOR",
    help="Every pod that does not say off of namespaces with these labels, as in"
    " pylxcfs.io/view=all, in a pod whose service account may list and watch namespaces.",
)
_env = click.option(
    "--env",
    default="",
    metavar="NAME,...",
    help="Variables for pods that name none, as GOMAXPROCS; see pylxcfs env.  [default: none]",
)
_nri_socket = click.option(
    "--nri-socket",
    type=_PATH,
    metavar="PATH",
    default="/var/run/nri/nri.sock",
    help="Where the runtime listens for plugins.  [default: /var/run/nri/nri.sock]",
)
_by = click.option(
    "--by",
    type=click.Choice(["auto", "hook", "mounts"]),
    default="auto",
    help="How new containers get their files. hook: all of them, by a program that must be on the"
    " node. mounts: those that a runtime lets mounts cover; the rest when the container has"
    " started. auto: the hook, but mounts in a container.  [default: auto]",
)


@cli.command(short_help="Give pods their files, as a plugin of containerd or CRI-O.")
@_every
@_namespaces
@_selector
@_env
@_nri_socket
@_by
@_mountpoint
@_options("pidfile", "runtime_dir", "log_level")
@click.pass_context
def nri(
    context: click.Context,
    /,
    every: bool,
    namespaces: str,
    selector: str,
    env: str,
    nri_socket: str,
    by: str,
    **_: object,
) -> None:
    """Register with containerd 2 or CRI-O by NRI, and give pods their files, in the foreground.

    A pod asks by the label or annotation pylxcfs.io/view: all, proc, cpu, or off. Containers of
    such pods that run already are attached. An instance has to run on the node.
    """
    from pylxcfs.cli import nri as work

    config, invalid = _load_or_last_good(context)
    log.setup(config.log_level)
    _warn(invalid)
    if "mountpoint" not in _flags(context):
        config = replace(config, mountpoint=_mountpoint_of_instance(context))
    work.run(config, work.Wanted(every, namespaces, selector, env, nri_socket, by))


@cli.command(short_help="Serve the files on a node of Kubernetes, as its DaemonSet.")
@click.option("--nri", "with_nri", is_flag=True, help="Be a plugin of the runtime, as pylxcfs nri.")
@_every
@_namespaces
@_selector
@_env
@_nri_socket
@_by
@click.option("--probe", is_flag=True, help="Read through both mounts: exit code 0 or 1.")
@click.option("--remove", is_flag=True, help="End what an agent has left, and remove its files.")
@click.option(
    "--cgroup",
    metavar="NAME",
    default="pylxcfs-node",
    help="Cgroup of the processes that outlive the pod.  [default: pylxcfs-node]",
)
@_mountpoint
@_options()
@click.pass_context
def node_agent(
    context: click.Context,
    /,
    with_nri: bool,
    every: bool,
    namespaces: str,
    selector: str,
    env: str,
    nri_socket: str,
    by: str,
    probe: bool,
    remove: bool,
    cgroup: str,
    **_: object,
) -> int:
    """Prepare the node, serve the files, and heal containers, in a privileged pod with hostPID.

    As mount --heal --keep-mounted, in a process that outlives the pod: the next agent takes its
    mounts over. Stale mounts are removed, and links made that serve while nothing is mounted.
    """
    from pylxcfs.cli import node_agent as work
    from pylxcfs.cli import nri as plugin

    # The plugin moves the containers of pods that ask.
    flags = {"move_new": not with_nri, **_flags(context), **work.FLAGS}
    flags["fuse_options"] = (*flags.get("fuse_options", ()), "nonempty")
    config, invalid = runtime.load_or_last_good(flags, os.environ, context.params["config_file"])
    log.setup(config.log_level)
    _warn(invalid)
    if probe:
        return work.probe(config)
    if remove:
        work.remove(config, cgroup)
        return 0
    wanted = None
    if with_nri:
        wanted = plugin.Wanted(every, namespaces, selector, env, nri_socket, by)
    return work.run(config, cgroup, wanted)


_root = click.option(
    "--root", type=_PATH, metavar="DIR", help="For packagers: the system is below DIR."
)
_prefix = click.option(
    "--prefix",
    metavar="DIR",
    default="/usr/local",
    help="For man page and completions; other than /usr/local, for the unit as well.  [default:"
    " /usr/local]",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done.")


@cli.command(name="install", short_help="Install unit, man page, completions and config file.")
@click.option("--command", metavar="COMMAND", help="What the unit starts.  [default: this program]")
@_prefix
@_root
@click.option("--now", is_flag=True, help="Start the unit, now and at each boot.")
@click.option("--force", is_flag=True, help="Replace files that somebody has changed.")
@_dry_run
def install_(
    command: str | None, prefix: str, root: str | None, now: bool, force: bool, dry_run: bool
) -> None:
    """Install the systemd unit, the man page, completions, and an example of the config file.

    Files that somebody has changed are left, and named.
    """
    from pylxcfs.cli import install as work

    place = work.Place(prefix, root or "")
    if now and not place.is_host:
        raise UsageError("--now is for the running system", "leave out --root")
    files = place.files(cli, command or work.default_command())
    steps = work.install(files, place, force=force, dry_run=dry_run)
    for step in steps:
        click.echo(step)
    if now and not dry_run:
        work.systemctl("daemon-reload")
        work.systemctl("enable", "--now", work.UNIT)
    else:
        for line in work.next_steps(steps, place):
            click.echo(line)


@cli.command(name="uninstall", short_help="Remove what install has written.")
@_prefix
@_root
@click.option("--now", is_flag=True, help="Stop the unit, and let no boot start it.")
@_dry_run
def uninstall_(prefix: str, root: str | None, now: bool, dry_run: bool) -> None:
    """Remove the files that install has written.

    Those that somebody has changed, as the config file, are left, and named.
    """
    from pylxcfs.cli import install as work

    place = work.Place(prefix, root or "")
    units = work.enabled(place)
    if units and not dry_run:
        if not now:
            raise HostError(
                f"{' and '.join(units)}: enabled",
                f"run: systemctl disable --now {' '.join(units)} (or this command with --now)",
            )
        work.systemctl("disable", "--now", *units)
    steps = work.uninstall(place, dry_run=dry_run)
    for step in steps:
        click.echo(step)
    if not steps:
        click.echo(f"nothing to remove: there is no {place.record}")
    elif now and not dry_run:
        work.systemctl("daemon-reload")
    elif place.is_host:
        click.echo("next: systemctl daemon-reload")


@cli.command(hidden=True)
@click.argument("config_fd", type=int)
def companion(config_fd: int) -> None:
    """Heal containers and attach new ones, as a child of the keeper."""
    from pylxcfs.cli import attach as work

    work.companion(config_fd)


@cli.command(hidden=True)
@click.argument("config_fd", type=int)
def metrics(config_fd: int) -> None:
    """Serve metrics, as a child of the keeper."""
    from pylxcfs.cli import metrics as work

    work.serve(config_fd)


@cli.command(short_help="Print what a process would read.")
@click.argument("file")
@click.option("--pid", type=_Pid(), required=True, help="The process that would read.")
@_options("cpu_view", "cpu_numbering", "disable_swap", "init_pid_method", "log_level")
@click.pass_context
def show(context: click.Context, /, file: str, pid: int, **_: object) -> None:
    """Print what a process would read from FILE, such as proc/meminfo.

    No instance has to run.
    """
    config = options.load(_flags(context), os.environ, context.params["config_file"])
    log.setup(config.log_level)
    from pylxcfs.server import show as server  # the other commands work without it, and fast
    from pylxcfs.server.settings import Settings

    sys.stdout.buffer.write(server.show(Settings.parse(config.document()), file, pid))


def _webhook(flag: str, text: str, **more: Any) -> Callable[[_Command], _Command]:  # noqa: ANN401
    variable = f"PYLXCFS_WEBHOOK_{flag.lstrip('-').replace('-', '_').upper()}"
    return click.option(flag, envvar=variable, help=f"{text}  [{variable}]", **more)


@cli.command(short_help="Answer the API server of Kubernetes: give pods their files.")
@_webhook(
    "--listen",
    "Where to serve.  [default: 0.0.0.0:9443]",
    default="0.0.0.0:9443",
    metavar="HOST:PORT",
)
@_webhook(
    "--mountpoint",
    "Where the files are on the nodes.  [default: /var/lib/pylxcfs/mount]",
    type=_PATH,
    metavar="PATH",
    default="/var/lib/pylxcfs/mount",
)
@_webhook(
    "--volumes",
    "What pods get. files: a volume for each file. directory: the one above the mountpoint. none:"
    " no volume, for nodes with the NRI plugin.  [default: files]",
    type=click.Choice(["files", "directory", "none"]),
    default="files",
)
@_webhook("--files", "Files for pods that name none, as in meminfo,cpu.", metavar="NAME,...")
@_webhook("--env", "Variables for pods that name none.  [default: none]", metavar="NAME,...")
@_webhook("--tls-cert", "Certificate in PEM; read again when it changes.", metavar="PATH")
@_webhook("--tls-key", "Its key.", metavar="PATH")
@_webhook(
    "--service",
    "Make certificates for this Service, in the pod's namespace, where --tls-cert is missing.",
    metavar="NAME",
)
@_webhook(
    "--secret",
    "The Secret that holds them; it has to exist.  [default: pylxcfs-webhook]",
    default="pylxcfs-webhook",
    metavar="NAME",
)
@_webhook(
    "--configuration",
    "Webhook configurations that get their authority, as"
    " mutatingwebhookconfigurations/NAME; repeatable.",
    multiple=True,
    metavar="KIND/NAME",
)
@_options("log_level")
@click.pass_context
def webhook(
    context: click.Context,
    /,
    listen: str,
    mountpoint: str,
    volumes: str,
    files: str | None,
    env: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    service: str | None,
    secret: str,
    configuration: tuple[str, ...],
    **_: object,
) -> None:
    """Serve a mutating and a validating admission webhook of Kubernetes, in the foreground.

    Needs the packages hypercorn, starlette and cryptography: pip install 'pylxcfs[webhook]'.
    """
    from pylxcfs.cli import webhook as work

    flags = {key: value for key, value in _flags(context).items() if key == "log_level"}
    config = options.load(flags, os.environ, context.params["config_file"])
    log.setup(config.log_level)
    certificate = work.Certificate(tls_cert, tls_key, service, secret, configuration)
    work.run(work.settings(mountpoint, volumes, files, env), listen, certificate)


@cli.command(short_help="Print variables for programs that read no files.")
@click.option("--pid", type=_Pid(), help="A process with the limits.  [default: this]")
@click.option("--limits", metavar="NAME=QUANTITY,...", help="As in cpu=2,memory=4Gi.")
@click.option("--pod", metavar="PATH", help="A pod in JSON, or - for stdin.")
@click.option("--container", metavar="NAME", help="Of --pod.  [default: its first]")
@click.option("--only", metavar="NAME,...", help="Variables to print.  [default: all]")
@_as_json
@_options("cpu_view", "init_pid_method", "log_level")
@click.pass_context
def env(
    context: click.Context,
    /,
    pid: int | None,
    limits: str | None,
    pod: str | None,
    container: str | None,
    only: str | None,
    as_json: bool,
    **_: object,
) -> None:
    """Print variables such as GOMAXPROCS and SLURM_CPUS_ON_NODE, for limits.

    The limits are those of this process, of another one, of a pod, or given. For a shell: eval
    "$(pylxcfs env)". A variable is left out where its limit is not set.
    """
    if (pid is not None) + (limits is not None) + (pod is not None) > 1:
        raise UsageError("--pid, --limits and --pod exclude each other", "give one of them")
    if container is not None and pod is None:
        raise UsageError("--container is for --pod", "leave it out")
    config = options.load(_flags(context), os.environ, context.params["config_file"])
    log.setup(config.log_level)
    from pylxcfs.cli import env as work
    from pylxcfs.kubernetes import environment

    names = work.chosen(only)
    if limits is not None:
        found = work.of_text(limits)
    elif pod is not None:
        found = work.of_pod(pod, container)
    else:
        from pylxcfs.server.settings import Settings

        found = work.of_process(Settings.parse(config.document()), pid or os.getpid())
    values = environment.values(found, names)
    click.echo(json.dumps(values, indent=2) if as_json else environment.shell(values))


@cli.command(hidden=True)
def resolve() -> int:
    """Turn a configuration document into the one after a reload."""
    try:
        config, changes = runtime.resolve(sys.stdin.buffer.read(), os.environ)
    except (UserError, DocumentError) as error:
        log.setup("error")
        hint = f"; {error.hint}" if isinstance(error, UserError) else ""
        _log.error("configuration not reloaded: %s%s", error, hint)
        return UsageError.exit_code
    log.setup(config.log_level)
    for change in changes:
        _log.info("changed %s%s", change, "" if change.option.live else " (takes a restart)")
    if not changes:
        _log.info("configuration reloaded: nothing changed")
    sys.stdout.buffer.write(config.document())
    return 0


def main() -> NoReturn:
    """Run the command; turn errors into two lines and an exit code."""
    try:
        code = cli.main(prog_name="pylxcfs", standalone_mode=False)
    except UserError as error:
        log.fail(error)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "pylxcfs"
        log.fail(UsageError(error.format_message(), f"see {where} --help"))
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
