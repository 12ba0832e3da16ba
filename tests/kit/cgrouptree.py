"""The cgroup tree of a container, and Python code that uses it in the container."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kit import asuser
from tests.kit.cgroups import hierarchies, is_v2, remove_directory
from tests.kit.container import Container
from tests.kit.daemon import Daemon

#: What the code of all tests in containers begins with.
PRELUDE = """
import errno, os, signal, sys, threading

def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode()
    finally:
        os.close(fd)

def write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.write(fd, str(text).encode()) == len(str(text))
    finally:
        os.close(fd)

def refusal(function, *args):
    try:
        function(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "none"

def expect(function, args, *names):
    got = refusal(function, *args)
    assert got in names, (function.__name__, args, got)
"""


class Tree:
    """The tree of one container."""

    def __init__(self, daemon: Daemon, container: Container) -> None:
        self.top = f"{daemon.mountpoint}/cgroup"
        self.container = container
        #: Where the container's own cgroup is, in the tree and in cgroupfs, by hierarchy.
        self.places: dict[str, tuple[str, Path]] = {}
        for hierarchy in hierarchies():
            names = hierarchy.controllers
            directory = container.cgroup.paths[min(names, default="")]
            name = hierarchy.mountpoint.name if names else "unified"
            path = directory.relative_to(hierarchy.mountpoint)
            self.places[name] = f"{self.top}/{name}/{path}", directory

    @property
    def memory(self) -> tuple[str, Path]:
        """The place in the hierarchy of the memory controller."""
        return self.places["unified" if is_v2() else "memory"]

    def run(
        self,
        code: str,
        *,
        uid: int = 0,
        user_namespace: bool = False,
        check: bool = True,
        **values: Any,
    ) -> str:
        """Run Python code in the container; return what it prints."""
        text = PRELUDE + "".join(f"{name} = {value!r}\n" for name, value in values.items())
        done = self.container.exec(
            [sys.executable, asuser.__file__, str(uid), "user" if user_namespace else "-"],
            input=(text + textwrap.dedent(code)).encode(),
            check=check,
        )
        return done.stdout.decode()


@contextlib.contextmanager
def tree_of(daemon: Daemon, **options: Any) -> Iterator[Tree]:
    with Container(daemon.mountpoint, files=[], **options) as container:
        tree = Tree(daemon, container)
        try:
            yield tree
        finally:
            for pid in _pids_below(tree):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for _, directory in tree.places.values():
                for path, _, _ in os.walk(directory, topdown=False):
                    if path != str(directory):
                        remove_directory(Path(path))


def _pids_below(tree: Tree) -> set[int]:
    found = set()
    for _, directory in tree.places.values():
        for path in directory.rglob("*/cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in path.read_text().split())
    return found - {0}
