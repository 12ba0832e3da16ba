"""`pylxcfs mount` on temporary directories, with cleanup.

The process that is started becomes the keeper; the server is its child. A test that passes fails
in the end if the log has warnings, errors or tracebacks that the test does not expect.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
#: A test that passes never waits this long, even in a virtual machine without KVM.
DEADLINE_S = 60.0
#: Lines begin with a priority where stderr is the journal; JOURNAL_STREAM names the log file.
_BAD = re.compile(r"<[0-4]>|Traceback \(most recent call last\)")
_READY = re.compile(r"^(?:<\d>)?pylxcfs: serving at ", re.MULTILINE)


class Daemon:
    """A running `pylxcfs mount`; `with` starts and ends it.

    `expect_log`: patterns of warnings and errors that are expected. `ready=False`: do not wait for
    readiness.
    """

    def __init__(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        expect_log: Iterable[str] = (),
        ready: bool = True,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        self.options = options
        self._env = env or {}
        self._expected = [re.compile(pattern) for pattern in expect_log]
        self._wait_ready = ready
        self._python = tuple(python)

    def __enter__(self) -> Daemon:
        self.directory = Path(tempfile.mkdtemp(prefix="pylxcfs-"))
        self.directory.chmod(0o755)  # hooks of user namespaces look for the mountpoint
        self.mountpoint = self.directory / "mnt"
        self.runtime_dir = self.directory / "run"
        self.log_path = self.directory / "log"
        self.mountpoint.mkdir()
        self.runtime_dir.mkdir()
        try:
            self.start()
            if self._wait_ready:
                self.wait_ready()
        except BaseException as error:
            self._annotate(error)
            self._clean()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._annotate(error)
        try:
            if error is None:
                self.check_log()
        finally:
            self._clean()

    def start(self) -> None:
        """Start it; after `stop` or a kill again, on the same directories."""
        paths = ["--runtime-dir", str(self.runtime_dir), str(self.mountpoint)]
        with open(self.log_path, "ab") as log:
            status = os.fstat(log.fileno())
            self.process = subprocess.Popen(
                [*self._python, "-m", "pylxcfs", "mount", *self.options, *paths],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **{k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
                    "PYTHONPATH": str(ROOT),
                    "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
                    **self._env,
                },
                start_new_session=True,
            )
        self._ready_before = len(_READY.findall(self.log))

    @property
    def log(self) -> str:
        """Its output on stdout and stderr."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def wait_ready(self) -> None:
        """Wait until it logs that it serves; fail if it ends."""
        wait_until(self._is_ready, DEADLINE_S, what="the daemon to be ready")

    def _is_ready(self) -> bool:
        ready = len(_READY.findall(self.log)) > self._ready_before
        if not ready and self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}")
        return ready

    @property
    def keeper(self) -> int:
        """The keeper's pid."""
        return self.process.pid

    def find_server(self) -> int | None:
        """Return the pid of the server; None if none runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.keeper).children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    # The keeper and its rescue servers have "serve" in theirs.
                    if "--heartbeat-fd" in child.cmdline():
                        return child.pid
        return None

    @property
    def server(self) -> int:
        """The server's pid; waits until a server runs."""
        return wait_until(self.find_server, DEADLINE_S, what="a server process")

    def wait_new_server(self, old: int) -> int:
        """Wait for a server other than `old`; return its pid."""
        return wait_until(
            lambda: pid if (pid := self.find_server()) not in (None, old) else None,
            DEADLINE_S,
            what=f"a server after {old}",
        )

    def servers_ready(self) -> int:
        """Return how many servers have served since the log began."""
        return len(_READY.findall(self.log)) + self.log.count("a server serves again")

    def stop(self, *, timeout: float = DEADLINE_S) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=timeout)

    def is_mounted(self) -> bool:
        """Return whether the mountpoint is mounted, without access to it."""
        target = f" {self.mountpoint} "
        return target in Path("/proc/self/mountinfo").read_text()

    def unexpected(self) -> list[str]:
        """Return warnings and errors in the log that are not expected."""
        return [
            line
            for line in self.log.splitlines()
            if _BAD.match(line) and not any(pattern.search(line) for pattern in self._expected)
        ]

    def check_log(self) -> None:
        """Fail if the log has unexpected warnings, errors or tracebacks."""
        bad = self.unexpected()
        assert not bad, "unexpected in the log:\n" + "\n".join(bad) + "\n\nlog:\n" + self.log

    def _annotate(self, error: BaseException) -> None:
        error.add_note(f"log of the daemon:\n{self.log or '(empty)'}")

    def _clean(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None:
                self.stop(timeout=5)
        # Processes of its session that still run: helpers, a server that hangs or has no keeper.
        for process in _session(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=DEADLINE_S)
        while self.is_mounted():
            subprocess.run(["umount", "-l", self.mountpoint], check=True, timeout=DEADLINE_S)
        shutil.rmtree(self.directory)


def _session(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found
