"""`status`, `top`, `doctor` and metrics, with a real daemon and real containers.

Others' containers may run here, too: each test looks for its own.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pylxcfs.monitor import bindings, instance
from pylxcfs.monitor.containers import listing
from tests.attach.conftest import MIB, total
from tests.conftest import wait_until
from tests.kit.container import Container
from tests.kit.daemon import DEADLINE_S, ROOT, Daemon
from tests.kit.terminal import Terminal


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    port = free_port()
    with Daemon("--metrics-listen", f"127.0.0.1:{port}", "--metrics-containers") as running:
        running.port = port  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def containers(daemon) -> Iterator[list[Container]]:
    """Bound by the container, bound on the host, and not bound."""
    with (
        Container(daemon.mountpoint, memory=100 * MIB, cpus=1) as own,
        Container(daemon.mountpoint, bind="host", memory=50 * MIB) as caller,
        Container(memory=60 * MIB) as none,
    ):
        yield [own, caller, none]


def of(every: list, container: Container) -> dict:
    [found] = [one for one in every if one["pid"] == container.pid]
    return found


def test_status_says_what_each_file_is_bound_to(daemon, containers, command):
    own, caller, none = containers
    assert total(own) == 100 * MIB
    before = of(json.loads(command(daemon, "status", "--json").stdout)["containers"], own)
    wait_until(lambda: own.read("/proc/uptime"), what="a read")
    own.read("/proc/swaps")
    state = json.loads(command(daemon, "status", "--json").stdout)
    assert state["state"] == "serving"
    assert [mount["alive"] for mount in state["mounts"]] == [True, True]
    assert state["keeper"]["version"] == state["server"]["version"] == state["version"]
    assert state["parts"] == {"resources": None, "cgroup": None, "devices": None}
    assert state["counts"] == {"restarts": 0, "failures": 0, "aborts": 0, "heals": 0}
    assert state["counters"]["files"]["proc/meminfo"][0] > 0
    for container, kind, limit in ((own, "own", 100), (caller, "caller", 50), (none, "none", 60)):
        found = of(state["containers"], container)
        assert found["files"]["/proc/meminfo"] == kind
        assert set(found["files"].values()) <= {kind, "none"}
        assert found["memory_limit_bytes"] == limit * MIB
        assert 0 < found["memory_usage_bytes"] < limit * MIB
        assert found["name"] == os.path.basename(container.cgroup.name)
    assert of(state["containers"], own)["cpus"] == 1
    assert of(state["containers"], own)["renderings"] > before["renderings"] > 0
    assert of(state["containers"], none)["renderings"] == 0
    text = command(daemon, "status").stdout
    [line] = [line for line in text.splitlines() if line.split()[2:3] == [str(own.pid)]]
    assert " own" in line
    assert "100M" in line


def test_files_of_another_instance_are_named(daemon, containers, command):
    with Daemon() as other:
        state = json.loads(command(other, "status", "--json").stdout)
        files = of(state["containers"], containers[0])["files"]
        assert files["/proc/meminfo"] == "other"


def test_files_of_an_instance_that_has_ended_are_dead(daemon, command):
    with Daemon() as other, Container(other.mountpoint, memory=70 * MIB) as container:
        other.stop()
        state = json.loads(command(daemon, "status", "--json").stdout)
        assert of(state["containers"], container)["files"]["/proc/meminfo"] == "dead"
        found = json.loads(command(daemon, "doctor", "--json", code=2).stdout)
        [finding] = [one for one in found["findings"] if f"(pid {container.pid})" in one["text"]]
        assert finding["severity"] == "error"
        assert f"pylxcfs attach {container.pid}" in finding["hint"]
        command(daemon, "attach", str(container.pid))
        state = json.loads(command(daemon, "status", "--json").stdout)
        assert of(state["containers"], container)["files"]["/proc/meminfo"] == "own"


def test_doctor_finds_this_host_fit(daemon, containers, command):
    done = command(daemon, "doctor", "--json", code=None)
    found = json.loads(done.stdout)
    by_subject = {one["subject"]: one for one in found["findings"]}
    assert by_subject["instance"]["severity"] == "fine"
    assert by_subject["FUSE"]["severity"] == "fine"
    worst = max(("fine", "warning", "error").index(one["severity"]) for one in found["findings"])
    assert done.returncode == worst
    assert found["severity"] == ("fine", "warning", "error")[worst]
    for one in found["findings"]:
        assert one["hint"] or one["severity"] == "fine", one
    assert "-> " in command(daemon, "doctor", code=worst).stdout


def test_the_optional_parts_of_an_instance(command):
    """The socket is removed, and replaced by a directory; a capability is missing."""
    without = ("setpriv", "--bounding-set=-kill,-setuid", sys.executable)
    expected = ["cgroup/ does not work"]
    with Daemon("--resources", "--enable-cgroup", python=without, expect_log=expected) as other:
        socket_file = other.runtime_dir / "resources.sock"

        def parts() -> dict:
            return json.loads(command(other, "status", "--json").stdout)["parts"]

        def finding(subject: str) -> dict:
            found = json.loads(command(other, "doctor", "--json", code=None).stdout)["findings"]
            [one] = [one for one in found if one["subject"] == subject]
            return one

        def answers() -> bool:
            return parts()["resources"]["works"]

        wait_until(answers, DEADLINE_S, what="an answer of the resources service")
        assert parts()["devices"] is None
        assert parts()["cgroup"]["works"] is False
        told = finding("cgroup")
        assert told["severity"] == "error"
        assert "capabilities are missing: CAP_KILL CAP_SETUID," in told["text"]
        assert "docs/cgroup.md" in told["hint"]
        socket_file.unlink()
        assert parts()["resources"]["text"] == "the socket is gone"
        assert finding("resources")["severity"] == "error"
        socket_file.mkdir()
        assert finding("resources")["hint"].startswith(f"rmdir {socket_file}; stop and start")
        text = command(other, "status").stdout
        assert f"  resources:          {socket_file}: a directory is in the place" in text
        assert "\n  devices:            off\n" in text


def samples(text: str) -> dict:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
        return samples(answer.read().decode())


def test_metrics_over_tcp(daemon, containers):
    found = scrape(daemon.port)
    assert found["pylxcfs_up",] == 1
    assert found["pylxcfs_renderings_total", ("file", "proc/meminfo")] > 0
    assert found["pylxcfs_rendering_seconds_total", ("file", "proc/meminfo")] > 0
    assert found["pylxcfs_requests_total", ("mount", "own"), ("opcode", "getattr")] > 0
    assert found["pylxcfs_container_files", ("bound", "caller")] > 0
    name = os.path.basename(containers[0].cgroup.name)
    [value] = [value for key, value in found.items() if ("container", name) in key]
    assert value > 0


def test_metrics_over_a_unix_socket_without_containers(tmp_path):
    path = tmp_path / "metrics"
    with (
        Daemon("--metrics-listen", str(path)) as running,
        Container(running.mountpoint) as container,
    ):
        container.read("/proc/meminfo")
        with socket.socket(socket.AF_UNIX) as connection:
            wait_until(path.exists, DEADLINE_S, what="the socket")
            connection.connect(str(path))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            head, _, text = connection.makefile("rb").read().partition(b"\r\n\r\n")
        assert b"200 OK" in head.split(b"\r\n")[0]
        found = samples(text.decode())
        assert found["pylxcfs_up",] == 1
        assert not any("container" in label for key in found for label, *_ in key[1:])


def test_a_server_that_is_killed_is_counted_and_the_next_one_answers():
    port = free_port()
    expected = [r"the server was ended"]
    with Daemon("--metrics-listen", f"127.0.0.1:{port}", expect_log=expected) as running:
        first = running.server
        assert instance.ask(str(running.runtime_dir))["pid"] == first
        os.kill(first, signal.SIGKILL)
        second = running.wait_new_server(first)
        answer = wait_until(
            lambda: instance.ask(str(running.runtime_dir)), DEADLINE_S, what="counters"
        )
        assert answer["pid"] == second
        found = wait_until(
            lambda: found if (found := scrape(port))["pylxcfs_up",] else None, what="a server"
        )
        assert found["pylxcfs_server_restarts_total",] == 1


def test_a_server_that_hangs_is_said_soon(daemon, command):
    with Daemon("--watchdog", "0") as running:
        os.kill(running.server, signal.SIGSTOP)
        try:
            state = json.loads(command(running, "status", "--json").stdout)
            assert state["counters"] is None
            assert "does not answer" in command(running, "doctor", code=None).stdout
        finally:
            os.kill(running.server, signal.SIGCONT)


def test_the_counters_are_roots(daemon):
    path = Path(daemon.runtime_dir, "counters")
    assert path.stat().st_mode & 0o777 == 0o600


def test_metrics_need_their_package(tmp_path, command):
    """The mount is refused, with what to install."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('prometheus_client', 'rich')"
        " else find(name, *a)\n"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    options = ("--metrics-listen", "127.0.0.1:1")
    with Daemon(*options, env=environment, ready=False, expect_log=[".*"]) as running:
        assert running.process.wait(DEADLINE_S) == 3
        assert "pip install 'pylxcfs[metrics]'" in running.log
        with Terminal(argv(running), 80, 24, env=environment, cwd="/") as terminal:
            assert terminal.end() == 3
            terminal.wait(lambda lines: any("pip install 'pylxcfs[top]'" in one for one in lines))


def argv(daemon: Daemon, *words: str) -> list[str]:
    place = ["--runtime-dir", str(daemon.runtime_dir)]
    return [sys.executable, "-P", "-m", "pylxcfs", "top", *place, *words]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10)])
def test_top_in_a_terminal(daemon, containers, width, height):
    environment = {"PYTHONPATH": str(ROOT)}
    with Terminal(argv(daemon, "--interval", "0.3"), width, height, env=environment) as terminal:
        lines = terminal.wait(lambda lines: "q quit" in lines[-1] or " of " in lines[-1])
        assert lines[0].startswith("pylxcfs serving")
        assert lines[2].startswith("CONTAINER")
        assert max(map(len, lines)) <= width
        # The second reading has rates.
        terminal.wait(lambda lines: "renderings/s -" not in lines[1])
        if width >= 80:
            terminal.wait(lambda lines: any("15 own" in one or " own" in one for one in lines))
            assert any("/100M" in one for one in terminal.lines())
            terminal.press(b"s")
            terminal.wait(lambda lines: "order: memory" in lines[-1])
            terminal.press(b"ss\x1b[B\x1b[A")
            terminal.wait(lambda lines: "order: renderings" in lines[-1])
            terminal.resize(50, 12)
            lines = terminal.wait(
                lambda lines: lines[0].startswith("pylxcfs") and "q quit" in lines[-1]
            )
            assert len(lines) == 12
        terminal.press(b"q")
        assert terminal.end() == 0
        assert b"\x1b[?1049l" in terminal.raw  # the screen from before is back


def test_top_needs_a_terminal(daemon, command):
    assert "needs a terminal" in command(daemon, "top", code=3).stderr


def test_listing_again_and_again_keeps_nothing_open(containers):
    """A server of the same user needs what is left of inotify instances."""
    known = bindings.devices([])
    listing(known)
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(10):
            assert of(listing(known), containers[0])
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


def test_other_users_see_the_instance_and_no_containers(daemon, containers):
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *(sys.executable, "-P", "-m", "pylxcfs", "status"),
            *("--runtime-dir", str(daemon.runtime_dir)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("others may not read this clone")
    assert done.returncode == 0, done.stderr
    assert "containers are shown to root only" in done.stdout
    assert "not served" not in done.stdout
