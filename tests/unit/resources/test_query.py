"""What the library says, on made-up machines."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylxcfs import resources
from pylxcfs.errors import Gone, SourceError
from pylxcfs.formats import cpulist, meminfo, uptime
from pylxcfs.resources.query import FDS_EACH, LEVELS_KEPT, Query
from pylxcfs.sources import devices
from pylxcfs.sources.readers import Readers
from pylxcfs.views import VIEWS
from pylxcfs.views import syscpu as syscpu_view
from pylxcfs.views.model import CpuView, Options
from tests.kit.asking import check
from tests.kit.sysfs import MadeSysfs
from tests.unit.resources.conftest import (
    LARGE,
    MIB,
    NO_LIMIT_V1,
    SMALL,
    made_up,
    v1_cgroup,
    v2_cgroup,
)
from tests.unit.sources.trees import Tree


def ask(tree: Tree, options: Options | None = None) -> resources.Resources:
    query = Query(options, root=str(tree.root))
    try:
        return query.of()
    finally:
        query.close()


def test_v2_with_the_level_of_each_limit(v2):
    v2_cgroup(v2, "a", memory=str(300 * MIB), usage=100 * MIB, cpu="50000 100000", pids="100")
    v2_cgroup(v2, "a/b", memory=str(400 * MIB), cpu="150000 100000", pids="90", cpus="1")
    found = ask(v2)
    assert found.scope == "container"
    assert found.memory.limit_bytes == found.memory.total_bytes == 300 * MIB
    assert found.memory.usage_bytes == 5 * MIB
    assert found.memory.free_bytes == 200 * MIB  # what /a leaves
    assert (found.cpu.visible, found.cpu.quota, found.cpu.cpuset) == ((1,), 0.5, (1,))
    assert (found.cpu.weight, found.cpu.shares, found.cpu.requested) == (39, None, 0.975)
    assert found.processes == (90, 3, 87)
    assert found.pressure["cpu"]["some"].avg10 == 1.5
    assert found.huge_pages == ((2 * MIB, None, 0),)
    assert found.cgroup == ("v2", {"unified": "/a/b"})
    assert found.numa_nodes == (0,)
    levels = {name: (one.file, one.level) for name, one in found.sources.items()}
    assert levels["memory.limit_bytes"] == levels["memory.total_bytes"] == ("memory.max", 1)
    assert levels["memory.usage_bytes"] == ("memory.current", 0)
    assert levels["swap.limit_bytes"] == ("memory.swap.max", 0)
    assert levels["cpu.quota"] == ("cpu.max", 1)
    assert levels["cpu.cpuset"] == ("cpuset.cpus.effective", 0)
    assert levels["processes.limit"] == ("pids.max", 0)
    assert levels["pressure.cpu"] == ("cpu.pressure", 0)
    assert levels["pressure.memory"] == ("/proc/pressure/memory", None)
    assert levels["huge_pages.2MB.limit_bytes"] == ("hugetlb.2MB.max", 0)
    path = found.sources["cpu.quota"].path
    assert path == str(v2.root / "sys/fs/cgroup/a/cpu.max")


def test_v1_with_the_level_of_each_limit(v1):
    v1_cgroup(v1, "a", memory=200 * MIB, quota=150000)
    v1_cgroup(v1, "a/b", memory=200 * MIB, quota=-1, pids="50")
    found = ask(v1)
    assert found.memory.limit_bytes == 200 * MIB
    assert found.cpu.quota == 1.5
    assert found.cpu.visible == (0, 1)
    assert (found.cpu.shares, found.cpu.weight, found.cpu.requested) == (512, None, 0.5)
    assert found.processes == (50, 3, 47)
    assert found.cgroup.version == "v1"
    assert found.cgroup.paths["memory"] == "/a/b"
    assert found.sources["cpu.quota"][:2] == ("cpu.cfs_quota_us", 1)
    assert found.sources["memory.limit_bytes"][:2] == ("memory.limit_in_bytes", 0)
    assert found.sources["pressure.cpu"].file == "/proc/pressure/cpu"


def test_without_a_limit_it_is_the_hosts_and_the_own_file_says_so(v2):
    for directory in ("a", "a/b"):
        v2_cgroup(v2, directory)
    found = ask(v2)
    text = (SMALL / "proc/meminfo").read_bytes()
    assert found.scope == "host"
    assert found.memory.limit_bytes is found.cpu.quota is found.processes.left is None
    assert found.memory.total_bytes == meminfo.parse(text).number(b"MemTotal")
    assert found.memory.free_bytes == meminfo.parse(text).number(b"MemFree")
    assert found.sources["memory.limit_bytes"][:2] == ("memory.max", 0)
    assert found.sources["cpu.quota"][:2] == ("cpu.max", 0)
    assert found.sources["memory.total_bytes"] == ("/proc/meminfo", None, None)


def test_where_no_hierarchy_is_mounted_nothing_is_made_up(tree):
    tree.write("proc/self/cgroup", "0::/\n")
    found = ask(tree)
    assert found.scope == "unknown"
    assert found.cpu.cpuset is found.memory.usage_bytes is found.processes.threads is None
    assert found.cpu.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert "memory.limit_bytes" not in found.sources
    assert found.sources["cpu.affinity"].file == "sched_getaffinity(2)"


def test_hybrid_hosts(v1):
    v1.v2("hugetlb", mountpoint="/sys/fs/cgroup/unified")
    v1.write("proc/self/cgroup", "4:memory:/a/b\n3:cpu:/a/b\n0::/x\n")
    v1_cgroup(v1, "a", memory=NO_LIMIT_V1)
    v1_cgroup(v1, "a/b", memory=100 * MIB)
    found = ask(v1)
    assert found.cgroup == ("hybrid", {"memory": "/a/b", "cpu": "/a/b", "unified": "/x"})
    assert found.memory.limit_bytes == 100 * MIB


def test_quotas_do_not_narrow_the_view_of_pinning_programs(v2):
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b", cpu="50000 100000")
    assert ask(v2).cpu.visible == (0,)
    assert ask(v2, Options(cpu_view=CpuView.CPUSET)).cpu.visible == (0, 1)


def test_a_process_that_moved_is_asked_where_it_is(v2):
    for directory, limit in (("a/b", 100), ("c", 200)):
        v2_cgroup(v2, directory, memory=str(limit * MIB))
    v2_cgroup(v2, "a")
    query = Query(root=str(v2.root))
    assert query.of().memory.limit_bytes == 100 * MIB
    v2.write("proc/self/cgroup", "0::/c\n")
    assert query.of().memory.limit_bytes == 200 * MIB
    query.close()


def test_a_write_to_a_limit_is_seen_at_once(v2):
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b")
    query = Query(root=str(v2.root))
    for limit in (10, 20, 30, 40):
        (v2.root / "sys/fs/cgroup/a/memory.max").write_text(f"{limit * MIB}\n")
        assert query.of().memory.limit_bytes == limit * MIB
    query.close()


def test_of_this_process():
    found = resources.of()
    assert found.cpu.visible
    assert found.memory.total_bytes > 0
    assert found.cgroup.version in ("v1", "v2", "hybrid")
    assert resources.of(os.getpid()).memory.total_bytes == found.memory.total_bytes


def test_a_process_that_has_ended():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    for ask in (resources.of, resources.devices):
        with pytest.raises(Gone):
            ask(pid)


def test_after_a_fork_the_child_has_its_own_events():
    resources.of()
    parent = resources.query._default
    pid = os.fork()
    if pid == 0:
        os._exit(0 if resources.query._default is None and resources.of().cpu.visible else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert resources.query._default is parent


def test_a_child_leaves_the_watches_of_its_parent(v2):
    v2_cgroup(v2, "a", memory=str(MIB), cpu="50000 100000")
    v2.write("proc/self/cgroup", "0::/a\n")
    query = Query(root=str(v2.root))
    with contextlib.closing(query):
        for _ in range(3):
            query.of()
        info = Path(f"/proc/self/fdinfo/{query.hierarchies.writes.fileno()}")
        before = info.read_text().count("inotify wd:")
        pid = os.fork()
        if pid == 0:
            del query
            gc.collect()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert info.read_text().count("inotify wd:") == before > 0


def test_threads_may_ask_together():
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: resources.of(), range(200)):
            assert found.cpu.visible


SIZES = st.integers(0, 1 << 40)


@st.composite
def levels(draw: st.DrawFn) -> dict[str, object]:
    """One level of a v2 hierarchy."""
    return {
        "memory": draw(st.one_of(st.just("max"), SIZES.map(str))),
        "usage": draw(SIZES),
        "swap": draw(st.one_of(st.just("max"), SIZES.map(str))),
        "cpu": draw(
            st.one_of(
                st.just("max 100000"), st.integers(1000, 2_000_000).map(lambda us: f"{us} 100000")
            )
        ),
        "cpus": cpulist.render(sorted(draw(st.sets(st.integers(0, 7), min_size=1)))).decode(),
        "pids": draw(st.one_of(st.just("max"), st.integers(0, 5000).map(str))),
    }


@settings(max_examples=60)
@given(own=levels(), parent=levels(), swap=st.booleans())
def test_library_and_files_say_the_same(own, parent, swap):
    with tempfile.TemporaryDirectory() as directory:
        tree = made_up(Path(directory), LARGE)
        tree.v2("cpuset cpu memory pids")
        tree.write("proc/self/cgroup", "0::/a/b\n")
        v2_cgroup(tree, "a", **parent)
        v2_cgroup(tree, "a/b", **own)
        options = Options(swap=swap)
        query = Query(options, root=directory)
        found = query.of()
        container, _ = query.find(os.getpid())
        files = {
            view.path: (
                view.render(query.host, container, options)
                if found.scope == "container"
                else query.host.read(view.host)
            )
            for view in VIEWS
            if view.path in ("proc/meminfo", "proc/uptime")
        }
        online = syscpu_view.render("sys/devices/system/cpu/online", query.host, container, options)
        if online is None or found.scope == "host":
            online = query.host.read("sys/devices/system/cpu/online")
        query.close()
    info = meminfo.parse(files["proc/meminfo"])
    assert [info.number(name) for name in _LINES] == [size >> 10 << 10 for size in _sizes(found)]
    assert found.cpu.visible == cpulist.parse(online)
    if found.scope == "container":  # else the file is the captured one
        assert uptime.parse(files["proc/uptime"]).up_ns // 10**7 >= round(found.uptime_s * 100)


_LINES = (b"MemTotal", b"MemFree", b"MemAvailable", b"SwapTotal", b"SwapFree")


def _sizes(found: resources.Resources) -> tuple[int, ...]:
    memory, swap = found.memory, found.swap
    return (
        *(memory.total_bytes, memory.free_bytes, memory.available_bytes),
        *(swap.total_bytes, swap.free_bytes),
    )


DEVICES_V1 = "5:devices:/a/b\n"


def with_devices(tree: Tree, rules: str | None) -> Tree:
    """Add a made sysfs; and v1's rules for this process, if they are given."""
    made = MadeSysfs(tree.root)
    numbers = "MAJOR=231\nMINOR=194\nDEVNAME=infiniband/uverbs2\nDEVMODE=0666\n"
    uverbs = os.path.realpath(tree.root / "sys/dev/char/231:194")
    made.write(f"{uverbs}/uevent", numbers)
    if rules is not None:
        tree.v1("devices")
        tree.write("proc/self/cgroup", DEVICES_V1)
        tree.cgroup("devices/a/b", {"devices.list": rules})
    return tree


def ask_for_devices(tree: Tree) -> resources.Devices:
    query = Query(root=str(tree.root))
    try:
        return query.devices()
    finally:
        query.close()


def test_devices_are_those_of_the_machine_that_are_allowed(tree):
    rules = "c 231:194 rw\nb 8:1 r\nc 1:3 rwm\nc 9:9 rwm\nc *:* m\n"
    found = ask_for_devices(with_devices(tree, rules))
    assert found.allowed == (
        resources.Device("char", 1, 3, "null"),
        resources.Device("char", 231, 194, "infiniband/uverbs2"),
        resources.Device("block", 8, 1, "sda1"),
    )
    path = str(tree.root / "sys/fs/cgroup/devices/a/b/devices.list")
    assert found.sources == (resources.Source("devices.list", 0, path),)
    check(found.document(), "Devices")
    inside = found.document(with_paths=False)
    check(inside, "Devices")
    assert inside["sources"] == [{"file": "devices.list", "level": 0}]


def test_no_device_is_not_all_devices(tree):
    assert ask_for_devices(with_devices(tree, "c 9:9 rwm\n")).allowed == ()


def test_without_a_limit_on_devices_there_is_a_source(tree):
    found = ask_for_devices(with_devices(tree, "a *:* rwm\n"))
    assert found.allowed is None
    assert [one.file for one in found.sources] == ["devices.list"]
    check(found.document(), "Devices")


def test_devices_are_not_known_without_a_hierarchy(v1):
    reason = "the hierarchy with the rules for them is not mounted here"
    assert ask_for_devices(with_devices(v1, None)) == (None, (), reason)
    v1.write("proc/self/cgroup", DEVICES_V1)
    assert ask_for_devices(v1) == (None, (), reason)


def test_devices_are_not_known_without_sysfs(tree):
    with_devices(tree, "c 1:3 rwm\n")
    (tree.root / "sys/dev/char").rename(tree.root / "sys/dev/none")
    found = ask_for_devices(tree)
    assert found[:2] == (None, ())
    assert "sys/dev/char" in str(found.unknown)


def test_devices_are_not_known_where_the_kernel_does_not_say(v2, monkeypatch):
    def refused(directory: str) -> tuple[int, ...]:
        raise SourceError(f"{directory}: bpf: Operation not permitted")

    monkeypatch.setattr(devices, "effective", refused)
    v2_cgroup(v2, "a/b")
    found = ask_for_devices(with_devices(v2, None))
    assert found[:2] == (None, ())
    assert str(found.unknown).endswith("bpf: Operation not permitted")
    check(found.document(), "Devices")


def test_programs_alone_do_not_say_what_a_list_that_is_not_mounted_denies(v2, monkeypatch):
    monkeypatch.setattr(devices, "effective", lambda directory: ())
    v2_cgroup(v2, "a/b")
    found = ask_for_devices(with_devices(v2, None))
    assert [one.file for one in found.sources] == ["bpf(2)"]
    v2.write("proc/self/cgroup", f"{DEVICES_V1}0::/a/b\n")
    assert ask_for_devices(v2)[:2] == (None, ())


def test_changed_rules_and_another_cgroup_count_at_once(tree):
    with_devices(tree, "c 1:3 rwm\n")
    tree.cgroup("devices/c", {"devices.list": "b 8:0 r\n"})
    query = Query(root=str(tree.root))

    def names() -> list[str]:
        return [device.name for device in query.devices().allowed or ()]

    assert names() == ["null"]
    (tree.root / "sys/fs/cgroup/devices/a/b/devices.list").write_text("b 8:16 r\n")
    assert names() == ["sdb"]
    tree.write("proc/self/cgroup", "5:devices:/c\n")
    assert names() == ["sda"]
    query.close()


def test_devices_of_this_process():
    found = resources.devices()
    check(found.document(), "Devices")
    assert resources.devices(os.getpid()) == found


def _deep(tree: Tree, version: str, depth: int, name: str = "") -> str:
    """Make a cgroup with a limit on each level; return its text of /proc/PID/cgroup."""
    for level in range(1, depth + 1):
        directory = "/".join([name or f"of{depth}"] * level)
        if version == "v1":
            v1_cgroup(tree, directory, memory=level * MIB, quota=50000, pids="50")
        else:
            v2_cgroup(tree, directory, memory=str(MIB), swap="1", cpu="50000 100000", pids="50")
    names = ["4:memory:", "3:cpu:", "2:pids:", "1:cpuset:"] if version == "v1" else ["0::"]
    return "".join([f"{name}/{directory}\n" for name in names])


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_deep_cgroups_use_no_more_descriptors_than_are_counted_with(version, request):
    tree = request.getfixturevalue(version)
    query = Query(root=str(tree.root))
    kept = query._cgroups  # as the containers of a registry are
    found = []
    with contextlib.closing(query):
        before = len(os.listdir("/proc/self/fd"))
        for depth in (60, 61, 62, LEVELS_KEPT):
            tree.write("proc/self/cgroup", _deep(tree, version, depth))
            for _ in range(3):
                assert query.of().cpu.quota == 0.5
            found.append(kept.of_cgroups(query._own.read()).is_open)
            opened = [one.is_open for one in kept._known.values()]
            if depth > LEVELS_KEPT:
                assert opened[-1]
                assert sum(opened) == 1
        query._deep = None
        for container in kept._known.values():
            if container is not kept.of_cgroups(query._own.read()):
                container.release()
        used = len(os.listdir("/proc/self/fd")) - before
    assert all(found)
    assert used <= FDS_EACH


def test_the_library_leaves_half_of_the_descriptors_to_its_user(v2):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        query = Query(root=str(v2.root))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with contextlib.closing(query):
        before = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            directory = "/".join([f"of{number}"] * LEVELS_KEPT)
            v2.write("proc/self/cgroup", _deep(v2, "v2", LEVELS_KEPT, f"of{number}"))
            assert query.of().cgroup.paths["unified"] == f"/{directory}"
        assert len(os.listdir("/proc/self/fd")) - before <= 512


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_changes_are_watched_at_both_ends_of_deep_cgroups(version, request):
    tree = request.getfixturevalue(version)
    tree.write("proc/self/cgroup", _deep(tree, version, 60))
    query = Query(root=str(tree.root))
    with contextlib.closing(query):
        container, _ = query.find(os.getpid())
        files = container.read(Readers.limit_files)
    enabling = [file for file in files if file.endswith("/cgroup.subtree_control")]
    levels = {file.count("/of60") for file in files if file not in enabling}
    assert levels == {*range(1, 17), *range(45, 61)}
    # v2: each level's controllers are enabled one level above.
    levels = {file.count("/of60") for file in enabling}
    assert levels == ({*range(16), *range(44, 60)} if version == "v2" else set())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_name_that_is_not_utf_8(version, request):
    """JSON has no place for its bytes; the library has them, as os.fsdecode gives them."""
    tree = request.getfixturevalue(version)
    name = "of\udcff"
    make = v1_cgroup if version == "v1" else v2_cgroup
    make(tree, name)
    text = b"0::/of\xff\n" if version == "v2" else b"2:memory:/of\xff\n1:cpu:/of\xff\n"
    (tree.root / "proc/self/cgroup").write_bytes(text)
    query = Query(root=str(tree.root))
    with contextlib.closing(query):
        found = query.of()
    assert set(found.cgroup.paths.values()) == {f"/{name}"}
    document = found.document()
    assert set(document["cgroup"]["paths"].values()) == {"/of\ufffd"}
    assert document["sources"]["cpu.quota"]["path"].rpartition("/")[0].endswith("/of\ufffd")
    json.dumps(document, ensure_ascii=False).encode()


def test_whether_limits_are_known(tree):
    """They are not where a hierarchy of CPUs or memory is not mounted with the own cgroup in it."""

    def scope(text: str) -> str:
        tree.write("proc/self/cgroup", text)
        found = ask(tree)
        for one in (resources.advice.threads(found), resources.advice.heap_bytes(found)):
            assert ("limits are not known" in one.reason) == (found.scope == "unknown")
        return found.scope

    assert scope("0::/a\n") == scope("4:memory:/a\n3:cpu:/a\n") == "unknown"
    assert scope("5:devices:/\n") == "host"  # a kernel without these controllers
    tree.v1("memory")
    v1_cgroup(tree, "a")
    assert scope("4:memory:/a\n3:cpu:/a\n") == "unknown"
    assert scope("4:memory:/a\n") == "host"
    assert scope("4:memory:/..\n") == "unknown"
    v1_cgroup(tree, "b", memory=MIB)
    assert scope("4:memory:/b\n3:cpu:/b\n") == "container"
    tree.v1("cpu")
    assert scope("4:memory:/a\n3:cpu:/a\n") == "host"
