"""The companion of a keeper: heals containers, and attaches or moves new ones.

A new container is noticed by the cgroup that its runtime makes for it: inotify sees what is made
through the cgroup filesystem. Its mounts may not be ready then, so all processes are looked through
a few times after that. A walk costs some microseconds a process; walks pause so long that they take
5 % of one CPU at most. A container that does not answer, or makes cgroups all the time, does not
keep others waiting for long.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from pylxcfs.attach import containers, inotify, work
from pylxcfs.attach.containers import Container, printable
from pylxcfs.attach.mounting import ATTACHED, FAILED, LEFT, REPLACED, Outcome
from pylxcfs.attach.views import Mounts
from pylxcfs.errors import PylxcfsError
from pylxcfs.sources.cgroups import Hierarchies

_log = logging.getLogger(__name__)

#: Seconds after a cgroup was made at which processes are looked through.
_LOOKS_S: Final = (0.02, 0.1, 0.3, 1.0, 3.0)
#: And without any sign, as a cgroup may have been made before the container.
_SELDOM_S: Final = 10.0
#: Events of so many seconds are read together.
_BATCH_S: Final = 0.01
#: A walk that took so much CPU time is followed by a pause of so many times that.
_PAUSE: Final = 20
#: Seconds after which a container whose root is the host's is taken for set up. A runtime that
#: makes a root for it has done so before that.
_SETTLED_S: Final = 1.0
#: Looks at which a container is tried that cannot be entered, or that the server does not know yet.
_MOST_TRIES: Final = 5
#: Lines that are remembered, and so logged, of the containers that run.
_MOST_SAID: Final = 1000

#: A mount namespace and a process: numbers of namespaces come back.
_Key = tuple[str, int]


class Watch:
    """Looks after the containers of one pair of mounts."""

    def __init__(self, mounts: Mounts, wanted: Sequence[str]) -> None:
        self._mounts = mounts
        self._wanted = wanted
        self._said: set[tuple[str, str]] = set()

    def heal(self) -> None:
        """Replace dead and old mounts in all containers."""
        for container in containers.running():
            self._do(container, lambda one: work.heal(self._mounts, one))

    def attach_new(self) -> None:
        """Attach containers, as they come, for ever."""
        self._follow(self._attach)

    def move_new(self) -> None:
        """Give containers that have shared files their own, as they come, for ever."""
        self._follow(lambda one: work.move(self._mounts, one))

    def _follow(self, what: Callable[[Container], list[Outcome]]) -> None:
        watched = Watched()
        schedule = Schedule(time.monotonic())
        tried: dict[_Key, int] = {}
        while True:
            if watched.wait(schedule.at() - time.monotonic()):
                schedule.noticed(time.monotonic())
                # The next ones are read together: a container may make cgroups all the time.
                time.sleep(_BATCH_S)
            if time.monotonic() < schedule.at():
                continue
            cpu_s = _cpu_s()
            tried = self._do_all(what, tried)
            schedule.looked(time.monotonic(), _cpu_s() - cpu_s)

    def _do_all(
        self, what: Callable[[Container], list[Outcome]], tried: dict[_Key, int]
    ) -> dict[_Key, int]:
        """Do it to those that were not tried often enough; return how often all were."""
        still: dict[_Key, int] = {}
        for container in containers.running():
            key = container.namespace, container.pid
            tries = tried.get(key, 0)
            if tries < _MOST_TRIES and containers.is_set_up(container, _SETTLED_S):
                still[key] = _MOST_TRIES if self._do(container, what) else tries + 1
            else:
                still[key] = tries
                os.close(container.pidfd)
        namespaces = {namespace for namespace, _ in still}
        self._said = {line for line in self._said if line[0] in namespaces}
        return still

    def _attach(self, container: Container) -> list[Outcome]:
        return work.attach(self._mounts, container, self._wanted, take_over=False)

    def _do(self, container: Container, what: Callable[[Container], list[Outcome]]) -> bool:
        """Return False if it is worth another try: on a busy host answers are late."""
        try:
            outcomes = what(container)
        except (OSError, PylxcfsError) as error:
            self._say(container, f"cannot be entered: {error}")
            return False
        finally:
            os.close(container.pidfd)
        changed = [one.target for one in outcomes if one.what in (ATTACHED, REPLACED)]
        if changed:
            _log.info("container %s: %d files attached", printable(container.name), len(changed))
        for one in outcomes:
            if one.what in (FAILED, LEFT):
                self._say(container, f"{one.target}: {one.why}")
        return not outcomes or any(one.what != FAILED for one in outcomes)

    def _say(self, container: Container, text: str) -> None:
        """Log a line once for each container."""
        line = container.namespace, text
        if line not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(line)
            name = printable(container.name)
            _log.warning("container %s (pid %d): %s", name, container.pid, printable(text))


class Schedule:
    """When all processes are looked through; times are monotonic seconds.

    What is due stays due: a container that makes a cgroup every millisecond puts nothing off.
    """

    def __init__(self, now: float) -> None:
        self._due = [now]
        self._last = now
        self._not_before = now

    def at(self) -> float:
        """Return when the next look is due."""
        due = self._due[0] if self._due else self._last + _SELDOM_S
        return max(due, self._not_before)

    def noticed(self, now: float) -> None:
        """Something was made."""
        self._due = self._due[:1] + [now + after for after in _LOOKS_S]
        self._due.sort()

    def looked(self, now: float, cpu_s: float) -> None:
        """All processes were looked through, which took so much CPU time."""
        self._due = [at for at in self._due if at > now]
        self._last = now
        self._not_before = now + _PAUSE * cpu_s


def _cpu_s() -> float:
    """Return the CPU time of this process and its children. Waiting for a container is none."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Watched:
    """Every cgroup of one hierarchy in which runtimes make one for each container."""

    def __init__(self) -> None:
        self._notify = inotify.Inotify()
        self._watched: dict[int, str] = {}
        self._complained = False
        hierarchies = Hierarchies.discover()
        mount = hierarchies.v1.get("pids") or hierarchies.v1.get("memory") or hierarchies.v2
        self._top = mount.mountpoint if mount is not None else None
        self._watch_all()

    def wait(self, timeout_s: float) -> bool:
        """Return whether a cgroup was made; wait for one until the timeout."""
        poller = select.poll()
        poller.register(self._notify.fileno(), select.POLLIN)
        if not poller.poll(max(0.0, timeout_s) * 1000):
            return False
        try:
            for directory in self._notify.made(self._watched):
                self._watch(directory)
        except inotify.Overflow:
            self._watch_all()
        return True

    def _watch_all(self) -> None:
        if self._top is not None:
            self._watch(self._top)

    def _watch(self, top: str) -> None:
        """Watch a directory and all below it."""
        pending = [top]
        while pending:
            directory = pending.pop()
            try:
                self._watched[self._notify.watch(directory)] = directory
                with os.scandir(directory) as entries:
                    pending += [
                        entry.path for entry in entries if entry.is_dir(follow_symlinks=False)
                    ]
            except OSError as error:
                if error.errno not in inotify.ENDED:
                    if not self._complained:
                        _log.warning(
                            "new containers may be noticed late: %s: %s",
                            printable(directory),
                            error.strerror,
                        )
                    self._complained = True
                    return
