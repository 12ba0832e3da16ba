"""What every test may use: `require`, `wait_until`, `run_name`; and the check that all is gone.

Import them with `from tests.conftest import require, wait_until`. Nothing here knows pylxcfs:
fixtures for mounts, cgroups and namespaces live in the conftest of the directory that uses them.

A run leaves nothing behind: no FUSE mount, no cgroup, no process. The session's last word is a
check of that, and it fails the run. It finds what a run made by marks that parallel runs do not
share: mounts under the run's temporary directory, cgroups named by `run_name`, and processes
with the run's PYLXCFS_TEST_RUN in their environment (children inherit it).
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
#: Where cgroups may have been made, on v1, v2 and hybrid hosts.
CGROUP_ROOT = Path("/sys/fs/cgroup")


def require(feature: str, reason: str) -> NoReturn:
    """End the test: skip it because `feature` is missing, or fail if PYLXCFS_REQUIRE lists it.

    Features: fuse, cgroup, vm, systemd, resend, clients, docker, lxc. `reason`: what is missing.
    """
    required = os.environ.get("PYLXCFS_REQUIRE", "")
    if feature in (name.strip() for name in required.split(",")):
        pytest.fail(f"{feature} is required (PYLXCFS_REQUIRE={required}), but {reason}")
    pytest.skip(f"{feature}: {reason}")


def wait_until(condition: Callable[[], T], timeout: float = 10, *, what: str) -> T:
    """Return the first true value of `condition`, or fail after `timeout` seconds.

    The deadline is there for what never comes, so it may be long: it costs nothing when all is
    well. `what` ends the sentence "waited N s for ...".
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
    """Name a cgroup (or a container) so that the end of the run finds it if it is left over."""
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
            # Outside CI another run, or a `make run`, may be going on beside this one.
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
    """Yield the mountpoints of pylxcfs (an own subtype, or at least an own source)."""
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
            continue  # it ended, or is not ours to look at


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured: each `record_property("figures", line)`."""
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
