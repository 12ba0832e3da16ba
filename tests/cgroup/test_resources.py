"""Resources of real containers: by the library, over the socket, and from inside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pylxcfs import resources
from pylxcfs.errors import Gone
from pylxcfs.resources.query import Query
from pylxcfs.sources import request
from pylxcfs.sources.helper import HelperProcess
from pylxcfs.sources.identity import fair_key, outermost, pidns_of
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.views.model import Device
from tests.conftest import require, wait_until
from tests.kit import devices as kit
from tests.kit.asking import CLIENT, DEADLINE_S, Http, get, line, rest, serving
from tests.kit.cgroups import RUNTIME_MOUNTS, Cgroup, is_v2
from tests.kit.cgroups import hierarchies as mounted
from tests.kit.container import Container
from tests.kit.devices import USUAL, Allowed

MIB = 1 << 20
ROOT = Path(__file__).parents[2]

#: Asks for events, and prints what comes.
EVENTS = """
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect(sys.argv[1])
    one.sendall(b"GET /v1/self/events HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    while part := one.recv(65536):
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
"""


def python(script: str, *words: object) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", script, *map(str, words)]


def ask(container: Container, path: Path, command: str = "self", *around: str) -> dict:
    """Ask as a program in a container does."""
    return json.loads(container.exec([*around, *python(CLIENT, path, command)]).stdout)


def ask_http(container: Container, path: Path, target: str) -> dict:
    """Ask by HTTP as a program in a container does."""
    told = container.exec(python(CLIENT, path, f"GET {target} HTTP/1.0\r\n\r")).stdout
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    return json.loads(body)


@pytest.fixture(params=["auto"])
def service(request, tmp_path: Path) -> Iterator[Path]:
    with serving(tmp_path, Query(sample=True, init_pid_method=request.param)) as path:
        yield path


#: How the processes of other pid namespaces are found.
both_ways = pytest.mark.parametrize("service", ["auto", "scm"], indirect=True)


def test_each_container_is_told_about_itself(service, make_container):
    one = make_container(memory=100 * MIB, cpus=0.5)
    two = make_container(memory=200 * MIB, namespaces=["cgroup"])
    assert ask(one, service)["load"]["averages"] is None
    for _ in range(2):
        first, second = ask(one, service), ask(two, service)
        assert first["memory"]["limit_bytes"] == first["memory"]["total_bytes"] == 100 * MIB
        assert first["cpu"]["quota"] == 0.5
        assert len(first["cpu"]["visible"]) == 1
        assert first["advice"]["threads"]["value"] == 1
        assert second["memory"]["limit_bytes"] == 200 * MIB
        assert second["cpu"]["quota"] is None
        assert first["scope"] == second["scope"] == "container"
        assert len(first["load"]["averages"]) == 3
    assert set(second["cgroup"]["paths"].values()) == {"/"}
    for found in (first, second):
        assert not any("path" in source for source in found["sources"].values())
        assert found["sources"]["memory.limit_bytes"]["level"] == 0


def test_from_outside_it_is_the_same(service, make_container):
    made = make_container(memory=100 * MIB, cpus=1.5)
    inside, outside = ask(made, service), resources.of(made.pid).document()
    for name in ("memory.limit_bytes", "memory.total_bytes", "cpu.quota", "cpu.visible"):
        part, _, field = name.partition(".")
        assert inside[part][field] == json.loads(json.dumps(outside[part][field])), name
    named = {name: source["file"] for name, source in inside["sources"].items()}
    assert {name: source["file"] for name, source in outside["sources"].items()}.items() <= {
        **named,
        "load": outside["sources"].get("load", {}).get("file"),
    }.items()
    for source in outside["sources"].values():
        if source["level"] is not None and "path" in source:
            assert os.path.isfile(source["path"])


#: Asks by the line protocol from a thread, after the end of the main thread.
AFTER_MAIN = f"""
import ctypes, os, sys, threading, time
from pathlib import Path
def ask():
    while b"Z (zombie)" not in Path(f"/proc/{{os.getpid()}}/status").read_bytes():
        time.sleep(0.01)
    exec({CLIENT!r})
    sys.stdout.flush()
    os._exit(0)
threading.Thread(target=ask).start()
EXIT = {{"x86_64": 60}}.get(os.uname().machine, 93)  # of this thread alone
ctypes.CDLL(None).syscall(EXIT, 0)
"""


def is_told_no_path_of_the_host(found: dict) -> bool:
    without = not any("path" in source for source in found["sources"].values())
    return without and set(found["cgroup"]["paths"].values()) == {"/"}


def test_clients_in_another_cgroup_namespace_are_told_no_path_of_the_host(
    service, make_cgroup, make_container
):
    made = make_container(memory=100 * MIB, namespaces=["cgroup"])
    after_main = json.loads(made.exec(python(AFTER_MAIN, service, "self")).stdout)
    assert after_main["memory"]["limit_bytes"] == 100 * MIB
    assert is_told_no_path_of_the_host(after_main)
    hosts = made.cgroup.command(["nsenter", "-t", str(made.pid), "-p", "-m", "cat"])
    with subprocess.Popen(hosts, stdin=subprocess.PIPE) as entered:  # not its cgroup namespace
        names = ["sh", "-c", "grep -lx cat /proc/[0-9]*/comm || :"]
        [comm] = wait_until(lambda: made.exec(names).stdout.split(), what="the process")
        number = comm.decode().split("/")[2]
        assert is_told_no_path_of_the_host(ask(made, service, f"pid {number}"))
        assert entered.stdin is not None
        entered.stdin.close()
    other = make_container(memory=100 * MIB)
    client = ["unshare", "--cgroup", *python(CLIENT, service)]  # as with --pid=host
    for command in ("self", f"pid {other.pid}", f"pid {os.getpid()}"):
        assert is_told_no_path_of_the_host(json.loads(make_cgroup().run([*client, command])))
    # In the namespace of the service nothing is hidden by that.
    assert not is_told_no_path_of_the_host(line(service, f"pid {other.pid}"))


def test_a_limit_of_a_level_above(service, make_cgroup, make_container):
    parent = make_cgroup()
    parent.limits(memory=150 * MIB)
    made = make_container(parent=parent, memory=300 * MIB)
    found = ask(made, service)
    assert found["memory"]["limit_bytes"] == 150 * MIB
    assert found["sources"]["memory.limit_bytes"]["level"] == 1


def test_a_request_of_kubernetes_is_told_as_one(make_container, hierarchies):
    made = make_container(memory=200 * MIB)
    request.write(hierarchies, hierarchies.paths_of(made.pid), 0.5, 100 * MIB)
    found = resources.of(made.pid)
    assert found.cpu.quota == 0.5
    assert found.sources["cpu.quota"].file.endswith(f"@{request.ATTRIBUTE}")
    assert found.memory.limit_bytes == 200 * MIB  # what limits is not requested
    assert "@" not in found.sources["memory.limit_bytes"].file


@both_ways
def test_only_processes_of_the_own_pid_namespace_can_be_asked_for(service, make_container):
    made = make_container(memory=100 * MIB)
    other = make_container(memory=200 * MIB)
    assert ask(made, service, "pid 1")["memory"]["limit_bytes"] == 100 * MIB
    for pid in (other.pid, os.getpid(), 0, 4194303):
        assert "no such process" in ask(made, service, f"pid {pid}")["error"]
    # From the host every process has a number.
    assert line(service, f"pid {other.pid}")["memory"]["limit_bytes"] == 200 * MIB
    status, found = get(service, f"/v1/processes/{made.pid}")
    assert status == 200
    assert found["memory"]["limit_bytes"] == 100 * MIB


@both_ways
def test_namespaces_inside_of_a_container_change_nothing(service, make_container):
    made = make_container(memory=100 * MIB)
    for around in (
        ["unshare", "--user", "--map-root-user"],
        ["unshare", "--pid", "--fork"],
        ["unshare", "--pid", "--fork", "unshare", "--pid", "--fork", "--mount-proc"],
    ):
        assert ask(made, service, "self", *around)["memory"]["limit_bytes"] == 100 * MIB


def test_what_enters_a_container_is_not_waited_for_in_the_loop(
    tmp_path, make_container, monkeypatch
):
    """A container can stop a process that enters its namespaces."""
    made = make_container(memory=100 * MIB, namespaces=["cgroup"])
    query = Query(init_pid_method="scm")
    entering, reading = set(), set()

    def noted(owner: object, name: str, threads: set[int]) -> None:
        work = getattr(owner, name)

        def noting(*words, **more):
            threads.add(threading.get_ident())
            return work(*words, **more)

        monkeypatch.setattr(owner, name, noting)

    noted(HelperProcess, "ask", entering)
    noted(query, "of", reading)
    with serving(tmp_path, query) as path:
        for around in ([], ["unshare", "--cgroup"], ["unshare", "--pid", "--fork"]):
            for command in ("self", "pid 1"):
                assert "scope" in ask(made, path, command, *around)
    assert entering
    assert len(reading) == 1
    assert not entering & reading


def test_a_container_is_one_however_many_namespaces_it_makes(make_container):
    made = make_container()
    with made.popen(
        ["unshare", "--pid", "--fork", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ):
        known = (0, made.pidns, pidns_of(os.getpid()))
        pid = wait_until(
            lambda: next((one for one in made.cgroup.pids() if pidns_of(one) not in known), 0),
            what="a process in a namespace below",
        )
        assert outermost(pid, pidns_of(os.getpid())) == made.pidns
        assert outermost(made.pid, pidns_of(os.getpid())) == made.pidns
        assert outermost(os.getpid(), pidns_of(os.getpid())) == pidns_of(os.getpid())


def test_limits_go_by_container_by_user_and_by_cgroup_of_root(make_cgroup, make_container):
    own = pidns_of(os.getpid())
    made, other = make_container(), make_container()
    one, two = make_cgroup(), make_cgroup()
    with contextlib.ExitStack() as stack:

        def started(cgroup: Cgroup, uid: int = 0, *around: str) -> int:
            """Start a process in the pid namespace of this one."""
            enter = "".join([f"echo 0 > {file};" for file in cgroup.procs])
            user = ["setpriv", "--clear-groups", f"--reuid={uid}"] if uid else []
            script = f'{enter} exec "$@"'
            command = ["sh", "-ec", script, "sh", *user, *around, "sh", "-c", "echo; exec cat"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, **pipes))
            stack.callback(process.stdin.close)
            process.stdout.readline()
            return process.pid

        keys = {
            "container": fair_key(made.pid, 0, own),
            "another container": fair_key(other.pid, 0, own),
            "cgroup of root": fair_key(started(one), 0, own),
            "another cgroup of root": fair_key(started(two), 0, own),
            "user": fair_key(started(one, 1234), 1234, own),
            "another user": fair_key(started(one, 1235), 1235, own),
            "ended": fair_key(0, 0, own),
        }
        assert len(set(keys.values())) == len(keys)
        assert fair_key(made.pid, 1234, own) == keys["container"]
        # What a user and a container's root can make for themselves gives no other share.
        assert fair_key(started(one, 0, "unshare", "-UC"), 0, own) == keys["cgroup of root"]
        assert fair_key(started(two, 1234, "unshare", "-UC"), 1234, own) == keys["user"]


def test_at_the_limit_on_all_connections_the_client_with_the_most_loses_one(
    tmp_path, make_container
):
    made = make_container(memory=100 * MIB)
    with serving(tmp_path, most=3) as path, contextlib.ExitStack() as stack:
        clients = []
        for _ in range(3):
            clients.append(Http(path))
            stack.callback(clients[-1].close)
            assert clients[-1].get("/v1/self")[0] == 200
        used, idle, other = clients
        assert used.get("/v1/self")[0] == 200
        assert ask(made, path)["memory"]["limit_bytes"] == 100 * MIB
        assert rest(idle.sock) == b""
        for one in (used, other):
            assert one.get("/v1/self")[0] == 200


def as_told(devices: Iterable[Device]) -> set[tuple[str, int, int]]:
    return {("block" if is_block else "char", major, minor) for is_block, major, minor in devices}


def numbers_in(found: dict) -> set[tuple[str, int, int]]:
    return {(one["type"], one["major"], one["minor"]) for one in found["allowed"]}


def test_a_container_is_told_the_devices_that_the_kernel_lets_it_open(
    service, make_container, tmp_path
):
    one, other, free = make_container(), make_container(), make_container()
    kit.allow_only(one.cgroup, [*USUAL, Allowed("b", 7, 0, "r")])
    kit.allow_only(other.cgroup, [*USUAL, Allowed("c", 1, 11)])
    every = kit.devices_of_host()
    for made in (one, other):
        told = ask_http(made, service, "/v1/self/devices")
        assert numbers_in(told) == as_told(kit.ask_kernel(made.cgroup, every, tmp_path))
        outside = resources.devices(made.pid)
        assert told == json.loads(json.dumps(outside.document(with_paths=False)))
        names = {device["name"] for device in told["allowed"]}
        assert {"null", "urandom", "tty"} <= names
        assert ("kmsg" in names) == (made is other)
    told = ask_http(free, service, "/v1/self/devices")
    assert told["allowed"] is None
    assert told["sources"]


def test_the_library_in_a_container_tells_devices_as_far_as_it_may(make_container, tmp_path):
    if shutil.which("setpriv") is None:
        require("clients", "there is no setpriv")
    made = make_container()
    kit.allow_only(made.cgroup, USUAL)
    truth = kit.ask_kernel(made.cgroup, kit.devices_of_host(), tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*_LIBRARY, "--devices"]
    assert numbers_in(json.loads(made.exec(command, env=env).stdout)) == as_told(truth)
    # bpf(2) is not for a process without capabilities; v1's list is for all.
    without = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    found = json.loads(made.exec(without, env=env).stdout)
    if kit.has_v1(made.cgroup):
        assert numbers_in(found) == as_told(truth)
        assert [source["file"] for source in found["sources"]] == ["devices.list"]
    else:
        assert found == {"allowed": None, "sources": []}


def test_changes_are_events(service, make_cgroup, make_container):
    parent = make_cgroup()
    parent.limits(memory=300 * MIB)
    made = make_container(parent=parent, memory=200 * MIB)
    events = made.popen(python(EVENTS, service), stdout=subprocess.PIPE)
    with events:
        limits = _limits(events.stdout)
        changed = ["memory.limit_bytes", "memory.total_bytes"]
        assert next(limits) == (200 * MIB, [])
        made.limits(memory=100 * MIB)
        assert next(limits) == (100 * MIB, changed)
        parent.limits(memory=50 * MIB)
        assert next(limits) == (50 * MIB, changed)
        events.kill()


def test_a_stream_says_nothing_about_a_process_that_got_the_pid_of_its_client(
    tmp_path, make_cgroup
):
    """The client ends while its cgroup is read, and another process holds the connection."""
    one, other = make_cgroup(), make_cgroup()
    one.limits(memory=300 * MIB)
    other.limits(memory=200 * MIB)
    names = ("memory.limit_in_bytes", "memory.max")
    limit = next(file for name in names if (file := one.directory("memory") / name).exists())
    procs = [" ".join(map(str, cgroup.procs)) for cgroup in (one, other)]
    command = ["unshare", "-pf", "--kill-child", "--mount-proc", sys.executable, "-m"]
    done = subprocess.run(
        [*command, "tests.cgroup.reused", str(tmp_path), str(limit), str(100 * MIB), *procs],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.decode().splitlines() == [f"True {200 * MIB}", "0"]


def _limits(stream) -> Iterator[tuple[int, list[str]]]:
    for text in stream:
        if text.startswith(b"data: "):
            found = json.loads(text.removeprefix(b"data: "))
            yield found["memory"]["limit_bytes"], found["changed"]


def test_watch_yields_changes_until_the_end(make_cgroup, make_container):
    made = make_container(memory=200 * MIB)
    changes = resources.watch(made.pid)
    first = next(changes)
    assert first.changed == ()
    assert first.resources.memory.limit_bytes == 200 * MIB
    made.limits(memory=100 * MIB)
    change = next(changes)
    assert change.changed == ("memory.limit_bytes", "memory.total_bytes")
    assert change.resources.memory.limit_bytes == 100 * MIB
    made.limits(cpus=0.5)
    while "cpu.quota" not in change.changed:  # v1 has two files
        change = next(changes)
    assert change.resources.cpu.quota == 0.5
    made.limits(cpuset="0")
    while "cpu.cpuset" not in change.changed:
        change = next(changes)
    assert change.resources.cpu.cpuset == (0,)
    made.close()
    with contextlib.suppress(Gone):  # its cgroup may be removed first
        assert list(changes) == []


def test_watch_yields_nothing_that_was_read_after_the_end(make_cgroup):
    """By then the pid may be another process's; here the read is of another one."""
    made = make_cgroup()
    made.limits(memory=200 * MIB)
    query = Query()
    of = query.of
    with subprocess.Popen(made.command(["cat"]), stdin=subprocess.PIPE) as process:
        comm = Path(f"/proc/{process.pid}/comm")
        wait_until(lambda: comm.read_text() == "cat\n", what="the process in its cgroup")
        changes = resources.watch(process.pid, query=query)
        assert next(changes).resources.memory.limit_bytes == 200 * MIB

        def swapped(_: int) -> resources.Resources:
            process.kill()
            process.wait()
            return of(os.getpid())

        query.of = swapped
        made.limits(memory=100 * MIB)
        assert list(changes) == []
        assert process.returncode is not None


def test_a_controller_that_is_enabled_later_makes_events(make_cgroup, make_container):
    if not is_v2():
        pytest.skip("v1 has the files of a controller from the start")
    parent = make_cgroup()
    enabled = parent.directory("memory") / "cgroup.subtree_control"
    made = make_container(parent=parent)
    enabled.write_text("-memory")
    limit = made.cgroup.directory("memory") / "memory.max"
    assert not limit.exists()
    changes = resources.watch(made.pid)
    assert next(changes).resources.memory.limit_bytes is None
    for _ in range(2):  # the files are others the second time
        enabled.write_text("+memory")
        limit.write_text(f"{100 * MIB}")
        assert next(changes).resources.memory.limit_bytes == 100 * MIB
        limit.write_text(f"{50 * MIB}")
        assert next(changes).resources.memory.limit_bytes == 50 * MIB
        enabled.write_text("-memory")
        assert next(changes).resources.memory.limit_bytes is None


_LIBRARY = [sys.executable, "-m", "pylxcfs", "resources", "--json"]


def library_in(made: Container, script: str) -> dict:
    """Ask the library in a container, without any daemon."""
    return json.loads(command_in(made, script, *_LIBRARY).stdout)


def command_in(made: Container, script: str, *command: str) -> subprocess.CompletedProcess[bytes]:
    v1 = [",".join(one.controllers) for one in mounted() if one.controllers]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "V1": " ".join(v1)}
    return made.exec(["unshare", "-m", "sh", "-ec", script, "sh", *command], env=env)


def test_the_library_in_a_container(make_container):
    made = make_container(memory=300 * MIB, cpus=0.5, cpuset="0", namespaces=["cgroup"])
    found = library_in(made, RUNTIME_MOUNTS)
    assert found["scope"] == "container"
    assert found["memory"]["limit_bytes"] == 300 * MIB
    assert found["cpu"]["quota"] == 0.5
    assert found["sources"]["cpu.quota"]["level"] == 0
    assert found["cgroup"]["paths"].get("memory", "/") == "/"
    assert found["sources"]["uptime_s"]["file"] == "/proc/1/stat"


def test_the_library_in_a_container_without_cgroups(make_container):
    made = make_container(memory=300 * MIB, cpuset="0", namespaces=["cgroup"])
    umount = 'umount -R /sys/fs/cgroup; exec "$@"'
    found = library_in(made, umount)
    assert found["scope"] == "unknown"
    assert found["memory"]["limit_bytes"] is None
    assert "memory.limit_bytes" not in found["sources"]
    assert found["cpu"]["affinity"] == [0]
    assert found["advice"]["threads"]["value"] == 1
    for words in (_LIBRARY, [*_LIBRARY[:3], "env"]):
        told = command_in(made, umount, *words).stderr.decode()
        assert told.startswith("pylxcfs: limits are not known here: ")
    devices = command_in(made, umount, *_LIBRARY, "--devices")
    assert json.loads(devices.stdout) == {"allowed": None, "sources": []}
    reason = "the hierarchy with the rules for them is not mounted here"
    assert devices.stderr.decode() == f"pylxcfs: the devices are not known: {reason}\n"
    assert command_in(made, RUNTIME_MOUNTS, *_LIBRARY).stderr == b""


def test_the_library_where_no_sysfs_is_mounted(make_container):
    made = make_container(memory=300 * MIB, cpuset="0")
    found = library_in(made, 'umount -R /sys; exec "$@"')
    assert found["cpu"]["visible"] == list(HostFiles().online_cpus())
    assert found["advice"]["threads"]["value"] == 1


def test_where_no_proc_is_mounted_no_process_has_ended():
    away = ["unshare", "-m", "sh", "-ec", 'umount -l /proc; exec "$@"', "sh"]
    asked = """
from pylxcfs import resources
for ask in (resources.of, resources.devices, lambda: next(resources.watch())):
    try:
        ask()
    except resources.query.SourceError as error:
        print(type(error).__name__)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    library = subprocess.run([*away, sys.executable, "-c", asked], capture_output=True, env=env)
    assert library.stdout.split() == [b"SourceError"] * 3
    for words in (_LIBRARY, [*_LIBRARY, "--watch"], [*_LIBRARY[:3], "env"]):
        done = subprocess.run([*away, *words], capture_output=True, env=env)
        assert done.returncode == 2
        assert done.stderr.endswith(b"is /proc mounted?\npylxcfs: see pylxcfs doctor\n")


def test_the_library_in_a_container_with_the_mounts_of_the_host_knows_no_limits(make_container):
    """A path of its cgroup namespace names no directory of theirs."""
    made = make_container(memory=300 * MIB, cpus=0.5, namespaces=["cgroup"])
    found = library_in(made, 'exec "$@"')
    told = {name: one["file"] for name, one in found["sources"].items() if one["level"] is not None}
    assert told == {}
    assert found["scope"] == "unknown"
    assert found["memory"]["limit_bytes"] is found["memory"]["usage_bytes"] is None
    assert found["advice"]["heap_bytes"]["reason"].endswith("bytes; limits are not known")


def test_a_process_in_a_cgroup_below_is_told_of_its_container(service, make_container, make_below):
    """As the files are."""
    made = make_container(memory=300 * MIB)
    below = make_below(made.cgroup.directory("memory"))
    limit = below / "memory.limit_in_bytes"
    if limit.exists():  # v1
        limit.write_text(f"{100 * MIB}")
    found = ask(
        made, service, "self", "sh", "-ec", f'echo 0 > {below}/cgroup.procs; exec "$@"', "sh"
    )
    assert found["memory"]["limit_bytes"] == 300 * MIB
    assert found["sources"]["memory.limit_bytes"]["level"] == 0
