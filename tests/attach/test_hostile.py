"""What root in a container does against `attach`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from pylxcfs.attach import asking, calls, containers, mounting, views, watch, work
from pylxcfs.attach.containers import printable
from pylxcfs.attach.views import Mounts
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.keeper.fusemount import Mounted
from tests.attach.conftest import MIB, total
from tests.kit.daemon import Daemon
from tests.kit.inner import seen_of, tried


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def mounts(daemon: Daemon) -> Mounts:
    found = Mounts.find(str(daemon.mountpoint), f"{daemon.runtime_dir}/caller")
    assert found is not None
    return found


#: Stops or traces each process that comes into its pid namespace, before it has done anything.
STOPS = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
SEIZE = 0x4206
def trace(pid, _):
    if libc.ptrace(SEIZE, pid, None, None) < 0:
        raise ProcessLookupError
    libc.ptrace(0x4207, pid, None, None)  # PTRACE_INTERRUPT
harm = trace if sys.argv[1] == "trace" else os.kill
print("ready", flush=True)
last = os.getpid()
while True:
    for pid in range(last + 1, last + 50):
        try:
            harm(pid, signal.SIGSTOP)
            last = pid
            break
        except ProcessLookupError:
            pass
"""


@pytest.mark.parametrize("harm", ["stop", "trace"])
def test_a_process_of_ours_that_is_stopped_inside_is_given_up(mounts, make_container, harm):
    made = make_container(memory=100 * MIB)
    container = containers.by_pid(made.pid)
    was_stopped = False
    with made.popen([sys.executable, "-c", STOPS, harm], stdout=subprocess.PIPE) as hostile:
        assert hostile.stdout.readline() == b"ready\n"
        for _ in range(100):
            began = time.monotonic()
            try:
                work.attach(mounts, container, ["proc/meminfo"], take_over=True)
            except TimeoutError:
                was_stopped = True
            assert time.monotonic() - began < 3
            if was_stopped:
                break
        os.killpg(hostile.pid, signal.SIGKILL)
    assert was_stopped
    inside = [process for process in psutil.process_iter() if is_in(made, process.pid)]
    assert [one for one in inside if one.status() == psutil.STATUS_STOPPED] == []
    work.attach(mounts, container, ["proc/meminfo"], take_over=True)
    assert total(made) == 100 * MIB
    os.close(container.pidfd)


def is_in(made, pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == made.pidns
    except OSError:
        return False


def said_inside(made, mounts, probe, confine) -> object:
    """Return what `probe` says in place of what reads the links."""
    pidfd = os.pidfd_open(made.pid)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    secret = os.open("/etc/passwd", os.O_RDONLY)
    tree = calls.open_tree(mounts.own.mountpoint)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asking.links = lambda _: json.dumps(probe()).encode()
            asking.confine = confine
            asking.check(asking._libc.prctl(asking._PR_SET_DUMPABLE, 0, 0, 0, 0))
            asking.ask([], pidfd, writing, tree)
            code = 0
        finally:
            os._exit(code)
    for number in (writing, pidfd, secret, tree):
        os.close(number)
    with open(reading, "rb") as results:
        found = json.loads(results.read())
    assert os.waitpid(child, 0)[1] == 0
    return found


def test_a_process_that_is_traced_inside_has_nothing_to_give(mounts, make_container):
    """With CAP_SYS_PTRACE a container may take it over, so it is as good as the container's.

    Also without the seccomp filter.
    """

    def probe():
        caps = bytearray(24)
        buffer = (asking.ctypes.c_char * 24).from_buffer(caps)
        asking.check(asking._libc.capget(asking._CAP_HEADER, buffer))
        return {
            "root": sorted(os.listdir("/")),
            "above": sorted(os.listdir("/..")),
            "caps": any(caps),
            "dumpable": asking._libc.prctl(3, 0, 0, 0, 0),
            "no_new_privs": asking._libc.prctl(39, 0, 0, 0, 0),
            "descriptors": [number for number in range(1024) if is_open(number)],
        }

    assert said_inside(make_container(), mounts, probe, lambda: None) == {
        "root": ["own", "proc", "sys"],
        "above": ["own", "proc", "sys"],
        "caps": False,
        "dumpable": 0,
        "no_new_privs": 1,
        "descriptors": [0],
    }


def test_a_process_that_is_traced_inside_gets_no_descriptor(mounts, make_container):
    """It is in the cgroup of pylxcfs, to which a directory of the cgroup tree would lead."""
    results = said_inside(make_container(), mounts, lambda: tried(asking._libc, 0), asking.confine)
    assert results == [-1] * 5


def test_the_root_of_the_process_inside_leads_to_no_directory_of_the_host(mounts, make_container):
    """Whoever opens its /proc/PID/root is not bound by its chroot."""
    made = make_container()
    pidfd = os.pidfd_open(made.pid)

    def use() -> None:
        with contextlib.suppress(OSError):
            views.places(mounts, pidfd, ["proc/meminfo"])

    try:
        seen = seen_of(made, "asking.py", use)
    finally:
        os.close(pidfd)
    top = ["own", "proc", "sys"]
    assert (seen["root"], seen["cwd"]) == ([top] * 3, [top] * 3)
    assert (seen["directories"], seen["descriptors"]) == ([], 1)
    assert seen["program"] == os.ST_RDONLY
    assert seen["filtered"]
    assert seen["oom_score_adj"] == 1000
    assert 0 <= seen["memory"] < 9 << 20


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_the_helper_has_no_environment_and_cannot_be_read(mounts, make_container):
    made = make_container()
    container = containers.by_pid(made.pid)
    views.places(mounts, container.pidfd, ["proc/meminfo"])
    os.close(container.pidfd)
    helper = views._asker()._process
    assert helper is not None
    with open(f"/proc/{helper.pid}/environ", "rb") as file:
        assert file.read() in (b"", b"LC_CTYPE=C.UTF-8\0")


@pytest.mark.parametrize(
    ("place", "is_view"),
    [
        ("/m/own/1-2-3/proc/meminfo", True),
        ("/r/caller/proc/meminfo", True),
        ("/m/own/1-2-3/proc/stat", False),
        ("/m/own/proc/meminfo", False),
        ("/m/proc/meminfo", False),
        ("/etc/shadow", False),
        ("/m/own/1-2-3/x/proc/meminfo", False),
        ("/m", False),
    ],
)
def test_what_a_traced_process_says_is_a_view_or_is_not_taken(place, is_view):
    mounts = Mounts(Mounted("0:1", "/m", "x"), Mounted("0:2", "/r/caller", "x"))
    assert mounts.is_view(place, "proc/meminfo") == is_view


def test_a_link_in_the_place_of_a_directory_has_no_other_mount_removed(mounts, make_container):
    """As where a masked file lies: the container may not unmount that itself."""
    made = make_container()
    setup = (
        f"mount -t tmpfs x /mnt && mkdir /mnt/ours /mnt/masked && touch /mnt/ours/f /mnt/masked/f"
        f" && mount --bind {mounts.own.mountpoint}/own/host/proc/meminfo /mnt/ours/f"
        " && mount --bind /dev/null /mnt/masked/f"
    )
    made.exec(["sh", "-c", setup])
    pidfd = os.pidfd_open(made.pid)

    def work(here: mounting.Inside) -> list[mounting.Outcome]:
        with here._open("/mnt/ours/f") as place:
            assert place.is_ours
            # The container is faster than our next call.
            os.rename("/mnt/ours", "/mnt/other")
            os.symlink("masked", "/mnt/ours")
            calls.detach(place.descriptor)
        return []

    assert mounting._inside(pidfd, work) == []
    os.close(pidfd)
    table = made.exec(["cat", "/proc/self/mountinfo"]).stdout.decode()
    assert " /mnt/masked/f " in table
    assert " /mnt/other/f " not in table


def test_a_process_in_the_hosts_mounts_is_not_touched():
    with subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "1000"]) as process:
        pidfd = os.pidfd_open(process.pid)
        with pytest.raises(OSError, match="cross-device"):
            mounting._inside(pidfd, lambda here: [])
        os.close(pidfd)
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()


def test_mounts_that_do_not_answer_leave_the_next_one_less_time(monkeypatch):
    late = mounting._Late()
    assert late.patience_s() == mounting._PATIENCE_S[0]
    for _ in range(100):
        late._times.append(time.monotonic())
    assert late.patience_s() == mounting._PATIENCE_S[1]
    monkeypatch.setattr(mounting, "_MOST_LEFT", 1)
    with subprocess.Popen(["sleep", "1000"]) as process:
        late.leave(process.pid)
        with pytest.raises(TimeoutError):
            late.patience_s()
        process.kill()


def test_cgroups_that_are_made_all_the_time_put_no_look_off():
    schedule = watch.Schedule(0.0)
    schedule.looked(0.0, 0.0)
    looks = 0
    for millisecond in range(10_000):
        now = millisecond / 1000
        schedule.noticed(now)
        if now >= schedule.at():
            looks += 1
            schedule.looked(now, 0.001)
    assert looks > 100
    assert len(schedule._due) < 100


def test_text_of_a_container_has_no_control_characters():
    assert printable("a\x1b[2J\nb\u202e") == "a?[2J?b?"
    assert len(printable("x" * 5000)) < 400


def test_the_mountinfo_of_a_namespace_has_peers():
    with open("/proc/self/mountinfo", "rb") as file:
        mounts_here = mounting.mountinfo.parse(file.read())
    assert all(isinstance(mount, Mount) and mount.ident for mount in mounts_here)
