"""liblxc's seccomp proxy."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.engines import MEMORY, busybox_root
from tests.clients.test_lxc import AUTO, lxc
from tests.conftest import require, wait_until
from tests.kit.daemon import DEADLINE_S, Daemon
from tests.syscalls.test_agent import agent_of

PROFILE = "2\ndenylist\n[all]\nsysinfo notify\nsched_getaffinity notify\n"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--seccomp-agent", expect_log=["seccomp agent has ended"]) as running:
        yield running


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("lxc-start", "lxc-attach", "lxc-stop"):
        if shutil.which(name) is None:
            require("lxc", f"there is no {name} on PATH")
    return busybox_root(tmp_path_factory.mktemp("lxc") / "root")


def test_programs_in_lxc_are_told_the_containers_own(
    daemon: Daemon, root: Path, tmp_path: Path, caller: Path
) -> None:
    shutil.copy(caller, root / "bin/caller")
    (tmp_path / "profile").write_text(PROFILE)
    files = (
        f"{AUTO}\nlxc.seccomp.profile = {tmp_path}/profile\n"
        f"lxc.seccomp.notify.proxy = unix:{daemon.runtime_dir}/seccomp-lxc.sock\n"
    )
    with lxc(tmp_path, root, files) as attach:

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
