"""`pylxcfs resources`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pylxcfs import resources
from pylxcfs.cli import launch
from pylxcfs.cli import resources as work
from pylxcfs.cli.commands import cli
from pylxcfs.cli.options import load
from pylxcfs.errors import InstanceError, UsageError, UserError
from pylxcfs.keeper.resources import listen
from pylxcfs.resources import Cgroup, Cpu, Device, Devices, HugePages, Memory, Source
from tests.kit.asking import DEADLINE_S, connect, line, rest
from tests.unit.resources.test_openapi import check


def run(*words: str) -> str:
    return CliRunner().invoke(cli, ["resources", *words], catch_exceptions=False).output


def test_json_is_as_the_document_says():
    found = json.loads(run("--json"))
    check(found, "Resources")
    assert found["cpu"]["affinity"] == sorted(os.sched_getaffinity(0))
    assert json.loads(run("--json", "--pid", str(os.getpid())))["scope"] == found["scope"]


def test_the_table_has_a_line_for_each_value():
    names = [line.split()[0] for line in run().splitlines()]
    for name in ("scope", "cpu.visible", "memory.total_bytes", "uptime_s", "advice.threads"):
        assert names.count(name) == 1


def test_units_levels_and_what_is_not_known():
    found = resources.of()._replace(
        cpu=Cpu((0, 1), 1.5, (0, 1), None, None, None, None),
        memory=Memory(512 << 20, 512 << 20, 3 << 19, 1023, None),  # type: ignore[arg-type]
        huge_pages=(HugePages(2 << 20, None, 0),),
        cgroup=Cgroup("hybrid", {"memory": "/a/b", "cpu": "/a/b", "unified": "/\udcff"}),
        sources={
            "cpu.quota": Source("cpu.max", 2, "/sys/fs/cgroup/cpu.max"),
            "memory.limit_bytes": Source("memory.max", 0),
            "memory.available_bytes": Source("x"),
        },
    )
    text = work.render(found)
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}
    assert lines["cpu.quota"].split("  ")[0] == "1.5"
    assert lines["cpu.quota"].endswith("/sys/fs/cgroup/cpu.max (2 above)")
    assert lines["memory.limit_bytes"].startswith("512 MiB")
    assert lines["memory.usage_bytes"] == "1.5 MiB"
    assert lines["memory.free_bytes"] == "1023 B"
    assert lines["memory.available_bytes"].startswith("- ")
    assert "cpu.shares" not in lines
    paths = [line.split()[1:] for line in text.splitlines() if line.startswith("cgroup.paths")]
    assert paths == [["memory", "cpu:", "/a/b"], ["unified:", "/\ufffd"]]
    assert work.render(found, ("cpu.quota",)).startswith("changed: cpu.quota\n")


def test_names_of_cgroups_are_no_escape_sequences():
    """A user with a cgroup of his own gives its children any name, and root reads the table."""
    path = "/sys/fs/cgroup/\x1b]0;title\x07/memory.max"
    sources = {"memory.limit_bytes": Source("memory.max", 0, path)}
    cgroup = Cgroup("v2", {"unified": "/\x1b[31m\u00e4\x9b"})
    text = work.render(resources.of()._replace(cgroup=cgroup, sources=sources))
    assert "/sys/fs/cgroup/\ufffd]0;title\ufffd/memory.max" in text
    assert text.splitlines() == text.split("\n")
    assert "unified: /\ufffd[31m\u00e4\ufffd" in text
    devices = work.render_devices(Devices(None, (Source("bpf(2)", 0, "/a\x1b"),)))
    assert devices.endswith("/a\ufffd")


def test_devices():
    found = json.loads(run("--devices", "--json"))
    check(found, "Devices")
    assert found == json.loads(json.dumps(resources.devices().document()))
    assert run("--devices").splitlines()
    with pytest.raises(UsageError, match="--watch"):
        run("--devices", "--watch")


def test_a_line_for_each_device_and_each_source():
    source = Source("devices.list", 0, "/sys/fs/cgroup/devices/a/devices.list")
    allowed = (Device("char", 1, 3, "null"), Device("block", 259, 12, "nvme0n1p2"))
    lines = work.render_devices(Devices(allowed, (source,))).splitlines()
    assert [line.split() for line in lines] == [
        ["char", "1:3", "null"],
        ["block", "259:12", "nvme0n1p2"],
        ["from", "devices.list", "/sys/fs/cgroup/devices/a/devices.list"],
    ]
    assert work.render_devices(Devices((), (source,))).startswith("none\n")
    assert work.render_devices(Devices(None, (source,))).startswith("no limit\n")
    assert work.render_devices(Devices(None, ())).startswith("not known")


def test_a_process_that_is_not_there():
    child = subprocess.Popen(["true"])
    child.wait()
    for words in ((), ("--json",), ("--watch",), ("--devices",)):
        with pytest.raises(UserError, match=f"there is no process {child.pid}") as error:
            run("--pid", str(child.pid), *words)
        assert error.value.hint == "give --pid a process that runs"


def test_a_pid_that_is_no_number():
    done = CliRunner().invoke(cli, ["resources", "--pid", "abc"])
    assert done.exit_code == UsageError.exit_code
    assert "'abc' is not a valid number" in done.output


def test_watch_prints_a_line_at_once_and_ends_with_the_process():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        command = [sys.executable, "-m", "pylxcfs", "resources", "--watch", "--json"]
        with subprocess.Popen(
            [*command, "--pid", str(child.pid)], stdout=subprocess.PIPE, text=True
        ) as watching:
            assert watching.stdout is not None
            found = json.loads(watching.stdout.readline())
            assert found.pop("changed") == []
            check(found, "Resources")
            assert child.stdin is not None
            child.stdin.close()
            assert watching.stdout.read() == ""
        assert watching.returncode == 0


def test_a_service_alone_takes_no_socket_of_another_and_removes_its_own(tmp_path):
    path = tmp_path / "resources.sock"
    command = [sys.executable, "-m", "pylxcfs", "resources-service", f"--runtime-dir={tmp_path}"]
    listen(str(tmp_path)).close()  # left behind by a crash
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr is not None
            assert str(path) in first.stderr.readline()
            second = subprocess.run(
                command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            assert second.returncode == InstanceError.exit_code
            assert f"another resources service listens at {path}" in second.stderr
            assert line(path)["scope"]
        finally:
            first.terminate()
    assert not path.exists()


#: The child of a keeper, where h11 is not installed.
WITHOUT_H11 = """
import importlib.util, sys
from pylxcfs.cli import resources
importlib.util.find_spec = lambda name: None
resources.serve(int(sys.argv[1]), int(sys.argv[2]))
"""


def test_without_the_package_connections_are_closed(tmp_path):
    config = launch.document_fd(load({}, {}))
    with listen(str(tmp_path)) as listener, connect(tmp_path / "resources.sock") as early:
        listener.setblocking(False)  # as a service before it does
        numbers = (listener.fileno(), config)
        with subprocess.Popen(
            [sys.executable, "-c", WITHOUT_H11, *map(str, numbers)],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=numbers,
        ) as child:
            try:
                assert rest(early) == b""
                with connect(tmp_path / "resources.sock") as late:
                    assert rest(late) == b""
            finally:
                child.terminate()
            assert child.stderr is not None
            assert "closed until a reload: the resources service needs" in child.stderr.read()
    os.close(config)


def test_without_the_package_of_the_service(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package h11") as error:
        work.need_package()
    assert "pylxcfs[resources]" in error.value.hint
