"""What a server does besides answering reads: reap, prewarm, sweep, save, beat, handle signals.

Tasks of one trio nursery around pyfuse3. The parts they work on are server.py's.
"""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Callable

import trio

from pylxcfs.guard import Guard
from pylxcfs.server import counters, settings
from pylxcfs.server.heartbeat import HEALTHY, READY, RELOADED, beat
from pylxcfs.server.server import Server
from pylxcfs.tree.operations import Operations

_log = logging.getLogger(__name__)

#: At most; with a short option watchdog a part of that.
_HEARTBEAT_S = 2.0
#: Heartbeats in the time of the watchdog. Each wakes the keeper, too.
_HEARTBEATS = 2.5
_SWEEP_S = 5.0
_AFTER_FAILURE_S = 1.0
_PREWARM_S = 0.02
_SAVE_S = 60.0

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


async def run(server: Server, ended: threading.Event, config: int, heartbeat: int) -> None:
    """Go on until a connection has ended or SIGTERM arrives."""
    computation = server.computation
    async with trio.open_nursery() as nursery:
        over = trio.Event()
        await nursery.start(_handle_signals, server, config, heartbeat, over)
        nursery.start_soon(_wait_for_end, ended, over)
        registry = computation.registry
        nursery.start_soon(_whenever, registry.fileno(), server.guard, registry.reap)
        nursery.start_soon(_prewarm, server)
        nursery.start_soon(_sweep, server)
        nursery.start_soon(counters.publish, server)
        operations = Operations(server.caller, server.guard, server.settings.request_timeout)
        await nursery.start(server.session.run, operations)
        beat(heartbeat, READY)
        gc.collect()
        gc.freeze()
        nursery.start_soon(_beat, server, heartbeat)
        await over.wait()
        await trio.to_thread.run_sync(server.close)
        nursery.cancel_scope.cancel()


async def _wait_for_end(ended: threading.Event, over: trio.Event) -> None:
    await trio.to_thread.run_sync(ended.wait, abandon_on_cancel=True)
    over.set()


async def _handle_signals(
    server: Server,
    config: int,
    heartbeat: int,
    over: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(*SIGNALS) as signals:
        # They were blocked until the process could handle them.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                server.guard.attempt("reload", lambda: server.reload(settings.read(config)))
                beat(heartbeat, RELOADED)
            elif number == signal.SIGUSR2:
                server.guard.attempt("toggle", server.toggle)
            else:
                over.set()


async def _whenever(fd: int, guard: Guard, work: Callable[[], None]) -> None:
    """Do `work` each time that `fd` is readable."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        if not guard.attempt("reap", work):
            await trio.sleep(_AFTER_FAILURE_S)  # it is readable still


async def _prewarm(server: Server) -> None:
    prewarm = server.computation.prewarm
    while True:
        await trio.lowlevel.wait_readable(prewarm.fileno())
        # The runtime that starts the container has more to ask first.
        await trio.sleep(_PREWARM_S)
        for _ in range(prewarm.count()):
            server.guard.attempt("prewarm", prewarm.prepare)
            await trio.lowlevel.checkpoint()


async def _sweep(server: Server) -> None:
    saved = trio.current_time()
    while True:
        await trio.sleep(_SWEEP_S)
        server.guard.attempt("sweep", server.sweep)
        if trio.current_time() - saved >= _SAVE_S or server.computation.must_save():
            await trio.to_thread.run_sync(server.computation.save_state)
            saved = trio.current_time()


async def _beat(server: Server, heartbeat: int) -> None:
    pause_s = min(_HEARTBEAT_S, server.settings.watchdog / _HEARTBEATS or _HEARTBEAT_S)
    while server.healthy:
        beat(heartbeat, HEALTHY)
        await trio.sleep(pause_s)
    _log.error("too many requests are stuck, or a loop has ended; waiting to be replaced")
