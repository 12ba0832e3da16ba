"""Mounts of views in one mount namespace, made and removed by a process that enters it.

A container is hostile: symbolic links, strange mounts and hanging filesystems may be at its paths.
Its paths are opened with O_PATH and without following links, nothing of it is read or executed,
and the process has a time limit. What somebody else has mounted at a path is left, and named.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
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
#: Seconds that a container has; one that is well takes milliseconds.
_PATIENCE_S: Final = 10.0
#: Mounts of one container: more than that in its table is not read.
_MOST_MOUNTINFO: Final = 16 << 20
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
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _work(pidfd, work, writing)
    os.close(writing)
    with open(reading, "rb", buffering=0) as results:
        text = _read(results.fileno(), time.monotonic() + _PATIENCE_S)
    if text is None:
        # One that waits in the kernel may not even end now: it is left behind.
        os.kill(child, signal.SIGKILL)
        raise TimeoutError(errno.ETIMEDOUT, "the container's mounts do not answer")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code) if code > 0 else "the helper process was killed")
    return [Outcome(*item) for item in json.loads(text)]


def _work(pidfd: int, work: Callable[[Inside], list[Outcome]], writing: int) -> NoReturn:
    code = 1
    try:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        calls.setns(pidfd, calls.CLONE_NEWNS)
        text = json.dumps(work(Inside(proc))).encode()
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


class Inside:
    """The mount namespace that this process has entered. `proc` is the host's /proc."""

    def __init__(self, proc: int) -> None:
        self._proc = proc

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
            while removed < _MOST_STACKED and _is_ours(self._top(target)):
                calls.detach(target)
                removed += 1
            removed += self._uncover_below(target)
        except (OSError, FormatError) as error:
            return _failed(target, error)
        return Outcome(target, DETACHED if removed else KEPT)

    def _cover(self, source: Source, tree: int, take_over: bool) -> Outcome:
        target = source.target
        top = self._top(target)
        if top is not None and not _is_ours(top):
            return Outcome(target, LEFT, f"{top.fstype} of {top.source} is mounted there")
        if top is not None and (top.device, top.root) == (source.device, source.root):
            return Outcome(target, KEPT)
        self._uncover_below(target)
        try:
            place = calls.open_path(target)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return Outcome(target, LEFT, f"no file to cover: {error.strerror}")
            raise
        try:
            if top is None:
                kind = target.split("/")[1]
                if calls.filesystem_of(place) != _COVERED.get(kind):
                    return Outcome(target, LEFT, f"/{kind} is another filesystem there")
                calls.move_mount(tree, place)
                return Outcome(target, ATTACHED)
            if not (take_over or top.device in source.devices or _is_dead(place)):
                return Outcome(target, LEFT, "another instance of pylxcfs serves it")
            return self._replace(target, tree, place)
        finally:
            os.close(place)

    def _replace(self, target: str, tree: int, place: int) -> Outcome:
        """Put a copy in the place of a mount of ours; readers see one or the other."""
        try:
            calls.move_mount(tree, place, beneath=True)
            calls.detach(target)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Linux before 6.5: with a gap.
            calls.detach(target)
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
            for mount in self._mounts()
            if mount.mountpoint.startswith(f"{target}/") and _is_ours(mount)
        ]
        for place in reversed(places):
            calls.detach(place)
        return len(places)

    def _top(self, target: str) -> Mount | None:
        """Return the uppermost mount at a path; None where it is a file of what is around it."""
        found = None
        for mount in self._mounts():
            if mount.mountpoint == target:
                found = mount
        return found

    def _mounts(self) -> list[Mount]:
        number = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        with open(number, "rb") as file:
            text = file.read(_MOST_MOUNTINFO)
        return mountinfo.parse(text[: text.rfind(b"\n") + 1])


def _failed(target: str, error: OSError | FormatError) -> Outcome:
    return Outcome(target, FAILED, getattr(error, "strerror", None) or str(error))


def _is_dead(place: int) -> bool:
    try:
        calls.filesystem_of(place)  # always asks the server
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _is_ours(mount: Mount | None) -> bool:
    return mount is not None and mount.fstype == FSTYPE
