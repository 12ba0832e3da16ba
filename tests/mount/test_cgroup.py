"""The cgroup tree (--enable-cgroup), used in containers as cgroupfs is."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require, run_name
from tests.kit import asuser
from tests.kit.cgroups import Cgroup, hierarchies, is_v2, remove_directory
from tests.kit.cgrouptree import PRELUDE, Tree, tree_of
from tests.kit.daemon import Daemon

#: A file with a limit.
LIMIT = "memory.max" if is_v2() else "memory.limit_in_bytes"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon("--enable-cgroup") as running:
        yield running


@pytest.fixture
def tree(daemon: Daemon) -> Iterator[Tree]:
    with tree_of(daemon) as made:
        yield made


def test_a_container_sees_the_way_to_its_cgroup_and_no_other(daemon: Daemon, tree: Tree) -> None:
    with Cgroup() as sibling:
        for name, (path, directory) in tree.places.items():
            other = str(sibling.paths["" if name == "unified" else name])
            other = path.rpartition("/")[0] + "/" + os.path.basename(other)
            said = tree.run(
                """
                above = own
                while above != f"{top}/{name}":
                    above, _, below = above.rpartition("/")
                    assert os.listdir(above) == [below], os.listdir(above)
                    for file in ("cgroup.procs", "memory.stat", "tasks", "nothing"):
                        expect(os.stat, [f"{above}/{file}"], "ENOMEM")
                        expect(read, [f"{above}/{file}"], "ENOMEM")
                expect(os.stat, [other], "ENOMEM")
                expect(os.mkdir, [other + "/x"], "ENOMEM")
                expect(os.stat, [other + "-not-there"], "ENOMEM")
                print(*sorted(os.listdir(own)))
                """,
                top=tree.top, name=name, own=path, other=other,
            )  # fmt: skip
            assert said.split() == sorted(os.listdir(directory))


def test_files_read_as_in_cgroupfs(tree: Tree) -> None:
    for path, directory in tree.places.values():
        names = {name: _text(directory / name) for name in sorted(os.listdir(directory))}
        same = {name for name, text in names.items() if text == _text(directory / name)}
        said = tree.run(
            """
            for name in names:
                try:
                    print(repr((name, read(f"{own}/{name}"))))
                except OSError as error:
                    print(repr((name, error.errno)))
            """,
            own=path, names=sorted(names),
        )  # fmt: skip
        lists = {"cgroup.procs", "tasks", "cgroup.threads"}
        moving = {name for name in names if "usage" in name or "stat" in name or "current" in name}
        for line in said.splitlines():
            name, text = eval(line)
            if isinstance(text, int):
                assert names[name] == text, name
            elif name in same - lists - moving - {"memory.peak", "pids.peak"}:
                assert text == names[name] or "pressure" in name, name


def _text(path: Path) -> str | int:
    try:
        return path.read_text()
    except OSError as error:
        return error.errno or 0


def test_modes_and_owners_are_those_of_cgroupfs(tree: Tree) -> None:
    path, directory = tree.memory
    for name in ("", "/cgroup.procs", f"/{LIMIT}"):
        os.chown(f"{directory}{name}", 1234, 2345)
        said = tree.run(
            "s = os.stat(path); print(oct(s.st_mode), s.st_uid, s.st_gid, s.st_size)",
            path=path + name,
        )
        real = os.stat(f"{directory}{name}")
        assert said.split() == [oct(real.st_mode), "1234", "2345", "0" if not name else "4096"]


def test_inode_numbers_fit_32_bits_and_agree(tree: Tree) -> None:
    """Else find(1), du(1) and programs without large-file support stop."""
    path, _ = tree.memory
    tree.run(
        """
        os.makedirs(f"{own}/a/b")
        numbers = set()
        for directory in (own, f"{own}/a", f"{own}/a/b"):
            for entry in os.scandir(directory):
                number = os.stat(entry.path).st_ino
                assert 0 < number < 1 << 32
                assert number == entry.inode() == os.lstat(entry.path).st_ino
                numbers.add(number)
        assert len(numbers) > 10
        """,
        own=path,
    )
    found = tree.container.exec(["busybox", "find", path, "-name", "cgroup.procs"]).stdout.split()
    assert len(found) == 3


def test_programs_that_use_sendfile_read_them(tree: Tree) -> None:
    path, directory = tree.memory
    name = "cgroup.max.depth" if is_v2() else "memory.swappiness"
    text = (directory / name).read_bytes()
    for command in (["busybox", "cat"], ["cat"]):
        assert tree.container.exec([*command, f"{path}/{name}"]).stdout == text
    tree.run(
        """
        source, (end, target) = os.open(f"{own}/{name}", os.O_RDONLY), os.pipe()
        try:
            assert os.sendfile(target, source, 0, 4096) > 0  # Linux 6.1 reads without a page
        except OSError as error:
            assert error.errno == errno.EINVAL
        """,
        own=path, name=name,
    )  # fmt: skip


def test_a_cgroup_is_made_limited_entered_left_and_removed_in_each_hierarchy(tree: Tree) -> None:
    """As systemd and lxc-start of the v1 age do, and on v2 with the init moved to a leaf."""
    for name, (path, directory) in tree.places.items():
        said = tree.run(
            """
            os.mkdir(f"{own}/job", 0o755)
            if name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    write(f"{own}/job/{file}", read(f"{own}/{file}"))
            write(f"{own}/job/cgroup.procs", os.getpid())
            assert read(f"{own}/job/cgroup.procs").split() == [str(os.getpid())]
            assert os.listdir(own).count("job") == 1
            mine = [line.split(":", 2) for line in read("/proc/self/cgroup").splitlines()]
            print([line[2] for line in mine if line[1] in (name, "")][0])
            if name == "pids":
                write(f"{own}/job/pids.max", 77)
                assert read(f"{own}/job/pids.max") == "77\\n"
            if name == "memory":
                write(f"{own}/job/{limit}", 1 << 26)
                assert read(f"{own}/job/{limit}") == f"{1 << 26}\\n"
            expect(os.rmdir, [f"{own}/job"], "EBUSY")
            write(f"{own}/cgroup.procs", 0)  # the writer itself
            assert str(os.getpid()) in read(f"{own}/cgroup.procs").split()
            os.rmdir(f"{own}/job")
            expect(os.stat, [f"{own}/job"], "ENOENT")
            """,
            own=path, name=name, limit=LIMIT,
        )  # fmt: skip
        assert said.strip().endswith("/job")
        assert not (directory / "job").exists()


_CONTROLLERS = """
os.mkdir(f"{own}/leaf")
for pid in read(f"{own}/cgroup.procs").split():
    write(f"{own}/leaf/cgroup.procs", pid)
print("moved", flush=True)
os.read(0, 1)
write(f"{own}/cgroup.subtree_control", "+memory")
os.mkdir(f"{own}/job")
write(f"{own}/job/memory.max", 67108864)
assert read(f"{own}/job/memory.max") == "67108864\\n"
write(f"{own}/job/cgroup.procs", 0)
assert read(f"{own}/job/cgroup.procs").split() == [str(os.getpid())]
expect(write, [f"{own}/memory.max", "max"], "EACCES")
"""


@pytest.mark.skipif(not is_v2(), reason="v1 has no subtree_control")
def test_controllers_are_given_to_children_on_v2(tree: Tree) -> None:
    """With the init and all others moved to a leaf: the container stays what it was."""
    path, directory = tree.memory
    command = [sys.executable, "-c", f"{PRELUDE}own = {path!r}\n{_CONTROLLERS}"]
    pipe = subprocess.PIPE
    with tree.container.popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout.readline() == b"moved\n"
        for pid in (directory / "cgroup.procs").read_text().split():  # nsenter, outside of it
            (directory / "leaf" / "cgroup.procs").write_text(pid)
        process.communicate(b"x", timeout=60)
        assert process.returncode == 0
    assert (directory / "job" / "memory.max").read_text() == "67108864\n"


def test_pids_are_those_of_the_callers_pid_namespace(tree: Tree) -> None:
    path, directory = tree.memory
    listing = "cgroup.procs" if is_v2() else "tasks"
    said = tree.run(
        """
        child = os.fork()
        if child == 0:
            os.closerange(0, 3)
            signal.pause()
        assert {1, os.getpid(), child} <= set(map(int, read(f"{own}/{listing}").split()))
        os.mkdir(f"{own}/x")
        write(f"{own}/x/{listing}", child)
        assert read(f"{own}/x/{listing}").split() == [str(child)]
        expect(write, [f"{own}/x/{listing}", 4000000], "ESRCH")
        for text in ("abc", "00", "0x0", "+0", "-0", "010"):  # none is the writer, nor the helper
            expect(write, [f"{own}/x/{listing}", text], "EINVAL")
        write(f"{own}/x/{listing}", "0\\0")
        assert {os.getpid(), child} == set(map(int, read(f"{own}/x/{listing}").split()))
        write(f"{own}/{listing}", 0)
        expect(write, [f"{own}/x/{listing}", "1" * 4097], "E2BIG")
        print(child)
        """,
        own=path, listing=listing,
    )  # fmt: skip
    (inside,) = (int(pid) for pid in (directory / "x" / listing).read_text().split())
    status = Path(f"/proc/{inside}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    assert line.split()[-1] == said.strip()
    assert inside != int(said)


def test_a_process_of_the_host_uses_its_own_cgroup(daemon: Daemon) -> None:
    with Cgroup() as cgroup:
        key = "" if is_v2() else "memory"
        (hierarchy,) = (h for h in hierarchies() if key in (h.controllers or {""}))
        path = cgroup.paths[key].relative_to(hierarchy.mountpoint)
        name = hierarchy.mountpoint.name if key else "unified"
        own = f"{daemon.mountpoint}/cgroup/{name}/{path}"
        said = cgroup.run(
            ["sh", "-c", 'mkdir "$0/x"; sleep 60 >/dev/null & echo $! >"$0/x/cgroup.procs" &&'
             ' cat "$0/x/cgroup.procs" && echo $! && kill $! && ls "${0%/*}"', own]
        ).split()  # fmt: skip
        assert said[0] == said[1]
        assert said[2:] == [path.name.encode()]
        remove_directory(cgroup.paths[key] / "x")


def test_limits_of_the_own_cgroup_and_its_names_cannot_be_changed(tree: Tree) -> None:
    for name, (path, directory) in tree.places.items():
        before = {file: _text(directory / file) for file in os.listdir(directory)}
        tree.run(
            """
            delegated = {"cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks",
                         "memory.oom.group", "memory.reclaim", "cgroup.clone_children",
                         "notify_on_release"}
            for file in os.listdir(own):
                if file in delegated or os.path.isdir(f"{own}/{file}"):
                    continue
                expect(os.open, [f"{own}/{file}", os.O_WRONLY], "EACCES", "ENOTSUP")
                expect(os.chmod, [f"{own}/{file}", 0o666], "EPERM")
            expect(os.chmod, [own, 0o777], "EPERM")
            expect(os.chown, [own, 1, 1], "EPERM")
            expect(os.rmdir, [own], "EACCES", "EBUSY", "EPERM")
            expect(os.rename, [own, own + "x"], "EPERM", "ENOMEM")
            os.mkdir(f"{own}/a")
            expect(os.rename, [f"{own}/a", f"{own}/b"], "EPERM")
            expect(os.mkdir, [f"{own}/../x"], "ENOMEM", "EACCES")
            expect(os.open, [f"{own}/new", os.O_CREAT | os.O_WRONLY], "EPERM", "EACCES")
            expect(os.unlink, [f"{own}/cgroup.procs"], "EPERM")
            os.rmdir(f"{own}/a")
            """,
            own=path,
        )
        after = {file: _text(directory / file) for file in os.listdir(directory)}
        for file in ("memory.limit_in_bytes", "memory.max", "pids.max", "cpu.max", "cpu.shares"):
            assert before.get(file) == after.get(file), name
        assert stat_of(directory) == (0o40755, 0, 0)


def stat_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid


def test_what_belongs_to_a_descriptor_is_refused(tree: Tree) -> None:
    """An eventfd would be one of the helper's, and a trigger would end at once."""
    path, _ = tree.memory
    name = "memory.pressure" if is_v2() else "cgroup.event_control"
    tree.run(
        """
        os.mkdir(f"{own}/x")
        expect(os.open, [f"{own}/x/{name}", os.O_WRONLY], "ENOTSUP", "ENOENT")
        os.rmdir(f"{own}/x")
        """,
        own=path, name=name,
    )  # fmt: skip


def test_the_accounting_of_pressure_is_switched_below_the_own_cgroup(tree: Tree) -> None:
    """Linux 6.1, without cgroup_disable=pressure."""
    path, directory = tree.places.get("unified", tree.memory)
    if not (directory / "cgroup.pressure").exists():
        pytest.skip("v2 has no cgroup.pressure here")
    tree.run(
        """
        os.mkdir(f"{own}/x")
        for text in ("0", "1"):
            write(f"{own}/x/cgroup.pressure", text)
            assert read(f"{own}/x/cgroup.pressure") == f"{text}\\n"
        expect(write, [f"{own}/cgroup.pressure", "0"], "EACCES")
        os.rmdir(f"{own}/x")
        """,
        own=path,
    )
    assert (directory / "cgroup.pressure").read_text() == "1\n"


def test_modes_count_for_a_user_and_delegation_works(tree: Tree) -> None:
    path, directory = tree.memory
    tree.run('os.mkdir(f"{own}/a"); os.mkdir(f"{own}/a/b")', own=path)
    limit = LIMIT if (directory / "a" / LIMIT).exists() else "cgroup.max.depth"
    refused = """
    expect(os.mkdir, [f"{own}/a/x"], "EACCES")
    expect(os.rmdir, [f"{own}/a/b"], "EACCES")
    expect(write, [f"{own}/a/cgroup.procs", os.getpid()], "EACCES")
    expect(write, [f"{own}/a/{limit}", 10000000], "EACCES")
    expect(os.chmod, [f"{own}/a", 0o777], "EPERM")
    expect(os.chown, [f"{own}/a", 1000, 1000], "EPERM")
    assert read(f"{own}/a/{limit}")
    """
    tree.run(refused, uid=1000, own=path, limit=limit)
    tree.run(
        """
        for name in ("", "/cgroup.procs"):
            os.chown(f"{own}/a{name}", 1000, 1000)
        os.chmod(f"{own}/a", 0o700)
        """,
        own=path,
    )
    assert stat_of(directory / "a") == (0o40700, 1000, 1000)
    said = tree.run(
        """
        os.mkdir(f"{own}/a/x")
        expect(write, [f"{own}/a/{limit}", 10000000], "EACCES")
        os.chmod(f"{own}/a/x", 0o500)
        print(oct(os.stat(f"{own}/a/x").st_mode), os.stat(f"{own}/a/x").st_uid)
        os.rmdir(f"{own}/a/x")
        """,
        uid=1000, own=path, limit=limit,
    )  # fmt: skip
    assert said.split() == ["0o40500", "1000"]
    tree.run('expect(os.listdir, [f"{own}/a"], "EACCES")', uid=1001, own=path)


def test_root_of_a_user_namespace_has_what_is_its_own(tree: Tree) -> None:
    path, directory = tree.memory
    refused = """
    expect(os.mkdir, [f"{own}/x"], "EACCES")
    expect(write, [f"{own}/cgroup.procs", os.getpid()], "EACCES")
    expect(os.chown, [own, 0, 0], "EPERM")
    """
    tree.run(refused, user_namespace=True, own=path)
    for name in ("", "cgroup.procs", "tasks"):
        if (directory / name).exists():
            os.chown(directory / name, asuser.IDS, asuser.IDS)
    said = tree.run(
        """
        os.mkdir(f"{own}/x")
        os.chown(f"{own}/x", 1000, 1000)  # of the namespace
        os.mkdir(f"{own}/x/y")  # by CAP_DAC_OVERRIDE there
        os.chown(f"{own}/x/y", 5, 6)
        os.chmod(f"{own}/x/y", 0o711)
        print(os.stat(f"{own}/x").st_uid, os.stat(f"{own}/x/y").st_gid)
        expect(os.chown, [f"{own}/x/y", 70000, -1], "EINVAL", "EPERM")
        """,
        user_namespace=True, own=path,
    )  # fmt: skip
    assert said.split() == ["1000", "6"]
    assert stat_of(directory / "x") == (0o40755, asuser.IDS + 1000, asuser.IDS + 1000)
    assert stat_of(directory / "x" / "y") == (0o40711, asuser.IDS + 5, asuser.IDS + 6)
    tree.run(
        """
        write(f"{own}/x/cgroup.procs", os.getpid())
        assert read(f"{own}/x/cgroup.procs").split() == [str(os.getpid())]
        write(f"{own}/cgroup.procs", 0)
        os.rmdir(f"{own}/x/y")
        os.rmdir(f"{own}/x")
        """,
        user_namespace=True, own=path,
    )  # fmt: skip


def test_root_of_a_user_namespace_moves_its_users_processes(tree: Tree) -> None:
    path, directory = tree.memory
    for name in ("", "cgroup.procs", "tasks"):
        if (directory / name).exists():
            os.chown(directory / name, asuser.IDS, asuser.IDS)
    said = tree.run(
        """
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(1000)
            os.write(told, b"x")
            signal.pause()
        os.read(ready, 1)
        os.mkdir(f"{own}/x")
        print(refusal(write, f"{own}/x/cgroup.procs", child))
        expect(write, [f"{own}/x/cgroup.procs", 1], "EACCES", "none")  # root of the host
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.setuid(1001)
        expect(write, [f"{own}/x/cgroup.procs", os.getpid()], "EACCES")
        """,
        user_namespace=True, own=path,
    )  # fmt: skip
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    assert said.split() == ["none" if release >= (6, 11) or is_v2() else "EACCES"]
    if not is_v2():
        assert tree.container.pid not in map(
            int, (directory / "x" / "cgroup.procs").read_text().split()
        )


def test_a_capability_that_the_caller_lacks_is_not_the_helpers(daemon: Daemon) -> None:
    """v1's devices.allow takes CAP_SYS_ADMIN in the host's user namespace."""
    top = Path("/sys/fs/cgroup/devices")
    if not (top / "devices.list").exists():
        pytest.skip("the devices hierarchy of v1 is not mounted here")
    if shutil.which("setpriv") is None:
        require("clients", "there is no setpriv")
    cgroup = top / run_name("devices")
    cgroup.mkdir()
    own = f"{daemon.mountpoint}/cgroup/devices/{cgroup.name}"
    script = """
    echo 0 >"$1/cgroup.procs" && exec unshare --pid --fork --mount-proc sh -c '
    mkdir "$0/x" && echo "c 1:3 rwm" >"$0/x/devices.deny" && echo done
    setpriv --bounding-set=-sys_admin sh -c "echo c 1:3 rwm >$0/x/devices.allow" || echo refused
    rmdir "$0/x"' "$0"
    """
    try:
        command = ["sh", "-c", script, own, str(cgroup)]
        done = subprocess.run(command, capture_output=True, timeout=60, text=True)
        assert done.stdout.split() == ["done", "refused"], done.stderr
    finally:
        remove_directory(cgroup)


def test_modes_of_new_cgroups_do_not_go_by_the_umask_of_the_service() -> None:
    before = os.umask(0o077)
    try:
        with Daemon("--enable-cgroup") as daemon, tree_of(daemon) as tree:
            said = tree.run(
                """
                os.umask(0o022)
                os.mkdir(f"{own}/x")
                print(oct(os.stat(f"{own}/x").st_mode & 0o777))
                os.rmdir(f"{own}/x")
                """,
                own=tree.memory[0],
            )
    finally:
        os.umask(before)
    assert said == "0o755\n"


def test_rights_are_not_lent_by_a_descriptor(tree: Tree) -> None:
    """A program with more rights that writes to the file of another one writes nothing."""
    path, directory = tree.memory
    for name in ("", "cgroup.procs"):
        os.chown(directory / name, 1000, 1000)
    tree.run(
        """
        os.seteuid(1000)
        os.mkdir(f"{own}/x")
        fd = os.open(f"{own}/x/cgroup.procs", os.O_WRONLY)
        os.seteuid(0)
        expect(os.write, [fd, b"1"], "EACCES")
        os.seteuid(1000)
        print(refusal(os.write, fd, b"0"))  # its source is not the user's on v2
        """,
        own=path,
    )
    assert tree.container.pid not in map(
        int, (directory / "x" / "cgroup.procs").read_text().split()
    )


def test_a_directory_of_another_container_opens_nothing(daemon: Daemon, tree: Tree) -> None:
    """Reached by a descriptor, whatever the dentries of the kernel say."""
    with tree_of(daemon) as other:
        path, directory = tree.memory
        (directory / "sub").mkdir()
        fd = os.open(f"/proc/{tree.container.pid}/root", os.O_RDONLY)
        os.close(fd)
        # The process enters the first container's cgroup, opens the directory, and goes.
        said = other.run(
            """
            write(procs, os.getpid())
            fd = os.open(first, os.O_RDONLY | os.O_DIRECTORY)
            sub = os.open(first + "/sub", os.O_RDONLY | os.O_DIRECTORY)
            kept = os.open(first + "/cgroup.procs", os.O_RDONLY)
            kept_w = os.open(first + "/sub/cgroup.procs", os.O_WRONLY)
            write(back, os.getpid())
            def at(function, name):
                return lambda: function(name, dir_fd=fd)
            for directory in (fd, sub):
                assert (refusal(os.listdir, directory) == "EACCES"
                        or os.listdir(directory) == []), os.listdir(directory)
            for function in (at(os.stat, "cgroup.procs"), at(os.mkdir, "x"), at(os.rmdir, "sub"),
                             lambda: os.open("sub", os.O_RDONLY, dir_fd=fd),
                             lambda: os.open("cgroup.procs", os.O_RDONLY, dir_fd=fd)):
                assert refusal(function) in ("ENOMEM", "EACCES"), refusal(function)
            expect(os.read, [kept, 4096], "EACCES")
            expect(os.write, [kept_w, b"0"], "EACCES")
            expect(os.fchmod, [sub, 0o777], "EPERM", "EACCES")
            """,
            first=path,
            procs=str(directory / "cgroup.procs"),
            back=str(other.memory[1] / "cgroup.procs"),
        )
        assert said == ""
        assert sorted(p.name for p in directory.iterdir() if p.is_dir()) == ["sub"]


def test_lookups_of_others_unmount_nothing(daemon: Daemon, tree: Tree) -> None:
    """The kernel would drop a name, and what is mounted there, after any error but ENOMEM."""
    path, _ = tree.memory
    tree.run(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        os.mkdir(f"{own}/x")
        assert libc.mount(b"none", f"{own}/x".encode(), b"tmpfs", 0, None) == 0
        """,
        own=path,
    )
    with tree_of(daemon) as other:
        other.run(
            """
            for _ in range(20):
                expect(os.stat, [first], "ENOMEM")
                expect(os.stat, [first + "/x"], "ENOMEM")
            """,
            first=path,
        )
    tree.run(
        """
        import ctypes
        assert os.path.ismount(f"{own}/x")
        assert ctypes.CDLL(None).umount2(f"{own}/x".encode(), 0) == 0
        os.rmdir(f"{own}/x")
        """,
        own=path,
    )


_ATTACK = """
import ctypes, random, time
seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
libc = ctypes.CDLL(None, use_errno=True)
stop = time.monotonic() + 4
names = ["a", "b", "c"]
problems = []

def churn():
    while time.monotonic() < stop:
        for name in names:
            for action in (lambda: os.mkdir(f"{own}/{name}"), lambda: os.mkdir(f"{own}/{name}/x"),
                           lambda: os.rename(f"{own}/{name}", f"{own}/b"),
                           lambda: os.rmdir(f"{own}/{name}/x"), lambda: os.rmdir(f"{own}/{name}")):
                try:
                    action()
                except OSError:
                    pass

def move():
    while time.monotonic() < stop:
        for name in names:
            for place in (name, f"{name}/x", ""):
                try:
                    write(f"{own}/{place}/cgroup.procs", os.getpid())
                except OSError:
                    pass

def climb():
    while time.monotonic() < stop:
        for name in names:
            try:
                fd = os.open(f"{own}/{name}/x", os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            for path in ("../" * 2 + victim, "../../../" + victim, "../../../cgroup.procs",
                         "../../cgroup.procs", "..//../" + victim + "/cgroup.procs",
                         "../../../../" + victim):
                for action in (lambda: os.mkdir(path + "/evil", dir_fd=fd),
                               lambda: os.open(path + "/cgroup.procs", os.O_WRONLY, dir_fd=fd),
                               lambda: os.listdir(os.open(path, os.O_RDONLY, dir_fd=fd))):
                    try:
                        got = action()
                    except OSError:
                        continue
                    if victim in path:
                        problems.append((path, got))
            os.close(fd)

def look():
    while time.monotonic() < stop:
        for name in names:
            try:
                for file in os.listdir(f"{own}/{name}"):
                    read(f"{own}/{name}/{file}")
            except OSError:
                pass

threads = [threading.Thread(target=f) for f in (churn, move, climb, look, churn)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not problems, problems
try:
    write(f"{own}/cgroup.procs", os.getpid())
except OSError:
    pass
mine = read("/proc/self/cgroup")
print(mine)
"""


def test_an_attacker_who_races_stays_in_its_cgroup(daemon: Daemon, tree: Tree) -> None:
    """Renames, removals, `..` and moves of its own process, beside each other for a while."""
    with tree_of(daemon) as victim:
        path, directory = tree.memory
        name = victim.memory[1].name
        before = sorted(os.listdir(victim.memory[1]))
        said = tree.run(_ATTACK, own=path, victim=name)
        assert name not in said
        assert directory.name in said
        assert sorted(os.listdir(victim.memory[1])) == before
        assert (victim.memory[1] / "cgroup.procs").read_text().split() == [
            str(victim.container.pid)
        ]
        above = directory.parent
        assert not (above / "evil").exists()
    daemon.check_log()


_SURVIVES = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(own.encode(), bound.encode(), None, 4096, None) == 0
os.mkdir(f"{own}/x")
kept = os.open(bound + "/x/cgroup.procs", os.O_RDONLY)
writer = os.open(bound + "/x/cgroup.procs", os.O_WRONLY)
os.chdir(bound + "/x")
print("ready", flush=True)
os.read(0, 1)
assert os.read(kept, 4096) == b""
expect(os.write, [writer, b"0"], "ESTALE")
write(bound + "/x/cgroup.procs", os.getpid())
assert read("cgroup.procs").split() == [str(os.getpid())]
os.mkdir("y")
os.rmdir("y")
write("../cgroup.procs", 0)
os.chdir("/")
os.rmdir(bound + "/x")
assert libc.umount2(bound.encode(), 2) == 0
"""


def test_bound_directories_and_open_files_survive_a_server(tmp_path: Path) -> None:
    bound = tmp_path / "bound"
    bound.mkdir()
    with (
        Daemon("--enable-cgroup", expect_log=["the server was ended"]) as daemon,
        tree_of(daemon) as tree,
    ):
        text = PRELUDE + f"own = {tree.memory[0]!r}\nbound = {str(bound)!r}\n" + _SURVIVES
        process = tree.container.popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout.readline() == b"ready\n"
            server = daemon.server
            os.kill(server, signal.SIGKILL)
            daemon.wait_new_server(server)
            process.communicate(b"x", timeout=60)
            assert process.returncode == 0


def test_without_the_option_there_is_no_tree() -> None:
    with Daemon() as daemon:
        assert "cgroup" not in os.listdir(daemon.mountpoint)
        with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
            os.stat(f"{daemon.mountpoint}/cgroup")
