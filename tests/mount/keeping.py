"""A keeper with the stand-in server, on directories of one test.

Nothing here reads a mount in the test's own process: a mount without a server would take the
test with it. Reading is done by `Reader`s, and all waiting has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pylxcfs.keeper import fusemount
from tests.conftest import require, wait_until

ROOT = Path(__file__).parents[2]
STANDIN = Path(__file__).with_name("standin.py")
#: For what comes at once where all is well.
DEADLINE_S = 30.0
UPTIME = b"12.34 56.78\n"

_KEEPER = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pylxcfs.keeper.start as k; k.main()"
)
#: As cli/launch.py does: the process that locks the pid file becomes the keeper.
_LAUNCH = """
import os, sys
from pylxcfs.keeper import instance
given = os.environ.get("LISTEN_FDS")
if given:
    os.environ["LISTEN_PID"] = str(os.getpid())
number = instance.claim(sys.argv[1])
os.set_inheritable(number, True)
config = os.memfd_create("config", 0)
os.write(config, b'{"format": 1, "options": {"count": 0}}')
keeper, options = sys.argv[2:7], sys.argv[7:]
os.execv(keeper[0], [*keeper, "--pid-fd", str(number), "--config-fd", str(config), *options])
"""


class Reader:
    """A process that reads one file, once or (`again`) over and over."""

    def __init__(self, path: Path, *, again: bool = False) -> None:
        loop = f"while cat {path} >&3; do :; done" if again else f"cat {path}"
        self._complaints: bytes | None = None
        self._errors, errors = os.pipe()
        self.process = subprocess.Popen(
            ["sh", "-c", f"exec 3>/dev/null; {loop}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        os.close(errors)

    def result(self) -> bytes:
        """Return what it read; fail if it ended with an error."""
        wait_until(lambda: self.process.poll() is not None, DEADLINE_S, what="a reader")
        assert self.process.stdout is not None
        assert self.process.returncode == 0, os.read(self._errors, 1000)
        return self.process.stdout.read()

    def end(self) -> bytes:
        """Kill it; return what it wrote to stderr."""
        if self._complaints is None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(timeout=DEADLINE_S)
            assert self.process.stdout is not None
            self.process.stdout.close()
            os.set_blocking(self._errors, False)
            try:
                self._complaints = os.read(self._errors, 1000)
            except BlockingIOError:  # a child of the shell has the pipe open, and wrote nothing
                self._complaints = b""
            os.close(self._errors)
        return self._complaints


class Keeping:
    """Directories with at most one keeper, which may start several times."""

    def __init__(self, directory: Path) -> None:
        if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
            require("fuse", "no /dev/fuse, or not root")
        self.mountpoint = directory / "mnt"
        self.runtime_dir = directory / "run"
        self.control = directory / "control"
        self.pidfile = self.runtime_dir / "pylxcfs.pid"
        self.log_path = directory / "stderr"
        for path in (self.mountpoint, self.runtime_dir, self.control):
            path.mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[Reader] = []

    def start(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        fds: Mapping[str, int] | None = None,
        ready: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a keeper, with `fds` handed over as systemd does it."""
        paths = {
            "--mountpoint": str(self.mountpoint),
            "--runtime-dir": str(self.runtime_dir),
            "--pidfile": str(self.pidfile),
            "--files": "proc/uptime,proc/meminfo",
        }
        command = [sys.executable, "-I", "-S", "-c", _KEEPER]
        command += [word for pair in paths.items() for word in pair]
        command += [*options, "--", sys.executable, str(STANDIN), str(self.control), "serve"]
        given = dict(fds or {})
        environ = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}
        environ |= {"PYTHONPATH": str(ROOT), **(env or {})}
        if given:
            environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": ":".join(given)}
        before = self.log.count("serving at")
        with open(self.log_path, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(self.pidfile), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                preexec_fn=lambda: _place(list(given.values())),
                close_fds=not given,
            )
        self._processes.append(process)
        if ready:
            self.wait_log("serving at", before + 1)
        return process

    @property
    def log(self) -> str:
        """What keepers and servers wrote to stderr."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text()
        return ""

    def wait_log(self, text: str, count: int = 1) -> None:
        """Wait until the log has `text` so many times."""
        try:
            wait_until(
                lambda: self.log.count(text) >= count, DEADLINE_S, what=f"'{text}' in the log"
            )
        except BaseException as error:
            error.add_note(f"log:\n{self.log}\nevents: {self.events()}")
            raise

    def events(self, kind: str = "") -> list[int]:
        """Return the servers that noted this kind of event, in order."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.control / "log").read_text().splitlines()
            return [int(line.split()[1]) for line in lines if line.startswith(kind)]
        return []

    def wait_event(self, kind: str, count: int = 1) -> int:
        """Wait until an event was noted so often; return its last server."""
        what = f"event '{kind}' number {count}"
        wait_until(lambda: len(self.events(kind)) >= count, DEADLINE_S, what=what)
        return self.events(kind)[-1]

    def server(self) -> int:
        """Return the pid of the server that was started last."""
        return self.events("start")[-1]

    def list(self, path: Path) -> list[str]:
        """List a directory in a process that may hang."""
        done = subprocess.run(
            ["ls", path], capture_output=True, text=True, timeout=DEADLINE_S, check=True
        )
        return done.stdout.split()

    def device(self, place: Path) -> str:
        """Return the device that is uppermost at a place, or ""."""
        return (self.devices(place) or [""])[-1]

    def devices(self, place: Path) -> list[str]:
        """Return the devices of all that is mounted at a place."""
        return [m.device for m in fusemount.mounts() if m.mountpoint == str(place)]

    def rescues(self) -> list[int]:
        """Return the pids of the rescue servers."""
        return [pid for pid in self._children() if _name(pid) == "pylxcfs-rescue"]

    def resolvers(self) -> list[int]:
        """Return the pids of resolvers."""
        return [
            pid
            for pid in self._children()
            if b"resolve" in _read(f"/proc/{pid}/cmdline").split(b"\0")
        ]

    def _children(self) -> list[int]:
        pid = self._processes[-1].pid
        return [int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()]

    def read(self, name: str | Path = "proc/uptime", *, again: bool = False) -> Reader:
        """Start a reader."""
        reader = Reader(self.mountpoint / name, again=again)
        self._readers.append(reader)
        return reader

    def set(self, name: str, *, on: bool = True) -> None:
        """Make the stand-in server behave in a certain way, or stop that."""
        if on:
            (self.control / name).touch()
        else:
            (self.control / name).unlink()

    @property
    def caller(self) -> Path:
        """Where the caller mount is."""
        return self.runtime_dir / "caller"

    @property
    def places(self) -> tuple[Path, Path]:
        """Both mountpoints."""
        return self.mountpoint, self.caller

    @property
    def state(self) -> str:
        """The keeper's state, as it tells others."""
        return str(json.loads((self.runtime_dir / "status.json").read_text())["state"])

    def is_mounted(self, *, at: Path | None = None) -> bool:
        """Whether anything is mounted at a place, or at any of both."""
        places = (at,) if at else self.places
        return any(fusemount.mounted_at(str(place)) is not None for place in places)

    def close(self) -> None:
        """End all that is left, whatever state it is in."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for pid in set(self.events("start")):
            with contextlib.suppress(OSError):
                if str(self.control).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        for pid in _processes_naming(str(self.mountpoint)):
            os.kill(pid, signal.SIGKILL)
        for place in self.places:
            while self.is_mounted(at=place):
                fusemount.detach(str(place))
        for reader in self._readers:
            reader.end()
        for process in self._processes:
            process.wait(timeout=DEADLINE_S)


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


def _name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").decode().strip()


def _place(numbers: list[int]) -> None:
    """In the child: put the descriptors at 3, 4, ..."""
    high = [os.dup2(number, 100 + i) for i, number in enumerate(numbers)]
    os.closerange(3, 100)
    for i, number in enumerate(high):
        os.dup2(number, 3 + i)
    os.closerange(100, 100 + len(high))


def _processes_naming(word: str) -> list[int]:
    """Return the processes with this word in their command: keepers and holders."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                if word.encode() in words and b"--mountpoint" in words:
                    found.append(int(entry.name))
    return found


class NotifySocket:
    """systemd's end of sd_notify, with an fd store."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)
        self.messages: list[str] = []
        self.store: dict[str, int] = {}

    @property
    def env(self) -> dict[str, str]:
        """The variables of a service with an fd store."""
        return {"NOTIFY_SOCKET": str(self.path), "FDSTORE": "16"}

    def receive(self) -> list[str]:
        """Take in what has arrived; return all messages so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self._socket, 65536, 8)
                self._take(data.decode(), fds)
        return self.messages

    def wait(self, line: str, count: int = 1) -> None:
        """Wait until so many messages had a line that starts like this."""

        def arrived() -> bool:
            lines = [have for message in self.receive() for have in message.splitlines()]
            return sum(have.startswith(line) for have in lines) >= count

        wait_until(arrived, DEADLINE_S, what=f"'{line}' from the keeper")

    def _take(self, message: str, fds: list[int]) -> None:
        self.messages.append(message)
        words = dict(line.partition("=")[::2] for line in message.splitlines())
        name = words.get("FDNAME", "")
        if "FDSTORE" in words and name not in self.store:
            self.store[name] = fds.pop()
        if "FDSTOREREMOVE" in words and name in self.store:
            fds.append(self.store.pop(name))
        for number in fds:
            os.close(number)

    def close(self) -> None:
        """Drop the fd store, as systemd does when the unit is down."""
        self._socket.close()
        for number in self.store.values():
            os.close(number)
