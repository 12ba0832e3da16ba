"""A booted systemd with our unit: this filesystem in systemd-nspawn, nothing of it written to.

The unit is the one of the repository, with a drop-in (it is meant to run outside of containers,
and nspawn is one). `pylxcfs` in it runs from a copy of the package, so that a test
can upgrade it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import require, run_name, wait_until

ROOT = Path(__file__).parents[2]
UNIT = "pylxcfs.service"
SOCKET = "pylxcfs.socket"
#: For what takes a second or two where all is well.
DEADLINE_S = 60.0
#: Hierarchies in which systemd makes cgroups of its own.
HIERARCHIES = ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
_PLACE = "/opt/pylxcfs-test"

_TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\n"
_DROPIN = "[Unit]\nConditionVirtualization=\n"

#: What a container does: bind a file, keep it open, and read it anew each time as well.
_CONTAINER = f"""
mount --bind /var/lib/pylxcfs/proc/uptime /proc/uptime
exec {sys.executable} -S -c '
import os, sys
held = os.open("/proc/uptime", os.O_RDONLY)
count = 0
while os.path.exists("{_PLACE}/go-on"):
    for text in (os.pread(held, 100, 0), open("/proc/uptime", "rb").read()):
        if len(text.split()) != 2:
            sys.exit("not an uptime: %r" % text)
    count += 1
    with open("{_PLACE}/count.new", "w") as file:
        file.write(str(count))
    os.rename("{_PLACE}/count.new", "{_PLACE}/count")
'
"""


class Machine:
    """A machine; `with` boots it and ends it."""

    def __init__(self, directory: Path) -> None:
        if not shutil.which("systemd-nspawn"):
            require("systemd", "systemd-nspawn is not installed")
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            require("systemd", "not root, or no /dev/fuse")
        self.place = directory / "place"
        self._directory = directory
        self._cgroups: list[Path] = []
        self._reader: subprocess.Popen[str] | None = None

    def __enter__(self) -> Machine:
        units = self._directory / "units"
        for unit in (UNIT, SOCKET):
            (units / f"{unit}.d").mkdir(parents=True)
            (units / f"{unit}.d" / "nested.conf").write_text(_DROPIN)
            shutil.copy(ROOT / "systemd" / unit, units)
        (units / "test.target").write_text(_TARGET)
        self.place.mkdir()
        self.install()
        command = self._directory / "pylxcfs"
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH={_PLACE}/tree exec {sys.executable} -P -m pylxcfs "$@"\n'
        )
        command.chmod(0o755)
        root = self._directory / "root"
        root.mkdir()
        binds = {
            str(units): "/run/systemd/system",
            str(command): "/usr/local/bin/pylxcfs",
            # nspawn mounts a new /tmp, and the interpreter may live below it.
            sys.prefix: sys.prefix,
        }
        words = [
            *("systemd-nspawn", "--boot", "--quiet", f"--directory={root}", "--volatile=overlay"),
            *("--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"),
            "--system-call-filter=open_by_handle_at",  # as on a host
            *(
                f"--machine={run_name('machine')}",
                "--bind=/dev/fuse",
                f"--bind={self.place}:{_PLACE}",
            ),
            *(f"--bind-ro={source}:{target}" for source, target in binds.items()),
            "systemd.unit=test.target",
        ]
        script = f'mount --bind / {root} && exec "$@"'
        self._log = open(self._directory / "console", "wb")
        self._nspawn = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            preexec_fn=self._enter_cgroups,
        )
        try:
            self.leader = wait_until(self._find_leader, DEADLINE_S, what="a booted machine")
            wait_until(self._is_up, DEADLINE_S, what="systemd in the machine")
        except BaseException as error:
            error.add_note((self._directory / "console").read_text(errors="replace"))
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _enter_cgroups(self) -> None:
        """Stay below cgroups of our own: nspawn makes its own beside its caller's."""
        for hierarchy in HIERARCHIES:
            if os.path.exists(f"{hierarchy}/cgroup.procs"):
                cgroup = Path(hierarchy, run_name("systemd"))
                cgroup.mkdir()
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def _find_leader(self) -> int | None:
        if self._nspawn.poll() is not None:
            console = (self._directory / "console").read_text(errors="replace")
            require("systemd", f"systemd-nspawn does not boot here: {console.strip()}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text()
        for pid in children.split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return int(pid)
        return None

    def _is_up(self) -> bool:
        done = self.run("systemctl", "is-active", "test.target", check=False)
        return done.stdout.strip() == "active"

    def _end(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader.communicate()
        with contextlib.suppress(AttributeError, ProcessLookupError):
            os.kill(self.leader, signal.SIGKILL)  # its processes go with its pid namespace
        try:
            self._nspawn.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait(timeout=DEADLINE_S)
        self._log.close()
        for hierarchy in HIERARCHIES:
            top = os.path.join(hierarchy, run_name("systemd"))
            for directory, _, _ in os.walk(top, topdown=False):
                wait_until(lambda d=directory: _remove(d), DEADLINE_S, what=f"{directory} empty")

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, (words, done.stdout, done.stderr, self.journal())
        return done

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl; return its output."""
        return self.run("systemctl", *words, check=check).stdout.strip()

    def add(self, drop_in: str) -> None:
        """Add a drop-in to our unit."""
        (self._directory / "units" / f"{UNIT}.d" / "test.conf").write_text(drop_in)
        self.systemctl("daemon-reload")

    def show(self, name: str) -> str:
        """Return a property of our unit."""
        return self.systemctl("show", "--value", f"--property={name}", UNIT)

    def journal(self) -> str:
        """Return what our unit has logged."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT, check=False).stdout

    def log(self) -> str:
        """Return what our unit has logged since its last start."""
        return self.journal().rpartition(f"Starting {UNIT}")[2]

    @property
    def keeper(self) -> int:
        """The keeper's pid in the machine; 0 if there is none."""
        return int(self.show("MainPID"))

    def server(self) -> int:
        """Return the server's pid in the machine; waits for one."""

        def find() -> int:
            done = self.run("pgrep", "-P", str(self.keeper), "-f", "pylxcfs serve", check=False)
            return int(done.stdout.split()[0]) if done.stdout else 0

        return wait_until(find, DEADLINE_S, what="a server")

    def wait_active(self, keeper_before: int = 0) -> None:
        """Wait until the unit is active, with another keeper than this."""

        def is_active() -> bool:
            return self.show("ActiveState") == "active" and self.keeper != keeper_before

        try:
            wait_until(is_active, DEADLINE_S, what="the unit to be active")
        except BaseException as error:
            error.add_note(self.journal())
            raise

    def mounts(self) -> list[str]:
        """Return what of ours is mounted in the machine, device first."""
        lines = self.run("cat", "/proc/self/mountinfo").stdout.splitlines()
        return [line.split()[2] + " " + line.split()[4] for line in lines if "fuse.pylxcfs" in line]

    # The package, and versions of it

    def install(self) -> None:
        """Install the package as it is in the repository.

        It takes the place of the one before at once, as that may be about to start, and writes
        into its __pycache__ then.
        """
        tree = self.place / "tree"
        aside = Path(tempfile.mkdtemp(dir=self.place))
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "pylxcfs", aside / "new/pylxcfs", ignore=skip)
        if tree.exists():
            tree.rename(aside / "old")
        (aside / "new").rename(tree)

    def break_module(self, name: str) -> None:
        """Install a version in which this module cannot be imported."""
        (self.place / "tree" / "pylxcfs" / name).write_text("raise RuntimeError('broken')\n")

    # A container that reads all the time

    def start_container(self) -> None:
        """Start a container that reads a bound file over and over."""
        (self.place / "go-on").touch()
        (self.place / "count").write_text("0")
        namespaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        self._reader = subprocess.Popen(
            [
                *("nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"),
                *(*namespaces, "sh", "-ec", _CONTAINER),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.wait_reads()

    def start_sleeper(self, setup: str) -> str:
        """Start a container that does nothing after its setup; return its init's pid."""
        namespaces = "unshare --pid --fork --kill-child --mount --mount-proc"
        program = f"{setup} && exec sleep 1000"
        command = f"{namespaces} sh -c '{program}' >/dev/null 2>&1 & echo $!"
        outer = self.run("setsid", "sh", "-c", command).stdout.strip()

        def find() -> str:
            return self.run("pgrep", "-P", outer, "sleep", check=False).stdout.strip()

        return wait_until(find, DEADLINE_S, what="the container")

    def age_in(self, pid: str) -> float | None:
        """Return the uptime that a process of a container reads, None if the file is dead."""
        done = self.run("nsenter", "-t", pid, "-m", "-p", "cat", "/proc/uptime", check=False)
        return float(done.stdout.split()[0]) if done.returncode == 0 else None

    def wait_reads(self) -> None:
        """Wait until the container has read anew, twice: the second began after this call."""
        before = self.reads()
        assert self._reader is not None
        reader = self._reader

        def has_read() -> bool:
            assert reader.poll() is None, reader.communicate()[0]
            return self.reads() >= before + 2

        try:
            wait_until(has_read, DEADLINE_S, what="reads of the container")
        except BaseException as error:
            error.add_note(self.journal())
            raise

    def reads(self) -> int:
        """Return how many times the container has read."""
        return int((self.place / "count").read_text())

    def end_container(self) -> str:
        """Tell the container to end; return what it complained of."""
        (self.place / "go-on").unlink()
        assert self._reader is not None
        output, _ = self._reader.communicate(timeout=DEADLINE_S)
        self._reader = None
        return output


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
