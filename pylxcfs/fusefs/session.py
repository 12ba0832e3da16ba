"""pyfuse3 and trio behind a connection: what the express lane passes on is answered here.

Loaded last: a server that takes over serves readers before this module is there.
"""

from __future__ import annotations

import contextlib

import pyfuse3
import trio

from pylxcfs.errors import SourceError
from pylxcfs.fusefs.connection import Connection
from pylxcfs.fusefs.filesystem import Filesystem
from pylxcfs.fusefs.guard import Guard
from pylxcfs.fusefs.operations import Operations

_SETTLE_S = 30.0


async def run(
    connection: Connection,
    filesystem: Filesystem,
    guard: Guard,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until the connection ends, or `connection.ended` is called. Started with INIT settled.

    Raise SourceError if libfuse does not answer INIT.
    """
    token = trio.lowlevel.current_trio_token()
    over = trio.Event()

    def ended() -> None:
        connection.over.set()
        # The loop may be over already: unmounting is then what ended it.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(over.set)

    connection.ended = ended
    if connection.over.is_set():
        task_status.started()
        return
    mountpoint = f"/dev/fd/{connection.theirs.fileno()}"
    pyfuse3.init(Operations(filesystem, guard), mountpoint, set())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            settled = await trio.to_thread.run_sync(
                connection.settled.wait, _SETTLE_S, abandon_on_cancel=True
            )
            if not settled:
                raise SourceError(f"libfuse did not answer the kernel's INIT in {_SETTLE_S:g} s")
            task_status.started()
            await over.wait()
            await trio.to_thread.run_sync(connection.close)
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=False)
