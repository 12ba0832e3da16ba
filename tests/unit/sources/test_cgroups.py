"""Where cgroups are."""

from __future__ import annotations

import pytest

from pylxcfs.errors import Gone
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.formats.pidcgroup import UNIFIED
from pylxcfs.sources.cgroups import Hierarchies


def below(tree, *directories):
    return tuple(str(tree.root / "sys/fs/cgroup" / directory) for directory in directories)


def test_v1_has_a_directory_for_each_controller(tree):
    tree.v1("cpu", "cpuacct")
    tree.v1("memory")
    place = tree.hierarchies().place("cpuacct", {"cpuacct": "/docker/x", "memory": "/"})
    assert place.version == 1
    assert place.directories == below(
        tree, "cpu,cpuacct/docker/x", "cpu,cpuacct/docker", "cpu,cpuacct"
    )
    assert not place.is_root
    assert tree.hierarchies().place("memory", {"memory": "/"}).is_root


def test_v2_has_one_directory_for_all(tree):
    tree.v2("cpuset cpu io memory pids")
    hierarchies = tree.hierarchies()
    for controller in ("memory", "cpu", "cpuset", "blkio", "cpuacct", "pids"):
        place = hierarchies.place(controller, {"": "/a/b"})
        assert place.version == 2
        assert place.directories == below(tree, "a/b", "a", "")
        assert not place.is_root
    assert hierarchies.place("memory", {"": "/"}).is_root


def test_cpu_time_on_v2_needs_no_controller(tree):
    tree.v2("memory")
    assert tree.hierarchies().place("cpuacct", {"": "/a"}).version == 2
    assert tree.hierarchies().place("cpu", {"": "/a"}) is None


def test_hybrid_takes_each_controller_from_where_it_is(tree):
    tree.v1("cpu", "cpuacct")
    tree.v2("memory pids", mountpoint="/sys/fs/cgroup/unified")
    hierarchies = tree.hierarchies()
    paths = {"cpu": "/a", "cpuacct": "/a", "": "/a"}
    assert hierarchies.place("cpu", paths).version == 1
    assert hierarchies.place("memory", paths).version == 2
    assert hierarchies.unified(paths) is not None


def test_a_v2_hierarchy_that_is_systemds_alone_is_not_asked(tree):
    tree.v1("memory")
    tree.v1("name=systemd")
    tree.v2("hugetlb", mountpoint="/sys/fs/cgroup/unified")
    paths = {"memory": "/docker/x", "": "/system.slice/containerd.service"}
    hierarchies = tree.hierarchies()
    assert hierarchies.unified(paths) is None
    assert hierarchies.place("cpuacct", paths) is None
    assert hierarchies.place("memory", paths).version == 1


def test_a_bind_mount_of_a_cgroup_shows_what_is_below_it(tree):
    tree.v1("memory", root="/docker/x")
    hierarchies = tree.hierarchies()
    place = hierarchies.place("memory", {"memory": "/docker/x/y"})
    assert place.directories == below(tree, "memory/y", "memory")
    own = hierarchies.place("memory", {"memory": "/docker/x"})
    assert own.directories == below(tree, "memory")
    assert not own.is_root
    assert hierarchies.place("memory", {"memory": "/docker/xx"}) is None


def test_of_several_mounts_the_one_that_shows_most_is_taken(tree):
    tree.v1("memory", mountpoint="/a", root="/docker")
    tree.v1("memory", mountpoint="/b")
    tree.v1("memory", mountpoint="/c")
    place = tree.hierarchies().place("memory", {"memory": "/docker"})
    assert place.own == str(tree.root / "b/docker")


def test_a_cgroup_that_is_mounted_as_v2_root_of_a_container_is_no_root(tree):
    tree.v2("memory")
    tree.cgroup("", {"cgroup.events": ""})
    assert not tree.hierarchies().place("memory", {"": "/"}).is_root


def test_what_is_outside_of_our_cgroup_namespace_is_unknown(tree):
    tree.v2("memory")
    assert tree.hierarchies().place("memory", {"": "/../other"}) is None


def test_init_scope_is_stripped(tree):
    tree.v2("memory")
    tree.process(7, "0::/machine/c1/init.scope\n")
    tree.process(8, "0::/init.scope\n")
    hierarchies = tree.hierarchies()
    assert hierarchies.paths_of(7) == {"": "/machine/c1"}
    assert hierarchies.paths_of(8) == {"": "/"}


def test_a_process_that_has_ended_or_lost_its_cgroup_is_gone(tree):
    tree.process(7, "0::/a (deleted)\n")
    with pytest.raises(Gone):
        tree.hierarchies().paths_of(7)
    with pytest.raises(Gone):
        tree.hierarchies().paths_of(9)


ROOT, BELOW = b"3:memory:/\n2:cpu:/\n0::/x\n", b"3:memory:/x\n2:cpu:/\n0::/x\n"


@pytest.mark.parametrize("text", [BELOW, b"0::/\n", b"0::/x\n", b"1:name=a:/..\n"])
def test_text_that_no_ended_thread_has_is_believed(tree, text):
    assert tree.hierarchies().living(7, text) == text  # nothing else is read: there is no such file


def test_the_text_of_a_thread_that_has_ended_is_another_threads(tree):
    for name in ("7", "7/task/7", "7/task/8"):
        tree.process(name, ROOT.decode())
    hierarchies = tree.hierarchies()
    assert hierarchies.living(7, ROOT) == ROOT  # it lives in the root
    for name in ("7", "7/task/7", "7/task/8"):
        tree.process(name, ROOT.decode(), flags=0x400104)
    with pytest.raises(Gone):
        hierarchies.living(7, ROOT)
    tree.process("7/task/9", BELOW.decode())
    assert hierarchies.living(7, ROOT) == BELOW
    with pytest.raises(Gone):
        hierarchies.living(8, ROOT)


def test_a_live_cgroup_whose_name_ends_as_the_kernel_marks_removed_ones_was_gone(tree):
    tree.v2("memory")
    tree.cgroup("x (deleted)", {})
    tree.process(7, "0::/x (deleted)\n")
    tree.process(8, "0::/y (deleted)\n")
    hierarchies = tree.hierarchies()
    assert hierarchies.paths_of(7) == {"": "/x (deleted)"}
    with pytest.raises(Gone):
        hierarchies.paths_of(8)


def test_v1_paths_that_end_as_the_kernel_marks_removed_v2_cgroups_were_gone(tree):
    tree.v1("memory")
    tree.process(7, "3:memory:/x (deleted)\n")
    assert tree.hierarchies().paths_of(7) == {"memory": "/x (deleted)"}


def test_nearest_finds_the_closest_ancestor(tree):
    tree.v2("memory")
    tree.cgroup("a", {"memory.current": "1"})
    tree.cgroup("a/b/c", {})
    place = tree.hierarchies().place("memory", {"": "/a/b/c"})
    assert place.nearest("memory.current") == below(tree, "a")[0]
    assert place.nearest("nothing") is None


def test_files_of_common_ancestors_are_kept_once(tree):
    hierarchies = tree.hierarchies()
    first = hierarchies.shared("/x")
    assert hierarchies.shared("/x") is first
    del first
    assert not hierarchies._shared


def test_no_hierarchy_at_all(tree):
    hierarchies = tree.hierarchies()
    assert hierarchies.place("memory", {"memory": "/a"}) is None
    assert hierarchies.place("cpuacct", {}) is None


def test_a_path_of_a_thousand_levels_costs_its_two_ends() -> None:
    mount = Mount("/", "/sys/fs/cgroup", "cgroup2", ())
    path = "".join(f"/{level}" for level in range(1000))
    place = Hierarchies({}, mount).unified({UNIFIED: path})
    assert place is not None
    assert len(place.directories) == 128
    assert place.own == f"/sys/fs/cgroup{path}"
    assert place.directories[-1] == "/sys/fs/cgroup"
    assert place.directories[-2] == "/sys/fs/cgroup/0"


def test_options_of_a_mount_were_controllers(tree):
    tree.v1("cpuset", "cpuset_v2_mode", "favordynmods")
    tree.v1("clone_children", "release_agent=/run/cgroups-agent", "name=systemd")
    assert set(tree.hierarchies().v1) == {"cpuset", "name=systemd"}
