"""Build the machine's disks: the system (Python, programs, libraries) and the source tree.

Paths inside are those of the host, so the virtual environment works unchanged. The system is
kept in .cache/ under a name that changes with what went into it; the source tree is small and
made for each boot. Knows nothing of qemu (machine.py) and of kernels (kernel.py).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "vm"

#: What tests run. One that is absent on the host is absent in the machine.
PROGRAMS = """
    sh bash busybox cat chmod cp cut date dd df echo env false fusermount3 grep head hostname htop
    id iostat ip kill ldd ln losetup ls lscpu lsmem lstopo-no-graphics mkdir mknod mount mountpoint
    mpstat mv nproc nsenter numactl ps readlink rm rmdir sar sed seq setpriv sleep sort stat strace
    sync tail tee test timeout top touch true uname umount unshare uptime vmstat wc free taskset
    lsblk lspci lsns findmnt prlimit chroot setarch
"""

#: Data that those programs and glibc look for.
DATA = """
    /etc/group /etc/ld.so.cache /etc/ld.so.conf /etc/ld.so.conf.d /etc/nsswitch.conf /etc/passwd
    /etc/fuse.conf /lib/terminfo /usr/share/terminfo/x /usr/share/terminfo/l /usr/share/terminfo/v
    /usr/lib/locale/C.utf8 /usr/lib/sysstat/sadc
"""

#: Parts of Python's installation that no test imports. Names relative to the library.
NOT_FROM_PYTHON = re.compile(
    r"(test|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-[^/]*|site-packages"
    r"|pydoc_data|distutils/tests|unittest/test|ctypes/test)(/|$)"
)
#: Development tools that run on the host only; they are most of the virtual environment.
NOT_FROM_VENV = re.compile(
    r"(mypy|mypyc|pip|setuptools|grimp|ruff|matplotlib|numpy|PIL|fontTools)"
    r"(/|$)|.*mypyc.*\.so$|numpy\.libs|pillow\.libs"
)

#: What tests in the machine need of the source tree.
SOURCES = ("pylxcfs", "tests", "container", "systemd", "pyproject.toml")
NOT_FROM_SOURCES = re.compile(r"data(/|$)")


def system_image() -> Path:
    """Return the system's disk, built if nothing fitting is in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    image = CACHE / f"system-{_system_key()}.ext4"
    if not image.exists():
        for outdated in CACHE.glob("system-*"):
            shutil.rmtree(outdated) if outdated.is_dir() else outdated.unlink()
        stage = Stage(image.with_suffix(".stage"))
        _fill_system(stage)
        stage.make_image(image, spare=16 << 20)
    return image


def source_image(image: Path, command: str) -> None:
    """Write the source tree's disk, with `command` (a shell script) as /pylxcfs-command."""
    stage = Stage(image.with_suffix(".stage"))
    for name in SOURCES:
        if (REPOSITORY / name).exists():
            stage.add_tree(REPOSITORY / name, NOT_FROM_SOURCES)
    stage.write("/pylxcfs-command", command.encode())
    stage.write("/pylxcfs-init", Path(__file__).with_name("init").read_bytes())
    package = f"{stage.root}{REPOSITORY}/pylxcfs"
    compile_all = [sys.executable, "-m", "compileall", "-q", "-s", str(stage.root), package]
    subprocess.run(compile_all, check=True)
    stage.make_image(image, spare=4 << 20)


def make_filesystem(image: Path, size: int, *options: str) -> None:
    """Write an ext4 file system of `size` bytes: no journal, nothing left to do at its mount."""
    image.unlink(missing_ok=True)
    plain = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=0", "-m", "0"]
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", *plain, *options, str(image), f"{size >> 10}k"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )


class Stage:
    """A directory in which the contents of a disk are laid out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)

    def add(self, path: str | Path) -> None:
        """Copy a file, a link with what it points to, or an empty directory, to the same path."""
        parts = os.path.abspath(path).split("/")[1:]
        host = "/"
        for index, part in enumerate(parts):
            parent, host = host, os.path.join(host, part)
            here = self._at(host)
            if os.path.islink(host):
                target = os.readlink(host)
                if not os.path.lexists(here):
                    os.symlink(target, here)
                rest = os.path.join(parent, target, *parts[index + 1 :])
                return self.add(os.path.normpath(rest))
            if os.path.isdir(host):
                os.makedirs(here, exist_ok=True)
            elif not os.path.exists(here):
                shutil.copy2(host, here)
        return None

    def add_tree(self, top: Path, without: re.Pattern[str] | None = None) -> None:
        """Copy a file or a directory with all in it, but for what matches `without`."""
        self.add(top)
        for directory, names, files in os.walk(top):
            relative = os.path.relpath(directory, top)
            for name in list(names):
                path = os.path.normpath(os.path.join(relative, name))
                if without is not None and without.match(path):
                    names.remove(name)
                elif os.path.islink(os.path.join(directory, name)):
                    self.add(os.path.join(directory, name))
                else:
                    os.makedirs(self._at(os.path.join(directory, name)), exist_ok=True)
            for name in files:
                path = os.path.normpath(os.path.join(relative, name))
                if without is None or not without.match(path):
                    self.add(os.path.join(directory, name))

    def add_libraries(self) -> None:
        """Copy the shared libraries of every ELF file that is here so far."""
        for library in sorted(set(_libraries(self._elf_files()))):
            self.add(library)

    def write(self, path: str, content: bytes, mode: int = 0o755) -> None:
        """Create a file that is not the host's."""
        here = Path(self._at(path))
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(content)
        here.chmod(mode)

    def make_image(self, image: Path, spare: int) -> None:
        """Turn the directory into an ext4 file system, and remove it."""
        size = spare
        for directory, names, files in os.walk(self.root):
            size += 4096 * (1 + len(names))
            for name in files:
                status = os.lstat(os.path.join(directory, name))
                size += (status.st_size + 4095) // 4096 * 4096 + 512
        partial = image.with_suffix(".partial")
        make_filesystem(partial, size * 9 // 8, "-i", "8192", "-d", str(self.root))
        partial.rename(image)
        shutil.rmtree(self.root)

    def _at(self, path: str) -> str:
        return f"{self.root}{path}"

    def _elf_files(self) -> Iterator[str]:
        for directory, _, files in os.walk(self.root):
            for name in files:
                path = os.path.join(directory, name)
                if not os.path.islink(path) and os.access(path, os.R_OK):
                    with open(path, "rb") as file:
                        if file.read(4) == b"\x7fELF":
                            yield path


def find_program(name: str) -> str | None:
    """Find a program of the host, those of root included."""
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def _programs() -> list[str]:
    return [path for name in PROGRAMS.split() if (path := find_program(name)) is not None]


def _system_key() -> str:
    parts = [Path(__file__).read_bytes().hex(), sys.version, sys.prefix]
    parts += sorted(f"{each.name} {each.version}" for each in distributions())
    for path in [sys.executable, *_programs()]:
        status = os.stat(path)
        parts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _fill_system(stage: Stage) -> None:
    for directory in ("dev", "proc", "sys", "run", "tmp", "root", "var", "etc", "mnt", "usr/bin"):
        (stage.root / directory).mkdir(parents=True, exist_ok=True)
    for path in _programs():
        stage.add(path)
    for path in DATA.split():
        if os.path.isdir(path):
            stage.add_tree(Path(path))
        elif os.path.exists(path):
            stage.add(path)
    stage.add(sys.executable)
    stage.add_tree(Path(sysconfig.get_path("stdlib")), NOT_FROM_PYTHON)
    if sys.prefix != sys.base_prefix:
        stage.add(f"{sys.prefix}/pyvenv.cfg")
        stage.add(f"{sys.prefix}/bin/python")
    for name in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        stage.add_tree(Path(name), NOT_FROM_VENV)
    stage.add_libraries()


def _libraries(files: Iterable[str]) -> Iterator[str]:
    command = ["ldd", *files]
    # ldd exits with 1 when one of many files is static.
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in output.splitlines():
        if match := re.search(r"(?:=> |^\s+)(/\S+) \(0x", line):
            yield match[1]
