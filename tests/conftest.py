"""Functions for every test, and a check for leftovers.

Import with `from tests.conftest import require, wait_until, run_name`. This module does not know
pylxcfs: fixtures for mounts, cgroups and namespaces live in the conftest of the directory that uses
them.

After the last test, a check fails the run if it has left a FUSE mount, a cgroup or a process. It
identifies them by marks that parallel runs do not share: mounts under the run's temporary
directory, cgroups with names of `run_name`, and processes with the run's PYLXCFS_TEST_RUN in their
environment (children inherit it).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")

RUN = f"pylxcfs-test-{os.getpid()}"
#: Root of the cgroup hierarchies, on v1, v2 and hybrid hosts.
CGROUP_ROOT = Path("/sys/fs/cgroup")


def require(feature: str, reason: str) -> NoReturn:
    """Skip the test, or fail it if PYLXCFS_REQUIRE lists `feature`.

    Features: fuse, cgroup, vm, systemd, resend, clients, docker, lxc,
    newer-engines, libvirt, kubernetes. `reason`: what is missing.
    """
    required = os.environ.get("PYLXCFS_REQUIRE", "")
    if feature in (name.strip() for name in required.split(",")):
        pytest.fail(f"{feature} is required (PYLXCFS_REQUIRE={required}), but {reason}")
    pytest.skip(f"{feature}: {reason}")


def require_fuse() -> None:
    """Require what a mount needs."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        require("fuse", "it needs root and /dev/fuse")


def wait_until(condition: Callable[[], T], timeout: float = 10, *, what: str) -> T:
    """Return the first true value of `condition`; fail after `timeout`.

    A long timeout costs nothing in a test that passes. `what` completes the message "waited N s
    for ...".
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s for {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def run_name(name: str) -> str:
    """Return a name for a cgroup or container that identifies the run."""
    return f"{RUN}-{name}"


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PYLXCFS_TEST_RUN"] = RUN
    mounts_before = set(_fuse_mounts())
    base = str(tmp_path_factory.getbasetemp())
    yield

    def left() -> list[str]:
        mounts = set(_fuse_mounts()) - mounts_before
        if "CI" not in os.environ:
            # Outside CI another run, or a `make run`, may run at the same time.
            mounts = {mount for mount in mounts if mount.startswith(base)}
        return (
            [f"mount {mount}" for mount in sorted(mounts)]
            + [f"cgroup {cgroup}" for cgroup in _cgroups()]
            + [f"process {process}" for process in _processes()]
        )

    deadline = time.monotonic() + 10
    while (remains := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    if remains:
        pytest.fail("the tests left behind:\n" + "\n".join(remains), pytrace=False)


def _fuse_mounts() -> Iterator[str]:
    """Yield the mountpoints of pylxcfs, by subtype or source."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("fuse") and "pylxcfs" in right:
            yield left.split()[4]


def _cgroups() -> list[str]:
    # Controllers that are mounted together show one directory through several names.
    found = {}
    for directory, _, _ in os.walk(CGROUP_ROOT):
        if f"{RUN}-" in os.path.basename(directory):
            found[os.stat(directory).st_ino, os.stat(directory).st_dev] = directory
    return sorted(found.values())


def _processes() -> Iterator[str]:
    mark = f"PYLXCFS_TEST_RUN={RUN}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ = Path(entry.path, "environ").read_bytes()
            if mark in environ.split(b"\0"):
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                yield f"{entry.name}: {command.decode(errors='replace')}"
        except OSError:
            continue  # the process has ended, or may not be read


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the values of `record_property("figures", line)`."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "figures" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
