"""A fair queue: which request is served next, where more arrive than are served.

/dev/fuse hands requests out in the order in which they came. So a reader beside a container with
many busy threads would wait for all of them, at each request of its read. Where requests of one
container pile up, all that wait are taken from the kernel, and each container has its turn with
one.

Only for kernels that hand out again what a killed server had taken (Linux 6.9). One thread at a
time takes requests. Knows where a request belongs by `Key`; does not know how it is answered.
"""

from __future__ import annotations

import errno
import os
import select
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from pylxcfs.fuse import wire

#: After so many requests it is checked whether others wait; after up to so many where none did, as
#: many containers with a reader each are served in turn anyway.
_CHECK: Final = 32
_CHECK_SELDOM: Final = 1024

#: More requests of one container than that are a pile: its turns come one after the other.
_PILE: Final = 4

#: For so many requests there must be no pile before they are taken singly again.
_CALM: Final = 32

#: Bytes of requests that are taken at most. One is 50 bytes, or 32 KiB for a WRITE.
_MOST: Final = 8 << 20

#: From opcode, node id, pid of the caller and the first word of the body to the container that a
#: request belongs to. Must not block: only the order of requests depends on it.
Key = Callable[[int, int, int, int], int]


class FairQueue:
    """The requests of one connection that were taken and not yet served, and their order."""

    def __init__(self, device: int, key: Key) -> None:
        # Never blocking: a request that poll(2) announces is gone if its caller is killed then,
        # and read(2) would wait for the next one before those that were taken. The flag is never
        # reset, as it belongs to the open file, which servers share.
        os.set_blocking(device, False)
        self._device = device
        self._key = key
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        #: Requests by container, in the order of the containers' turns.
        self._waiting: OrderedDict[int, deque[bytes]] = OrderedDict()
        #: Bytes of them.
        self._taken = 0
        #: Whether requests are taken as they come and served in turn.
        self.queuing = False
        #: Requests until the next check, and between checks.
        self._until_check = self._interval = _CHECK
        self._calm = 0

    def read(self, buffers: list[bytearray]) -> int:
        """Put the request whose turn it is into the buffer; return its length.

        Raise OSError as read(2) on the device does.
        """
        if self.queuing:
            length = self._dequeue(buffers)
            if length:
                return length
        while True:
            try:
                length = os.readv(self._device, buffers)
            except BlockingIOError:
                self._poll.poll()
                continue
            self._until_check -= 1
            if not self._until_check:
                self._check()
            return length

    def _check(self) -> None:
        """Begin to queue if requests wait."""
        self._calm = 0
        if self._poll.poll(0):
            self.queuing = True
            self._interval = min(2 * self._interval, _CHECK_SELDOM)
        self._until_check = self._interval

    def _dequeue(self, buffers: list[bytearray]) -> int:
        """Return the length of the next request; 0 once there was no pile for a while."""
        while True:
            if self._calm < _CALM:
                self._take_all(buffers)
            if self._waiting:
                return self._serve(buffers[0])
            if self._calm >= _CALM:
                self.queuing = False
                return 0
            self._poll.poll()

    def _take_all(self, buffers: list[bytearray]) -> None:
        buffer = buffers[0]
        while self._taken < _MOST:
            try:
                length = os.readv(self._device, buffers)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOENT:  # the caller was interrupted
                    raise
                continue
            opcode, _, node, pid, word = wire.REQUEST_AND_WORD.unpack_from(buffer)
            if opcode in wire.UNANSWERED:
                continue
            owner = self._key(opcode, node, pid, word)
            self._waiting.setdefault(owner, deque()).append(bytes(buffer[:length]))
            self._taken += length

    def _serve(self, buffer: bytearray) -> int:
        owner, pile = next(iter(self._waiting.items()))
        self._calm += 1
        if len(pile) > _PILE:
            self._calm = 0
            self._interval = _CHECK
        request = pile.popleft()
        if pile:
            self._waiting.move_to_end(owner)
        else:
            del self._waiting[owner]
        length = len(request)
        self._taken -= length
        buffer[:length] = request
        return length
