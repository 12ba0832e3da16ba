"""What a server does besides answering reads: reap, sample, sweep, save, beat, heed signals.

Tasks of one trio nursery around fusefs/session.py. The parts they work on are server.py's.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable
from functools import partial

import trio

from pylxcfs.fusefs import session
from pylxcfs.fusefs.connection import Connection
from pylxcfs.fusefs.guard import Guard
from pylxcfs.server.heartbeat import HEALTHY, READY, beat
from pylxcfs.server.parts import Server
from pylxcfs.sources.averages import STEP_NS
from pylxcfs.units import NS_PER_S

_log = logging.getLogger(__name__)

#: At most; with a short option watchdog a part of that.
_HEARTBEAT_S = 2.0
_HEARTBEATS = 5
_SWEEP_S = 5.0
#: What is kept of containers that ended goes so soon, or churn would pile it up.
_SWEEP_ENDED_S = 0.25
_AFTER_FAILURE_S = 1.0
_PREPARE_S = 0.02
#: In so many groups at most: each wake-up costs as much as counting one container.
_SAMPLED_GROUPS = 256
_SAVE_S = 60.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


async def run(server: Server, connection: Connection, heartbeat: int) -> None:
    """Go on until the connection ends or SIGTERM arrives."""
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, server, connection)
        callers = server.filesystem.callers
        nursery.start_soon(_whenever, callers.fileno(), server.guard, callers.refresh)
        nursery.start_soon(_prepare, server)
        nursery.start_soon(_sample, server)
        nursery.start_soon(_sweep, server)
        async with trio.open_nursery() as serving:
            await serving.start(session.run, connection, server.filesystem, server.guard)
            if server.triggers is not None:
                server.triggers.start()
                server.triggers.wake_pollers_of_the_dead()
            beat(heartbeat, READY)
            gc.collect()
            gc.freeze()
            nursery.start_soon(_beat_on, connection, heartbeat, server.config.watchdog)
        nursery.cancel_scope.cancel()


async def _heed_signals(
    server: Server,
    connection: Connection,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(*SIGNALS) as signals:
        # They were blocked since before the process could heed them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                server.guard.attempt("reload", server.reload)
            elif number == signal.SIGUSR2:
                server.guard.attempt("toggle", server.toggle)
            else:
                connection.ended()


async def _whenever(fd: int, guard: Guard, work: Callable[[], None]) -> None:
    """Do `work` each time that `fd` is readable."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        if not guard.attempt("reap", work):
            await trio.sleep(_AFTER_FAILURE_S)  # it is readable still


async def _prepare(server: Server) -> None:
    while True:
        await trio.lowlevel.wait_readable(server.expected.fileno())
        # Whoever starts a container has more to ask first.
        await trio.sleep(_PREPARE_S)
        for _ in range(server.expected.count()):
            server.guard.attempt("prepare", server.expected.prepare)
            await trio.lowlevel.checkpoint()


async def _sample(server: Server) -> None:
    """Count every container's threads each five seconds; not all at once, or readers would wait."""
    while True:
        found = server.registry.containers() if server.config.loadavg else ()
        containers = [container for _, container in found]
        groups = min(max(1, len(containers)), _SAMPLED_GROUPS)
        for first in range(groups):
            for container in containers[first::groups]:
                sample = partial(server.sampler.sample, [container], server.host.now_ns())
                server.guard.attempt("sample", sample)
                await trio.lowlevel.checkpoint()
            await trio.sleep(STEP_NS / NS_PER_S / groups)


async def _sweep(server: Server) -> None:
    saved = trio.current_time()
    while True:
        with trio.move_on_after(_SWEEP_S):
            await trio.lowlevel.wait_readable(server.filesystem.callers.ended)
            await trio.sleep(_SWEEP_ENDED_S)
        now = trio.current_time()
        server.guard.attempt("sweep", server.filesystem.sweep)
        server.guard.attempt("sweep", server.contents.forget_bounds)
        if now - saved >= _SAVE_S:
            server.guard.attempt("save", server.save_state)
            saved = now


async def _beat_on(connection: Connection, heartbeat: int, watchdog_s: float) -> None:
    pause_s = min(_HEARTBEAT_S, watchdog_s / _HEARTBEATS or _HEARTBEAT_S)
    while connection.healthy:
        beat(heartbeat, HEALTHY)
        await trio.sleep(pause_s)
    _log.error("too many requests are stuck, or the lane has ended; waiting to be replaced")
