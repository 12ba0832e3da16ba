"""systemd as init of an unprivileged container, with the cgroup tree over /sys/fs/cgroup.

That is what systemd of the v1 age found in LXC with LXCFS. It makes its slices and scopes there,
limits them and moves its services, all as root of a user namespace.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.formats import mountinfo
from tests.clients.engines import remove_cgroups
from tests.conftest import require, run_name, wait_until
from tests.kit import asuser
from tests.kit.cgroups import is_v2
from tests.kit.daemon import Daemon

SYSTEMD = "/lib/systemd/systemd"
DEADLINE_S = 180.0
#: Its target is reached when the service runs.
JOB = """
[Service]
Type=exec
Slice=app.slice
ExecStart=/bin/sleep 100000
User=nobody
MemoryMax=64M
TasksMax=20
"""
TARGET = "[Unit]\nRequires=sysinit.target job.service\nAfter=sysinit.target job.service\n"

#: Makes the root filesystem at $ROOT, in a mount namespace of its own, and starts systemd there.
_BOOT = """
set -e
mount -t tmpfs tmpfs "$ROOT"
mkdir "$ROOT/upper" "$ROOT/work" "$ROOT/root"
mount -t overlay -o "lowerdir=/,upperdir=$ROOT/upper,workdir=$ROOT/work" overlay "$ROOT/root"
cp "$ASUSER" "$ROOT/upper/asuser.py"
cd "$ROOT/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
for hierarchy in "$TREE"/*; do
  name=${hierarchy##*/}
  [ "$name" = unified ] && continue
  mkdir "sys/fs/cgroup/$name"
  mount --bind "$hierarchy" "sys/fs/cgroup/$name"
done
for place in run dev; do mount -t tmpfs -o mode=755 tmpfs $place; done
for name in null zero full random urandom tty; do
  touch dev/$name
  mount --bind /dev/$name dev/$name
done
mkdir -p dev/shm dev/pts run/lock run/systemd/system
for place in dev/shm run/lock; do mount -t tmpfs -o mode=1777 tmpfs $place; done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
touch dev/console
mount --bind "$CONSOLE" dev/console
echo "$JOB" >run/systemd/system/job.service
echo "$TARGET" >run/systemd/system/test.target
echo "$START" >run/start
chown -R 100000:100000 run dev/shm
mkdir old
pivot_root . old
umount -l /old
export container=lxc
exec "$PYTHON" /asuser.py 0 user </run/start
"""


class Machine:
    """A container with systemd as its init; `with` boots it and ends it."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self._daemon = daemon
        self._directory = directory
        #: Its cgroups, by the name of the hierarchy's mountpoint.
        self.cgroups: dict[str, Path] = {}

    def __enter__(self) -> Machine:
        for path in _v1_mountpoints():
            # At the top: systemd takes its path in one hierarchy for that in all.
            cgroup = path / run_name("systemd-tree")
            cgroup.mkdir()
            self.cgroups[path.name] = cgroup
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (cgroup / name).exists():
                    (cgroup / name).write_text((path / name).read_text())
            for name in ("", "cgroup.procs", "tasks"):
                os.chown(cgroup / name, asuser.IDS, asuser.IDS)
        console = self._directory / "console"
        console.touch()
        console.chmod(0o666)
        root = self._directory / "root"
        root.mkdir()
        command = [SYSTEMD, "--system", "systemd.unit=test.target"]
        environment = {
            "ROOT": str(root),
            "TREE": f"{self._daemon.mountpoint}/cgroup",
            "CONSOLE": str(console),
            "ASUSER": asuser.__file__,
            "JOB": JOB,
            "TARGET": TARGET,
            "START": f"import os; os.execv({SYSTEMD!r}, {command!r})",
            "PYTHON": os.path.realpath(sys.executable),
        }
        namespaces = ["-m", "-p", "-i", "-u", "--propagation", "private"]
        with console.open("ab") as output:
            self._process = subprocess.Popen(
                ["unshare", *namespaces, "-f", "sh", "-c", _BOOT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._enter_cgroups,
                env={**os.environ, **environment},
            )
        try:
            wait_until(self._is_up, DEADLINE_S, what="the service in the container")
        except BaseException as error:
            error.add_note(console.read_text(errors="replace")[-8000:])
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.init:
                os.kill(self.init, signal.SIGKILL)  # its processes go with its pid namespace
        self._process.kill()
        self._process.wait(timeout=60)
        remove_cgroups(run_name("systemd-tree"))

    def _is_up(self) -> bool:
        assert self._process.poll() is None, "it has ended"
        return self.systemctl("is-active", "job.service") == "active"

    def _enter_cgroups(self) -> None:
        for cgroup in self.cgroups.values():
            (cgroup / "cgroup.procs").write_text("0")

    @property
    def init(self) -> int:
        """The pid of its init, 0 if there is none."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the container, as its root."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-p", "-i", "-u", "-U"]
        return subprocess.run(
            [*enter, "--setuid", "0", "--setgid", "0", *command],
            capture_output=True, text=True, timeout=60, preexec_fn=self._enter_cgroups,
        )  # fmt: skip

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl", *words).stdout.strip()


def _v1_mountpoints() -> list[Path]:
    mounts = mountinfo.parse(Path("/proc/self/mountinfo").read_bytes())
    return [Path(mount.mountpoint) for mount in mounts if mount.fstype == "cgroup"]


def test_systemd_manages_its_cgroups_in_the_tree(tmp_path: Path) -> None:
    if is_v2() or not Path("/sys/fs/cgroup/systemd").is_dir():
        pytest.skip("the hierarchies of v1 are not mounted here")
    for program in (SYSTEMD, "nsenter", "systemctl"):
        if shutil.which(program) is None:
            require("systemd", f"{program} is not installed")
    with Daemon("--enable-cgroup") as daemon, Machine(daemon, tmp_path) as machine:
        pid = machine.systemctl("show", "--value", "--property=MainPID", "job.service")
        status = machine.systemctl("status", "--no-pager", "job.service")
        assert f"─{pid} /bin/sleep 100000" in status, status
        job = machine.cgroups["systemd"] / "app.slice" / "job.service"
        (inside,) = (job / "cgroup.procs").read_text().split()
        assert Path(f"/proc/{inside}/comm").read_text() == "sleep\n"
        limit = machine.cgroups["memory"] / "app.slice" / "job.service"
        assert (limit / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
        assert (limit / "cgroup.procs").read_text().split() == [inside]
        limit = machine.cgroups["pids"] / "app.slice" / "job.service"
        assert (limit / "pids.max").read_text() == "20\n"
        assert job.stat().st_uid == asuser.IDS
        machine.systemctl("stop", "job.service")
        wait_until(lambda: not job.exists(), 60, what="the end of its cgroup")
