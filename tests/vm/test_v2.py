"""The tests that lane.txt names, under pure cgroup v2, and those of inside/ on a larger machine.

Where the host itself has pure cgroup v2 the first have run already, so that boot is left out.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import require
from tests.vm import machine
from tests.vm.kernel import NoKernelError

HERE = Path(__file__).parent
PYTEST = ["python", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "--durations=10"]
#: In the machine a skip for want of these is a failure, wherever the machine itself may boot.
ENVIRONMENT = {
    "PYLXCFS_REQUIRE": "fuse,cgroup",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    # An emulated processor takes a second to start a program: no sign that a server is stuck.
    "PYLXCFS_REQUEST_TIMEOUT": "60",
    "PYLXCFS_WATCHDOG": "60",
}


def test_the_lane_passes_under_pure_cgroup_v2() -> None:
    if host_has_pure_v2():
        pytest.skip("this host has pure cgroup v2 itself: the same tests ran on it")
    lines = (HERE / "lane.txt").read_text().splitlines()
    check(boot([line for line in lines if line and not line.startswith("#")], cpus=2))


def test_eight_cpus_on_two_nodes() -> None:
    check(boot(["tests/vm/inside"], cpus=8, nodes=2, memory="1G"))


def host_has_pure_v2() -> bool:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    return controllers.exists() and "memory" in controllers.read_text().split()


def boot(tests: list[str], *, cpus: int, nodes: int = 1, memory: str = "4G") -> machine.Result:
    if reason := machine.why_not():
        require("vm", reason)
    try:
        return machine.run(
            [*PYTEST, *tests],
            cpus,
            nodes,
            memory,
            environment=ENVIRONMENT,
            timeout=900,
            echo=lambda text: print(text, end="", flush=True),
        )
    except NoKernelError as error:
        require("vm", str(error))


def check(result: machine.Result) -> None:
    """Fail if the machine's pytest did; its output is what this test printed."""
    if result.exit_code is None:
        print(result.console[-8000:])
        pytest.fail(f"the machine gave no answer in {result.seconds:.0f} s", pytrace=False)
    print(f"{result.seconds:.0f} s with boot")
    if result.exit_code != 0:
        pytest.fail(f"pytest in the machine ended with {result.exit_code}", pytrace=False)
