"""All options, in one table: the fields of `Config`.

A row gives the TOML key (the name of the field), the variable (`PYLXCFS_` and the name in
capitals), the flags, the kind of value, the unit and the help text. The commands, the man page
and docs/options.md are made from it. Flags win over variables, variables over the file, the
file over the default. The result travels as a document (JSON) to the keeper and its servers.
Decides nothing about what an option does, and knows nothing of click.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from pylxcfs.cli.kinds import Address, Choice, Count, FuseOptions, Kind, Path, Seconds, Switch
from pylxcfs.errors import DocumentError, UsageError
from pylxcfs.server import settings

DEFAULT_FILE = "/etc/pylxcfs.toml"
ENV_PREFIX = "PYLXCFS_"

_Value = TypeVar("_Value")
_Raw = TypeVar("_Raw")


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table. `live`: a reload changes it at once."""

    name: str
    flags: tuple[str, ...]
    kind: Kind[Any]
    default: Any
    help: str
    live: bool

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """Return the default as the documentation shows it, with its unit."""
        return self.kind.show(self.default)

    @property
    def limits(self) -> str:
        """Return the accepted numbers for --help, empty for other kinds."""
        return f"{self.kind.accepts}; " if isinstance(self.kind, Seconds | Count) else ""


@dataclass(frozen=True, slots=True)
class Alias:
    """A flag that sets another option; without `name` it does nothing."""

    flags: tuple[str, ...]
    name: str
    value: str
    help: str


def _row(
    kind: Kind[_Value], default: _Value, flags: str, help: str, *, live: bool = False
) -> _Value:
    row = {"kind": kind, "flags": tuple(flags.split()), "help": help, "live": live}
    return field(default=default, metadata=row)


@dataclass(frozen=True, slots=True)
class Origin:
    """The flags and the config file from which a reload resolves again."""

    flags: Mapping[str, Any]
    path: str | None


@dataclass(frozen=True, slots=True)
class Config:
    """Every option with its value. A reload needs `origin`, no option."""

    mountpoint: str = _row(Path(), "/var/lib/pylxcfs", "", "Directory where the files appear.")
    runtime_dir: str = _row(
        Path(),
        "/run/pylxcfs",
        "--runtime-dir",
        "Directory of the pid file, the state and the caller mount.",
    )
    pidfile: str = _row(
        Path("RUNTIME_DIR/pylxcfs.pid"), "", "--pidfile -p", "File with the pid of the keeper."
    )
    cache_ttl: float = _row(
        Seconds(0, 3600),
        0.1,
        "--cache-ttl",
        "Greatest age of the values in a file; 0 computes them for every read.",
        live=True,
    )
    request_timeout: float = _row(
        Seconds(0, 3600),
        2.0,
        "--request-timeout",
        "After this time a reader gets the host's file instead; 0 waits for ever.",
    )
    watchdog: float = _row(
        Seconds(0.5, 3600, zero="never"),
        2.0,
        "--watchdog",
        "A server that is silent for this time is replaced, and its stacks are logged.",
    )
    max_failures: int = _row(
        Count(1, 1000),
        5,
        "--max-failures",
        "After this number of failures of the server in a row, within a minute, the rescue server"
        " serves the host's values until a server works again.",
    )
    keep_mounted: bool = _row(
        Switch(),
        False,
        "--keep-mounted/--no-keep-mounted",
        "When stopped, leave the mounts to the next start; a small process holds them until then.",
    )
    heal: bool = _row(
        Switch(),
        False,
        "--heal/--no-heal",
        "At start, and after the connection was aborted, replace dead files in containers that"
        " run.",
    )
    attach_new: bool = _row(
        Switch(),
        False,
        "--attach-new/--no-attach-new",
        "Give every new container its files, whatever runtime starts it.",
    )
    move_new: bool = _row(
        Switch(),
        False,
        "--move-new/--no-move-new",
        "Where a runtime has bound the files that all containers share, as containerd does for a"
        " hostPath volume, give new containers their own. --attach-new does that, too.",
    )
    seccomp_agent: bool = _row(
        Switch(),
        False,
        "--seccomp-agent/--no-seccomp-agent",
        "Answer sysinfo(2) and sched_getaffinity(2) of containers whose runtime sends their seccomp"
        " listener to RUNTIME_DIR/seccomp.sock.",
    )
    resources: bool = _row(
        Switch(),
        False,
        "--resources/--no-resources",
        "Tell processes of containers what they may use, at RUNTIME_DIR/resources.sock. Needs the"
        " package h11 (pylxcfs[resources]).",
    )
    cpu_view: str = _row(
        Choice("quota", "cpuset"),
        "quota",
        "--cpu-view",
        "CPUs that a container sees. quota: ceil(quota/period) CPUs of its cpuset, for programs"
        " that size thread pools by the number of CPUs. cpuset: every CPU of its cpuset, for"
        " programs that pin threads.",
        live=True,
    )
    cpu_numbering: str = _row(
        Choice("physical", "packed"),
        "physical",
        "--cpu-numbering",
        "Numbers of the visible CPUs. physical: those of the host, which agree with"
        " sched_getaffinity, for taskset, numactl and runtimes that pin threads. packed: 0 to N-1,"
        " for programs that take the number of CPUs from the last one's number.",
        live=True,
    )
    sys_cpu: str = _row(
        Choice("offline", "hide"),
        "offline",
        "--sys-cpu",
        "CPUs outside the view in /sys/devices/system/cpu. offline: their directories stay and say"
        " that they are offline. hide: their directories are left out and 'present' is narrowed,"
        " for programs that count directories.",
        live=True,
    )
    loadavg: bool = _row(
        Switch(),
        True,
        "--enable-loadavg/--disable-loadavg -l",
        "Show the load averages of the container instead of the host's.",
        live=True,
    )
    disable_swap: bool = _row(
        Switch(),
        False,
        "--disable-swap/--enable-swap -u",
        "Show no swap in meminfo and swaps.",
        live=True,
    )
    disable_zswap: bool = _row(
        Switch(),
        False,
        "--disable-zswap/--enable-zswap",
        "Show 0 in the Zswap lines of meminfo.",
        live=True,
    )
    vmstat: bool = _row(
        Switch(),
        False,
        "--enable-vmstat/--disable-vmstat",
        "Show the container's own counters in vmstat instead of the host's.",
        live=True,
    )
    enable_devices: bool = _row(
        Switch(),
        False,
        "--enable-devices/--disable-devices",
        "Serve /sys/class, /sys/block, /sys/dev and /sys/bus/pci/devices with the devices that a"
        " container may open.",
    )
    enable_psi_poll: bool = _row(
        Switch(),
        False,
        "--enable-psi-poll/--disable-psi-poll",
        "Allow triggers on /proc/pressure files. A pending poll can keep a machine from"
        " suspending.",
    )
    enable_cgroup: bool = _row(
        Switch(),
        False,
        "--enable-cgroup/--disable-cgroup",
        "Serve MOUNTPOINT/cgroup: a tree like cgroupfs, in which a container sees and changes its"
        " own cgroups only.",
    )
    init_pid_method: str = _row(
        Choice("auto", "ioctl", "scm"),
        "auto",
        "--init-pid-method",
        "How the init of a pid namespace is found. ioctl needs Linux 6.11, scm works everywhere,"
        " auto tries ioctl first.",
    )
    max_containers: int = _row(
        Count(1, 1_000_000),
        5000,
        "--max-containers",
        "Containers that are kept in memory; beyond that the least recently read one is dropped.",
    )
    metrics_listen: str = _row(
        Address(),
        "",
        "--metrics-listen",
        "Serve metrics for Prometheus there. Needs the package prometheus-client"
        " (pylxcfs[metrics]).",
    )
    metrics_containers: bool = _row(
        Switch(),
        False,
        "--metrics-containers/--no-metrics-containers",
        "Metrics by container as well: a time series more for each container.",
    )
    log_level: str = _row(
        Choice("error", "warning", "info", "debug"),
        "info",
        "--log-level",
        "Least level that is logged, on stderr.",
        live=True,
    )
    fuse_options: tuple[str, ...] = _row(
        FuseOptions(),
        (),
        "-o",
        "Mount options of libfuse, separated by commas. 'debug' and 'nonempty' have their effect;"
        " the others are accepted for units written for LXCFS, and ignored.",
    )
    origin: Origin = field(default_factory=lambda: Origin({}, None), compare=False, repr=False)

    @property
    def pid_path(self) -> str:
        return self.pidfile or f"{self.runtime_dir}/pylxcfs.pid"

    def document(self) -> bytes:
        """Return the configuration as the keeper and its servers get it."""
        content = {
            "format": settings.FORMAT,
            "options": {option.name: getattr(self, option.name) for option in OPTIONS},
            "origin": {"flags": dict(self.origin.flags), "path": self.origin.path},
        }
        return json.dumps(content, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, document: bytes) -> Config:
        """Read what `document` returned; raise DocumentError if it is something else."""
        match settings.load(document):
            case {
                "options": options,
                "origin": {"flags": dict(flags), "path": str() | None as path},
            }:
                return cls(**_known(options), origin=Origin(_known(flags), path))
        raise DocumentError("configuration document: where it came from is missing")


OPTIONS = tuple(
    Option(name=row.name, default=row.default, **row.metadata)
    for row in fields(Config)
    if row.metadata
)
BY_NAME = {option.name: option for option in OPTIONS}

ALIASES = (
    Alias(("--debug", "-d"), "log_level", "debug", "Same as --log-level=debug."),
    Alias(("--enable-cfs",), "cpu_view", "quota", "Same as --cpu-view=quota."),
    Alias(("--foreground", "-f"), "", "", "Accepted; pylxcfs always runs in the foreground."),
    Alias(("--enable-pidfd",), "", "", "Accepted; pidfds are always used."),
    Alias(("-s",), "", "", "Accepted and ignored, as LXCFS does."),
)


@dataclass(frozen=True, slots=True)
class Change:
    """An option that differs between two configurations."""

    option: Option
    old: Any
    new: Any

    def __str__(self) -> str:
        kind = self.option.kind
        return f"{self.option.name}: {kind.show(self.old)} -> {kind.show(self.new)}"


def changes(old: Config, new: Config) -> list[Change]:
    """Return what differs, in the order of the table."""
    pairs = ((option, getattr(old, option.name), getattr(new, option.name)) for option in OPTIONS)
    return [Change(option, before, after) for option, before, after in pairs if before != after]


def load(flags: Mapping[str, object], env: Mapping[str, str], path: str | None = None) -> Config:
    """Merge flags over variables over the file at `path` over the defaults.

    `flags` holds parsed values of the options given on the command line. Without a path
    (and without PYLXCFS_CONFIG) /etc/pylxcfs.toml is read if it exists.
    """
    values: dict[str, Any] = _from_file(path or env.get(ENV_PREFIX + "CONFIG") or None)
    for option in OPTIONS:
        text = env.get(option.env)
        if text is not None:
            values[option.name] = _parsed(option.kind.text, text, option.env)
    config = Config(**values, origin=Origin(dict(flags), path))
    return with_flags(config, flags)


def with_flags(config: Config, flags: Mapping[str, Any]) -> Config:
    """Return the configuration with the options that were given as flags."""
    config = replace(config, **flags)
    if "debug" in config.fuse_options and "log_level" not in flags:
        config = replace(config, log_level="debug")
    return config


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of options that this version has; raise DocumentError."""
    found = {}
    for name, value in values.items():
        option = BY_NAME.get(name)
        if option is None:
            continue
        try:
            unset = value == option.default  # as an empty pidfile, which is no path
            found[name] = option.default if unset else option.kind.toml(value)
        except ValueError as error:
            raise DocumentError(f"configuration document: {name}: {error}") from error
    return found


def _from_file(path: str | None) -> dict[str, Any]:
    if path is None and not os.path.exists(DEFAULT_FILE):
        return {}
    import tomllib  # seldom needed

    try:
        with open(path or DEFAULT_FILE, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError as error:
        raise UsageError(
            f"config file {path} does not exist", "create it, or leave out --config"
        ) from error
    except OSError as error:
        raise UsageError(
            f"config file {path or DEFAULT_FILE} cannot be read: {error.strerror}",
            "correct its permissions, or name another with --config",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"config file {path or DEFAULT_FILE} is not TOML: {error}",
            "write lines such as: cache_ttl = 0.1",
        ) from error
    where = path or DEFAULT_FILE
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = BY_NAME.get(key)
        if option is None:
            raise UsageError(f"{where}: unknown key '{key}'", _nearest(key))
        values[key] = _parsed(option.kind.toml, value, f"{where}: key '{key}'")
    return values


def _nearest(key: str) -> str:
    import difflib

    close = difflib.get_close_matches(key.replace("-", "_").lower(), BY_NAME, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "valid keys: " + ", ".join(BY_NAME)


def _parsed(parse: Callable[[_Raw], _Value], value: _Raw, where: str) -> _Value:
    try:
        return parse(value)
    except ValueError as error:
        raise UsageError(
            f"{where}: {error}", "see pylxcfs mount --help for what it takes"
        ) from None
