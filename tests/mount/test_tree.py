"""Both trees as programs walk them: sizes, inode numbers, listings, and what is refused."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.kit.container import Container
from tests.kit.daemon import Daemon

GIB = 1 << 30
DEADLINE_S = 60


@pytest.fixture(scope="module")
def container(daemon: Daemon) -> Iterator[Container]:
    with Container(daemon.mountpoint, memory=GIB, cpus=1) as running:
        yield running


@pytest.fixture(params=["own", "caller"])
def tree(request: pytest.FixtureRequest, daemon: Daemon, container: Container) -> Path:
    """A tree with proc/ and sys/, as the host sees it."""
    if request.param == "own":
        return daemon.mountpoint / "own" / container.key
    return daemon.runtime_dir / "caller"


def run(argv: Sequence[object], **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=DEADLINE_S, **kwargs
    )


#: Compares what READDIR, LOOKUP and GETATTR say; prints how many names it has seen.
_WALK = """
import os, stat, sys
seen = 0
def walk(top):
    global seen
    for entry in os.scandir(top):
        status = os.lstat(entry.path)
        seen += 1
        assert entry.inode() == status.st_ino < 1 << 32, (entry.path, entry.inode(), status.st_ino)
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode), entry.path
        if stat.S_ISDIR(status.st_mode):
            walk(entry.path)
        elif stat.S_ISREG(status.st_mode):
            fd = os.open(entry.path, os.O_RDONLY)
            assert os.fstat(fd).st_ino == status.st_ino, entry.path
            os.close(fd)
walk(sys.argv[1])
print(seen)
"""


def test_st_ino_is_the_same_number_of_32_bits_everywhere(tree: Path) -> None:
    done = run([sys.executable, "-c", _WALK, tree])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.parametrize(
    "command",
    [["find", "{}", "-type", "f", "-size", "+0"], ["du", "-a", "{}"], ["ls", "-lR", "{}"]],
    ids=lambda command: command[0],
)
def test_programs_walk_the_tree(tree: Path, command: list[str]) -> None:
    done = run([word.format(tree) for word in command])
    assert done.returncode == 0, done.stderr
    assert "meminfo" in done.stdout
    assert "online" in done.stdout


def test_grep_reads_the_tree(tree: Path) -> None:
    done = run(["grep", "-r", "MemTotal", tree / "proc"])
    assert f"{tree}/proc/meminfo:MemTotal:" in done.stdout
    # The host's sysfs has files that nobody can read, too.
    refused = run(["grep", "-rc", "", "/sys/devices/system/cpu"]).stderr.count("\n")
    assert run(["grep", "-rc", "", tree / "sys/devices/system/cpu"]).stderr.count("\n") <= refused


#: st_size and the length of what read(2) brings, until they agree: the text may change between.
_SIZES = """
import os, sys
for path in sys.argv[1:]:
    for _ in range(20):
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        text = b"".join(iter(lambda: os.read(fd, 65536), b""))
        os.close(fd)
        if size == len(text) == os.stat(path).st_size:
            break
    else:
        sys.exit(f"{path}: st_size {size}, read {len(text)}")
"""


@pytest.mark.parametrize("bind", ["own", "host"])
def test_st_size_is_the_length_of_what_is_read(daemon: Daemon, bind: Any) -> None:
    names = ("meminfo", "cpuinfo", "stat", "uptime", "loadavg", "swaps", "diskstats")
    paths = [f"/proc/{name}" for name in names] + ["/sys/devices/system/cpu/online"]
    with Container(daemon.mountpoint, bind=bind, memory=GIB, cpus=1) as container:
        container.exec([sys.executable, "-c", _SIZES, *paths])


#: A 32-bit program without large-file support: getdents(2), stat(2) and open(2) of old.
_OLD = """
struct dirent { unsigned long d_ino, d_off; unsigned short d_reclen; char d_name[]; };
static char buffer[4096], path[8192];
static unsigned long status[64];
static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return result;
}
static void leave(long code) { for (;;) call(1, code, 0, 0); }
__attribute__((force_align_arg_pointer)) void begin(long *stack)
{
	char **argv = (char **)(stack + 1);
	long fd = call(5, (long)argv[1], 0200000, 0), size, seen = 0;
	if (fd < 0)
		leave(100);
	while ((size = call(141, fd, (long)buffer, sizeof buffer)) > 0)
		for (long at = 0; at < size; seen++) {
			struct dirent *entry = (struct dirent *)(buffer + at);
			long n = 0;
			for (char *c = argv[1]; *c; c++)
				path[n++] = *c;
			path[n++] = '/';
			for (char *c = entry->d_name; *c; c++)
				path[n++] = *c;
			path[n] = 0;
			if (call(107, (long)path, (long)status, 0)) /* lstat: EOVERFLOW, EINVAL */
				leave(101);
			at += entry->d_reclen;
		}
	if (size < 0)
		leave(102);
	leave(seen > 90 ? 90 : seen);
}
__asm__(".globl _start\\n_start: mov %esp, %eax\\npush %eax\\ncall begin");
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("old")
    source, program = directory / "old.c", directory / "old"
    source.write_text(_OLD)
    flags = ["-m32", "-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie"]
    if shutil.which("cc") is None:
        require("cc", "there is no C compiler")
    done = run(["cc", *flags, "-fno-stack-protector", "-w", "-o", program, source])
    if done.returncode != 0:
        require("m32", f"the compiler makes no 32-bit programs: {done.stderr}")
    if run([program, "/"]).returncode not in range(3, 91):
        require("m32", "this kernel runs no 32-bit programs")
    return program


@pytest.mark.parametrize("name", ["proc", "sys/devices/system/cpu", "sys/devices/system"])
def test_a_32_bit_program_without_large_files_lists_directories(
    tree: Path, old: Path, name: str
) -> None:
    assert run([old, tree / name]).returncode in range(3, 91)


#: Lists a directory that it keeps open, a piece at each line of input.
_LISTER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
buffer = ctypes.create_string_buffer(int(sys.argv[2]))
print("open", flush=True)
for line in sys.stdin:
    if line == "again\\n":
        os.lseek(fd, 0, 0)
    size = libc.syscall(217, fd, buffer, len(buffer))
    if size < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    names, at = [], 0
    while at < size:
        length = int.from_bytes(buffer.raw[at + 16:at + 18], "little")
        names.append(buffer.raw[at + 19:at + length].split(b"\\0")[0].decode())
        at += length
    print(*names, flush=True)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "replaced"])
def test_an_open_directory_goes_on_while_servers_change(way: int) -> None:
    expected = ["the server was ended", "the server failed"]
    with Daemon(expect_log=expected) as daemon, Container(daemon.mountpoint) as container:
        top = "sys/devices/system/cpu"
        own, caller = daemon.mountpoint / "own" / container.key, daemon.runtime_dir / "caller"
        places = [own / top, caller / top]
        listers = [
            subprocess.Popen(
                [sys.executable, "-c", _LISTER, str(place), "200"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                bufsize=1,
            )
            for place in places
        ]  # fmt: skip
        try:
            for lister, place in zip(listers, places, strict=True):
                assert answer(lister, None) == ["open"]
                wanted = set(run(["ls", place]).stdout.split())
                for _ in range(3):
                    found = answer(lister, "again")
                    server = daemon.server
                    os.kill(server if way == signal.SIGKILL else daemon.keeper, way)
                    daemon.wait_new_server(server)
                    while more := answer(lister, "go on"):
                        found += more
                    assert sorted(found) == sorted(set(found))
                    assert set(found) - {".", ".."} == wanted
        finally:
            for lister in listers:
                lister.kill()
                lister.communicate()


def answer(process: subprocess.Popen[str], question: str | None) -> list[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    if question is not None:
        process.stdin.write(question + "\n")
    assert select.select([process.stdout], [], [], DEADLINE_S)[0], "no answer"
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.split()


_CHANGES = """
import os, sys
top, wanted = sys.argv[1], int(sys.argv[2])
file = top + "/proc/meminfo"
changes = {
    "mkdir": lambda: os.mkdir(top + "/new"),
    "mkdir below": lambda: os.mkdir(top + "/proc/new"),
    "create": lambda: os.close(os.open(top + "/proc/new", os.O_CREAT | os.O_WRONLY, 0o644)),
    "mknod": lambda: os.mknod(top + "/proc/new"),
    "symlink": lambda: os.symlink("x", top + "/proc/new"),
    "link": lambda: os.link(file, top + "/proc/new"),
    "unlink": lambda: os.unlink(file),
    "rmdir": lambda: os.rmdir(top + "/sys"),
    "rename": lambda: os.rename(file, top + "/proc/new"),
    "chmod": lambda: os.chmod(file, 0o600),
    "chown": lambda: os.chown(file, 1, 1),
    "utime": lambda: os.utime(file),
    "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
}
for name, change in changes.items():
    try:
        change()
    except OSError as error:
        if error.errno != wanted and not (name == "setxattr" and error.errno == 95):
            print(name, error)
    else:
        print(name, "was done")
"""


def test_what_would_change_something_is_refused(
    daemon: Daemon, container: Container, tree: Path
) -> None:
    own = tree.is_relative_to(daemon.mountpoint)
    wanted = errno.EROFS if own else errno.EPERM
    assert run([sys.executable, "-c", _CHANGES, tree, wanted]).stdout == ""
    if own:
        done = container.exec([sys.executable, "-c", _CHANGES, str(tree), str(wanted)])
        assert done.stdout == b""


_WRITES = """
import errno, os, sys
top = sys.argv[1]
for name in "proc/meminfo", "proc/pressure/cpu", "sys/devices/system/cpu/online":
    path = top + "/" + name
    assert not os.access(path, os.X_OK), path
    if not os.path.exists(path):
        continue
    try:
        file = os.open(path, os.O_RDWR)
    except OSError as error:
        print(name, "open", errno.errorcode[error.errno])
        continue
    assert os.read(file, 4096)
    try:
        os.write(file, b"some 150000 1000000")
    except OSError as error:
        print(name, "write", errno.errorcode[error.errno])
"""


def test_a_write_fails_as_that_of_the_kernels_file_and_no_file_is_executable(
    daemon: Daemon, tree: Path
) -> None:
    if not os.path.exists("/proc/pressure/cpu"):
        require("psi", "this kernel has no /proc/pressure")
    said = run([sys.executable, "-c", _WRITES, tree]).stdout.splitlines()
    if tree.is_relative_to(daemon.mountpoint):
        assert [line.split()[1:] for line in said] == [["open", "EROFS"]] * 3
    else:
        assert said == [
            "proc/meminfo write EIO",
            f"proc/pressure/cpu write {errno.errorcode[errno.EOPNOTSUPP]}",
            "sys/devices/system/cpu/online open EACCES",
        ]


def test_touch_and_rm_say_why(daemon: Daemon) -> None:
    for top, number in (
        (daemon.mountpoint, errno.EROFS),
        (daemon.runtime_dir / "caller", errno.EPERM),
    ):
        for command in (["touch", top / "proc/new"], ["rm", "-f", top / "proc/stat"]):
            done = run(command, env={**os.environ, "LC_ALL": "C"})
            assert done.returncode != 0
            assert os.strerror(number) in done.stderr


def test_pressure_can_be_bound_as_a_directory(daemon: Daemon) -> None:
    """As LXCFS's hook of LXC does it."""
    if not os.path.exists("/proc/pressure/cpu"):
        require("psi", "this kernel has no /proc/pressure")
    script = (
        'mount --bind "$1/proc/pressure" /proc/pressure'
        " && cat /proc/pressure/* && exec ls /proc/pressure"
    )
    with Container(daemon.mountpoint, files=[], memory=GIB) as container:
        done = container.exec(["sh", "-c", script, "bind", str(daemon.mountpoint)]).stdout.split()
    assert b"some" in done
    assert {b"cpu", b"io", b"memory"} <= set(done)
