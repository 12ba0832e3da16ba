"""Find a kernel for the machine, and make the initial file system that mounts its disks.

The distribution's own package is fetched with apt-get download and unpacked in .cache/, so
nothing is installed; where there is no apt, the host's own kernel is taken. Its modules go into
the initial file system, decompressed, in the order in which they have to be loaded.
"""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .image import CACHE, find_program

#: Loaded at boot, with what they depend on. Those that are built in are skipped.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay", "fuse", "loop")


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel and its modules."""

    vmlinuz: Path
    #: The directory lib/modules/VERSION.
    modules: Path


class NoKernelError(Exception):
    """No kernel could be had. The text says why."""


def find_kernel() -> Kernel:
    """Return a generic kernel: one that is unpacked already, a fetched one, or the host's."""
    unpacked = CACHE / "kernel"
    if not _kernels(unpacked):
        shutil.rmtree(unpacked, ignore_errors=True)
        if shutil.which("apt-get"):
            _fetch(unpacked)
    for root in (unpacked, Path("/")):
        if kernels := _kernels(root):
            return kernels[-1]
    raise NoKernelError("no apt-get to fetch a kernel with, and none in /boot with its modules")


def initramfs(kernel: Kernel) -> Path:
    """Return the initial file system for `kernel`, built if it is not in the cache."""
    script = Path(__file__).with_name("initramfs-init")
    image = CACHE / f"initramfs-{kernel.modules.name}.cpio"
    ours = [script, Path(__file__)]
    if image.exists() and image.stat().st_mtime > max(path.stat().st_mtime for path in ours):
        return image
    busybox = find_program("busybox")
    if busybox is None:
        raise NoKernelError("there is no busybox for the initial file system")
    archive = Cpio()
    for directory in ("bin", "dev", "modules", "proc", "lower", "source", "upper", "root"):
        archive.directory(directory)
    archive.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
    archive.file("init", script.read_bytes(), 0o755)
    for number, module in enumerate(module_files(kernel, MODULES)):
        archive.file(
            f"modules/{number:02}-{module.name.partition('.')[0]}.ko", plain_module(module)
        )
    partial = image.with_suffix(".partial")
    partial.write_bytes(archive.finish())
    partial.rename(image)
    return image


class Cpio:
    """The "newc" format, as the kernel unpacks it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def directory(self, name: str) -> None:
        self._entry(name, b"", 0o040755)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, content, 0o100000 | mode)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", b"", 0)
        return b"".join(self._parts)

    def _entry(self, name: str, content: bytes, mode: int) -> None:
        number = len(self._parts) + 1
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + name.encode() + b"\0", content):
            self._parts.append(part + b"\0" * (-len(part) % 4))


def _kernels(root: Path) -> list[Kernel]:
    found = []
    for modules in sorted((root / "lib/modules").glob("*"), key=_version):
        for vmlinuz in (root / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz"):
            if vmlinuz.exists() and (modules / "kernel").is_dir():
                found.append(Kernel(vmlinuz, modules))
                break
    return found


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _fetch(directory: Path) -> None:
    """Download and unpack the packages of the distribution's generic kernel."""
    release = platform.freedesktop_os_release()
    family = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split()
    meta = "linux-image-generic" if "ubuntu" in family else "linux-image-amd64"
    download = directory.with_suffix(".deb.d")
    shutil.rmtree(download, ignore_errors=True)
    download.mkdir(parents=True)
    try:
        _download(meta, download)
    except NoKernelError:
        # The lists may be absent, or name a package that the mirror no longer has.
        _do(["apt-get", "-o", "Acquire::Retries=3", "-q", "update"], download)
        _download(meta, download)
    for package in download.glob("*.deb"):
        _do(["dpkg-deb", "-x", str(package), str(directory)], download)
    shutil.rmtree(download)
    # Debian 13 and its like unpack to usr/lib.
    if not (directory / "lib").exists() and (directory / "usr/lib").exists():
        (directory / "lib").symlink_to("usr/lib")


def _download(meta: str, directory: Path) -> None:
    packages = sorted(_kernel_packages(meta, 3))
    if not packages:
        raise NoKernelError(f"apt knows no package {meta}")
    options = ["-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root", "-q"]
    _do(["apt-get", *options, "download", *packages], directory)


def _do(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoKernelError(f"{' '.join(command)}: {done.stderr.strip()}")


def _kernel_packages(package: str, depth: int) -> set[str]:
    output = subprocess.run(
        ["apt-cache", "depends", package], capture_output=True, text=True, check=False
    ).stdout
    found = {package} if re.search(r"-\d", package) else set()
    if depth:
        for name in re.findall(r"Depends: (linux-(?:image|modules)-\S+)", output):
            found |= _kernel_packages(name, depth - 1)
    return found


def module_files(kernel: Kernel, modules: Sequence[str]) -> list[Path]:
    """Return the files of `modules` and of all that they need, each after what it needs."""
    listing = kernel.modules / "modules.dep"
    if not listing.exists():
        depmod = find_program("depmod")
        if depmod is None:
            raise NoKernelError("depmod (package kmod) is missing")
        base = kernel.modules.parents[2]
        subprocess.run([depmod, "-b", str(base), kernel.modules.name], check=True)
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in listing.read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[_module_name(path)] = path
        # depmod lists what is needed first last.
        needs[_module_name(path)] = [_module_name(each) for each in reversed(rest.split())]
    order: dict[str, None] = {}
    for module in modules:
        for name in [*needs.get(module, ()), module]:
            if name in paths:
                order[name] = None
    return [kernel.modules / paths[name] for name in order]


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def plain_module(module: Path) -> bytes:
    """Return a module's content, decompressed."""
    if module.suffix == ".xz":
        return lzma.decompress(module.read_bytes())
    if module.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", module], stdout=subprocess.PIPE, check=True).stdout
    return module.read_bytes()
