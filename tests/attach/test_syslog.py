"""What hook and runtime say is in syslog: runc and crun drop what a hook prints that exits 0."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pylxcfs.attach import hook, runtime

#: /dev/log of a mount namespace of its own; hook.py has no option for another.
_RUN = """
mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 && ln -s "$1" /dev/log || exit 99
shift
exec "$@"
"""
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs a program; it returns the exit code, and what syslog got."""
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(log))
        receiver.setblocking(False)

        def function(*argv: str, input: str = "") -> tuple[int, list[str]]:
            alone = ["unshare", "--mount", "--propagation=private", "sh", "-c", _RUN, "sh"]
            command = [*alone, str(log), sys.executable, "-ISE", *argv]
            done = subprocess.run(command, input=input, text=True, timeout=60)
            lines = []
            while True:
                try:
                    lines.append(receiver.recv(4096).decode())
                except BlockingIOError:
                    return done.returncode, lines

        yield function


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"id": "x", "bundle": "/nowhere"}'])
def test_a_hook_without_a_root_says_so_and_exits_0(run: Run, state: str) -> None:
    code, lines = run(hook.__file__, "/nowhere", "proc/meminfo", input=state)
    assert code == 0
    assert len(lines) == 1
    assert "pylxcfs: oci-hook: " in lines[0]
    assert "nothing was bound: " in lines[0]


def test_a_hook_without_a_mount_names_container_and_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"root": {"path": "rootfs"}}))
    state = json.dumps({"id": "small", "bundle": str(tmp_path)})
    code, lines = run(hook.__file__, "/nowhere", "proc/meminfo", "proc/stat", input=state)
    assert code == 0
    assert [line.partition("oci-hook: ")[2] for line in lines] == [
        f"small: proc/{name} was not bound: [Errno 2] No such file or directory"
        for name in ("meminfo", "stat")
    ]


def test_a_hook_without_arguments_exits_0(run: Run) -> None:
    code, lines = run(hook.__file__)
    assert code == 0
    assert "nothing more was bound: ValueError" in lines[0]


def test_a_bundle_that_cannot_be_patched_starts_without_views(run: Run, tmp_path: Path) -> None:
    words = ["--pylxcfs-runtime", "true", "create", "--bundle", str(tmp_path), "x"]
    code, lines = run(runtime.__file__, *words)
    assert code == 0
    assert "oci-runtime: the container starts without views: " in lines[0]


def test_a_runtime_that_is_missing_is_named(run: Run) -> None:
    code, lines = run(runtime.__file__, "--pylxcfs-runtime", "/nowhere/runc", "state", "x")
    assert code == 127
    assert "/nowhere/runc: No such file" in lines[0]
