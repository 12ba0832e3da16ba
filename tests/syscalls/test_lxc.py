"""liblxc's seccomp proxy."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import MEMORY
from tests.clients.test_lxc import AUTO, Place, lxc, place, root  # noqa: F401  fixtures
from tests.conftest import wait_until
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.syscalls.test_agent import agent_of

PROFILE = "2\ndenylist\n[all]\nsysinfo notify\nsched_getaffinity notify\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--seccomp-agent", expect_log=["seccomp agent has ended"]) as running:
        yield running


def test_programs_in_lxc_are_told_the_containers_own(
    daemon: Daemon,
    place: Place,  # noqa: F811
    caller: Path,
) -> None:
    directory, top, user_namespace = place
    shutil.copy(caller, top / "bin/caller")
    (directory / "profile").write_text(PROFILE)
    files = (
        f"{AUTO}\nlxc.seccomp.profile = {directory}/profile\n"
        f"lxc.seccomp.notify.proxy = unix:{daemon.runtime_dir}/seccomp-lxc.sock\n"
    )
    with lxc(directory, top, files, user_namespace=user_namespace) as attach:

        def shown() -> dict[str, str]:
            out = subprocess.check_output([*attach, "/bin/caller", "print"], timeout=60)
            return dict(line.split("=") for line in out.decode().splitlines())

        # LXC limits CPU time after its hooks.
        wait_until(lambda: shown()["cpus"] == "1", DEADLINE_S, what="one CPU")
        assert int(shown()["total"]) == MEMORY
        assert shown()["bad_pointer"] == "EFAULT"
        # The connections of LXC are held, too.
        found = agent_of(daemon)
        found.send_signal(signal.SIGKILL)
        assert int(shown()["total"]) == MEMORY
