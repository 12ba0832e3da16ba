"""The man page pylxcfs(8), made from the options and the commands.

`python -m pylxcfs.cli.manpage` prints it; docs/pylxcfs.8 is its output. Knows roff, and nothing
of what the options do.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable

import click

from pylxcfs import __version__
from pylxcfs.cli.commands import EXIT_CODES, SIGNALS, cli
from pylxcfs.cli.options import ALIASES, DEFAULT_FILE, ENV_PREFIX, OPTIONS, Config, Option

_DESCRIPTION = """\
Inside a container, /proc and /sys show the CPUs, the memory, the uptime and the load of the host.
pylxcfs is a FUSE filesystem with files that are bind-mounted over them, such as /proc/meminfo and
/proc/cpuinfo: each container reads its own limits and usage from them. It works with cgroup v1,
cgroup v2 and both at once.

A small process, the keeper, holds the mounts. The server, which answers readers, is its child. If
the server fails, hangs or is upgraded, the keeper starts another one, and the mounts stay.

There are two mounts. MOUNTPOINT has one directory for each container, with files that the page
cache serves. RUNTIME_DIR/caller has one file for all containers, which shows each reader its own
values; it serves container engines that open the files before the container starts.
"""

_OPTIONS = """\
A flag wins over a variable, a variable over the config file. The options of each command are in
its --help; mount has all of them. Those marked with "reload" take effect on SIGHUP, the others at
the next start.
"""

_ENVIRONMENT = """\
Each option can be given in a variable: its key in the config file, in capitals, behind
{prefix}. Switches take 1, true, yes, on or 0, false, no, off.
"""

_MOUNTPOINT = Config().mountpoint
_RUNTIME_DIR = Config().runtime_dir

_FILES = {
    DEFAULT_FILE: "The config file, in TOML, if it exists. The keys are those under OPTIONS. A key"
    " that does not exist and a value that is not accepted are errors.",
    _MOUNTPOINT: "The default MOUNTPOINT.",
    _RUNTIME_DIR: "The default RUNTIME_DIR. It may not lie inside MOUNTPOINT, nor the other way"
    " round.",
    f"{_RUNTIME_DIR}/pylxcfs.pid": "The pid of the keeper, which locks the file.",
    f"{_RUNTIME_DIR}/config.json": "The last good configuration. It is used if the config file does"
    " not validate while a mount is taken over.",
    f"{_RUNTIME_DIR}/status.json": "What pylxcfs status shows.",
    f"{_RUNTIME_DIR}/state.json": "Load averages and CPU times, for the next server.",
    f"{_RUNTIME_DIR}/counters": "The socket at which the server says what it has done, for pylxcfs"
    " status, pylxcfs top and metrics.",
    f"{_RUNTIME_DIR}/caller": "The caller mount.",
}

_EXAMPLES = (
    ("Serve the files, and ignore CPU quotas:", "pylxcfs mount --cpu-view=cpuset"),
    (
        "Give a Docker container its own memory and CPUs:",
        "docker run -it -m 512m --cpus 1 \\\n"
        f"    -v {_MOUNTPOINT}/proc/meminfo:/proc/meminfo:ro \\\n"
        f"    -v {_MOUNTPOINT}/proc/cpuinfo:/proc/cpuinfo:ro debian",
    ),
    ("Print what a process would read:", "pylxcfs show proc/meminfo --pid 1234"),
    ("Show whether an instance serves, and to which containers:", "pylxcfs status"),
    ("Show that for a program:", "pylxcfs status --json"),
    ("Test what this host needs:", "pylxcfs doctor"),
    ("Serve metrics for Prometheus:", "pylxcfs mount --metrics-listen 127.0.0.1:9853"),
)

_SEE_ALSO = "lxcfs(1), proc(5), cgroups(7), pid_namespaces(7), docker-run(1), systemd.service(5)"


def page() -> str:
    """Return the man page."""
    lines = [
        '.\\" Made by: python -m pylxcfs.cli.manpage',
        f'.TH PYLXCFS 8 "" "pylxcfs {__version__}" "System Administration"',
        ".SH NAME",
        r"pylxcfs \- per\-container views of /proc and /sys",
        ".SH SYNOPSIS",
        *_synopsis(),
        ".SH DESCRIPTION",
        *_paragraphs(_DESCRIPTION),
        ".SH COMMANDS",
        *_commands(),
        ".SH OPTIONS",
        *_paragraphs(_OPTIONS),
        *(line for option in OPTIONS for line in _option(option)),
        *_item(_bold("--config") + " " + _italic("PATH"), "Another config file."),
        ".SS Accepted for LXCFS",
    ]
    for alias in ALIASES:
        lines += _item(", ".join(map(_bold, alias.flags)), alias.help)
    lines += [
        ".SH ENVIRONMENT",
        *_paragraphs(_ENVIRONMENT.format(prefix=ENV_PREFIX)),
        *_item(_bold(f"{ENV_PREFIX}CONFIG"), "Another config file, as --config."),
    ]
    for option in OPTIONS:
        lines += _item(_bold(option.env), f"As {_flags_in_words(option)}.")
    for title, table in (
        ("FILES", _FILES),
        ("SIGNALS", SIGNALS),
        ("EXIT STATUS", {str(code): f"{text}." for code, text in EXIT_CODES.items()}),
    ):
        lines.append(f".SH {title}")
        if title == "SIGNALS":
            lines += _paragraphs("They are sent to the keeper, which has its pid in the pid file.")
        for key, text in table.items():
            lines += _item(_bold(key), text)
    lines.append(".SH EXAMPLES")
    for text, command in _EXAMPLES:
        lines += [".PP", _escape(text), ".PP", ".RS 4", ".EX", *_escape(command).split("\n")]
        lines += [".EE", ".RE"]
    lines += [".SH SEE ALSO", *_references()]
    return "\n".join(lines) + "\n"


def _synopsis() -> Iterable[str]:
    for name, command in sorted(cli.commands.items()):
        if not command.hidden:
            words = [_bold(f"pylxcfs {name}")]
            words += [_italic(word) for word in command.collect_usage_pieces(_context(command))]
            yield from (" ".join(words), ".br")
    yield from (f"{_bold('pylxcfs --help')} | {_bold('--version')}",)


def _commands() -> Iterable[str]:
    for name, command in sorted(cli.commands.items()):
        if command.hidden:
            continue
        words = [_bold(name)]
        words += [_italic(word) for word in command.collect_usage_pieces(_context(command))]
        first, *rest = inspect.cleandoc(command.help or "").split("\n\n")
        yield from _item(" ".join(words), _one_line(first))
        for paragraph in rest:
            yield from (".IP", _escape(_one_line(paragraph)))
        if command.epilog:
            yield from (".IP", _escape(command.epilog))


def _context(command: click.Command) -> click.Context:
    return click.Context(command, info_name=command.name)


def _option(option: Option) -> list[str]:
    metavar = f" {_italic(option.kind.metavar)}" if option.kind.metavar else ""
    flags = [form for flag in option.flags for form in flag.split("/")] or ["MOUNTPOINT"]
    tag = ", ".join(map(_bold, flags)) + (metavar if option.flags else "")
    facts = [f"key {option.name}", f"default {option.default_text}"]
    if option.limits:
        facts.insert(1, option.kind.accepts)
    if option.live:
        facts.append("reload")
    return [*_item(tag, option.help), f"({_escape('; '.join(facts))})"]


def _flags_in_words(option: Option) -> str:
    return option.flags[0].replace("/", " and ") if option.flags else "MOUNTPOINT"


def _references() -> Iterable[str]:
    names = [reference.removesuffix(")").split("(") for reference in _SEE_ALSO.split(", ")]
    for i, (name, section) in enumerate(names):
        comma = "," if i < len(names) - 1 else ""
        yield f".BR {_escape(name)} ({section}){comma}"


def _item(tag: str, text: str) -> list[str]:
    return [".TP", tag, _escape(text)]


def _paragraphs(text: str) -> Iterable[str]:
    for paragraph in text.strip().split("\n\n"):
        yield from (".PP", _escape(_one_line(paragraph)))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _bold(text: str) -> str:
    return rf"\fB{_escape(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{_escape(text)}\fR"


def _escape(text: str) -> str:
    """Return text in roff: hyphens that can be pasted, and no requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return text.replace("\n.", "\n\\&.").removeprefix("\n")


if __name__ == "__main__":
    sys.stdout.write(page())
