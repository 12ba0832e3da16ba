"""The resources socket in what engines are told, and where a runtime is not told of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pylxcfs.attach import engines, runtime
from pylxcfs.cli import engines as command
from pylxcfs.errors import UsageError

TARGET = "/run/pylxcfs/resources.sock"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A runtime directory with a socket."""
    directory = tmp_path / "runtime"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "resources.sock"))
        yield directory


def test_the_place_is_that_of_the_instance(served: Path, tmp_path: Path) -> None:
    ours = str(served / "resources.sock")
    assert command.resources_served(str(served)) == ours
    (served / "status.json").write_text('{"resources": null}')
    assert command.resources_served(str(served)) == ours  # `pylxcfs resources-service`
    with socket.socket(socket.AF_UNIX) as systemds:
        systemds.bind(str(tmp_path / "systemd.sock"))
        (served / "status.json").write_text(
            json.dumps({"resources": str(tmp_path / "systemd.sock")})
        )
        assert command.resources_served(str(served)) == str(tmp_path / "systemd.sock")


@pytest.mark.parametrize("kind", ["missing", "file", "directory", "link"])
def test_what_is_no_socket_is_not_served(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "resources.sock"
    make: dict[str, Callable[[], object]] = {
        "missing": lambda: None,
        "file": place.touch,
        "directory": place.mkdir,
        "link": lambda: place.symlink_to("nowhere"),
    }
    make[kind]()
    assert command.resources_served(str(tmp_path)) is None
    assert command.resources_place(str(tmp_path)) == str(place)
    assert "--mount" not in engines.docker_args(
        "/m", *command.with_resources(None, "/m", str(tmp_path))
    )


def test_docker_args_end_with_the_socket(served: Path) -> None:
    paths, resources = command.with_resources(None, "/m", str(served))
    words = engines.docker_args("/m", paths, resources).split()
    assert words[-2:] == ["--mount", f"type=bind,src={served}/resources.sock,dst={TARGET},ro"]
    assert "/m/proc/meminfo:/proc/meminfo:ro" in words
    # Who names files gets these alone; the socket has a name, too.
    assert command.with_resources("proc/meminfo", "/m", str(served)) == (["proc/meminfo"], None)
    found = command.with_resources(f"proc/stat,{TARGET}", "/m", str(served))
    assert found == (["proc/stat"], f"{served}/resources.sock")
    with pytest.raises(UsageError, match="is not served"):
        command.with_resources(TARGET, "/m", "/nonexistent")


def test_cdi_has_a_device_for_the_socket_alone() -> None:
    """A container with `all` starts also where the socket is gone."""

    def devices(resources: str | None) -> dict[str, Any]:
        found = json.loads(engines.cdi("/m", ["proc/meminfo"], resources))["devices"]
        return {one["name"]: one["containerEdits"] for one in found}

    assert devices(None) == {
        name: edits for name, edits in devices("/s").items() if name != "resources"
    }
    assert devices("/s")["resources"] == {
        "mounts": [
            {
                "hostPath": "/s",
                "containerPath": TARGET,
                "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
            }
        ]
    }


def test_the_runtime_is_told_where_to_look() -> None:
    text = engines.docker_runtime("/m", "python", "runtime.py", None, "/r/resources.sock")
    words = json.loads(text)["runtimes"]["pylxcfs"]["runtimeArgs"]
    assert words[words.index("--pylxcfs-resources") + 1] == "/r/resources.sock"


def bundle(directory: Path, config: dict[str, Any]) -> Path:
    """Write a config.json; `root` in it is a directory beside it."""
    (directory / "rootfs").mkdir(exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps({"root": {"path": "rootfs"}, "mounts": [], **config}))
    return path


def is_bound(path: Path, source: Path) -> bool:
    """Patch it, and return whether the socket is bound; check that this is what is said."""
    before = path.read_text()
    said = runtime.patch_file(str(path), None, resources=str(source))
    mounts = json.loads(path.read_text())["mounts"]
    found = [one for one in mounts if one["destination"] == TARGET]
    assert found == ([runtime.resources_mount(str(source))] if said else [])
    assert said or path.read_text() == before
    return said


def test_a_bundle_gets_the_socket_once(served: Path, tmp_path: Path) -> None:
    path = bundle(tmp_path, {})
    assert is_bound(path, served / "resources.sock")
    assert is_bound(path, served / "resources.sock")


@pytest.mark.parametrize("source", ["gone", "status.json", "."])
def test_a_bundle_gets_nothing_that_is_no_socket(served: Path, tmp_path: Path, source: str) -> None:
    (served / "status.json").touch()
    assert not is_bound(bundle(tmp_path, {}), served / source)


TMPFS = {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}


@pytest.mark.parametrize(
    ("mount", "bound"),
    [
        (TMPFS, True),
        ({**TMPFS, "options": ["ro"]}, False),
        ({"destination": "/run/secrets", "type": "bind", "source": "/x"}, True),
        # Volumes: the runtime would make a file in them, or fail where they are read-only.
        ({"destination": "/run", "type": "bind", "source": "/x"}, False),
        ({"destination": "/var/run/", "type": "bind", "source": "/x"}, False),
        ({"destination": "/run/pylxcfs", "type": "bind", "source": "/x"}, False),
    ],
)
def test_a_mount_above_the_socket(
    served: Path, tmp_path: Path, mount: dict[str, Any], bound: bool
) -> None:
    assert is_bound(bundle(tmp_path, {"mounts": [mount]}), served / "resources.sock") == bound


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("nothing", True),
        ("directories", True),
        ("restarted", True),  # the file that a runtime has made
        ("run is a link", False),
        ("run is a file", False),
        ("a directory in its place", False),
        ("no root filesystem", False),
    ],
)
def test_what_the_root_filesystem_has(served: Path, tmp_path: Path, kind: str, bound: bool) -> None:
    path = bundle(tmp_path, {})
    root = tmp_path / "rootfs"
    match kind:
        case "directories":
            (root / "run/pylxcfs").mkdir(parents=True)
        case "restarted":
            (root / "run/pylxcfs").mkdir(parents=True)
            (root / TARGET[1:]).touch()
        case "run is a link":
            (root / "run").symlink_to("/elsewhere")
        case "run is a file":
            (root / "run").touch()
        case "a directory in its place":
            (root / TARGET[1:]).mkdir(parents=True)
        case "no root filesystem":
            root.rmdir()
    assert is_bound(path, served / "resources.sock") == bound


@pytest.mark.parametrize(("first", "bound"), [(0, True), (1, False)])
def test_the_root_of_a_user_namespace_has_to_own_the_place(
    served: Path, tmp_path: Path, first: int, bound: bool
) -> None:
    def ids(own: int) -> list[dict[str, int]]:
        return [{"containerID": 0, "hostID": own + first, "size": 10}]

    linux = {
        "namespaces": [{"type": "user"}],
        "uidMappings": ids(os.geteuid()),
        "gidMappings": ids(os.getegid()),
    }
    path = bundle(tmp_path, {"linux": linux})
    assert is_bound(path, served / "resources.sock") == bound


@pytest.mark.parametrize("config", [{"root": None}, {"root": {}}, {"linux": [1], "mounts": None}])
def test_a_strange_config_is_no_error(served: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    runtime.patch_file(str(bundle(tmp_path, config)), None, resources=f"{served}/resources.sock")
