"""The image: made twice, taken apart, run by containerd, and built by Docker."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from pylxcfs import __version__
from tests.clients.engines import open_directory
from tests.clients.test_docker import Docker
from tests.kit.daemon import ROOT
from tests.kubernetes.image import BUILD_S, REFERENCE, Image, make
from tests.kubernetes.test_alone import HERE, alone

DOCKERFILE = ROOT / "container/image/Dockerfile"
#: The second word of byte code that names a hash of its source, which is not compared.
_UNCHECKED_HASH = 1


def layer(image: Image) -> tarfile.TarFile:
    """Open the one layer."""
    blobs = image.blobs()
    manifest = parsed(blobs, parsed(blobs, "index.json")["manifests"][0])
    (described,) = manifest["layers"]
    content = gzip.decompress(blobs[path_of(described)])
    return tarfile.open(fileobj=io.BytesIO(content))


def parsed(blobs: dict[str, bytes], where: str | dict[str, Any]) -> Any:
    """Return a document of an archive, by its path or by what describes it."""
    return json.loads(blobs[where if isinstance(where, str) else path_of(where)])


def path_of(described: dict[str, Any]) -> str:
    """Return the path of a blob in an archive."""
    return "blobs/" + str(described["digest"]).replace(":", "/")


def test_the_archive_says_what_it_is(image: Image) -> None:
    blobs = image.blobs()
    for name, content in blobs.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == name.rpartition("/")[2]
    (described,) = parsed(blobs, "index.json")["manifests"]
    assert described["annotations"]["io.containerd.image.name"] == REFERENCE
    assert image.printed == f"{REFERENCE}@{described['digest']}"
    config = parsed(blobs, parsed(blobs, described)["config"])
    assert config["config"]["Entrypoint"] == ["pylxcfs"]
    assert config["config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_a_second_build_is_the_same(image: Image, tmp_path: Path) -> None:
    # A clone of a user with another umask, in another directory for temporary files.
    second = make(tmp_path / "second.tar", "umask 077;", TMPDIR=str(tmp_path), TZ="Asia/Tokyo")
    assert second.printed == image.printed
    assert second.archive.read_bytes() == image.archive.read_bytes()


def test_it_is_small_and_has_no_packager(image: Image, record_property: Any) -> None:
    epoch = re.search(r"^ARG SOURCE_DATE_EPOCH=(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert epoch
    unpacked = 0
    names = set()
    with layer(image) as tar:
        for member in tar:
            names.add(member.name)
            unpacked += member.size
            assert member.mtime == int(epoch[1])
            assert member.mode & 0o6000 == 0, f"{member.name} gives rights"
            assert member.name == "tmp" or member.issym() or member.mode & 0o022 == 0
            if member.name.endswith(".pyc"):
                head = tar.extractfile(member).read(8)  # type: ignore[union-attr]
                assert int.from_bytes(head[4:], "little") == _UNCHECKED_HASH
    packed = image.archive.stat().st_size
    record_property("figures", f"{packed / 1e6:.1f} MB, unpacked {unpacked / 1e6:.0f} MB")
    assert packed < 40e6, "docs/kubernetes.md says less"
    for program in ("usr/bin/dpkg", "usr/bin/apt", "usr/bin/perl", "usr/bin/pip", "usr/bin/tar"):
        assert program not in names
    assert {"usr/bin/pylxcfs", "usr/bin/sleep", "var/lib/dpkg/status", "mnt"} <= names


def test_containerd_runs_it_as_the_agents_pod(image: Image) -> None:
    alone([HERE / "image.py"], {"PYLXCFS_IMAGE": str(image.archive)})


def test_docker_loads_it_and_builds_the_same(
    image: Image, newer_engines: str, tmp_path: Path
) -> None:
    """The Dockerfile's base is imported from the root of debootstrap, under the name it says."""
    base = re.search(r"^ARG BASE=(debian:([a-z]+)-\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert base
    with open_directory() as directory:
        try:
            with Docker(directory, newer_engines, "{}", "--storage-driver=overlay2") as docker:
                exported, config = _build(docker, image, base, tmp_path)
        finally:
            # dockerd leaves it, for --network=host.
            subprocess.run(["umount", directory / "exec/netns/default"], capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        built = _contents(tar)
    with layer(image) as tar:
        made = _contents(tar)
    # Docker makes files to mount on.
    mounted = {"dev", "etc", "proc", "sys", ".dockerenv"}
    differ = {name for name, what in made.items() if built.get(name) != what} | (
        built.keys() - made.keys()
    )
    assert {name for name in differ if name.split("/")[0] not in mounted} == set()
    blobs = image.blobs()
    wanted = parsed(blobs, parsed(blobs, "manifest.json")[0]["Config"])["config"]
    assert {key: config[key] for key in wanted} == wanted


def _build(
    docker: Docker, image: Image, base: re.Match[str], directory: Path
) -> tuple[bytes, dict[str, Any]]:
    """Load the archive and run it; build another image; return its files and configuration."""
    docker.command("load", input=image.archive.read_bytes())
    # As the webhook runs.
    narrow = ["--network=none", "--user=65532:65532", "--read-only", "--cap-drop=ALL"]
    run = ["run", "--rm", *narrow, f"pylxcfs:{__version__}"]
    assert docker.command(*run, "--version").stdout.split()[-1] == __version__.encode()
    assert b"--volumes" in docker.command(*run, "webhook", "--help").stdout
    docker.command("import", *_like_this_machine(base[2], directory), base[1])
    build = ["build", "--network=host", "--file", str(DOCKERFILE), "--tag=built"]
    docker.command(*build, "--build-arg=SNAPSHOT=", str(ROOT), timeout=BUILD_S)
    docker.command("create", "--name=built", "--network=none", "built")
    (shown,) = json.loads(docker.command("image", "inspect", "built").stdout)
    return docker.command("export", "built").stdout, shown["Config"]


def _like_this_machine(suite: str, directory: Path) -> list[str]:
    """Return options and archive of a base that reaches PyPI as this machine does."""
    archive = directory / "base.tar"
    shutil.copy(ROOT / ".cache/image" / f"{suite}.tar", archive)
    environ = {name: os.environ[name] for name in ("PIP_INDEX_URL",) if name in os.environ}
    if certificates := os.environ.get("PIP_CERT"):
        with tarfile.open(archive, "a") as tar:
            tar.add(certificates, "root/ca.crt", filter=_regular)
        environ["PIP_CERT"] = "/root/ca.crt"
    return [*(f"--change=ENV {name}={value}" for name, value in environ.items()), str(archive)]


def _regular(member: tarfile.TarInfo) -> tarfile.TarInfo:
    assert member.isfile(), member.name
    return member


def _contents(tar: tarfile.TarFile) -> dict[str, tuple[Any, ...]]:
    return {
        member.name.rstrip("/"): (
            member.type,
            oct(member.mode),
            member.linkname,
            hashlib.sha256(tar.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
            if member.isfile()
            else "",
        )
        for member in tar
    }
