"""Operations on cgroups that block: other containers go on, and what takes too long is ended."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.kit.cgroups import is_v2
from tests.kit.cgrouptree import PRELUDE, tree_of
from tests.kit.daemon import ROOT, Daemon
from tests.kit.inner import seen_of

#: Makes the server wait for a file when it reads cgroup.procs.
_BLOCKED = """
import sys
if "serve" in sys.orig_argv:
    import os, time
    from pylxcfs.sources import cgroupfs
    original = cgroupfs.CallerView.read
    def read(view, name):
        if name == "cgroup.procs":
            with open({blocked!r}, "a") as file:
                file.write("x")
            while not os.path.exists({go_on!r}):
                time.sleep(0.01)
        return original(view, name)
    cgroupfs.CallerView.read = read
"""


@pytest.fixture
def blocking(tmp_path: Path) -> tuple[dict[str, str], Path, Path]:
    """The environment of a server in which reads of cgroup.procs block.

    And two files: one that grows with each that blocks, one that lets them go on.
    """
    blocked, go_on = tmp_path / "blocked", tmp_path / "go-on"
    text = _BLOCKED.format(blocked=str(blocked), go_on=str(go_on))
    (tmp_path / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}, blocked, go_on


def test_what_blocks_in_one_container_holds_up_no_other(
    blocking: tuple[dict[str, str], Path, Path],
) -> None:
    env, blocked, go_on = blocking
    with (
        Daemon("--enable-cgroup", "--request-timeout=0", env=env) as daemon,
        tree_of(daemon) as busy,
        tree_of(daemon) as other,
    ):
        command = ["cat", f"{busy.memory[0]}/cgroup.procs"]
        nested = ["unshare", "--pid", "--fork", *command]
        readers = [
            busy.container.popen(argv, stdout=subprocess.PIPE)
            for argv in (command, nested)
            for _ in range(6)
        ]
        wait_until(lambda: blocked.exists() and blocked.stat().st_size >= 4, 60, what="4 that wait")
        said = other.run(
            'os.mkdir(f"{own}/x"); os.rmdir(f"{own}/x"); print(read(f"{own}/{limit}"))',
            own=other.memory[0],
            limit="cgroup.clone_children" if not is_v2() else "cgroup.max.depth",
        )
        assert said.strip()
        assert blocked.stat().st_size == 4, "more threads than one container may have"
        go_on.touch()
        for reader in readers:
            with reader:
                assert reader.communicate(timeout=60)[0]


def test_what_takes_too_long_is_ended(blocking: tuple[dict[str, str], Path, Path]) -> None:
    env, _, go_on = blocking
    with (
        Daemon("--enable-cgroup", "--request-timeout=0.5", env=env) as daemon,
        tree_of(daemon) as tree,
    ):
        said = tree.run('print(refusal(read, f"{own}/cgroup.procs"))', own=tree.memory[0])
        assert said == "ETIMEDOUT\n"
        go_on.touch()
        tree.run(
            'while refusal(read, f"{own}/cgroup.procs") == "ETIMEDOUT": pass', own=tree.memory[0]
        )


#: Makes the server wait for a file before it writes, and note how that ended.
_LATE = """
import sys
if "serve" in sys.orig_argv:
    import os, time
    from pylxcfs.sources import cgroupfs
    original = cgroupfs.CallerView.write
    def write(view, name, data):
        result = "written"
        while not os.path.exists({go_on!r}):
            time.sleep(0.01)
        try:
            original(view, name, data)
        except OSError as error:
            result = os.strerror(error.errno)
            raise
        finally:
            with open({ended!r}, "w") as file:
                file.write(result)
    cgroupfs.CallerView.write = write
"""


@pytest.mark.parametrize(
    ("then", "result"), [("os.seteuid(0)", os.strerror(errno.EACCES)), ("pass", "written")]
)
def test_what_goes_on_after_etimedout_has_no_rights_of_a_later_program(
    tmp_path: Path, then: str, result: str
) -> None:
    """The writer may have executed a program with the set-user-ID bit meanwhile."""
    go_on, ended = tmp_path / "go-on", tmp_path / "ended"
    text = _LATE.format(go_on=str(go_on), ended=str(ended))
    (tmp_path / "sitecustomize.py").write_text(text)
    tmp_path.chmod(0o777)
    for directory in (tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with (
        Daemon("--enable-cgroup", "--request-timeout=2", env=env) as daemon,
        tree_of(daemon) as tree,
    ):
        path, directory = tree.memory
        (directory / "x").mkdir()
        for name in ("cgroup.procs", "x", "x/cgroup.procs"):  # the first one counts on v2
            os.chown(directory / name, 1000, 1000)
        tree.run(
            f"""
            import time
            os.setresuid(1000, 1000, 0)
            fd = os.open(f"{{own}}/x/cgroup.procs", os.O_WRONLY)
            expect(os.write, [fd, b"0"], "ETIMEDOUT")
            {then}
            open(go_on, "w").close()
            while not os.path.exists(ended):
                time.sleep(0.01)
            os.seteuid(0)
            """,
            own=path, go_on=str(go_on), ended=str(ended),
        )  # fmt: skip
        wait_until(lambda: ended.read_text(), what="the result")
    assert ended.read_text() == result


_STOPS = """
def stop():
    while not done:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        if b"ascaller" not in file.read():
                            continue
                    os.kill(int(name), signal.SIGSTOP)
                    with open(f"/proc/{name}/status") as file:
                        filters.update(line for line in file if line.startswith("Seccomp:"))
                except OSError:
                    pass

done, filters = [], set()
threads = [threading.Thread(target=stop) for _ in range(2)]
for thread in threads:
    thread.start()
while (got := refusal(read, f"{own}/cgroup.procs")) != "ETIMEDOUT":
    assert got == "none", got
done.append(True)
for thread in threads:
    thread.join()
while refusal(read, f"{own}/cgroup.procs") == "ETIMEDOUT":
    pass
for name in os.listdir("/proc"):
    if name.isdigit():
        with open(f"/proc/{name}/cmdline", "rb") as file:
            assert b"ascaller" not in file.read(), name
assert filters == {"Seccomp:\\t2\\n"}, filters
"""


def test_a_process_that_lists_for_it_and_is_stopped_is_ended() -> None:
    """The container's root may stop it, as it is a process of its pid namespace."""
    with Daemon("--enable-cgroup", "--request-timeout=0.3") as daemon, tree_of(daemon) as tree:
        tree.run(_STOPS, own=tree.memory[0])


_TRACES = """
import ctypes
ptrace = ctypes.CDLL(None).ptrace
SEIZE, INTERRUPT, ALL = 0x4206, 0x4207, 0x40000000

def traced():
    while True:
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if b"ascaller.py" not in file.read().rpartition(b"/")[2]:
                        continue
            except OSError:
                continue
            if ptrace(SEIZE, pid, 0, 0) == 0 and ptrace(INTERRUPT, pid, 0, 0) == 0:
                if os.WIFSTOPPED(os.waitpid(pid, ALL)[1]):
                    return pid

def use():
    while not done:
        refusal(read, f"{own}/cgroup.procs")

done = []
thread = threading.Thread(target=use)
thread.start()
pid = traced()
done.append(True)
"""

_WAITS = """
for name in os.listdir(f"/proc/{pid}/fd"):
    if os.readlink(f"/proc/{pid}/fd/{name}").startswith("pipe:"):
        os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY)  # so that it is not closed
print("stopped", flush=True)
os.read(0, 1)
_, status = os.waitpid(pid, ALL)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
thread.join()
"""


def test_a_process_that_is_stopped_ends_with_a_helper_that_is_killed() -> None:
    """By a tracer: of a group with one that SIGSTOP has stopped the kernel takes care itself."""
    with Daemon("--enable-cgroup", "--request-timeout=0") as daemon, tree_of(daemon) as tree:
        code = f"{PRELUDE}own = {tree.memory[0]!r}\n{_TRACES}{_WAITS}"
        pipe = subprocess.PIPE
        with tree.container.popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
            try:
                assert process.stdout.readline() == b"stopped\n"
                _helper(daemon).kill()
                process.communicate(b"x", timeout=60)
                assert process.returncode == 0
            finally:
                process.kill()


_SEARCHES = """
found = []
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in maps:
        span, mode, *_ = line.split()
        first, last = (int(number, 16) for number in span.split("-"))
        if mode.startswith("rw"):
            memory.seek(first)
            text = memory.read(last - first)
            found += [name for name in ("of-others-", "ascaller") if name.encode() in text]
print(sorted(set(found)), flush=True)
"""


def test_the_memory_of_a_process_that_lists_has_no_requests_of_others() -> None:
    """A container that traces it reads what the helper has left there."""
    with (
        Daemon("--enable-cgroup", "--request-timeout=2") as daemon,
        tree_of(daemon) as tree,
        tree_of(daemon) as other,
    ):
        other.run(
            """
            for i in range(20):
                os.mkdir(f"{own}/of-others-{i}")
                write(f"{own}/of-others-{i}/cgroup.procs", 0)
                write(f"{own}/cgroup.procs", 0)
            """,
            own=other.memory[0],
        )
        said = tree.run(_TRACES + _SEARCHES, own=tree.memory[0])
        assert said == "['ascaller']\n"


def _helper(daemon: Daemon) -> psutil.Process:
    (helper,) = (
        child
        for child in psutil.Process(daemon.server).children()
        if "ascaller" in " ".join(child.cmdline())
    )
    return helper


_LISTS = """
while True:
    refusal(read, f"{own}/cgroup.procs")
"""


def test_the_root_of_a_process_that_lists_leads_to_no_directory_of_the_host() -> None:
    """Whoever opens its /proc/PID/root is not bound by its chroot."""
    with Daemon("--enable-cgroup", "--request-timeout=0.3") as daemon, tree_of(daemon) as tree:
        code = f"{PRELUDE}own = {tree.memory[0]!r}\n{_LISTS}"
        with tree.container.popen([sys.executable, "-c", code]) as lists:
            try:
                seen = seen_of(tree.container, "ascaller.py", lambda: None)
            finally:
                os.killpg(lists.pid, signal.SIGKILL)
    assert (seen["root"], seen["cwd"]) == ([[]] * 3, [[]] * 3)
    assert (seen["directories"], seen["descriptors"]) == ([], 2)
    assert seen["program"] == os.ST_RDONLY
    assert seen["filtered"]
    assert seen["oom_score_adj"] == 1000
    assert 0 <= seen["memory"] < 9 << 20


_CROWD = """
results = []
def one():
    results.append(refusal(read, f"{own}/cgroup.procs"))
threads = [threading.Thread(target=one) for _ in range(100)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
refused = results.count("EAGAIN") + results.count("ENOMEM")  # of an open, or of its lookup
print(results.count("none"), refused)
"""


def test_a_crowd_of_one_container_is_refused_and_others_are_served(
    blocking: tuple[dict[str, str], Path, Path],
) -> None:
    env, blocked, go_on = blocking
    with (
        Daemon("--enable-cgroup", "--request-timeout=0", env=env) as daemon,
        tree_of(daemon) as busy,
        tree_of(daemon) as other,
    ):
        # Its lookups would wait as well: they are done before.
        code = f"{PRELUDE}own = '.'\nos.chdir({busy.memory[0]!r})\n{_CROWD}"
        crowd = busy.container.popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        with crowd:
            wait_until(
                lambda: blocked.exists() and blocked.stat().st_size, 60, what="one that waits"
            )
            for _ in range(3):
                other.run('os.mkdir(f"{own}/x"); os.rmdir(f"{own}/x")', own=other.memory[0])
            go_on.touch()
            served, refused = crowd.communicate(timeout=60)[0].split()
        assert int(served) + int(refused) == 100
        assert int(served) >= 4


def test_a_helper_that_was_killed_is_started_again() -> None:
    with Daemon("--enable-cgroup") as daemon, tree_of(daemon) as tree:
        use = """
        os.mkdir(f"{own}/x")
        write(f"{own}/x/cgroup.procs", 0)
        write(f"{own}/cgroup.procs", 0)
        os.rmdir(f"{own}/x")
        """
        for _ in range(3):
            tree.run(use, own=tree.memory[0])
            _helper(daemon).kill()
        tree.run(use, own=tree.memory[0])
