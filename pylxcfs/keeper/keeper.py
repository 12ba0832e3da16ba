"""The keeper: holds the FUSE connection while servers come and go.

Everything that starts, watches, replaces and ends a server is here, and so is the order of
unmounting. It does not know what the files contain, never reads the mount in its own process
(without a server that would hang), and imports the standard library only: it must not fail.

How it begins is in keeperstart.py. The server gets `--connection-fd`, `--init-fd` and
`--heartbeat-fd` appended to its command. On the heartbeat pipe, which does not block, it writes
"R" once it serves and "H" at least every second.

    signal        the keeper
    TERM, INT     ends the server and itself; unmounts, unless somebody keeps the mount
    RTMIN         the same, and unmounts in any case (`pylxcfs unmount`)
    USR1          replaces the server
    HUP           passes it on (reload); starts a server again after it had given up
    USR2, QUIT    passes it on (toggle; dump stacks)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

from pylxcfs.keeper import banner, child, fusemount, holder, sdnotify
from pylxcfs.keeper.settings import Settings

#: A server gets this long to its first heartbeat (or the watchdog's time, if that is longer).
START_S = 30.0
#: Served for so long, a server counts as healthy: failures before it are forgotten.
HEALTHY_S = 10.0
#: Failures count as "in a row" within this time.
ROW_S = 60.0
#: Waits before restarts: none for the first failure, then doubling between these.
BACKOFF_S = (0.05, 5.0)
#: From the request for stacks (SIGQUIT) to SIGKILL.
STACKS_S = 0.5
#: From SIGTERM to SIGKILL, and from there to ending without having seen its end.
TERM_S = 5.0
KILL_S = 2.0
#: Between two tries to read the mount before it has worked once.
PROBE_S = 0.5

CONNECTION = "pylxcfs-connection"
INIT = "pylxcfs-init"

ERR, WARNING, NOTICE, INFO = 3, 4, 5, 6


def say(level: int, text: str, prefix: str = "pylxcfs: ") -> None:
    """Write one line to stderr, for the journal with its priority."""
    priority = f"<{level}>" if sdnotify.stderr_is_journal(os.environ) else ""
    with contextlib.suppress(OSError):  # nobody reads it, and there is no other place
        os.write(2, f"{priority}{prefix}{text}\n".encode(errors="surrogateescape"))


class Keeper:
    """One mount and at most one server. All waiting is in `run`."""

    def __init__(
        self,
        settings: Settings,
        notifier: sdnotify.Notifier,
        connection: int,
        init: int,
        *,
        adopted: bool,
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._connection = connection
        self._init = init
        #: The mount is older than this keeper: containers may use it already.
        self._adopted = adopted
        self._stored = False
        self._signals = child.signal_fd()
        self._server: child.Server | None = None
        self._probe: child.Child | None = None
        #: What is to be done when: at most one time for each piece of work.
        self._at: dict[Callable[[], None], float] = {}
        self._failures: list[float] = []
        self._announced = False  # reading through the mount has worked once
        self._replacing = False
        self._gave_up = False
        self._stopping = False
        self._keep = False
        self._code = 0
        self._exit_code: int | None = None

    def run(self) -> int:
        """Keep the mount until it is ended; return the exit code."""
        if self._notifier.keeps_descriptors:
            # FDPOLL=0: else every request to the filesystem would wake systemd.
            self._stored = all(
                self._notifier.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[number])
                for name, number in ((CONNECTION, self._connection), (INIT, self._init))
            )
        self._ping()
        self._start()
        while self._exit_code is None:
            self._wait()
        return self._exit_code

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._signals, select.POLLIN)
        if self._server is not None:
            poller.register(self._server.child.pidfd, select.POLLIN)
            if self._server.heartbeat >= 0:
                poller.register(self._server.heartbeat, select.POLLIN)
        else:
            # Its end shows as POLLERR. Not watched while there is a server, which notices by
            # itself: every request would wake the keeper.
            poller.register(self._connection, 0)
        if self._probe is not None:
            poller.register(self._probe.pidfd, select.POLLIN)
        due = min(self._at.values(), default=None)
        asked = None if due is None else max(0.0, due - time.monotonic())
        began = time.monotonic()
        ready = {
            number for number, _ in poller.poll(None if asked is None else int(asked * 1000) + 1)
        }
        if asked is not None and time.monotonic() - began > asked + 1.0 and self._hung in self._at:
            # We have slept ourselves (stopped, or starved): the server deserves a fresh start.
            self._at[self._hung] = time.monotonic() + self._settings.watchdog
        if self._signals in ready:
            for number in child.read_signals(self._signals):
                self._on_signal(number)
        if self._probe is not None and self._probe.pidfd in ready:
            self._on_probe_end(self._probe)
        if self._server is not None:
            if self._server.heartbeat in ready:
                self._on_heartbeat(self._server)
            if self._server.child.pidfd in ready:
                self._on_server_end(self._server)
        elif self._connection in ready and self._exit_code is None:
            self._on_unmounted()
        now = time.monotonic()
        for work in [work for work, when in self._at.items() if when <= now]:
            if self._exit_code is None and self._at.pop(work, None) is not None:
                work()

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        self._at[work] = time.monotonic() + seconds

    # Starting a server, and seeing that it serves

    def _start(self) -> None:
        self._at.pop(self._start, None)
        self._replacing = self._gave_up = False
        try:
            self._server = child.Server(self._settings.server, self._connection, self._init)
        except OSError as error:
            say(ERR, f"no server can be started now ({error.strerror}); trying again")
            self._after(BACKOFF_S[1], self._start)
            return
        if self._settings.watchdog:
            self._after(max(START_S, self._settings.watchdog), self._hung)

    def _on_heartbeat(self, server: child.Server) -> None:
        beats = server.beats()
        if beats and self._settings.watchdog and not server.killed:
            self._after(self._settings.watchdog, self._hung)
        if b"R" in beats and not server.serves:
            server.serves = True
            self._after(HEALTHY_S, self._forget_failures)
            if self._announced:
                say(NOTICE, "a server serves again")
                self._status("serving")
            else:
                self._start_probe()

    def _forget_failures(self) -> None:
        self._failures.clear()

    def _start_probe(self) -> None:
        """Read through the mount in a child: it, and not the keeper, may hang."""
        self._at.pop(self._start_probe, None)
        serves = self._server is not None and self._server.serves
        if serves and self._probe is None and not self._stopping:
            path = f"{self._settings.mountpoint}/proc/uptime"
            try:
                self._probe = child.fork(lambda: _probe(path, self._connection))
            except OSError:
                self._after(PROBE_S, self._start_probe)

    def _on_probe_end(self, probe: child.Child) -> None:
        self._probe = None
        if probe.reap() != 0:
            self._after(PROBE_S, self._start_probe)
            return
        if self._announced or self._stopping:
            return
        self._announced = True
        self._status("serving", "READY=1")
        say(INFO, f"serving at {self._settings.mountpoint}")
        say(INFO, banner.docker_line(self._settings.mountpoint), prefix="")

    # The end of a server, wanted or not

    def _on_server_end(self, server: child.Server) -> None:
        code = server.end()
        self._server = None
        for work in (self._hung, self._kill, self._forget_failures, self._start_probe):
            self._at.pop(work, None)
        if self._stopping:
            self._finish()
        elif not fusemount.is_connected(self._connection):
            self._on_unmounted()
        elif self._replacing:
            self._start()
        elif (code == 0 and server.serves) or (code == -signal.SIGKILL and not server.killed):
            # Somebody's doing (an operator, the OOM killer), and no sign of a bad server.
            say(WARNING, f"the server was ended ({_describe(code)}); starting another")
            self._after(0.0 if server.serves else BACKOFF_S[0], self._start)
        else:
            self._on_failure(code)

    def _on_failure(self, code: int) -> None:
        now = time.monotonic()
        self._failures = [when for when in self._failures if now - when < ROW_S] + [now]
        count = len(self._failures)
        if count >= self._settings.max_failures:
            self._give_up(code)
            return
        delay = 0.0 if count == 1 else min(BACKOFF_S[0] * 2 ** (count - 2), BACKOFF_S[1])
        say(
            ERR,
            f"the server failed ({_describe(code)}), {count} of {self._settings.max_failures}"
            f" in a row; starting another in {delay:g} s",
        )
        self._status(f"server failed {count} times in a row")
        self._after(delay, self._start)

    def _give_up(self, code: int) -> None:
        text = f"no server: {len(self._failures)} failed in a row, the last with {_describe(code)}"
        if not (self._announced or self._adopted):
            say(ERR, f"{text}; unmounting, as nobody uses the mount yet")
            self._stop(for_good=True, code=1)
            return
        self._gave_up = True
        self._failures.clear()
        say(ERR, f"{text}; the mount is kept and its readers wait")
        say(ERR, f"mend the cause, then: kill -USR1 {os.getpid()} (or restart the service)")
        # Not to say READY would make systemd end the keeper of a mount that is in use.
        self._status(text, *([] if self._announced else ["READY=1"]))
        self._announced = True

    def _on_unmounted(self) -> None:
        say(NOTICE, f"{self._settings.mountpoint} was unmounted; ending")
        self._stop(for_good=True)

    def _hung(self) -> None:
        if self._server is not None:
            say(ERR, "the server shows no sign of life; its stacks follow, then it is replaced")
            self._server.child.send(signal.SIGCONT)
            self._server.child.send(signal.SIGQUIT)
            self._server.killed = True
            self._after(STACKS_S, self._kill)

    def _kill(self) -> None:
        if self._server is not None:
            self._server.killed = True
            self._server.child.send(signal.SIGKILL)

    def _to_server(self, number: int) -> None:
        if self._server is not None:
            self._server.child.send(number)

    # What others ask for

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(for_good=not (self._stored or self._settings.keep_mounted))
        elif number == child.END_FOR_GOOD:
            self._stop(for_good=True)
        elif self._stopping:
            pass
        elif number == signal.SIGUSR1 or (number == signal.SIGHUP and self._gave_up):
            self._replace()
        elif number == signal.SIGHUP:
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            self._to_server(number)
            self._notifier.send("READY=1")
        else:
            self._to_server(number)

    def _replace(self) -> None:
        self._failures.clear()
        if self._server is None:
            self._start()
        else:
            self._replacing = True
            self._to_server(signal.SIGTERM)
            self._after(TERM_S, self._kill)

    def _stop(self, *, for_good: bool, code: int = 0) -> None:
        """End the server, then the keeper. A stop for good may follow one that keeps."""
        first, self._stopping = not self._stopping, True
        self._keep = not for_good and (first or self._keep)
        self._at.pop(self._start, None)
        if first:
            self._code = code
            self._notifier.send("STOPPING=1", "STATUS=stopping")
        if for_good and fusemount.is_mount_of(self._init, self._settings.mountpoint):
            fusemount.detach(self._settings.mountpoint)
        if self._server is None:
            self._finish()
        elif first:
            self._to_server(signal.SIGTERM)
            self._after(TERM_S, self._kill)
            self._after(TERM_S + KILL_S, self._finish)

    def _finish(self) -> None:
        if self._probe is not None:
            self._probe.send(signal.SIGKILL)
        if not self._keep:
            for name in (CONNECTION, INIT):
                self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}")
        elif not self._stored:
            self._hand_to_holder(self._settings)
        self._exit_code = self._code

    def _hand_to_holder(self, settings: Settings) -> None:
        try:
            holder.hold(self._connection, self._init, settings.mountpoint, settings.runtime_dir)
        except OSError as error:
            say(ERR, f"the mount cannot be kept ({error}); unmounting")
            fusemount.detach(settings.mountpoint)
        else:
            say(INFO, f"{settings.mountpoint} is held for the next start")

    def _ping(self) -> None:
        """Tell systemd's watchdog that this loop turns."""
        if self._notifier.watchdog_s:
            self._notifier.send("WATCHDOG=1")
            self._after(self._notifier.watchdog_s / 3, self._ping)

    def _status(self, text: str, *lines: str) -> None:
        self._notifier.send(*lines, f"STATUS={text}")


def _probe(path: str, connection: int) -> int:
    # A reader without a server cannot be killed. It must not be what keeps the connection.
    os.close(connection)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, child.HANDLED)
    with open(path, "rb") as file:
        return 0 if file.read() else 1


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
