"""Containers with the benchmark's reader (reader.c) as init.

A container has cgroups three deep with limits, a pid namespace and a mount namespace with its
own /proc. Files are bound from inside the pid namespace, as Docker, Podman and LXC do ("own"),
or their paths are resolved on the host, as by containerd's CRI plugin ("caller"). Each server
has paths of its own, so one container reads all servers in turn. noise.c runs beside the reader
where a neighbour makes noise in other ways than by reading.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.measure import Reads, merge
from tests.kit.cgroups import Cgroup

Bind = Literal["own", "caller"]

HERE = Path(__file__).parent
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
#: How much longer than its given time a job may take.
PATIENCE_S = 60.0
MIB = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class ContainerError(Exception):
    """A container did not start, or its reader ended."""


def build(name: str, directory: Path) -> Path:
    """Compile a program; not statically, as containers share the host's files."""
    program = directory / name
    source = HERE / f"{name}.c"
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
    return program


@dataclass(frozen=True)
class Job:
    """The work of a reader; reader.c describes the fields."""

    paths: Sequence[str]
    keep: bool = False
    fresh: bool = False
    rate: int = 0
    count: int = 0
    seconds: float = 0.0
    delay_s: float = 0.0
    threads: int = 1


class Fleet:
    """Makes containers: the reader, parent cgroups, and mountpoints."""

    def __init__(self, directory: Path, mountpoints: Mapping[str, Path]) -> None:
        self.directory = directory
        self.mountpoints = dict(mountpoints)
        self.reader = build("reader", directory)
        self.noise = build("noise", directory)
        self.views = directory / "views"
        self.views.mkdir()
        self._stack = contextlib.ExitStack()
        # Three deep: CPUs at the top, much memory in the middle, the container's own below.
        self._top = self._stack.enter_context(Cgroup())
        self._top.limits(cpuset=f"0-{_cpus() - 1}" if _cpus() > 1 else "0")
        self._middle = self._stack.enter_context(Cgroup(parent=self._top))
        self._middle.limits(memory=8192 * MIB)

    def path(self, seat: str, bind: Bind, file: str) -> str:
        """Return where a container finds a file of a server."""
        return f"{self.views}/{seat}/{bind}/{file}"

    @contextlib.contextmanager
    def containers(
        self,
        number: int,
        files: Sequence[str],
        seats: Sequence[str],
        binds: Sequence[Bind],
        memory: int = 256 * MIB,
    ) -> Iterator[list[Container]]:
        """Run containers with files of the servers, bound as `binds` says."""
        with contextlib.ExitStack() as stack:
            made: list[Container] = []
            for _ in range(number):
                cgroup = stack.enter_context(Cgroup(parent=self._middle))
                # Half of the CPUs and a half: a visible limit that does not throttle a single
                # reader.
                cgroup.limits(memory=memory, cpus=_cpus() / 2 + 0.5)
                container = Container(self, cgroup, files, seats, binds)
                stack.callback(container.close)
                made.append(container)
            # They start in parallel: entering a cgroup waits long and works little.
            for container in made:
                container.wait_ready()
            yield made

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cpus() -> int:
    return os.cpu_count() or 1


class Container:
    """A running container; it ends with the pipe to its reader."""

    def __init__(
        self,
        fleet: Fleet,
        cgroup: Cgroup,
        files: Sequence[str],
        seats: Sequence[str],
        binds: Sequence[Bind],
    ) -> None:
        self._fleet = fleet
        self._cgroup = cgroup
        jobs, self._jobs = os.pipe()
        self._answers, answers = os.pipe()
        self._patience_s = PATIENCE_S
        self._child = os.fork()
        if self._child == 0:
            _become_reader(fleet, cgroup, files, seats, binds, jobs, answers)
        os.close(jobs)
        os.close(answers)

    def wait_ready(self) -> None:
        """Wait until its files are bound and its reader takes jobs."""
        os.waitpid(self._child, 0)
        # The reader and the process that has forked it write to one pipe, in either order.
        first, second = sorted(self._line(PATIENCE_S) for _ in range(2))
        if second != b"ready":
            raise ContainerError("the reader did not start")
        #: The reader's pid, as the host sees it.
        self.pid = int(first)

    @contextlib.contextmanager
    def noise(self, *arguments: str) -> Iterator[None]:
        """Run noise.c in the container; wait for its start, end it after."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid"]
        argv = self._cgroup.command([*enter, str(self._fleet.noise), *arguments])
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                begun = select.select([process.stdout], [], [], PATIENCE_S)[0]
                if not begun or process.stdout.readline() != b"ready\n":
                    raise ContainerError(f"no noise: {arguments}")
                yield
            finally:
                process.stdin.close()
                try:
                    process.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)

    def start(self, job: Job) -> None:
        """Start a job; `finish` waits for its answer."""
        numbers = (
            *(job.keep, job.fresh, job.rate, job.count),
            *(job.seconds * 1000, job.delay_s * 1e6, job.threads),
        )
        line = " ".join([*(str(int(number)) for number in numbers), *job.paths])
        os.write(self._jobs, line.encode() + b"\n")
        self._patience_s = job.seconds + job.delay_s + PATIENCE_S

    def finish(self) -> Reads:
        """Wait for the answer to the job that was started."""
        timeout = self._patience_s
        count, failures, sum_ns, elapsed_ns, kept = (
            int(number) for number in self._line(timeout).split()
        )
        samples = array("I")
        samples.frombytes(self._exactly(kept * samples.itemsize, timeout))
        return Reads(count, failures, sum_ns, elapsed_ns, samples)

    def _line(self, timeout: float) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            line += self._exactly(1, timeout)
        return line[:-1]

    def _exactly(self, size: int, timeout: float) -> bytes:
        parts: list[bytes] = []
        while size:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise ContainerError(f"no answer from the reader after {timeout:g} s")
            part = os.read(self._answers, size)
            if not part:
                raise ContainerError("the reader ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """End the reader and so its namespaces; the fleet removes the cgroup."""
        for pid in self._cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._jobs)
        os.close(self._answers)


def run(
    containers: Sequence[Container], job: Job, *, spread_s: float = 0.0, lead_s: float = 0.0
) -> Reads:
    """Run the same job in all containers at once.

    The first starts after `lead_s`; `spread_s` puts the starts of the others apart.
    """
    for index, container in enumerate(containers):
        container.start(replace(job, delay_s=lead_s + index * spread_s / len(containers)))
    return merge(container.finish() for container in containers)


def _become_reader(
    fleet: Fleet,
    cgroup: Cgroup,
    files: Sequence[str],
    seats: Sequence[str],
    binds: Sequence[Bind],
    jobs: int,
    answers: int,
) -> None:
    """Turn the forked child into a container. Never returns."""
    status = 1
    try:
        for procs in cgroup.procs:
            procs.write_text("0")
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID), "unshare")
        _mount("none", "/", flags=MS_REC | MS_PRIVATE)
        _mount("tmpfs", str(fleet.views), kind="tmpfs")
        # This process is still in the host's pid namespace; only its children are not.
        if "caller" in binds:
            _bind(fleet, files, seats, "caller")
        reader = os.fork()
        if reader == 0:
            _mount("proc", "/proc", kind="proc")
            if "own" in binds:
                _bind(fleet, files, seats, "own")
            os.dup2(jobs, 0)
            os.dup2(answers, 1)
            os.execv(fleet.reader, [str(fleet.reader)])
        os.write(answers, b"%d\n" % reader)
        status = 0
    except OSError as error:
        os.write(2, f"container: {error}\n".encode())
    finally:
        # Without the parent's cleanup, which the parent does itself.
        os._exit(status)


def _bind(fleet: Fleet, files: Sequence[str], seats: Sequence[str], bind: Bind) -> None:
    for seat in seats:
        for file in files:
            target = fleet.path(seat, bind, file)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
            _mount(f"{fleet.mountpoints[seat]}/{file}", target, flags=MS_BIND)


def _mount(source: str, target: str, *, kind: str = "none", flags: int = 0) -> None:
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), flags, None)
    _check(_libc.mount(*arguments), f"mount {source} on {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
