"""The examples of docs/resources.md, and curl, asking the socket from containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import pytest

from pylxcfs.attach import runtime as runtime_wrapper
from pylxcfs.keeper.resources import listen
from tests.clients.engines import (
    MEMORY,
    busybox_root,
    give,
    open_directory,
    programs,
    pylxcfs,
    remove_cgroups,
    without_v2,
)
from tests.clients.test_docker import IMAGE, LIMITS, Docker
from tests.clients.test_lxc import AUTO, lxc
from tests.clients.test_oci import _fill
from tests.clients.test_podman import running as podman_in
from tests.conftest import require_fuse, run_name, wait_until
from tests.kit.container import Container
from tests.kit.cri import Containerd
from tests.kit.daemon import ROOT, Daemon
from tests.unit.resources.test_openapi import check

#: Where the examples look for the socket.
PLACE = "/run/pylxcfs/resources.sock"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    require_fuse()
    with Daemon("--resources") as running:
        yield running


@pytest.fixture(scope="module")
def socket(daemon: Daemon) -> Path:
    return daemon.runtime_dir / "resources.sock"


@pytest.fixture(scope="module")
def limited(daemon: Daemon) -> Iterator[Container]:
    with Container(memory=MEMORY, cpus=1) as container:
        yield container


def example(language: str) -> str:
    """Return the example in a language."""
    text = (ROOT / "docs/resources.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def line_for(start: str, source: Path) -> str:
    """Return the only line of the document that begins so, with another source."""
    text = (ROOT / "docs/resources.md").read_text()
    (line,) = re.findall(rf"^    ({re.escape(start)}.*)$", text, re.MULTILINE)
    assert PLACE in line
    return str(line).replace(PLACE, str(source), 1)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client in C, as a static program."""
    programs("clients", "cc")
    directory = tmp_path_factory.mktemp("c")
    (directory / "ask.c").write_text(example("c"))
    assert len(example("c").splitlines()) <= 40
    command = ["cc", "-static", "-Wall", "-Wextra", "-Werror", "-O2", "-o"]
    subprocess.run([*command, directory / "ask", directory / "ask.c"], check=True)
    return directory / "ask"


TOLD = f"threads 1\nmemory {MEMORY}\n"
WITHOUT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}


def ends_with_an_error(command: list[str]) -> None:
    """Fail if a client says nothing on stderr, or anything on stdout."""
    done = subprocess.run(command, **WITHOUT)
    assert done.returncode != 0
    assert done.stderr
    assert done.stdout == ""


def test_the_static_client(static: Path, socket: Path, limited: Container) -> None:
    assert limited.exec([str(static), str(socket)]).stdout.decode() == TOLD
    outside = subprocess.run([static, socket], capture_output=True, text=True, check=True).stdout
    assert outside.startswith("threads ")
    missing = subprocess.run([static, "/nonexistent"], capture_output=True, text=True)
    assert (missing.returncode, missing.stderr) == (1, "/nonexistent: No such file or directory\n")


def test_the_static_client_survives_a_connection_that_is_closed_at_once(
    static: Path, tmp_path: Path
) -> None:
    cpus = os.sched_getaffinity(0)
    with listen(str(tmp_path)) as listener:

        def close_all() -> None:
            with contextlib.suppress(OSError):  # it was shut down
                while True:
                    listener.accept()[0].close()

        # The client waits for the thread on the same CPU: it is closed before it writes.
        os.sched_setaffinity(0, {min(cpus)})
        thread = threading.Thread(target=close_all)
        thread.start()
        command = ["chrt", "-i", "0", str(static), str(tmp_path / "resources.sock")]
        try:
            for _ in range(10):
                assert subprocess.run(command, **WITHOUT).returncode == 1
        finally:
            os.sched_setaffinity(0, cpus)
            listener.shutdown(SHUT_RDWR)
            thread.join()


def test_python(socket: Path, limited: Container) -> None:
    text = example("python").replace(PLACE, str(socket))
    python = [sys.executable, "-I", "-S", "-c"]
    assert limited.exec([*python, text]).stdout.decode() == TOLD
    without = subprocess.run([*python, text.replace(str(socket), "/nonexistent")], **WITHOUT)
    assert (without.returncode, without.stderr) == (0, "")
    assert without.stdout == f"threads {os.cpu_count()}\nmemory None\n"


def test_node(socket: Path, limited: Container) -> None:
    programs("clients", "node")
    text = example("javascript").replace(PLACE, str(socket))
    assert limited.exec(["node", "-e", text]).stdout.decode() == TOLD
    ends_with_an_error(["node", "-e", text.replace(str(socket), "/nonexistent")])


def test_go(socket: Path, limited: Container, tmp_path: Path) -> None:
    programs("clients", "go")
    place = tmp_path / "resources.sock"
    (tmp_path / "ask.go").write_text(example("go").replace(PLACE, str(place)))
    env = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off"}
    build = ["go", "build", "-o", str(tmp_path / "ask"), str(tmp_path / "ask.go")]
    subprocess.run(build, check=True, env=env, cwd=tmp_path)
    ends_with_an_error([str(tmp_path / "ask")])
    place.symlink_to(socket)
    assert limited.exec([str(tmp_path / "ask")]).stdout.decode() == TOLD


def test_a_shell_with_curl(socket: Path, limited: Container) -> None:
    programs("clients", "curl")
    text = example("sh").replace(PLACE, str(socket))
    assert limited.exec(["sh", "-c", text]).stdout == b"threads 1\n"
    ends_with_an_error(["sh", "-c", text.replace(str(socket), "/nonexistent")])
    ends_with_an_error(["sh", "-c", text.replace("v1/self", "v1/processes/0")])
    curl = ["curl", "-sS", "--fail-with-body", "--unix-socket", str(socket)]
    for target, schema in (("self", "Resources"), ("processes/1", "Resources")):
        found = json.loads(limited.exec([*curl, f"http://localhost/v1/{target}"]).stdout)
        check(found, schema)
        assert found["memory"]["limit_bytes"] == MEMORY
    found = json.loads(limited.exec([*curl, "http://localhost/v1/self/devices"]).stdout)
    check(found, "Devices")
    assert found["allowed"] is None
    assert found["sources"]
    done = limited.exec([*curl, "http://localhost/v1/processes/0"], check=False)
    assert done.returncode == 22
    check(json.loads(done.stdout), "Error")


@pytest.fixture(scope="module")
def docker(daemon: Daemon) -> Iterator[Docker]:
    programs("docker", "dockerd", "docker")
    runtimes = pylxcfs(daemon, "oci-runtime", "--daemon-json")
    with open_directory() as directory, Docker(directory, os.environ["PATH"], runtimes) as running:
        yield running


def test_docker(docker: Docker, static: Path, socket: Path) -> None:
    binds = ["-v", f"{socket}:{PLACE}", "-v", f"{static}:/ask:ro"]
    told = docker.command("run", "--rm", *LIMITS, *binds, IMAGE, "/ask").stdout
    assert told.decode() == TOLD
    user = docker.command("run", "--rm", "--user=1000:1000", *LIMITS, *binds, IMAGE, "/ask").stdout
    assert user.decode() == TOLD
    hosts = docker.command("run", "--rm", "--pid=host", *LIMITS, *binds, IMAGE, "/ask").stdout
    assert hosts.decode() == TOLD


def words_for(daemon: Daemon, way: str) -> list[str]:
    """Return what makes `docker run` bind the socket."""
    if way == "docker-args":
        return pylxcfs(daemon, "docker-args").split()
    if way == "oci-runtime":
        return ["--runtime=pylxcfs"]
    (line,) = [line for line in daemon.log.splitlines() if "docker run" in line]
    words = shlex.split(line)
    return [f"--mount={words[words.index('--mount') + 1]}"]


@pytest.mark.parametrize(
    "confined",
    [
        [],
        ["--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges"],
        ["--read-only"],
        ["--read-only", "--tmpfs=/run"],
    ],
    ids=["", "no-privileges", "read-only", "tmpfs"],
)
@pytest.mark.parametrize("way", ["docker-args", "oci-runtime", "printed-line"])
def test_docker_gets_the_socket_by_the_same_word_as_the_files(
    daemon: Daemon, docker: Docker, static: Path, way: str, confined: list[str]
) -> None:
    options = [*words_for(daemon, way), *LIMITS, *confined, "-v", f"{static}:/ask:ro"]
    assert docker.command("run", "--rm", *options, IMAGE, "/ask").stdout.decode() == TOLD


def test_docker_starts_a_container_that_is_stopped_once_more(
    daemon: Daemon, docker: Docker, static: Path
) -> None:
    """Its root filesystem has the file that the runtime has made."""
    options = ["--runtime=pylxcfs", *LIMITS, "-v", f"{static}:/ask:ro"]
    name = docker.command("create", *options, IMAGE, "/ask").stdout.decode().strip()
    try:
        for _ in range(2):
            assert docker.command("start", "--attach", name).stdout.decode() == TOLD
    finally:
        docker.command("rm", "--force", name)


def test_docker_starts_where_a_volume_leaves_no_place(daemon: Daemon, docker: Docker) -> None:
    with open_directory() as volume:
        options = ["--runtime=pylxcfs", *LIMITS, "-v", f"{volume}:/run:ro"]
        command = ["run", "--rm", *options, IMAGE, "cat", "/proc/meminfo"]
        shown = docker.command(*command).stdout
        assert shown.split()[1] == b"%d" % (MEMORY >> 10)  # the files are there
        assert list(volume.iterdir()) == []


def run_bundle(bundle: Path, name: str, runtime: str, *before: str) -> str:
    command = [*without_v2(runtime), *(before or (runtime,)), "--root", str(bundle / "state")]
    try:
        done = subprocess.run(
            [*command, "run", "-b", str(bundle), name],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
    finally:
        remove_cgroups(name)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _asking(
    bundle: Path, daemon: Daemon, name: str, static: Path, *, user_namespace: bool
) -> dict[str, Any]:
    """Fill a bundle that asks the socket; return its configuration, which is not written yet."""
    _fill(bundle, daemon, name, user_namespace=user_namespace, fragment=False)
    shutil.copy(static, bundle / "rootfs/bin/ask")
    if user_namespace:
        give(bundle / "rootfs/bin")
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/ask"]
    return config


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("way", ["oci-spec", "oci-runtime"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_bundle_gets_the_socket_by_the_same_word_as_the_files(
    daemon: Daemon, static: Path, runtime: str, way: str, user_namespace: bool
) -> None:
    programs("clients", "runc", runtime)
    with open_directory() as bundle:
        name = run_name(f"{runtime}-resources")
        config = _asking(bundle, daemon, name, static, user_namespace=user_namespace)
        (bundle / "config.json").write_text(json.dumps(config))
        before = []
        if way == "oci-spec":
            pylxcfs(daemon, "oci-spec", "--patch", str(bundle / "config.json"))
        else:
            socket = str(daemon.runtime_dir / "resources.sock")
            before = [sys.executable, "-ISE", runtime_wrapper.__file__]
            before += ["--pylxcfs-runtime", runtime, "--pylxcfs-resources", socket]
            before += ["--pylxcfs-mountpoint", str(daemon.mountpoint)]
        assert run_bundle(bundle, name, runtime, *before) == TOLD


@pytest.mark.parametrize("obstacle", ["no socket", "read-only", "foreign owner"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_bundle_without_a_place_for_the_socket_starts(
    daemon: Daemon, runtime: str, obstacle: str
) -> None:
    """With that mount the runtime would refuse to start it."""
    programs("clients", "runc", runtime)
    with open_directory() as bundle:
        name = run_name(f"{runtime}-resources")
        foreign = obstacle == "foreign owner"
        _fill(bundle, daemon, name, user_namespace=foreign, fragment=False)
        config = json.loads((bundle / "config.json").read_text())
        config["process"]["args"] = ["/bin/head", "-n1", "/proc/meminfo"]
        root, socket = bundle / "rootfs", daemon.runtime_dir / "resources.sock"
        if obstacle == "no socket":
            socket = bundle / "gone.sock"
        elif foreign:
            os.chown(root, 0, 0)
        else:
            command = ["mount", "--bind", "-o", "ro", str(root), str(root)]
            subprocess.run(command, check=True, timeout=60)
        try:
            (bundle / "config.json").write_text(json.dumps(config))
            wrapper = [sys.executable, "-ISE", runtime_wrapper.__file__]
            wrapper += ["--pylxcfs-runtime", runtime, "--pylxcfs-resources", str(socket)]
            wrapper += ["--pylxcfs-mountpoint", str(daemon.mountpoint)]
            shown = run_bundle(bundle, name, runtime, *wrapper)
            assert shown.split()[1] == str(MEMORY >> 10)
        finally:
            if obstacle == "read-only":
                subprocess.run(["umount", str(root)], check=True, timeout=60)


@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_bundle(
    daemon: Daemon,
    static: Path,
    socket: Path,
    tmp_path: Path,
    runtime: str,
    user_namespace: bool,
) -> None:
    programs("clients", "runc", runtime)
    with open_directory() as bundle:
        name = run_name(f"{runtime}-resources")
        config = _asking(bundle, daemon, name, static, user_namespace=user_namespace)
        config["mounts"].append(
            {
                "destination": PLACE,
                "type": "bind",
                "source": str(socket),
                "options": ["bind", "nosuid", "nodev"],
            }
        )
        (bundle / "config.json").write_text(json.dumps(config))
        assert run_bundle(bundle, name, runtime) == TOLD


def test_the_documents_mount_is_that_of_the_commands() -> None:
    mount = json.loads(example("json"))
    ours = runtime_wrapper.resources_mount(PLACE)
    assert mount == ours


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_documents_line(docker: Docker, static: Path, socket: Path, engine: str) -> None:
    words = line_for(f"{engine} run --mount", socket).split()
    assert [words[0], words[1], words[-1]] == [engine, "run", "IMAGE"]
    options = [*words[2:-1], "-v", f"{static}:/ask:ro"]
    if engine == "docker":
        told = docker.command("run", "--rm", *LIMITS, *options, IMAGE, "/ask").stdout
        assert told.decode() == TOLD
        return
    programs("clients", "podman", "runc")
    with open_directory() as place, podman_in(place) as podman:
        done = podman("runc", *options, argv=("/ask",))
        assert done.stdout.decode() == TOLD, done.stderr.decode()


@pytest.mark.parametrize("way", ["cdi", "docker-args"])
@pytest.mark.parametrize(
    ("runtime", "user_namespace"),
    [("runc", False), ("runc", True), ("crun", False)],
    ids=["runc", "runc-user-namespace", "crun"],
)
def test_podman(daemon: Daemon, static: Path, way: str, runtime: str, user_namespace: bool) -> None:
    programs("clients", "podman", runtime)
    with open_directory() as place, podman_in(place) as podman:
        if way == "cdi":
            pylxcfs(daemon, "cdi", "install", "--directory", str(place / "cdi"))
            words = ["--device=pylxcfs.io/view=all", "--device=pylxcfs.io/view=resources"]
        else:
            words = pylxcfs(daemon, "docker-args").split()
        words += ["-v", f"{static}:/ask:ro"]
        done = podman(runtime, *words, user_namespace=user_namespace, argv=("/ask",))
        assert done.stdout.decode() == TOLD, done.stderr.decode()


@pytest.mark.parametrize("over_run", [False, True], ids=["", "tmpfs"])
@pytest.mark.parametrize("user_namespace", [False, True], ids=["", "user-namespace"])
def test_lxc(static: Path, socket: Path, user_namespace: bool, over_run: bool) -> None:
    programs("lxc", "lxc-start", "lxc-attach", "lxc-stop")
    with open_directory() as directory:
        root = busybox_root(directory / "root")
        shutil.copy(static, root / "bin/ask")
        if user_namespace:
            give(root)
        lines = [line_for(f"lxc.mount.entry = {PLACE}", socket)]
        if over_run:
            text = (ROOT / "docs/resources.md").read_text()
            lines = [*re.findall(r"^    (lxc.mount.entry = tmpfs run .*)$", text, re.M), *lines]
            assert len(lines) == 2
        files = "\n".join([AUTO, *lines, ""])
        with lxc(directory, root, files, user_namespace=user_namespace) as attach:
            ask = [*attach, "/bin/ask"]
            told = lambda: subprocess.check_output(ask, timeout=60).decode() == TOLD  # noqa: E731
            wait_until(told, what="one CPU")  # LXC limits CPU time last
        assert (root / "run/pylxcfs/resources.sock").exists() == (not over_run)


def test_a_volume_of_a_pod(static: Path, socket: Path) -> None:
    programs("clients", "containerd", "ctr", "runc")
    with open_directory() as directory, Containerd(directory, os.environ["PATH"]) as containerd:
        pod = containerd.pod(volumes={PLACE: str(socket), "/ask": str(static)})
        try:
            assert pod.output("/ask").decode() == TOLD
        finally:
            pod.end()
