"""The configuration document of an instance: kept, found again, and reloaded.

RUNTIME_DIR/config.json is the last configuration that an instance has run with. `mount` writes
it, and the keeper after each reload. It is used again where the config file or a variable does
not validate and a mount depends on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pylxcfs.cli.options import (
    BY_NAME,
    Change,
    Config,
    Origin,
    changes,
    load,
    with_flags,
)
from pylxcfs.errors import DocumentError, HostError, UsageError
from pylxcfs.keeper import mountpoint

_DOCUMENT = "config.json"


def located(config: Config) -> Config:
    """Return the configuration with directories as the kernel's mount table names them."""
    return replace(
        config,
        mountpoint=mountpoint.resolve(config.mountpoint),
        runtime_dir=mountpoint.resolve(config.runtime_dir),
    )


def caller_mount(config: Config) -> str:
    """Return where the caller mount is."""
    return os.path.join(config.runtime_dir, "caller")


def status_path(config: Config) -> str:
    """Return the file in which the keeper says what it does."""
    return os.path.join(config.runtime_dir, "status.json")


@contextlib.contextmanager
def writing(directory: str) -> Iterator[None]:
    """Turn errors of the kernel in the runtime directory into a HostError."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"the runtime directory {directory} cannot be written: {error.strerror}",
            "free space in it or correct its permissions, or name another with --runtime-dir",
        ) from error


def save(config: Config) -> None:
    """Write the document into the runtime directory, whole or not at all."""
    path = os.path.join(config.runtime_dir, _DOCUMENT)
    with writing(config.runtime_dir):
        number = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "wb") as file:
                file.write(config.document())
            os.replace(f"{path}.new", path)
        except OSError:
            os.unlink(f"{path}.new")
            raise


def last_good(flags: Mapping[str, Any], env: Mapping[str, str]) -> Config | None:
    """Return the last configuration that was used, with these flags.

    The runtime directory is the one of the flags or the variable; the config file is not read.
    """
    kind = BY_NAME["runtime_dir"]
    runtime_dir = flags.get(kind.name, kind.default)
    if kind.name not in flags and kind.env in env:
        try:
            runtime_dir = kind.kind.text(env[kind.env])
        except ValueError:
            return None  # not that of another instance
    try:
        with open(os.path.join(runtime_dir, _DOCUMENT), "rb") as file:
            config = Config.parse(file.read())
    except (OSError, DocumentError):
        return None
    return with_flags(replace(config, runtime_dir=runtime_dir), flags)


def load_or_last_good(
    flags: Mapping[str, Any], env: Mapping[str, str], path: str | None
) -> tuple[Config, UsageError | None]:
    """Return the configuration, or the last good one and the error."""
    try:
        return located(load(flags, env, path)), None
    except UsageError as error:
        config = last_good(flags, env)
        if config is None:
            raise
        # A reload resolves again from what this start was given.
        return located(replace(config, origin=Origin(dict(flags), path))), error


def resolve(document: bytes, env: Mapping[str, str]) -> tuple[Config, list[Change]]:
    """Return the configuration after a reload, and all that has changed.

    Options that need a restart keep their value, but are among the changes. Raise UsageError or
    DocumentError.
    """
    old = Config.parse(document)
    new = located(load(old.origin.flags, env, old.origin.path))
    changed = changes(old, new)
    live = {change.option.name: change.new for change in changed if change.option.live}
    return replace(old, **live), changed
