"""Finding the init of a pid namespace, both ways."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from pylxcfs.errors import Gone, SourceError
from pylxcfs.sources import translator
from pylxcfs.sources.initpid import InitFinder
from tests.cgroup.processes import children_of, descendants_of
from tests.conftest import require, wait_until
from tests.kit.inner import seen_of, tried


@pytest.fixture(params=["auto", "ioctl", "scm"])
def finder(request):
    finder = InitFinder(request.param)
    try:
        finder.find(os.getpid())
    except SourceError as error:
        finder.close()
        require("nsfs-ioctl", str(error))
    yield finder
    finder.close()


def pidns(pid):
    return os.readlink(f"/proc/{pid}/ns/pid")


def inode(pid):
    return os.stat(f"/proc/{pid}/ns/pid").st_ino


def test_the_init_of_a_container(finder, make_container):
    container = make_container()
    assert finder.find(container.pid) == container.pid
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:

        def inside():
            return [
                pid for pid in descendants_of(process.pid) if pidns(pid) == pidns(container.pid)
            ]

        for pid in wait_until(inside, what="a process in the container"):
            assert finder.find(pid) == container.pid


def test_a_thread_is_as_good_as_its_process(finder, make_container):
    container = make_container()
    program = (
        "import threading, time\n"
        "thread = threading.Thread(target=input); thread.start(); print('started', flush=True)"
    )
    with container.popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"started\n"
        threads = {
            int(thread) for pid in descendants_of(process.pid) for thread in threads_of(pid)
        } - set(descendants_of(process.pid))
        assert threads
        for thread in threads:
            assert finder.find(thread) == container.pid
        process.communicate(b"\n")


def threads_of(pid):
    return os.listdir(f"/proc/{pid}/task")


def test_nested_namespaces_have_inits_of_their_own(finder, make_container):
    container = make_container()
    argv = ["unshare", "--pid", "--fork", "sh", "-c", "cat; :"]
    with container.popen(argv, stdin=subprocess.PIPE) as process:

        def nested():
            return [
                pid
                for pid in descendants_of(process.pid)
                if pidns(pid) not in (pidns(container.pid), pidns(os.getpid()))
            ]

        found = wait_until(lambda: len(nested()) == 2 and nested(), what="the nested namespace")
        init = min(found)
        for pid in found:
            assert finder.find(pid) == init
            assert finder.find(pid, inode(init)) == init
            assert finder.find(pid, inode(container.pid)) == container.pid
        assert finder.find(container.pid) == container.pid
        with pytest.raises(Gone):
            finder.find(container.pid, inode(init))
        os.kill(init, signal.SIGKILL)


def test_a_process_outside_of_the_namespace_does_not_lead_to_its_init(finder, make_container):
    container, other = make_container(), make_container()
    for pid in os.getpid(), other.pid:
        with pytest.raises(Gone):
            finder.find(pid, inode(container.pid))


@pytest.mark.parametrize("pid", [0, 4194304 + 1])
def test_no_such_process_is_gone(finder, pid):
    with pytest.raises(Gone):
        finder.find(pid)


def test_the_helper_is_started_again_if_it_was_killed(make_container):
    container = make_container()
    finder = InitFinder("scm")
    assert finder.find(container.pid) == container.pid
    finder.translator._process.kill()
    finder.translator._process.wait()
    assert finder.find(container.pid) == container.pid
    finder.close()
    assert finder.find(container.pid) == container.pid
    finder.close()


def test_the_helper_leaves_nothing_behind(make_container):
    container = make_container()
    finder = InitFinder("scm")
    for _ in range(3):
        finder.find(container.pid)
        finder.translator.cgroups_of(container.pid)
    helper = finder.translator._process
    assert not children_of(helper.pid)
    assert len(os.listdir(f"/proc/{helper.pid}/fd")) <= 6
    finder.close()
    assert helper.poll() is not None


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="guess"):
        InitFinder("guess")


def test_a_container_that_stops_the_process_in_it_is_not_tried_again_at_once(make_container):
    """Its root may send SIGSTOP to what is in its pid namespace; readers of others wait."""
    container = make_container()
    program = (
        "import os, signal\n"
        "while True:\n"
        "    for name in filter(str.isdigit, os.listdir('/proc')):\n"
        "        if int(name) > 2 and int(name) != os.getpid():\n"
        "            try: os.kill(int(name), signal.SIGSTOP)\n"
        "            except ProcessLookupError: pass\n"
    )
    finder = InitFinder("scm")
    finder.prepare()
    try:
        with container.popen([sys.executable, "-c", program]) as process:
            try:
                wait_until(
                    lambda: stopped(finder, container.pid), 60, what="a process that is stopped"
                )
                with pytest.raises(SourceError, match="has stopped the process"):
                    finder.find(container.pid)
                # It would stay until the container ends, and the next one beside it.
                wait_until(
                    lambda: not stopped_inside(container.pid), what="the end of what is stopped"
                )
            finally:
                os.killpg(process.pid, signal.SIGKILL)
        other = make_container()
        assert finder.find(other.pid) == other.pid
        finder._again.clear()
        assert finder.find(container.pid) == container.pid
    finally:
        finder.close()


@contextlib.contextmanager
def many_descriptors():
    """Have so many that the next one has a high number."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(open(os.devnull, "rb"))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_root_of_the_process_inside_leads_to_no_directory_of_the_host(make_container):
    """Whoever opens its /proc/PID/root is not bound by its chroot. It has one socket."""
    container = make_container()
    finder = InitFinder("scm")
    with many_descriptors():
        finder.translator.start()

    def use():
        finder._again.clear()
        stopped(finder, container.pid)

    try:
        seen = seen_of(container, "translator.py", use)
    finally:
        finder.close()
    assert (seen["root"], seen["cwd"]) == ([[]] * 3, [[]] * 3)
    assert (seen["directories"], seen["sockets"]) == ([], 1)
    for name, inside in zip(("net", "ipc"), seen["namespaces"], strict=True):
        assert inside not in (
            os.readlink(f"/proc/{pid}/ns/{name}") for pid in ("self", container.pid)
        )
    assert seen["program"] == os.ST_RDONLY
    assert seen["filtered"]
    assert seen["oom_score_adj"] == 1000
    assert 0 <= seen["memory"] < 9 << 20


def stopped_inside(pid):
    """Return the processes in the pid namespace of one that are stopped."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if (
                os.readlink(f"/proc/{process.pid}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid")
                and process.status() == psutil.STATUS_STOPPED
            ):
                found.append(process.pid)
    return found


def test_the_process_inside_gets_no_descriptor_by_itself(make_container):
    """With CAP_SYS_PTRACE a container runs code in it, and it is in the cgroup of pylxcfs.

    A directory of the cgroup tree would lead that code to the processes of that cgroup.
    """
    container = make_container()

    def probe(end, *_):
        end.sendmsg([repr(tried(translator._libc, end.fileno())).encode()])

    namespace = os.open(f"/proc/{container.pid}/ns/pid", os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            translator.socket.send_fds = probe
            translator._send_from_inside(namespace, 1, theirs)
        finally:
            os._exit(0)
    os.close(namespace)
    theirs.close()
    with ours:
        assert ours.recv(100) == b"[-1, -1, -1, -1, -1]"
    os.waitpid(child, 0)


def stopped(finder, pid):
    """Return whether entering a namespace failed as its process was stopped."""
    try:
        finder.find(pid)
    except Gone:
        return False
    except SourceError as error:
        return "stopped" in str(error)
    return False
