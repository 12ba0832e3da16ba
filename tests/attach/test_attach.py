"""`attach` and `detach` of containers that run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pylxcfs.attach import calls, containers, mounting, work
from pylxcfs.attach.views import Mounts, paths
from tests.attach.conftest import MIB, total, views_in
from tests.kit.daemon import Daemon
from tests.kit.wellformed import check


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


def served() -> list[str]:
    return [path for path in paths() if os.path.exists(f"/{path}")]


def test_a_running_container_is_given_its_own_files(daemon, make_container, command):
    made = make_container(memory=100 * MIB, cpus=1)
    host = total(made)
    done = command(daemon, "attach", str(made.pid))
    assert f"{len(served())} attached" in done.stdout
    assert total(made) == 100 * MIB < host
    assert set(views_in(made)) == {f"/{path}" for path in served()}
    for path, root in views_in(made).items():
        assert root == f"/own/{made.key}{path}"
    check("proc/cpuinfo", made.read("/proc/cpuinfo"))
    again = json.loads(command(daemon, "attach", "--json", str(made.pid)).stdout)
    assert {file["what"] for file in again[0]["files"]} == {"kept"}
    command(daemon, "detach", str(made.pid))
    assert views_in(made) == {}
    assert total(made) == host


def test_files_can_be_chosen(daemon, make_container, command):
    made = make_container(memory=100 * MIB)
    command(daemon, "attach", "--files", "proc/uptime,/proc/meminfo", str(made.pid))
    assert set(views_in(made)) == {"/proc/uptime", "/proc/meminfo"}
    command(daemon, "detach", "--files", "proc/uptime", str(made.pid))
    assert set(views_in(made)) == {"/proc/meminfo"}


def test_a_view_of_the_host_is_replaced_by_the_containers_own(daemon, make_container, command):
    """As containerd's CRI binds them."""
    made = make_container(daemon.mountpoint, bind="host", memory=100 * MIB)
    assert "/own/" not in views_in(made)["/proc/meminfo"]
    done = command(daemon, "attach", str(made.pid))
    assert "replaced" in done.stdout
    for path, root in views_in(made).items():
        assert root == f"/own/{made.key}{path}"


@pytest.mark.parametrize(
    ("setup", "path", "why"),
    [
        ("mount --bind /dev/null /proc/meminfo", "/proc/meminfo", "is mounted there"),
        ("mount --bind /etc/passwd /proc/meminfo", "/proc/meminfo", "is mounted there"),
        (
            "mount -t tmpfs x /sys; mkdir -p /sys/devices/system/cpu",
            "/sys/devices/system/cpu",
            "another filesystem",
        ),
        (
            "mount -t tmpfs x /sys; mkdir -p /sys/devices /tmp/x; ln -s /etc /sys/devices/system",
            "/sys/devices/system/cpu",
            "no file to cover",
        ),
        ("mount -t tmpfs x /proc; ln -s /etc/passwd /proc/meminfo", "/proc/meminfo", "no file"),
    ],
)
def test_what_somebody_else_put_there_is_left_and_named(
    daemon, make_container, command, setup, path, why
):
    made = make_container(memory=100 * MIB)
    made.exec(["sh", "-c", setup])
    done = json.loads(command(daemon, "attach", "--json", str(made.pid)).stdout)
    outcome = {file["target"]: file for file in done[0]["files"]}[path]
    assert outcome["what"] == "left"
    assert why in outcome["why"]
    assert path not in views_in(made)


def test_ten_thousand_mounts_do_not_hide_the_right_one(daemon, make_container, command):
    made = make_container(memory=100 * MIB)
    many = "mkdir /tmp/m; mount -t tmpfs x /tmp/m; for i in $(seq 10); do mkdir /tmp/m/$i; done;"
    many += "for i in $(seq 2000); do mount --bind /tmp/m/1 /tmp/m/2; done"
    made.exec(["sh", "-c", many], check=False)
    command(daemon, "attach", str(made.pid))
    assert total(made) == 100 * MIB
    made.exec(["umount", "-l", "/tmp/m"], check=False)
    os.rmdir("/tmp/m")


def test_a_reader_sees_no_gap_while_a_view_is_replaced(daemon, make_container, command):
    """MOVE_MOUNT_BENEATH (Linux 6.5)."""
    made = make_container(daemon.mountpoint, bind="host", memory=100 * MIB)
    program = (
        "import sys\n"
        "while True:\n"
        "    with open('/proc/meminfo') as file:\n"
        "        if file.readline().split()[1] != '102400': sys.exit(7)\n"
    )
    with made.popen([sys.executable, "-c", program]) as process:
        mounts = Mounts.find(str(daemon.mountpoint), f"{daemon.runtime_dir}/caller")
        container = containers.by_pid(made.pid)
        for _ in range(20):
            work.attach(mounts, container, ["proc/meminfo"], take_over=True)
            # And back to the host's view.
            place = f"{daemon.runtime_dir}/caller/proc/meminfo"
            source = mounts.source("/proc/meminfo", place)
            [outcome] = mounting.attach(container.pidfd, [source], take_over=True)
            assert outcome.what == mounting.REPLACED
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    os.close(container.pidfd)


#: A FUSE filesystem that calls itself pylxcfs and answers nothing but INIT.
HANGS = """
import ctypes, os, sys, time
connection = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={connection},rootmode=100000,user_id=0,group_id=0".encode()
target = b"/proc/uptime"
assert ctypes.CDLL(None).mount(b"pylxcfs", target, b"fuse.pylxcfs", 0, options) == 0
print("mounted", flush=True)
time.sleep(1000)
"""


def test_a_container_that_hangs_is_given_up(daemon, make_container, monkeypatch):
    made = make_container(memory=100 * MIB)
    monkeypatch.setattr(mounting, "_PATIENCE_S", (0.5, 0.5))
    with made.popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mounted\n"
        container = containers.by_pid(made.pid)
        mounts = Mounts.find(str(daemon.mountpoint), f"{daemon.runtime_dir}/caller")
        with pytest.raises(TimeoutError):
            work.attach(mounts, container, ["proc/uptime"], take_over=False)
        [outcome] = work.attach(mounts, container, ["proc/meminfo"], take_over=False)
        assert outcome.what == mounting.ATTACHED
        os.close(container.pidfd)
        os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_ends_meanwhile_is_no_other_container(daemon, make_container):
    made = make_container()
    container = containers.by_pid(made.pid)
    made.close()
    mounts = Mounts.find(str(daemon.mountpoint), f"{daemon.runtime_dir}/caller")
    with pytest.raises(OSError, match="No such process"):
        work.attach(mounts, container, ["proc/meminfo"], take_over=True)
    os.close(container.pidfd)


def test_the_helper_opens_nothing_of_the_container_by_name(daemon, make_container):
    """Its libraries and modules are another container's business."""
    made = make_container(memory=100 * MIB)
    made.exec(
        ["sh", "-c", "for d in /usr /lib /lib64 /etc; do mount -t tmpfs x $d; done"], check=False
    )
    container = containers.by_pid(made.pid)
    mounts = Mounts.find(str(daemon.mountpoint), f"{daemon.runtime_dir}/caller")
    [outcome] = work.attach(mounts, container, ["proc/meminfo"], take_over=True)
    assert outcome.what == mounting.ATTACHED
    os.close(container.pidfd)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["4194305"], 3, "there is no process 4194305"),
        (["no-such-name"], 3, "no running container is called no-such-name"),
        ([], 2, "name containers"),
        (["--all", "x"], 2, "name containers"),
        ([str(os.getpid())], 2, "is in no container"),
        (["--files", "proc/nothing", "x"], 2, "proc/nothing is not served"),
    ],
)
def test_what_cannot_be_done_is_refused(daemon, command, words, code, message):
    assert message in command(daemon, "attach", *words, code=code).stderr


def test_without_an_instance_there_is_nothing_to_attach(command, tmp_path):
    class Stopped:
        runtime_dir = tmp_path

    assert "no instance runs" in command(Stopped, "attach", "1", code=3).stderr


def test_mount_calls_raise_what_the_kernel_says():
    with pytest.raises(OSError, match="No such file"):
        calls.open_tree("/nowhere")
    with pytest.raises(OSError, match="symbolic links"):
        calls.open_path("/proc/self")
