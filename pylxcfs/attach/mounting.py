"""Mounts of views in one mount namespace, made and removed by a process that enters it.

A container is hostile: symbolic links, strange mounts and hanging filesystems may be at its paths.
Its paths are opened with O_PATH and without following links, nothing of it is read or executed,
and the process has a time limit. What somebody else has mounted at a path is left, and named. So is
a path whose mount propagates to the host (mount_namespaces(7)).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

from pylxcfs.attach import calls
from pylxcfs.attach.views import Source
from pylxcfs.errors import FormatError
from pylxcfs.formats import mountinfo
from pylxcfs.formats.mountinfo import Mount
from pylxcfs.keeper.fusemount import FSTYPE

#: What happened to a path.
ATTACHED: Final = "attached"
REPLACED: Final = "replaced"  # a mount of ours that was dead, or another view
KEPT: Final = "kept"  # it was there already
DETACHED: Final = "detached"
LEFT: Final = "left"  # somebody else's mount, or no file that a view replaces
FAILED: Final = "failed"

#: Filesystems whose files are covered: PROC_SUPER_MAGIC, SYSFS_MAGIC (include/uapi/linux/magic.h).
_COVERED: Final = {"proc": 0x9FA0, "sys": 0x62656572}
#: Seconds that a container has; one that is well takes milliseconds. It is divided among those
#: that were late in the last minute, down to the second: others wait for each of them.
_PATIENCE_S: Final = (2.0, 0.2)
_LATE_S: Final = 60.0
#: Processes that were killed and have not ended, as the kernel waits for a container in them.
_MOST_LEFT: Final = 64
#: Mounts of one container: more than that in its table is not read.
_MOST_MOUNTINFO: Final = 16 << 20
#: Errors of a path at which there is nothing to cover.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
#: Mounts of ours on top of each other at one path.
_MOST_STACKED: Final = 64


class Outcome(NamedTuple):
    """What happened to one path of a container."""

    target: str
    what: str
    why: str = ""


def attach(pidfd: int, sources: Sequence[Source], *, take_over: bool) -> list[Outcome]:
    """Cover paths of a process's mount namespace. Raise OSError, TimeoutError.

    `take_over`: replace mounts of other instances as well, not only dead ones.
    """
    trees: list[tuple[Source, int]] = []
    outcomes: list[Outcome] = []
    try:
        for source in sources:
            try:
                tree = calls.open_tree(source.place)
                trees.append((source, tree))
                with contextlib.suppress(OSError):  # Linux before 5.12
                    calls.make_private(tree)
            except OSError as error:
                outcomes.append(Outcome(source.target, FAILED, f"{source.place}: {error.strerror}"))
        return outcomes + _inside(
            pidfd, lambda here: [here.cover(*pair, take_over) for pair in trees]
        )
    finally:
        for _, tree in trees:
            os.close(tree)


def detach(pidfd: int, targets: Sequence[str]) -> list[Outcome]:
    """Remove our mounts from a process's mount namespace. Raise OSError, TimeoutError."""
    return _inside(pidfd, lambda here: [here.uncover(target) for target in targets])


def _inside(pidfd: int, work: Callable[[Inside], list[Outcome]]) -> list[Outcome]:
    """Do some work in the mount namespace of a process, in a child with a time limit.

    After it has entered, the child imports and opens nothing by name but what it is about.
    """
    patience_s = _late.patience_s()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _work(pidfd, work, writing)
    os.close(writing)
    with open(reading, "rb", buffering=0) as results:
        text = _read(results.fileno(), time.monotonic() + patience_s)
    if text is None:
        os.kill(child, signal.SIGKILL)
        _late.leave(child)
        raise TimeoutError(errno.ETIMEDOUT, "the container's mounts do not answer")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code) if code > 0 else "the helper process was killed")
    return [Outcome(*item) for item in json.loads(text)]


class _Late:
    """Children that were late. One that waits in the kernel may not even end when it is killed."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._left: list[int] = []

    def patience_s(self) -> float:
        """Return how long the next one may take. Raise TimeoutError if too many are left."""
        self._left = [pid for pid in self._left if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        if len(self._left) >= _MOST_LEFT:
            raise TimeoutError(errno.ETIMEDOUT, "too many containers' mounts do not answer")
        since = time.monotonic() - _LATE_S
        self._times = [at for at in self._times if at > since]
        most, least = _PATIENCE_S
        return max(least, most / (1 + len(self._times)))

    def leave(self, pid: int) -> None:
        """Go on without a child."""
        self._times.append(time.monotonic())
        self._left.append(pid)


_late = _Late()


def _work(pidfd: int, work: Callable[[Inside], list[Outcome]], writing: int) -> NoReturn:
    code = 1
    try:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with open("/proc/self/mountinfo", "rb") as file:
            peers = frozenset(mount.peers for mount in mountinfo.parse(file.read())) - {0}
        host = os.readlink("/proc/self/ns/mnt")
        calls.setns(pidfd, calls.CLONE_NEWNS)
        os.fchdir(proc)
        if os.readlink("self/ns/mnt") == host:
            raise OSError(errno.EXDEV, "it is in the host's mount namespace now")
        text = json.dumps(work(Inside(peers))).encode()
        while text:
            text = text[os.write(writing, text) :]
        code = 0
    except OSError as error:
        code = min(error.errno or 1, 254)
    finally:
        os._exit(code)


def _read(number: int, until: float) -> bytes | None:
    """Read to the end; return None if that does not come in time."""
    poller = select.poll()
    poller.register(number, select.POLLIN)
    text = b""
    while poller.poll(max(0.0, until - time.monotonic()) * 1000):
        piece = os.read(number, 65536)
        if not piece:
            return text
        text += piece
    return None


class _Place(NamedTuple):
    """An open path, and the mount that it is in."""

    descriptor: int
    mount: Mount
    #: The mount that this one is mounted on; None if it is not in the namespace.
    around: Mount | None
    #: The path is where that mount is mounted, so the mount is uppermost there.
    is_mountpoint: bool

    @property
    def is_ours(self) -> bool:
        """Whether a mount of ours is uppermost."""
        return self.is_mountpoint and self.mount.fstype == FSTYPE


class Inside:
    """The mount namespace that this process has entered; the working directory is the host's /proc.

    The container may move its files and mounts at any moment. So each path is opened once, and all
    that is asked and done is about what was opened then. `peers`: the host's peer groups.
    """

    def __init__(self, peers: frozenset[int] = frozenset()) -> None:
        self._peers = peers

    def cover(self, source: Source, tree: int, take_over: bool) -> Outcome:
        """Mount a detached copy of a view at its path."""
        try:
            return self._cover(source, tree, take_over)
        except (OSError, FormatError) as error:
            return _failed(source.target, error)

    def uncover(self, target: str) -> Outcome:
        """Unmount what is ours at a path."""
        try:
            removed = 0
            while removed < _MOST_STACKED and self._detach(target):
                removed += 1
            removed += self._uncover_below(target)
        except OSError as error:
            if error.errno not in _NO_FILE:
                return _failed(target, error)
        except FormatError as error:
            return _failed(target, error)
        return Outcome(target, DETACHED if removed else KEPT)

    def _cover(self, source: Source, tree: int, take_over: bool) -> Outcome:
        target = source.target
        self._uncover_below(target)
        try:
            with self._open(target) as place:
                return self._cover_place(source, tree, place, take_over)
        except OSError as error:
            if error.errno in _NO_FILE:
                return Outcome(target, LEFT, f"no file to cover: {error.strerror}")
            raise

    def _cover_place(self, source: Source, tree: int, place: _Place, take_over: bool) -> Outcome:
        target, top = source.target, place.mount
        if place.is_mountpoint and not place.is_ours:
            return Outcome(target, LEFT, f"{top.fstype} of {top.source} is mounted there")
        if place.is_ours and (top.device, top.root) == (source.device, source.root):
            return Outcome(target, KEPT)
        around = place.around if place.is_mountpoint else top
        if around is None or around.peers in self._peers:
            # What is mounted there would appear at the host's path as well.
            return Outcome(
                target, LEFT, f"the mount at {around and around.mountpoint} is the host's too"
            )
        if not place.is_mountpoint:
            kind = target.split("/")[1]
            if calls.filesystem_of(place.descriptor) != _COVERED.get(kind):
                return Outcome(target, LEFT, f"/{kind} is another filesystem there")
            calls.move_mount(tree, place.descriptor)
            return Outcome(target, ATTACHED)
        if not (take_over or top.device in source.devices or _is_dead(place.descriptor)):
            return Outcome(target, LEFT, "another instance of pylxcfs serves it")
        return self._replace(target, tree, place.descriptor)

    def _replace(self, target: str, tree: int, place: int) -> Outcome:
        """Put a copy in the place of a mount of ours; readers see one or the other."""
        try:
            calls.move_mount(tree, place, beneath=True)
            calls.detach(place)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Linux before 6.5: with a gap.
            calls.detach(place)
            below = calls.open_path(target)
            try:
                calls.move_mount(tree, below)
            finally:
                os.close(below)
        return Outcome(target, REPLACED)

    def _uncover_below(self, target: str) -> int:
        """Unmount what is ours below a directory; return how many mounts that were."""
        places = [
            mount.mountpoint
            for mount in self._mounts(f"{target}/")
            if mount.mountpoint.startswith(f"{target}/") and mount.fstype == FSTYPE
        ]
        return sum(self._detach(place) for place in reversed(places))

    def _detach(self, target: str) -> bool:
        """Unmount what is uppermost at a path, if it is ours; return whether it was."""
        with self._open(target) as place:
            if place.is_ours:
                calls.detach(place.descriptor)
            return place.is_ours

    @contextlib.contextmanager
    def _open(self, target: str) -> Iterator[_Place]:
        """Open a path, without following links; what is open stays what it is."""
        number = calls.open_path(target)
        try:
            ident = _mount_of(number)
            mounts = {mount.ident: mount for mount in self._mounts("", ident)}
            if ident not in mounts:  # it was unmounted meanwhile
                raise OSError(errno.EAGAIN, "its mounts change all the time")
            mount = mounts[ident]
            around = next(iter(self._mounts("", mount.parent)), None)
            yield _Place(number, mount, around, mount.mountpoint == target)
        finally:
            os.close(number)

    def _mounts(self, prefix: str, ident: int = 0) -> list[Mount]:
        """Return mounts by the beginning of their mountpoint, or by number."""
        with open("self/mountinfo", "rb") as file:
            text = file.read(_MOST_MOUNTINFO)
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        # A container may have 100,000 of them, and parsing takes longer than reading.
        if ident:
            start = b"%d " % ident
            chosen = [line for line in lines if line.startswith(start)]
        else:
            piece = b" " + mountinfo.escape(prefix)
            chosen = [line for line in lines if piece in line]
        return mountinfo.parse(b"".join(chosen))


def _mount_of(descriptor: int) -> int:
    """Return the number of the mount that an open file is in."""
    with open(f"self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.ENOSYS, "fdinfo has no mnt_id")


def _failed(target: str, error: OSError | FormatError) -> Outcome:
    return Outcome(target, FAILED, getattr(error, "strerror", None) or str(error))


def _is_dead(place: int) -> bool:
    try:
        calls.filesystem_of(place)  # always asks the server
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False
