"""The keeper: holds both mounts while servers come and go.

Everything that starts, watches, replaces and ends a server is here, and so is the order of
unmounting. It does not know what the files contain, never reads a mount in its own process
(without a server that would hang), and imports the standard library only: it must not fail.

How it begins is in start.py. The server gets `--config-fd`, `--own-fd`, `--own-memory-fd`,
`--caller-fd`, `--caller-memory-fd` and `--heartbeat-fd` appended to its command. On the heartbeat
pipe, which does not block, it writes "H" several times in the time of the watchdog, "R" once it
serves and "L" when it has reloaded. It ends with code 0 when a connection is gone.

    signal        the keeper
    TERM, INT     ends the server and itself; unmounts, unless the mounts are kept
    RTMIN         the same, and unmounts in any case (`pylxcfs unmount`)
    USR1          replaces the server
    HUP           reloads the configuration
    USR2, QUIT    passes it on (toggle; dump stacks)

    connection    mount table    what happened    the keeper
    dead          mounted        an abort         mounts again
    dead          not mounted    own: unmounted   ends with code 0
    dead          not mounted    caller: a slip   mounts again
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial

from pylxcfs.errors import InstanceError
from pylxcfs.keeper import banner, child, fusemount, holder, reload, report, rescue, sdnotify
from pylxcfs.keeper.fusemount import CALLER, OWN, Mount
from pylxcfs.keeper.listeners import Listeners
from pylxcfs.keeper.report import ERR, INFO, NOTICE, WARNING, say
from pylxcfs.keeper.resources import Resources
from pylxcfs.keeper.settings import Settings

#: A server gets this long to say that it serves (or the watchdog's time, if that is longer).
START_S = 30.0
#: Served for so long, a server counts as healthy: failures before it are forgotten.
HEALTHY_S = 10.0
#: Failures count as "in a row" within this time.
ROW_S = 60.0
#: Waits before restarts: none for the first failure, then doubling between these.
BACKOFF_S = (0.05, 5.0)
#: From the request for stacks (SIGQUIT) to SIGKILL.
STACKS_S = 0.3
#: From SIGTERM to SIGKILL, and from there to ending without having seen its end.
TERM_S = 5.0
KILL_S = 2.0
#: How long the keeper's own readers have to end before the server is told to.
READERS_S = 5.0
#: Between two tries to read the mount before it has worked once.
PROBE_S = 0.5
#: Until the companion is started again after a failure.
COMPANION_S = 5.0
#: umount -f aborts first and unmounts next, in one system call: a look at the mount table so soon
#: after the abort would take that for an abort alone.
ABORT_GRACE_S = 0.1
#: Between two tries to have a real server beside the rescue server: the first, and the longest.
RESCUE_S = (5.0, 60.0)
#: The rescue server is told to end again after so long: a signal just before its read(2) is missed.
TELL_AGAIN_S = 0.1
#: A resolver and a server get this long for a reload.
RELOAD_S = 10.0


class Row:
    """Failures in a row: those of the last minute."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def add(self) -> int:
        """Count one more; return how many there are."""
        now = time.monotonic()
        self._times = [when for when in self._times if now - when < ROW_S] + [now]
        return len(self._times)

    @property
    def delay(self) -> float:
        """Return how long to wait before the next try."""
        count = len(self._times)
        return 0.0 if count < 2 else float(min(BACKOFF_S[0] * 2 ** (count - 2), BACKOFF_S[1]))

    def clear(self) -> None:
        """Forget them."""
        self._times.clear()


class Keeper:
    """Two mounts and at most one server. All waiting is in `run`."""

    def __init__(
        self,
        settings: Settings,
        notifier: sdnotify.Notifier,
        mounts: Mapping[str, Mount],
        previous: Mapping[str, int],
        *,
        adopted: bool,
        listeners: Mapping[str, int] | None = None,
        resources_socket: Mapping[str, int] | None = None,
    ) -> None:
        """Hold `mounts` by kind; `previous` are descriptors of an older version's mount."""
        self._settings = settings
        self._notifier = notifier
        self._report = report.Report(settings.runtime_dir, settings.mountpoint, notifier)
        self._mounts = dict(mounts)
        self._previous = dict(previous)
        #: Mounts that this keeper has detached and not been able to mount again.
        self._detached: set[str] = set()
        #: The own mount is older than this keeper: containers may use it already.
        self._adopted = adopted
        self._stored = False
        self._signals = child.signal_fd()
        self._server: child.ServerProcess | None = None
        #: Servers that SIGKILL has not ended yet.
        self._abandoned: list[child.ServerProcess] = []
        self._probe: child.Child | None = None
        self._resolver: reload.Resolver | None = None
        #: Heals containers and attaches new ones, if that is wanted.
        self._companion: child.Child | None = None
        #: Seccomp listeners of containers, and the agent that answers their calls.
        self._listeners: Listeners | None = None
        self._kept_listeners = dict(listeners or {})
        #: The socket where processes ask about their resources, and the process that answers.
        self._resources: Resources | None = None
        self._given_resources = dict(resources_socket or {})
        self._no_resources = ""  # why there is no socket, as it was logged
        #: Answers Prometheus, if that is wanted.
        self._metrics: child.Child | None = None
        #: Rescue servers by the kind of their mount.
        self._rescues: dict[str, child.Child] = {}
        #: What is to be done when: at most one time for each piece of work.
        self._at: dict[Callable[[], None], float] = {}
        self._failures, self._aborts, self._rescue_failures = Row(), Row(), Row()
        self._agent_failures, self._resources_failures = Row(), Row()
        self._announced = False  # reading through the mount has worked once
        self._started = False  # there was a server
        self._replacing = False
        self._rescuing = False
        self._rescue_pause = RESCUE_S[0]
        self._reloading = False
        self._reload_again = False
        self._stopping = False
        self._keep = False
        self._code = 0
        self._exit_code: int | None = None

    def run(self) -> int:
        """Keep the mounts until they are ended; return the exit code."""
        if self._notifier.keeps_descriptors:
            self._stored = min(map(self._store, self._mounts.values()))
        self._ping()
        self._report.change(report.STARTING, "starting")
        self._start_rescues()
        self._start()
        if self._settings.seccomp_agent or self._kept_listeners:
            self._listen()
        if self._settings.resources or self._given_resources:
            self._listen_for_resources()
        self._start_metrics()
        while self._exit_code is None:
            self._wait()
        return self._exit_code

    def _store(self, mount: Mount) -> bool:
        """Put the descriptors into systemd's fd store."""
        # FDPOLL=0: else every request to the filesystem would wake systemd.
        return all(
            self._notifier.send("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[number])
            for name, number in mount.descriptors.items()
        )

    def _wait(self) -> None:
        handlers = self._handlers()
        poller = select.poll()
        for number in handlers:
            # A connection shows its end as POLLERR, which comes unasked.
            poller.register(number, 0 if self._is_connection(number) else select.POLLIN)
        due = min(self._at.values(), default=None)
        pause = None if due is None else max(0.0, due - time.monotonic())
        began = time.monotonic()
        ready = {
            number for number, _ in poller.poll(None if pause is None else int(pause * 1000) + 1)
        }
        if pause is not None and time.monotonic() - began > pause + 1.0 and self._hung in self._at:
            # We have slept ourselves (stopped, or starved): the server deserves a fresh start.
            self._at[self._hung] = max(
                self._at[self._hung], time.monotonic() + self._settings.watchdog
            )
        for number, handle in handlers.items():
            if number in ready and self._exit_code is None:
                handle()
        now = time.monotonic()
        for work in [work for work, when in self._at.items() if when <= now]:
            if self._exit_code is None and self._at.pop(work, None) is not None:
                work()

    def _handlers(self) -> dict[int, Callable[[], None]]:
        """Return what to do when a descriptor is ready, in this order.

        Each is bound to what the descriptor is now, as its number may be given again.
        """
        handlers: dict[int, Callable[[], None]] = {self._signals: self._on_signals}
        if self._probe is not None:
            handlers[self._probe.pidfd] = partial(self._on_probe_end, self._probe)
        if self._companion is not None:
            handlers[self._companion.pidfd] = partial(self._on_companion_end, self._companion)
        if self._listeners is not None:
            handlers |= self._listeners.handlers()
            if self._listeners.agent is not None:
                handlers[self._listeners.agent.pidfd] = self._on_agent_end
        if self._resources is not None and self._resources.process is not None:
            handlers[self._resources.process.pidfd] = self._on_resources_end
        if self._metrics is not None:
            handlers[self._metrics.pidfd] = partial(self._on_metrics_end, self._metrics)
        if self._resolver is not None:
            resolver = self._resolver
            handlers[resolver.child.pidfd] = partial(self._on_resolver_end, resolver)
        if self._server is not None:
            if self._server.heartbeat >= 0:
                handlers[self._server.heartbeat] = partial(self._on_heartbeat, self._server)
            handlers[self._server.child.pidfd] = partial(self._on_server_end, self._server)
        for server in self._abandoned:
            handlers[server.child.pidfd] = partial(self._on_server_end, server)
        for kind, process in self._rescues.items():
            handlers[process.pidfd] = partial(self._on_rescue_end, kind, process)
        if not (self._server or self._rescues.keys() & {OWN, CALLER} or self._remount in self._at):
            # Not watched while a server notices by itself: every request would wake the keeper.
            handlers |= {mount.connection: self._on_dead for mount in self._mounts.values()}
        return handlers

    def _is_connection(self, number: int) -> bool:
        return any(number == mount.connection for mount in self._mounts.values())

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        self._at[work] = time.monotonic() + seconds

    # Starting a server, and seeing that it serves

    def _start(self) -> None:
        self._at.pop(self._start, None)
        if self._server is not None or self._stopping:
            return
        if self._dead():
            self._on_dead()
            return
        self._replacing = False
        descriptors = {"--config-fd": self._settings.config_fd}
        for kind, mount in self._mounts.items():
            descriptors[f"--{kind}-fd"] = mount.connection
            descriptors[f"--{kind}-memory-fd"] = mount.memory
        try:
            self._server = child.ServerProcess(self._settings.server, descriptors)
        except OSError as error:
            say(ERR, f"no server can be started now ({error.strerror}); trying again")
            self._after(BACKOFF_S[1], self._start)
            return
        if self._started:
            self._report.count(report.RESTARTS)
        self._started = True
        self._report.server(self._server.child.pid)
        if self._settings.watchdog:
            self._after(max(START_S, self._settings.watchdog), self._hung)

    def _on_heartbeat(self, server: child.ServerProcess) -> None:
        beats = server.beats()
        serves = server.serves or b"R" in beats
        # Until then it loads modules, which takes seconds on a busy machine, and answers readers.
        if serves and beats and self._settings.watchdog and not server.killed:
            self._after(self._settings.watchdog, self._hung)
        if beats and self._rescuing:
            self._end_rescues()
        if b"R" in beats and not server.serves:
            server.serves = True
            self._after(HEALTHY_S, self._failures.clear)
            self._rescuing = False
            if self._announced:
                say(NOTICE, "a server serves again")
                self._report.change(report.SERVING, "serving")
            else:
                self._start_probe()
        if b"L" in beats and self._resolver is None:
            self._end_reload()

    def _start_probe(self) -> None:
        """Read through the mount in a child, which may hang."""
        self._at.pop(self._start_probe, None)
        serves = self._server is not None and self._server.serves
        if serves and self._probe is None and not self._stopping:
            path = f"{self._settings.mountpoint}/proc/uptime"
            try:
                self._probe = child.fork(lambda: _probe(path))
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
        self._start_companion()
        self._report.change(report.SERVING, "serving", "READY=1")
        say(INFO, f"serving at {self._settings.mountpoint}")
        socket = self._resources.path if self._resources is not None else None
        say(INFO, banner.docker_line(self._settings.mountpoint, socket), prefix="")

    # Containers that run

    def _start_companion(self) -> None:
        """Start the process that heals containers and attaches new ones."""
        self._at.pop(self._start_companion, None)
        if not self._settings.companion or self._companion is not None or self._stopping:
            return
        config_fd = self._settings.config_fd
        command = [*self._settings.server[:-1], "companion", str(config_fd)]
        try:
            self._companion = child.fork(lambda: child.execute(command, [config_fd]))
        except OSError as error:
            say(ERR, f"containers cannot be healed now ({error.strerror}); trying again")
            self._after(COMPANION_S, self._start_companion)
        else:
            self._report.count(report.HEALS)

    def _restart_companion(self) -> None:
        """Start it again, with the present mounts."""
        if self._companion is not None:
            self._companion.send(signal.SIGKILL)
        elif self._announced:
            self._start_companion()

    def _on_companion_end(self, companion: child.Child) -> None:
        code = companion.reap()
        self._companion = None
        if self._stopping or code == 0:  # it had nothing to do but to heal
            return
        if code == -signal.SIGKILL:
            self._start_companion()
        else:
            say(WARNING, f"the companion that heals containers has failed ({_describe(code)})")
            self._after(COMPANION_S, self._start_companion)

    # System calls of containers

    def _listen(self) -> None:
        """Open the sockets for runtimes, and start an agent."""
        command = [*self._settings.server[:-1], "agent"]
        try:
            self._listeners = Listeners(
                self._settings.runtime_dir,
                command,
                self._settings.config_fd,
                self._notifier,
                self._kept_listeners,
            )
        except OSError as error:
            say(ERR, f"no seccomp agent: {error}")
        else:
            if self._settings.seccomp_agent:
                self._start_agent()
            else:  # it was on at the start before
                self._listeners.close(keep=False)
                self._listeners = None

    def _start_agent(self) -> None:
        if self._listeners is None or self._listeners.agent is not None or self._stopping:
            return
        try:
            self._listeners.start()
        except OSError as error:
            say(ERR, f"no seccomp agent can be started now ({error.strerror}); trying again")
            self._after(BACKOFF_S[1], self._start_agent)

    def _on_agent_end(self) -> None:
        assert self._listeners is not None, "it has ended, so there were listeners"
        code = self._listeners.end_agent()
        if not self._stopping:
            self._agent_failures.add()
            say(WARNING, f"the seccomp agent has ended ({_describe(code)}); starting another")
            self._after(self._agent_failures.delay, self._start_agent)

    # The resources service

    def _listen_for_resources(self) -> None:
        """Open the socket, or take it from systemd, and start the process that answers."""
        if self._stopping:
            return
        command = [*self._settings.server[:-1], "answer-resources"]
        try:
            self._resources = Resources(
                self._settings.runtime_dir,
                command,
                self._settings.config_fd,
                self._notifier,
                self._given_resources,
            )
        except (OSError, InstanceError) as error:
            # After a crash the process that answered may still be ending.
            text = f"no resources service: {error}; trying again"
            if isinstance(error, InstanceError):
                text += f": {error.hint}"
            if text != self._no_resources:
                self._no_resources = text
                say(ERR, text)
            self._after(BACKOFF_S[1], self._listen_for_resources)
        else:
            self._report.resources(self._resources.path)
            say(INFO, f"resources at {self._resources.path}")
            self._start_resources()

    def _start_resources(self) -> None:
        if self._resources is None or self._resources.process is not None or self._stopping:
            return
        try:
            self._resources.start()
        except OSError as error:
            say(ERR, f"the resources service cannot start now ({error.strerror}); trying again")
            self._after(BACKOFF_S[1], self._start_resources)

    def _on_resources_end(self) -> None:
        assert self._resources is not None, "its process has ended"
        code = self._resources.reap()
        if self._stopping:
            return
        if code == -signal.SIGKILL:
            self._start_resources()
            return
        self._resources_failures.add()
        say(WARNING, f"the resources service has ended ({_describe(code)}); starting it again")
        self._after(self._resources_failures.delay, self._start_resources)

    # Prometheus

    def _start_metrics(self) -> None:
        """Start the process that Prometheus reads: no server waits for its readers."""
        self._at.pop(self._start_metrics, None)
        if not self._settings.metrics or self._metrics is not None or self._stopping:
            return
        config_fd = self._settings.config_fd
        command = [*self._settings.server[:-1], "metrics", str(config_fd)]
        try:
            self._metrics = child.fork(lambda: child.execute(command, [config_fd]))
        except OSError as error:
            say(ERR, f"no metrics can be served now ({error.strerror}); trying again")
            self._after(COMPANION_S, self._start_metrics)

    def _on_metrics_end(self, metrics: child.Child) -> None:
        code = metrics.reap()
        self._metrics = None
        if not self._stopping:
            say(WARNING, f"the process that serves metrics has ended ({_describe(code)})")
            self._after(COMPANION_S, self._start_metrics)

    # The end of a server, wanted or not

    def _on_server_end(self, server: child.ServerProcess) -> None:
        code = server.end()
        if server in self._abandoned:
            self._abandoned.remove(server)
            return
        self._server = None
        self._after_server(server, code)

    def _after_server(self, server: child.ServerProcess, code: int) -> None:
        for work in (
            *(self._hung, self._kill, self._abandon),
            *(self._failures.clear, self._start_probe),
        ):
            self._at.pop(work, None)
        if self._stopping:
            self._finish_if_all_ended()
            return
        self._report.server(None)
        if self._resolver is None:
            self._end_reload()  # the next server reads the document as it is now
        if self._dead():
            self._on_dead()
        elif self._replacing:
            self._start()
        elif self._rescuing:
            self._on_rescued_failure(code)
        elif (code == 0 and server.serves) or (code == -signal.SIGKILL and not server.killed):
            # Caused from outside (an operator, the OOM killer): no sign of a bad server.
            say(WARNING, f"the server was ended ({_describe(code)}); starting another")
            self._after(0.0 if server.serves else BACKOFF_S[0], self._start)
        else:
            self._on_failure(code)

    def _on_failure(self, code: int) -> None:
        count = self._failures.add()
        self._report.count(report.FAILURES)
        if count >= self._settings.max_failures:
            self._give_up(count, code)
            return
        say(
            ERR,
            f"the server failed ({_describe(code)}), {count} of {self._settings.max_failures}"
            f" in a row; starting another in {self._failures.delay:g} s",
        )
        self._report.change(report.FAILING, f"server failed {count} times in a row")
        self._after(self._failures.delay, self._start)

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
            if not self._stopping:
                self._after(KILL_S, self._abandon)

    def _abandon(self) -> None:
        """Go on without a server that SIGKILL does not end: a thread waits in the kernel.

        Its other threads have ended, and the kernel resends what it had taken.
        """
        server, self._server = self._server, None
        if server is not None:
            say(ERR, f"the server (pid {server.child.pid}) does not end after SIGKILL; left behind")
            self._abandoned.append(server)
            self._after_server(server, -signal.SIGKILL)

    def _to_server(self, number: int) -> None:
        if self._server is not None:
            self._server.child.send(number)

    # Where no server can be had

    def _give_up(self, count: int, code: int) -> None:
        text = f"no server: {count} failed in a row, the last with {_describe(code)}"
        self._failures.clear()
        if not (self._announced or self._adopted):
            say(ERR, f"{text}; unmounting, as no container uses the mount yet")
            self._stop(for_good=True, code=1)
            return
        what_to_do = f"correct the cause, then: kill -USR1 {os.getpid()} (or restart the service)"
        say(ERR, f"{text}; the mount is kept, and containers see the host's values")
        say(ERR, what_to_do)
        self._rescuing = True
        self._rescue_pause = RESCUE_S[0]
        self._at.pop(self._end_rescues, None)
        self._start_rescues()
        # Not to say READY would make systemd end the keeper of a mount that is in use.
        ready = [] if self._announced else ["READY=1"]
        text = f"{text}; containers see the host's values; {what_to_do}"
        self._report.change(report.RESCUE, text, *ready)
        self._announced = True
        self._after(self._rescue_pause, self._start)

    def _start_rescues(self) -> None:
        """Start the rescue servers that should run and do not."""
        wanted: dict[str, int] = {}
        if self._rescuing:
            alive = [mount for mount in self._mounts.values() if mount.is_connected()]
            wanted = {mount.kind: mount.connection for mount in alive}
        if self._previous:
            wanted[rescue.PREVIOUS] = self._previous[holder.PREVIOUS[0]]
        for kind in wanted.keys() - self._rescues.keys():
            settings = self._settings
            work = partial(rescue.serve, kind, wanted[kind], settings.files, settings.devices)
            try:
                self._rescues[kind] = child.fork(work)
            except OSError as error:
                say(ERR, f"no rescue server can be started now ({error.strerror}); trying again")
                self._after(BACKOFF_S[1], self._start_rescues)

    def _on_rescued_failure(self, code: int) -> None:
        """A server that was tried beside the rescue server has failed."""
        self._report.count(report.FAILURES)
        for mount in self._mounts.values():
            fusemount.resend(mount.connection)  # what it had taken goes to the rescue server
        self._at.pop(self._end_rescues, None)
        self._start_rescues()
        self._rescue_pause = min(self._rescue_pause * 2, RESCUE_S[1])
        pause = self._rescue_pause
        say(WARNING, f"the server still fails ({_describe(code)}); the next try is in {pause:g} s")
        self._after(pause, self._start)

    def _on_rescue_end(self, kind: str, process: child.Child) -> None:
        code = process.reap()
        del self._rescues[kind]
        if self._stopping:
            self._finish_if_all_ended()
        elif kind == rescue.PREVIOUS and not self._is_previous_connected():
            self._forget_previous()
        elif kind != rescue.PREVIOUS and (not self._rescuing or self._end_rescues in self._at):
            if code != 0:
                fusemount.resend(self._mounts[kind].connection)
        elif kind != rescue.PREVIOUS and self._dead():
            self._on_dead()
        else:
            self._rescue_failures.add()
            say(ERR, f"a rescue server failed ({_describe(code)}); starting another")
            self._after(self._rescue_failures.delay, self._start_rescues)

    def _end_rescues(self) -> None:
        """Tell the rescue servers of the mounts to end, until they have.

        A server is about to serve, and two must not both answer.
        """
        for kind, process in self._rescues.items():
            if kind != rescue.PREVIOUS:
                process.send(signal.SIGTERM)
                self._after(TELL_AGAIN_S, self._end_rescues)

    def _is_previous_connected(self) -> bool:
        return fusemount.is_connected(self._previous[holder.PREVIOUS[0]])

    def _forget_previous(self) -> None:
        say(NOTICE, "the last container with files from before the upgrade has ended")
        self._remove_stored(self._previous)
        for number in self._previous.values():
            os.close(number)
        self._previous.clear()

    # The end of a connection

    def _dead(self) -> list[Mount]:
        return [mount for mount in self._mounts.values() if not mount.is_connected()]

    def _is_unmounted(self, mount: Mount) -> bool:
        return mount.kind not in self._detached and not mount.is_mounted()

    def _on_dead(self) -> None:
        """A connection has ended: by an abort, or because it was unmounted."""
        dead = self._dead()
        if any(mount.kind == OWN and self._is_unmounted(mount) for mount in dead):
            self._on_unmounted()
        elif dead and self._remount not in self._at:
            self._aborts.add()
            self._report.count(report.ABORTS)
            self._report_failing("a connection has ended; mounting again")
            self._after(max(ABORT_GRACE_S, self._aborts.delay), self._remount)

    def _on_unmounted(self) -> None:
        say(NOTICE, f"{self._settings.mountpoint} was unmounted; ending")
        self._stop(for_good=True)

    def _remount(self) -> None:
        for mount in self._dead():
            if self._is_unmounted(mount):
                if mount.kind == OWN:
                    self._on_unmounted()
                    return
                say(WARNING, f"{mount.mountpoint} was unmounted; mounting it again")
            elif mount.kind not in self._detached:
                say(
                    ERR,
                    f"the connection of {mount.mountpoint} was aborted (umount -f, or"
                    f" /sys/fs/fuse/connections); mounting again. {self._what_heals()}",
                )
            try:
                self._replace_mount(mount)
            except OSError as error:
                text = f"{mount.mountpoint} cannot be mounted: {error.strerror}"
                say(ERR, f"{text}; trying again in {BACKOFF_S[1]:g} s")
                self._report_failing(text)
                self._after(BACKOFF_S[1], self._remount)
                return
        self._restart_companion()
        if self._rescuing:
            self._start_rescues()
            self._at.setdefault(self._start, time.monotonic() + self._rescue_pause)
        else:
            self._start()

    def _what_heals(self) -> str:
        if self._settings.companion:
            return "Containers that run get new files"
        return "Containers that run have dead files until: pylxcfs attach --all"

    def _report_failing(self, text: str) -> None:
        if not self._rescuing:
            self._report.change(report.FAILING, text)

    def _replace_mount(self, mount: Mount) -> None:
        mount.detach()
        self._detached.add(mount.kind)
        self._mounts[mount.kind] = fusemount.make(mount.kind, mount.mountpoint)
        self._detached.discard(mount.kind)
        self._remove_stored(mount.descriptors)
        mount.close()
        if self._notifier.keeps_descriptors:
            self._stored = self._store(self._mounts[mount.kind]) and self._stored

    def _remove_stored(self, names: Mapping[str, int]) -> None:
        for name in names:
            self._notifier.send("FDSTOREREMOVE=1", f"FDNAME={name}")

    # What signals ask for

    def _on_signals(self) -> None:
        for number in child.read_signals(self._signals):
            if self._exit_code is None:
                self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(for_good=not (self._stored or self._settings.keep_mounted))
        elif number == child.END_FOR_GOOD:
            self._stop(for_good=True)
        elif self._stopping:
            pass
        elif number == signal.SIGUSR1:
            self._replace()
        elif number == signal.SIGHUP:
            self._reload()
        else:
            self._to_server(number)

    def _replace(self) -> None:
        self._failures.clear()
        self._rescue_pause = RESCUE_S[0]
        if self._resources is not None:
            self._resources.restart()
        if self._server is None:
            self._start()
        else:
            self._replacing = True
            self._to_server(signal.SIGTERM)
            self._after(TERM_S, self._kill)

    def _reload(self) -> None:
        if self._reloading:
            self._reload_again = True
            return
        self._reloading = True
        if self._announced:
            now = time.monotonic_ns() // 1000
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={now}")
        command = [*self._settings.server[:-1], "resolve"]
        try:
            self._resolver = reload.Resolver(command, self._settings.config_fd)
        except OSError as error:
            say(ERR, f"reload: the configuration cannot be read again ({error.strerror})")
            self._end_reload()
        else:
            self._after(RELOAD_S, self._kill_resolver)

    def _kill_resolver(self) -> None:
        if self._resolver is not None:
            say(ERR, f"reload: the resolver takes longer than {RELOAD_S:g} s")
            self._resolver.child.send(signal.SIGKILL)

    def _on_resolver_end(self, resolver: reload.Resolver) -> None:
        code = resolver.end()
        self._resolver = None
        self._at.pop(self._kill_resolver, None)
        good = code == 0 and resolver.is_document()
        for line in resolver.lines:
            say(NOTICE if good else ERR, f"reload: {line}")
        if not good:
            say(ERR, f"reload: the configuration stays as it was ({_describe(code)})")
            self._end_reload()
            return
        try:
            reload.replace_document(self._settings.config_fd, resolver.document)
            report.replace_file(f"{self._settings.runtime_dir}/config.json", resolver.document)
        except OSError as error:
            say(WARNING, f"reload: config.json cannot be written: {error.strerror}")
        if self._resources is not None:
            self._resources.restart()
        if self._server is None:
            self._end_reload()
        else:
            self._to_server(signal.SIGHUP)
            self._after(RELOAD_S, self._end_late_reload)

    def _end_late_reload(self) -> None:
        say(WARNING, f"reload: the server has not answered within {RELOAD_S:g} s")
        self._end_reload()

    def _end_reload(self) -> None:
        """The server has reloaded, or there is none that could."""
        self._at.pop(self._end_late_reload, None)
        if not self._reloading:
            return
        self._reloading = False
        if self._announced:
            self._notifier.send("READY=1")
        if self._rescuing:
            self._replace()
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _stop(self, *, for_good: bool, code: int = 0) -> None:
        """End the server, then the keeper.

        A stop for good may follow one that keeps the mounts.
        """
        first, self._stopping = not self._stopping, True
        self._keep = not for_good and (first or self._keep)
        for work in (self._start, self._remount, self._start_rescues, self._end_rescues):
            self._at.pop(work, None)
        if first:
            self._code = code
            self._report.change(report.STOPPING, "stopping", "STOPPING=1")
        if for_good:
            for mount in self._mounts.values():
                mount.detach()
        if first:
            self._end_readers()
            self._to_server(signal.SIGTERM)
            for process in self._rescues.values():
                process.send(signal.SIGTERM)
            self._after(TERM_S, self._kill)
            self._after(TERM_S + KILL_S, self._finish)
        self._finish_if_all_ended()

    def _end_readers(self) -> None:
        """End the processes of this unit that read the mounts, while there is a server.

        A server leaves requests that it has taken to the next one, and the kernel does not end a
        process before the answer. systemd would wait for it (TimeoutStopSec=), and the next start
        would wait for systemd.
        """
        for process in (self._probe, self._companion):
            if process is not None and (self._server or self._rescues):
                process.send(signal.SIGKILL)
                process.wait(READERS_S)

    def _finish_if_all_ended(self) -> None:
        if self._server is None and not self._rescues:
            self._finish()

    def _finish(self) -> None:
        children = [self._probe, self._companion, self._metrics, *self._rescues.values()]
        if self._resolver is not None:
            children.append(self._resolver.child)
        for process in children:
            if process is not None:
                process.send(signal.SIGKILL)
        if self._listeners is not None:
            self._listeners.close(keep=self._keep)
        if self._resources is not None:
            self._resources.close(keep=self._keep)
        if not self._keep:
            for mount in self._mounts.values():
                self._remove_stored(mount.descriptors)
            self._remove_stored(self._previous)
        elif not self._stored:
            self._hand_to_holder()
        self._report.remove()
        self._exit_code = self._code

    def _hand_to_holder(self) -> None:
        mounts = [self._mounts[kind] for kind in (OWN, CALLER)]
        try:
            holder.hold(mounts, self._previous, self._settings.runtime_dir)
        except OSError as error:
            say(ERR, f"the mount cannot be kept ({error}); unmounting")
            for mount in mounts:
                mount.detach()
        else:
            say(INFO, f"{self._settings.mountpoint} is held for the next start")

    def _ping(self) -> None:
        """Tell systemd's watchdog that this loop turns."""
        if self._notifier.watchdog_s:
            self._notifier.send("WATCHDOG=1")
            self._after(self._notifier.watchdog_s / 3, self._ping)


def _probe(path: str) -> int:
    # A reader without a server cannot be killed. It must not be what keeps a connection.
    child.close_others()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, child.HANDLED)
    with open(path, "rb") as file:
        return 0 if file.read() else 1


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
