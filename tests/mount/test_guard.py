"""Views that fail or hang: the reader gets the host's file, everybody else goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.mount.conftest import Sabotage

GIB = 1 << 30


def test_a_view_that_raises_gives_the_hosts_file_and_one_traceback(sabotage: Sabotage) -> None:
    env = sabotage("proc/meminfo", "raise ZeroDivisionError('on purpose')")
    expected = ["bug of pylxcfs", "Traceback", "File ", "raise ", "ZeroDivisionError", "^"]
    with (
        Daemon(env=env, expect_log=expected) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        for _ in range(5):
            text = container.read("/proc/meminfo")
            assert text.split()[1] == Path("/proc/meminfo").read_bytes().split()[1]
        assert float(container.read("/proc/uptime").split()[0]) < 100
        assert daemon.log.count("ZeroDivisionError: on purpose") == 1


def test_a_view_that_hangs_is_answered_and_holds_up_nobody(sabotage: Sabotage) -> None:
    env = sabotage("proc/swaps", "threading.Event().wait()")
    with (
        Daemon("--request-timeout", "0.5", env=env, expect_log=["takes longer"]) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        server = daemon.server
        hung = container.popen(["cat", "/proc/swaps"], stdout=subprocess.PIPE)
        with hung:
            assert container.read("/proc/meminfo").startswith(b"MemTotal:        1048576 kB\n")
            out, _ = hung.communicate(timeout=30)
        assert out.startswith(b"Filename")
        assert container.read("/proc/uptime")
        assert daemon.find_server() == server


def test_a_server_with_many_hung_requests_is_replaced(sabotage: Sabotage, tmp_path: Path) -> None:
    flag = tmp_path / "hang"
    flag.touch()
    body = f"return threading.Event().wait() if os.path.exists({str(flag)!r}) else b'fine\\n'"
    env = sabotage("proc/swaps", body)
    # Without stacks of all threads this would be hard to find out about.
    expected = ["takes longer", "stuck", "no sign of life", "[Tt]hread", "File ", "server", "^<3>$"]
    options = ("--request-timeout", "0.2", "--watchdog", "1.5")
    with (
        Daemon(*options, env=env, expect_log=expected) as daemon,
        Container(daemon.mountpoint, memory=GIB) as container,
    ):
        first = daemon.server
        readers = [container.popen(["cat", "/proc/swaps"], stdout=subprocess.PIPE) for _ in "x" * 9]
        daemon.wait_new_server(first)
        flag.unlink()
        for reader in readers:
            with reader:
                out, _ = reader.communicate(timeout=60)
                assert out
        # As long as before, while it is read all the time.
        wait_until(lambda: container.read("/proc/swaps").split() == [b"fine"], what="a good view")
