"""What a container may use, and what it uses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from pylxcfs.formats import stat
from pylxcfs.sources import request
from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.views.model import BlockIO, Options
from pylxcfs.views.stat import render as render_stat
from tests.conftest import require, run_name, wait_until
from tests.kit.cgroups import Cgroup, is_v2
from tests.kit.container import Container

MIB = 1 << 20


def test_the_smallest_memory_limit_of_all_ancestors_counts(make_cgroup, make_container, look_up):
    outer = make_cgroup()
    inner = make_cgroup(parent=outer)
    outer.limits(memory=200 * MIB)
    inner.limits(memory=100 * MIB)
    container = look_up(make_container(parent=inner, memory=500 * MIB).pid)
    assert container.memory().limit == 100 * MIB
    inner.limits(memory=None)
    assert container.memory().limit == 200 * MIB
    outer.limits(memory=None)
    assert container.memory().limit == 500 * MIB


def test_a_request_shows_where_there_is_no_limit(make_cgroup, make_container, look_up):
    outer = make_cgroup()
    made = make_container(parent=outer)
    container = look_up(made.pid)
    assert container.cpu_limit().quota is None
    for _ in range(2):  # the second read is the first that is watched
        assert container.memory().limit is None
    hierarchies = Hierarchies.discover()
    request.write(hierarchies, hierarchies.paths_of(made.pid), 1.5, 300 * MIB)
    assert container.memory().limit == 300 * MIB
    assert container.cpu_limit().quota == 1.5
    outer.limits(memory=200 * MIB, cpus=0.5)
    assert container.memory().limit == 200 * MIB
    assert container.cpu_limit().quota == 0.5
    outer.limits(memory=None, cpus=None)
    made.cgroup.limits(memory=400 * MIB, cpus=3)
    assert container.memory().limit == 400 * MIB
    assert container.cpu_limit().quota == 3
    made.cgroup.limits(memory=None, cpus=None)
    assert container.memory().limit == 300 * MIB
    request.write(hierarchies, hierarchies.paths_of(made.pid), 2, None)
    assert container.cpu_limit().quota == 2
    assert container.memory().limit == 300 * MIB


def test_a_request_that_is_nonsense_is_none(make_container, look_up):
    made = make_container()
    container = look_up(made.pid)
    hierarchies = Hierarchies.discover()
    for cpus, memory in (("x", "x"), ("nan", "-1"), ("-1", "0"), ("1e300", "1.5")):
        request.write(hierarchies, hierarchies.paths_of(made.pid), cpus, memory)
        assert container.memory().limit is None
        assert container.cpu_limit().quota is None


def test_what_a_sibling_uses_was_left(make_cgroup, make_container, look_up):
    """A pod's limit, a slice of systemd."""
    outer = make_cgroup()
    outer.limits(memory=256 * MIB)
    sibling = make_cgroup(parent=outer)
    container = look_up(make_container(parent=outer).pid)
    assert container.memory().left > 200 * MIB
    program = f"x = b'x' * {128 * MIB}; print('taken', flush=True); input()"
    with subprocess.Popen(
        sibling.command([sys.executable, "-c", program]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"taken\n"
        memory = container.memory()
        assert memory.limit == 256 * MIB
        assert memory.usage < 64 * MIB
        assert memory.left < 128 * MIB
        process.communicate(b"\n")


def test_a_changed_limit_shows_at_the_next_read(make_container, look_up):
    made = make_container(memory=300 * MIB, cpus=0.5)
    container = look_up(made.pid)
    assert container.memory().limit == 300 * MIB
    made.limits(memory=400 * MIB, cpus=1.5)
    assert container.memory().limit == 400 * MIB
    assert container.cpu_limit().quota == 1.5


def test_changes_show_at_once_however_often_the_limit_was_read(
    make_cgroup, make_container, look_up
):
    """Limits are not read again until a write to them, at any level."""
    outer = make_cgroup()
    made = make_container(parent=outer)
    container = look_up(made.pid)
    for step in range(1, 6):
        for cgroup in (outer, made):
            cgroup.limits(cpus=step / 10, memory=step * 64 * MIB)
            for _ in range(4):
                assert container.cpu_limit().quota == step / 10
                assert container.memory().limit == step * 64 * MIB
            cgroup.limits(cpus=None, memory=None)
            assert container.cpu_limit().quota is None


def test_a_container_that_is_started_again_has_its_limits_from_the_first_read_on(look_up):
    """In cgroups of the same paths, while what was opened for the one before is still held."""
    name = run_name("again")
    held = []
    for cpus in (0.5, 0.75, 0.25):
        with (
            Cgroup(name=name) as outer,
            Cgroup(parent=outer, name="inner") as inner,
            Container(cgroup=inner, memory=300 * MIB, cpus=cpus) as made,
        ):
            outer.limits(memory=int(cpus * 400) * MIB, cpus=2 * cpus)
            container = look_up(made.pid)
            held.append(container)
            for _ in range(3):
                assert container.cpu_limit().quota == cpus
                assert container.memory().limit == int(cpus * 400) * MIB


def test_memory_that_a_container_takes_is_its_usage(make_container, look_up):
    made = make_container(memory=500 * MIB)
    container = look_up(made.pid)
    before = container.memory().usage
    program = f"x = b'x' * {64 * MIB}; print('taken', flush=True); input()"
    process = made.popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"taken\n"

        def counted():
            # The kernel adds up what CPUs counted every other second, or sooner.
            memory = container.memory()
            return memory.usage - before > 60 * MIB and memory.stat[b"anon"] > 60 * MIB

        wait_until(counted, 30, what="64 MiB of anonymous memory to be counted")
        memory = container.memory()
        assert memory.usage <= 500 * MIB
        assert memory.stat.keys() >= {b"file", b"anon", b"shmem", b"inactive_file", b"pgfault"}


def test_swap_is_told_where_it_is_accounted(make_container, look_up):
    made = make_container(memory=100 * MIB)
    name = "memory.swap.current" if is_v2() else "memory.memsw.usage_in_bytes"
    container = look_up(made.pid)
    accounted = (made.cgroup.directory("memory") / name).exists()
    memory = container.memory()
    assert (memory.swap_usage is not None) == accounted
    assert memory.swap_limit is None
    if not accounted:
        require("swap", "this kernel does not account swap")
    made.cgroup.limits(memory=100 * MIB, swap=50 * MIB)
    assert container.memory().swap_limit == 50 * MIB


def test_the_smallest_cpu_quota_of_all_ancestors_counts(make_container, look_up, tmp_cgroup):
    tmp_cgroup.limits(cpus=1.5)
    made = make_container(parent=tmp_cgroup, cpus=0.5)
    container = look_up(made.pid)
    assert container.cpu_limit().quota == 0.5
    made.limits(cpus=None)
    assert container.cpu_limit().quota == 1.5
    tmp_cgroup.limits(cpus=None)
    assert container.cpu_limit().quota is None


def test_limits_in_the_middle_of_sixty_levels_were_left_out(make_cgroup, make_container, look_up):
    levels = [make_cgroup()]
    while len(levels) < 60:
        levels.append(make_cgroup(parent=levels[-1]))
    levels[30].limits(memory=64 * MIB, cpus=0.5)
    container = look_up(make_container(parent=levels[-1]).pid)
    for _ in range(3):
        assert container.cpu_limit().quota == 0.5
        memory = container.memory()
        assert memory.limit == 64 * MIB
        assert 60 * MIB < memory.left <= 64 * MIB
    levels[30].limits(cpus=0.25)
    assert container.cpu_limit().quota == 0.25


def test_the_cpuset_is_the_containers(make_container, look_up):
    online = HostFiles().online_cpus()
    container = look_up(make_container(cpuset=str(online[-1])).pid)
    assert container.cpu_limit().cpuset == {online[-1]}
    assert container.mems()


def test_time_that_a_container_burns_is_its_usage(make_container, look_up):
    made = make_container()
    container = look_up(made.pid)
    before = container.cpu_usage()
    program = "import time\nwhile time.process_time() < 1: pass\nprint(time.process_time())"
    burnt_ns = float(made.exec([sys.executable, "-c", program]).stdout) * 1e9

    def spent():
        usage = container.cpu_usage()
        ns = usage.user_ns + usage.system_ns - before.user_ns - before.system_ns
        return ns if ns > 0.8 * burnt_ns else 0

    # Starting Python and nsenter is the container's time, too; how much depends on the machine.
    assert wait_until(spent, 10, what="the burnt time to be counted") < 20 * burnt_ns
    usage = container.cpu_usage()
    assert usage.user_ns > 0
    if usage.per_cpu is not None:
        assert usage.per_cpu.keys() >= set(HostFiles().online_cpus())
        assert usage.user_ns == sum(user for user, _ in usage.per_cpu.values())


@pytest.fixture
def disk(tmp_path):
    """Make a disk: a loop device over a file."""
    file = tmp_path / "disk"
    file.write_bytes(bytes(8 * MIB))
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if losetup is None:
        require("disk", "there is no losetup")
    made = subprocess.run(
        [losetup, "--find", "--show", str(file)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        require("disk", f"losetup: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run([losetup, "--detach", device], check=True)


def test_written_blocks_are_the_containers(make_container, look_up, disk):
    made = make_container()
    container = look_up(made.pid)
    number = os.stat(disk).st_rdev
    device = (os.major(number), os.minor(number))
    if not is_v2():
        # Since Linux 6.10 nothing is counted on v1 for a disk that was never throttled.
        limit = f"{os.major(number)}:{os.minor(number)} {1 << 40}"
        (made.cgroup.paths["blkio"] / "blkio.throttle.write_bps_device").write_text(limit)
    if container.block_io() is None:
        require("disk", "this kernel does not count a cgroup's blocks")
    made.exec(["dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=4", "oflag=direct"])

    def written():
        return container.block_io().get(device, BlockIO()).write_bytes

    wait_until(lambda: written() >= 4 * MIB, what="4 MiB to be counted")
    assert written() < 8 * MIB
    assert container.block_io()[device].writes >= 4


@pytest.mark.parametrize("resource", ["cpu", "memory", "io"])
def test_pressure_is_the_cgroups_own_on_v2(make_container, look_up, resource):
    text = look_up(make_container().pid).pressure(resource)
    if not is_v2():
        assert text is None
    elif not os.path.exists("/proc/pressure"):
        require("psi", "this kernel does not tell pressure")
    else:
        assert text.startswith(b"some avg10=")


def test_a_container_starts_when_its_init_does(make_container, look_up):
    host = HostFiles()
    before = host.now_ns()
    started = look_up(make_container().pid).started_ns()
    # The kernel prints hundredths of a second, cut off.
    assert before - 10_000_000 <= started <= host.now_ns()


def test_boot_time_in_a_time_namespace_is_what_the_kernel_shows_there(make_container, look_up):
    if not os.path.exists("/proc/self/ns/time"):
        require("kernel", "this kernel has no time namespaces")
    made = make_container(namespaces=["time"], boottime=86400)
    host = HostFiles()
    shown = stat.booted(render_stat(host, look_up(made.pid), Options()))
    kernels = stat.booted(made.exec(["cat", "/proc/stat"]).stdout)
    assert shown == stat.booted(host.read("proc/stat")) - 86400
    assert abs(shown - kernels) <= 1  # a second may begin between the two readings
