"""`install` and `uninstall`: unit, man page, completions, and an example of the config file.

A record below PREFIX/share has the digest of each file that was written. So a file that somebody
has changed, or that was there before, is neither replaced nor removed; both are named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import click
from click.shell_completion import get_completion_class

from pylxcfs.cli import manpage
from pylxcfs.cli.options import BY_NAME, DEFAULT_FILE, OPTIONS, Option
from pylxcfs.errors import HostError, UsageError

UNIT: Final = "pylxcfs.service"
SOCKET: Final = "pylxcfs.socket"
DEFAULT_PREFIX: Final = "/usr/local"
_HERE: Final = os.path.dirname(os.path.abspath(__file__))
#: What systemd makes when a unit is enabled.
_ENABLED: Final = {
    UNIT: f"/etc/systemd/system/multi-user.target.wants/{UNIT}",
    SOCKET: f"/etc/systemd/system/sockets.target.wants/{SOCKET}",
}
_COMPLETIONS: Final = {
    "bash": "share/bash-completion/completions/pylxcfs",
    "zsh": "share/zsh/site-functions/_pylxcfs",
    "fish": "share/fish/vendor_completions.d/pylxcfs.fish",
}
_SYSTEMCTL_S: Final = 90.0

#: What is done to a file.
_WRITE: Final = "write"
_KEEP: Final = "keep"
_LEAVE: Final = "leave"
_REMOVE: Final = "remove"

_CONFIG_HEAD: Final = """\
# Options of pylxcfs mount, with their defaults. Without the # a line is in force after
# systemctl reload pylxcfs (those with "restart": systemctl restart pylxcfs; no container notices).
# All of them: man pylxcfs.
"""


class Step(NamedTuple):
    """What is done to one file, and why if it is left."""

    what: str
    path: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what:6} {self.path}" + (f" ({self.why})" if self.why else "")


class Place:
    """Where files belong: PREFIX, below ROOT if that is not the host's own."""

    def __init__(self, prefix: str, root: str) -> None:
        if not os.path.isabs(prefix):
            raise UsageError(f"--prefix {prefix} is not absolute", "as in: --prefix /usr")
        self._root = root.rstrip("/")
        self._prefix = prefix.rstrip("/")
        self.record = f"{self._prefix}/share/pylxcfs/installed.json"

    @property
    def is_host(self) -> bool:
        """Whether this is the running system."""
        return not self._root

    def on_disk(self, path: str) -> str:
        """Return where a path of the system is now."""
        return f"{self._root}{path}"

    @property
    def unit(self) -> str:
        """The path of the unit: an administrator's, or below PREFIX a package's."""
        local = self._prefix == DEFAULT_PREFIX
        directory = "/etc/systemd/system" if local else f"{self._prefix}/lib/systemd/system"
        return f"{directory}/{UNIT}"

    def files(self, cli: click.Command, command: str) -> dict[str, bytes]:
        """Return what is installed, by path."""
        texts = {
            self.unit: unit(command),
            self.unit.removesuffix(UNIT) + SOCKET: _template(SOCKET),
            f"{self._prefix}/share/man/man8/pylxcfs.8": manpage.page(),
            DEFAULT_FILE: config_example(),
        }
        for shell, path in _COMPLETIONS.items():
            texts[f"{self._prefix}/{path}"] = completion(cli, shell)
        return {path: text.encode() for path, text in texts.items()}


class Record(NamedTuple):
    """What an earlier install wrote."""

    digests: dict[str, str]
    #: Directories that it made.
    directories: list[str]

    @classmethod
    def read(cls, place: Place) -> Record:
        """Return the record of a place, an empty one if there is none. Raise HostError."""
        path = place.on_disk(place.record)
        try:
            with open(path, "rb") as file:
                found = json.load(file)
            return cls(dict(found["files"]), list(found["directories"]))
        except FileNotFoundError:
            return cls({}, [])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(f"{path}: {error}", "remove it, and what it lists, by hand") from error

    def text(self) -> bytes:
        """Return the record as a file has it."""
        return json.dumps({"files": self.digests, "directories": self.directories}).encode() + b"\n"


def default_command() -> str:
    """Return the command line by which this program runs, for the unit."""
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) == "pylxcfs" and os.access(program, os.X_OK):
        return _word(program)
    return f"{_word(sys.executable)} -P -m pylxcfs"


def _word(path: str) -> str:
    """Return a path as a word of ExecStart= (systemd.service(5), "Command lines")."""
    escaped = path.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return shlex.quote(escaped) if shlex.quote(path) != path else escaped


def unit(command: str) -> str:
    """Return the unit, which starts this command."""
    lines = _template(UNIT).splitlines()
    for i, line in enumerate(lines):
        key, _, value = line.partition("=")
        if key in ("ExecStart", "ExecStopPost") and value.split()[0] == "pylxcfs":
            lines[i] = f"{key}={command}{value.removeprefix('pylxcfs')}"
    return "\n".join(lines) + "\n"


def _template(name: str) -> str:
    with open(os.path.join(_HERE, name), encoding="utf-8") as file:
        return file.read()


def completion(cli: click.Command, shell: str) -> str:
    """Return the script with which a shell completes the command."""
    found = get_completion_class(shell)
    assert found is not None, "click has these three"
    complete = found(cli, {}, "pylxcfs", "_PYLXCFS_COMPLETE")
    # Not source(), which runs the shell to see its version.
    text: str = complete.source_template % complete.source_vars()
    return text.strip() + "\n"


def config_example() -> str:
    """Return the config file with every option, as comments."""
    lines = [_CONFIG_HEAD]
    for option in OPTIONS:
        words = option.help + ("" if option.live else " (restart)")
        lines += [f"# {line}" for line in textwrap.wrap(words, 96)]
        lines.append(f"#{option.name} = {_toml(option)}\n")
    return "\n".join(lines)


def _toml(option: Option) -> str:
    value = option.default
    if value == "":  # it depends on another
        value = option.default_text.replace("RUNTIME_DIR", BY_NAME["runtime_dir"].default)
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def install(files: Mapping[str, bytes], place: Place, *, force: bool, dry_run: bool) -> list[Step]:
    """Write files that are new or as they were written; return what was done. Raise HostError."""
    record = Record.read(place)
    steps = [_to_write(place, path, text, record, force) for path, text in files.items()]
    # What an older version wrote and this one does not.
    steps += [step for step in _to_remove(place, record) if step.path not in files]
    if dry_run:
        return steps
    try:
        for step in steps:
            if step.what == _WRITE:
                _write(place, step.path, files[step.path], record.directories)
                record.digests[step.path] = _digest(files[step.path])
            elif step.what == _REMOVE:
                os.unlink(place.on_disk(step.path))
                del record.digests[step.path]
        # Before the record is made: it lists its own directory.
        _make_directories(place, place.record, record.directories)
        _write(place, place.record, record.text(), record.directories)
    except OSError as error:
        raise _cannot(error) from error
    return steps


def uninstall(place: Place, *, dry_run: bool) -> list[Step]:
    """Remove what install wrote and nobody changed; return what was done. Raise HostError."""
    record = Record.read(place)
    steps = _to_remove(place, record)
    if dry_run:
        return steps
    try:
        for step in steps:
            if step.what == _REMOVE:
                os.unlink(place.on_disk(step.path))
        if os.path.exists(place.on_disk(place.record)):
            os.unlink(place.on_disk(place.record))
        for directory in map(place.on_disk, reversed(record.directories)):
            if os.path.isdir(directory) and not os.listdir(directory):
                os.rmdir(directory)
    except OSError as error:
        raise _cannot(error) from error
    return steps


def _to_write(place: Place, path: str, text: bytes, record: Record, force: bool) -> Step:
    present, written = _read(place.on_disk(path)), record.digests.get(path)
    if present == text:
        # One that was there before is not in the record, so it is not removed either.
        return Step(_KEEP, path)
    if present is None or force or (written is not None and _digest(present) == written):
        return Step(_WRITE, path)
    why = "it was changed" if written is not None else "it was there before"
    return Step(_LEAVE, path, f"{why}; --force replaces it")


def _to_remove(place: Place, record: Record) -> list[Step]:
    steps = []
    for path, digest in record.digests.items():
        present = _read(place.on_disk(path))
        if present is None:
            continue
        if _digest(present) == digest:
            steps.append(Step(_REMOVE, path))
        else:
            steps.append(Step(_LEAVE, path, "it was changed; remove it by hand"))
    return steps


def enabled(place: Place) -> list[str]:
    """Return the units that systemd would start, and miss."""
    return [name for name, path in _ENABLED.items() if os.path.lexists(place.on_disk(path))]


def systemctl(*words: str) -> None:
    """Run systemctl. Raise HostError."""
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"systemctl: {error}", "run without --now where no systemd runs") from error
    if done.returncode != 0:
        raise HostError(
            f"systemctl {shlex.join(words)}: {' '.join(done.stderr.split())}",
            "see journalctl -u pylxcfs",
        )


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot(error) from error


def _make_directories(place: Place, path: str, made: list[str]) -> None:
    """Make the directories around a file; add those that were missing, outermost first."""
    missing: list[str] = []
    directory = os.path.dirname(path)
    while directory != "/" and not os.path.isdir(place.on_disk(directory)):
        missing.insert(0, directory)
        directory = os.path.dirname(directory)
    for directory in missing:
        os.makedirs(place.on_disk(directory))
        os.chmod(place.on_disk(directory), 0o755)  # noqa: S103  as any directory of programs
        made.append(directory)


def _write(place: Place, path: str, text: bytes, directories: list[str]) -> None:
    """Write a file, whole or not at all."""
    _make_directories(place, path, directories)
    beside = place.on_disk(f"{path}.pylxcfs-new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(beside, flags, 0o644), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.replace(beside, place.on_disk(path))


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _cannot(error: OSError) -> HostError:
    return HostError(
        f"{error.filename}: {error.strerror}", "run it as root, or name a directory with --root"
    )


def next_steps(steps: list[Step], place: Place) -> Iterator[str]:
    """Yield the commands that follow an install by hand."""
    if place.is_host and any(step.path == place.unit and step.what == _WRITE for step in steps):
        yield f"next: systemctl daemon-reload && systemctl enable --now {UNIT}"
