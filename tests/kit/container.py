"""Containers for tests, made as a runtime makes them.

A container has cgroups, namespaces and bind mounts. Its init is a shell that waits for the end of
its input. It takes a few hundred kilobytes, and ends with the test process in every case. It enters
its cgroup before its cgroup namespace is made, and makes the bind mounts itself, so the per-caller
links of a mountpoint lead to its own nodes, as with runtimes.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.kit.cgroups import KEEP, Cgroup, Keep, current_procs

# The shell that starts the init. It enters the cgroups and makes the namespaces. After the start of
# the init it leaves the cgroups, so that the init is the only process of the container. The first
# child of `unshare --pid` is the init of the namespace.
_START = """
exec 3<&0
for file in $ENTER; do echo 0 >"$file" || exit 1; done
unset ENTER
exec unshare --mount --pid "$@"
"""
_PARENT = """
sh -c "$INIT" init "$@" <&3 &
init=$!
exec 3<&-
for file in $LEAVE; do echo 0 >"$file" || exit 1; done
echo $init
wait $init
"""
# The init mounts /proc, binds the files over it, and then waits for the end of its input.
_INIT = """
unset INIT LEAVE
mount -t proc proc /proc || exit 1
while [ $# -gt 1 ]; do
  if [ -e "$2" ]; then
    mount --bind "$1" "$2" || exit 1
  fi
  shift 2
done
echo ready
exec sh -c 'while read -r line; do :; done' init >&- 2>&-
"""
_EXEC = """
for file in $ENTER; do echo 0 >"$file" || exit 125; done
unset ENTER
exec nsenter "$@"
"""
# In a process of its own: without a server, access to the mountpoint blocks.
_LIST = """
cd "$1" && shift || exit 1
for file in proc/* proc/*/*; do
  if [ -f "$file" ]; then echo "$file"; fi
done
for directory in "$@"; do
  if [ -d "$directory" ]; then echo "$directory"; fi
done
"""
#: A test that passes never waits this long, even in a virtual machine without KVM.
DEADLINE_S = 60.0
NAMESPACE_FLAGS = {"cgroup": "-C", "uts": "-u", "ipc": "-i", "net": "-n", "time": "-T"}
SYSFS = ("sys/devices/system/cpu", "sys/devices/system/node", "sys/devices/system/memory")


class ContainerError(AssertionError):
    """The container did not start."""


def servable(mountpoint: Path) -> list[str]:
    """Return what can be bound: files of proc/, directories of sys/."""
    command = ["sh", "-c", _LIST, "list", str(mountpoint), *SYSFS]
    listed = subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S, text=True)
    return listed.stdout.split()


class Container:
    """A running container; `with` ends it.

    `bind` is the process that resolves the path of a bind mount: "own", the container's init, as
    with runc, LXC and mount(8); "host", the host, as with containerd's CRI plugin. Without a
    mountpoint nothing is bound. Without `cgroup` the container makes and removes one.
    `boottime`: seconds by which the clock of its time namespace is ahead.
    """

    pid: int

    def __init__(
        self,
        mountpoint: Path | None = None,
        *,
        bind: Literal["own", "host"] = "own",
        files: Sequence[str] | None = None,
        namespaces: Sequence[str] = (),
        cgroup: Cgroup | None = None,
        parent: Cgroup | None = None,
        memory: int | Keep | None = KEEP,
        cpus: float | Keep | None = KEEP,
        cpuset: str | Keep = KEEP,
        boottime: int = 0,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._namespaces = tuple(namespaces)
        self._boottime = boottime
        pairs: list[str] = []
        if mountpoint is not None:
            for name in servable(mountpoint) if files is None else files:
                source = f"{mountpoint}/{name}"
                pairs += [os.path.realpath(source) if bind == "host" else source, f"/{name}"]
        with contextlib.ExitStack() as stack:
            if cgroup is None:
                cgroup = stack.enter_context(Cgroup(parent=parent))
            self.cgroup = cgroup
            self.limits(memory=memory, cpus=cpus, cpuset=cpuset)
            stack.callback(self._end)
            self._start(pairs)
            self._stack = stack.pop_all()

    def _start(self, pairs: Sequence[str]) -> None:
        flags = [f"--{name}" for name in self._namespaces]
        if self._boottime:
            flags.append(f"--boottime={self._boottime}")
        self._process = subprocess.Popen(
            ["sh", "-c", _START, "start", *flags, "sh", "-c", _PARENT, "parent", *pairs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={
                **os.environ,
                "ENTER": self._enter(),
                "LEAVE": " ".join(str(path) for path in current_procs()),
                "INIT": _INIT,
            },
        )
        assert self._process.stdout is not None
        said = b""
        while not (said.endswith(b"\n") and len(said.split()) == 2):
            if not select.select([self._process.stdout], [], [], DEADLINE_S)[0]:
                raise ContainerError(f"nothing but {said!r} after {DEADLINE_S} s")
            part = os.read(self._process.stdout.fileno(), 256)
            if not part:
                assert self._process.stderr is not None
                raise ContainerError(os.read(self._process.stderr.fileno(), 4096).decode())
            said += part
        # Two processes write the two words, in either order.
        self.pid = int(min(said.split()))

    def _enter(self) -> str:
        return " ".join(str(path) for path in self.cgroup.procs)

    def limits(
        self,
        *,
        memory: int | Keep | None = KEEP,
        cpus: float | Keep | None = KEEP,
        cpuset: str | Keep = KEEP,
    ) -> None:
        """Change limits; `None` is no limit.

        `memory` in bytes, `cpus` in CPUs of quota, `cpuset` a list of CPUs.
        """
        self.cgroup.limits(memory=memory, cpus=cpus, cpuset=cpuset)

    @property
    def pidns(self) -> int:
        """The inode number of its pid namespace."""
        return os.stat(f"/proc/{self.pid}/ns/pid").st_ino

    @property
    def key(self) -> str:
        """The name of its directory below own/, as its mountinfo shows it."""
        mountinfo = Path(f"/proc/{self.pid}/mountinfo").read_text()
        found = re.search(r" /own/([^/ ]+)/\S+ /(?:proc|sys)/", mountinfo)
        if found is None:
            raise ContainerError(f"nothing of an own mount is bound:\n{mountinfo}")
        return found[1]

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a program in the container, in a session of its own."""
        env = {**(kwargs.pop("env", None) or os.environ), "ENTER": self._enter()}
        flags = [NAMESPACE_FLAGS[name] for name in self._namespaces]
        enter = ["sh", "-c", _EXEC, "exec", "-t", str(self.pid), "-p", "-m", *flags, "--"]
        kwargs.setdefault("start_new_session", True)
        return subprocess.Popen([*enter, *argv], env=env, **kwargs)

    def exec(
        self,
        argv: Sequence[str],
        *,
        timeout: float = DEADLINE_S,
        check: bool = True,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program in the container and capture its output."""
        process = self.popen(
            argv,
            stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        with process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired:
                # The program is a child of nsenter: kill the session, not only its leader.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, out, err)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} exits {done.returncode}: {(err or out).decode()}")
        return done

    def read(self, path: str, *, timeout: float = DEADLINE_S) -> bytes:
        """Read a file as a program in the container does."""
        return self.exec(["cat", path], timeout=timeout).stdout

    def _end(self) -> None:
        process = getattr(self, "_process", None)
        if process is None:
            return
        if hasattr(self, "pid"):
            # The pid cannot be reused: its parent, our child, has not reaped it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        try:
            process.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def close(self) -> None:
        """Kill the init, and so all processes; remove the cgroups."""
        self._stack.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
