"""Whose request is served next, where more arrive than are served.

/dev/fuse hands requests out in the order in which they came. So whoever reads beside a container
whose threads all read without a pause waits for all of them, at each of the requests of a read.
Where requests of one container pile up, all that wait are taken from the kernel, and each
pid namespace has its turn with one. (Who makes namespaces of his own has more turns.)

Only for kernels that hand out again what a killed server had taken (Linux 6.9). Nobody takes
requests from the device at the same time. Knows who asks; does not know what is answered.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable
from typing import Final

from pylxcfs.fusefs import nodes, wire

#: After so many requests it is looked whether others wait; after up to so many where that was in
#: vain, as many containers with a reader each wait in turn anyway.
_LOOK: Final = 32
_LOOK_SELDOM: Final = 1024

#: More requests of one container than that are a pile: its turns come one after the other.
_PILE: Final = 4

#: For so many requests no pile has to be seen before they are taken singly again.
_CALM: Final = 32

#: Bytes of requests that are taken at most. One is 50 bytes, or 32 KiB where somebody writes.
_MOST: Final = 8 << 20

#: Nothing is answered to them, and nothing here depends on them.
_UNANSWERED: Final = frozenset({wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT})

#: From a caller's pid to its pid namespace, without waiting for anything. Only the order depends
#: on it, so a thread that has just ended may be taken for its successor.
Namespace = Callable[[int], int]


class Turns:
    """The requests of one connection that were taken and not yet served, and their order."""

    def __init__(self, device: int, namespace: Namespace) -> None:
        self._device = device
        self._namespace = namespace
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        #: Requests by namespace, and the namespaces that have some, in the order of their turns.
        self._waiting: dict[int, deque[bytes]] = {}
        self._next: deque[int] = deque()
        #: Bytes of them.
        self._taken = 0
        #: Whether `next` has to be asked for requests, instead of the device.
        self.are_kept = False
        #: After how many requests `begin` wants to be called again.
        self.interval = _LOOK
        self._calm = 0
        # The server before may have been killed while it kept them.
        os.set_blocking(device, True)

    def begin(self) -> bool:
        """Look whether requests wait, and say whether turns are kept from now on."""
        if self._poll.poll(0):
            os.set_blocking(self._device, False)
            self.are_kept = True
            self.interval = min(2 * self.interval, _LOOK_SELDOM)
            self._calm = 0
        return self.are_kept

    def next(self, buffer: bytearray) -> int:
        """Put the request whose turn it is into `buffer`; return its length.

        0: turns are not kept any more, so ask the device. Raise OSError as read(2) on it does.
        """
        while True:
            if self._calm < _CALM:
                self._take_all(buffer)
            if self._next:
                return self._serve(buffer)
            if self._calm >= _CALM:
                os.set_blocking(self._device, True)
                self.are_kept = False
                return 0
            self._poll.poll()

    def _take_all(self, buffer: bytearray) -> None:
        buffers = [buffer]
        while self._taken < _MOST:
            try:
                length = os.readv(self._device, buffers)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                if error.errno != errno.ENOENT:  # interrupted while it was read
                    raise
                continue
            opcode, _, node, _, pid, word = wire.IN_HEADER_AND_WORD.unpack_from(buffer)
            if opcode in _UNANSWERED:
                continue
            # RELEASE comes from nobody, but says of whose handle.
            number = word if opcode == wire.RELEASE else node
            who = self._namespace(pid) if pid else nodes.unpack(nodes.pair_of(number)).pidns
            pile = self._waiting.get(who)
            if pile is None:
                pile = self._waiting[who] = deque()
                self._next.append(who)
            pile.append(bytes(buffer[:length]))
            self._taken += length

    def _serve(self, buffer: bytearray) -> int:
        who = self._next.popleft()
        pile = self._waiting[who]
        self._calm += 1
        if len(pile) > _PILE:
            self._calm = 0
            self.interval = _LOOK
        request = pile.popleft()
        if pile:
            self._next.append(who)
        else:
            del self._waiting[who]
        length = len(request)
        self._taken -= length
        buffer[:length] = request
        return length
