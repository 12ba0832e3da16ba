"""All options, in one table: the fields of `Config`.

A row gives the TOML key (the field's name), the variable (`PYLXCFS_` and the name in capitals),
the flags, the kind of value, the unit and the help text; cli.py makes its options from it and
docs/options.md is checked against it. Flags win over variables, variables over the file, the
file over the default. Decides nothing that an option is for, and knows nothing of click.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from pylxcfs.cli.kinds import Choice, Count, FuseOptions, Kind, Path, Seconds, Switch
from pylxcfs.errors import UsageError

DEFAULT_FILE = "/etc/pylxcfs.toml"
ENV_PREFIX = "PYLXCFS_"

_Value = TypeVar("_Value")
_Raw = TypeVar("_Raw")


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table. `live`: a reload (SIGHUP) may change it in a running server."""

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
        """Return the default as --help and the documentation show it, with its unit."""
        return self.kind.show(self.default)


@dataclass(frozen=True, slots=True)
class Alias:
    """A flag that gives another option a value, or (`name` empty) is accepted and does nothing."""

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
    """Where a Config came from, so that it can be loaded again."""

    flags: Mapping[str, object]
    path: str | None


@dataclass(frozen=True, slots=True)
class Config:
    """Every option with its value. `origin` is not an option: it serves `reload`."""

    mountpoint: str = _row(Path(), "/var/lib/pylxcfs", "", "Where the files appear.")
    runtime_dir: str = _row(
        Path(), "/run/pylxcfs", "--runtime-dir", "Directory of the pid file, sockets and state."
    )
    pidfile: str = _row(
        Path("RUNTIME_DIR/pylxcfs.pid"), "", "--pidfile -p", "File that holds the keeper's pid."
    )
    cache_ttl: float = _row(
        Seconds(),
        0.1,
        "--cache-ttl",
        "How old a rendering may be before it is made anew; 0 renders for every open.",
        live=True,
    )
    request_timeout: float = _row(
        Seconds(),
        2.0,
        "--request-timeout",
        "After this the reader gets the host's file; 0 waits for ever.",
    )
    watchdog: float = _row(
        Seconds(),
        10.0,
        "--watchdog",
        "A server silent for so long is replaced, its stacks in the log; 0 never does.",
    )
    max_failures: int = _row(
        Count(1),
        5,
        "--max-failures",
        "After so many failures of the server in a row, within a minute, no further one is"
        " started; the mount is kept until SIGUSR1, SIGHUP or a restart.",
    )
    keep_mounted: bool = _row(
        Switch(),
        False,
        "--keep-mounted/--no-keep-mounted",
        "Leave the mount, held by a small process, to the next start when stopped.",
    )
    cpu_view: str = _row(
        Choice("quota", "cpuset"),
        "quota",
        "--cpu-view",
        "Which CPUs a container sees: quota shows ceil(quota/period) of its cpuset, for programs"
        " that size thread pools by what they see; cpuset ignores quotas, for programs that pin"
        " threads and need every CPU they may use.",
        live=True,
    )
    cpu_numbering: str = _row(
        Choice("physical", "packed"),
        "physical",
        "--cpu-numbering",
        "Numbers of the visible CPUs: physical agrees with sched_getaffinity, for taskset, numactl"
        " and runtimes that pin; packed counts 0..N-1, for programs that take the number of CPUs"
        " from the last one's number.",
        live=True,
    )
    sys_cpu: str = _row(
        Choice("offline", "hide"),
        "offline",
        "--sys-cpu",
        "CPUs outside the view in /sys/devices/system/cpu: offline keeps their directories, hide"
        " leaves them out and narrows 'present', for tools that count directories.",
        live=True,
    )
    loadavg: bool = _row(
        Switch(),
        True,
        "--enable-loadavg/--disable-loadavg -l",
        "Load averages of the container instead of the host's.",
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
    enable_psi_poll: bool = _row(
        Switch(),
        False,
        "--enable-psi-poll/--disable-psi-poll",
        "Allow triggers on /proc/pressure files. A pending poll can keep a machine from"
        " suspending.",
    )
    init_pid_method: str = _row(
        Choice("auto", "ioctl", "scm"),
        "auto",
        "--init-pid-method",
        "How the init of a pid namespace is found: ioctl needs Linux 6.11, scm works everywhere,"
        " auto tries ioctl first.",
    )
    max_containers: int = _row(
        Count(1),
        5000,
        "--max-containers",
        "Containers remembered at a time; those read longest ago are found anew.",
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
        " the others are accepted for units written for LXCFS and dropped.",
    )
    origin: Origin = field(default_factory=lambda: Origin({}, None), compare=False, repr=False)

    @property
    def pid_path(self) -> str:
        return self.pidfile or f"{self.runtime_dir}/pylxcfs.pid"

    def reload(self, env: Mapping[str, str]) -> Config:
        """Load again from where this came from; raise UsageError as `load` does."""
        return load(self.origin.flags, env, self.origin.path)


OPTIONS = tuple(
    Option(name=row.name, default=row.default, **row.metadata)
    for row in fields(Config)
    if row.metadata
)
BY_NAME = {option.name: option for option in OPTIONS}

ALIASES = (
    Alias(("--debug", "-d"), "log_level", "debug", "Same as --log-level=debug."),
    Alias(("--enable-cfs",), "cpu_view", "quota", "Same as --cpu-view=quota."),
    Alias(("--foreground", "-f"), "", "", "Accepted: it always runs in the foreground."),
    Alias(("--enable-pidfd",), "", "", "Accepted: pidfds are always used."),
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
    values.update(flags)
    config = replace(Config(origin=Origin(dict(flags), path)), **values)
    if "debug" in config.fuse_options and "log_level" not in flags:
        config = replace(config, log_level="debug")
    return config


def _from_file(path: str | None) -> dict[str, Any]:
    if path is None and not os.path.exists(DEFAULT_FILE):
        return {}
    import tomllib  # not for those without a file: every server's start waits for imports

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
            "mend its permissions, or name another with --config",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
