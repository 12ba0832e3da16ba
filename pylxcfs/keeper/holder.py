"""The holder: a small process that keeps mounts without systemd.

`hold` forks it, `take` gets the descriptors from it (and it ends), `end` makes it unmount.
They talk over RUNTIME_DIR/hold.sock, one packet a message:

    take MOUNTPOINT  ->  ok NAME..., with a descriptor for each name;  then  got  ->  (it ends)
    end MOUNTPOINT   ->  (it unmounts)  ok  ->  (it ends)

Names are those of the fd store. A holder of the version before the caller mount says just "ok"
and hands two. Anything else is answered with "no". Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pylxcfs.keeper import child
from pylxcfs.keeper.fusemount import Mount

_SOCKET = "hold.sock"
_PACKET = 8192  # a path has at most 4096 bytes
_PATIENCE_S = 5.0
_UCRED = struct.Struct("=iII")  # pid, uid, gid
_MOST_DESCRIPTORS = 16

#: What the version before the caller mount keeps: its connection, and the kernel's INIT request.
PREVIOUS = ("pylxcfs-connection", "pylxcfs-init")


class _Held(NamedTuple):
    mounts: Sequence[Mount]
    descriptors: Mapping[str, int]

    @property
    def mountpoint(self) -> str:
        return self.mounts[0].mountpoint

    def unmount(self) -> None:
        for mount in self.mounts:
            mount.detach()


class _Place:
    """The socket's address, which may be a long path.

    Through /proc/self/fd, as a socket's own path may have 107 bytes only.
    """

    def __init__(self, runtime_dir: str) -> None:
        self.directory = os.open(runtime_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.address = f"/proc/self/fd/{self.directory}/{_SOCKET}"

    def listen(self) -> socket.socket:
        """Return a socket at this place, instead of what may be there."""
        self.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.address)
        listener.listen(4)
        return listener

    def exists(self) -> bool:
        """Tell whether there is a socket."""
        return os.access(_SOCKET, os.F_OK, dir_fd=self.directory)

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_SOCKET, dir_fd=self.directory)


def hold(mounts: Sequence[Mount], others: Mapping[str, int], runtime_dir: str) -> None:
    """Fork the holder of mounts and of other descriptors.

    The own mount comes first. When this returns the next start can take the mounts over.
    """
    place = _Place(runtime_dir)
    held = _Held(mounts, {**others, **{k: v for m in mounts for k, v in m.descriptors.items()}})
    listener = place.listen()
    child.fork(lambda: _serve(listener, place, held), dies_with_parent=False)


def take(runtime_dir: str, mountpoint: str) -> dict[str, int]:
    """Get the descriptors of held mounts by name; none without a holder."""
    channel = _connect(runtime_dir)
    if channel is None:
        return {}
    numbers: list[int] = []
    with channel:
        try:
            channel.send(b"take " + os.fsencode(mountpoint))
            answer, numbers, _, _ = socket.recv_fds(channel, _PACKET, _MOST_DESCRIPTORS)
            verb, *names = answer.decode(errors="replace").split()
            if verb == "ok" and not names:
                names = [*PREVIOUS]
            if verb == "ok" and len(numbers) == len(names):
                channel.send(b"got")
                for number in numbers:
                    os.set_inheritable(number, False)
                return dict(zip(names, numbers, strict=True))
        except (OSError, ValueError):
            pass  # it ended, or speaks another protocol
    for number in numbers:
        os.close(number)
    return {}


def end(runtime_dir: str, mountpoint: str) -> bool:
    """Have held mounts unmounted; False if no process holds this mountpoint."""
    channel = _connect(runtime_dir)
    if channel is None:
        return False
    with channel:
        try:
            channel.send(b"end " + os.fsencode(mountpoint))
            return channel.recv(_PACKET) == b"ok"
        except OSError:
            return False


def is_held(runtime_dir: str) -> bool:
    """Tell whether a holder listens in this runtime directory."""
    channel = _connect(runtime_dir)
    if channel is not None:
        channel.close()
    return channel is not None


def _connect(runtime_dir: str) -> socket.socket | None:
    try:
        place = _Place(runtime_dir)
    except OSError:
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.settimeout(_PATIENCE_S)
    try:
        channel.connect(place.address)
    except OSError:
        channel.close()
        return None
    finally:
        os.close(place.directory)
    return channel


def _serve(listener: socket.socket, place: _Place, held: _Held) -> int:
    child.set_name("pylxcfs-holder")
    _drop_terminal()
    child.close_others(listener.fileno(), place.directory, *held.descriptors.values())
    signals = child.signal_fd()
    own = held.mounts[0].connection
    poller = select.poll()
    poller.register(own, 0)  # POLLERR comes unasked, when the mount is gone
    poller.register(signals, select.POLLIN)
    poller.register(listener, select.POLLIN)
    while True:
        ready = {number for number, _ in poller.poll()}
        if own in ready:
            held.unmount()
            break
        if signals in ready:
            arrived = set(child.read_signals(signals))
            if arrived & {signal.SIGTERM, signal.SIGINT, child.END_FOR_GOOD}:
                held.unmount()
                break
        if listener.fileno() in ready:
            channel, _ = listener.accept()
            with channel:
                channel.settimeout(_PATIENCE_S)
                if _converse(channel, place, held):
                    return 0
            if not place.exists():
                poller.unregister(listener)
                listener.close()
                listener = place.listen()
                poller.register(listener, select.POLLIN)
    place.unlink()
    return 0


def _converse(channel: socket.socket, place: _Place, held: _Held) -> bool:
    """Answer one client; True if the holder's work is done."""
    try:
        ucred = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(ucred)[1] != os.geteuid():
            return False
        verb, _, path = channel.recv(_PACKET).partition(b" ")
        if verb not in (b"take", b"end") or path != os.fsencode(held.mountpoint):
            channel.send(b"no")
            return False
        place.unlink()  # before the answer: the next holder may be there soon after it
        if verb == b"take":
            names = " ".join(["ok", *held.descriptors])
            socket.send_fds(channel, [names.encode()], list(held.descriptors.values()))
            return channel.recv(_PACKET) == b"got"
        held.unmount()
        channel.send(b"ok")
        return True
    except OSError:
        return False  # it went away or said nothing; the next one may come


def _drop_terminal() -> None:
    """Close stdin, stdout and stderr: the reader of a pipe sees the stop."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if null > 2:
        os.close(null)
