"""Readers of every kind, alone and beside others, on both mounts: each gets whole texts.

Texts whose size changes with every rendering, at a time to live of 20 ms, and the real files.
PYLXCFS_SOAK=30 makes crowds last so many seconds.

The own mount cannot tell readers about a longer text at one time: a reader of a crowd that asks
for the end of the old text may get blanks and a newline more, and a reader in pieces the rest of
another rendering. Both are counted in the figures. Nothing else is allowed, and neither is for a
reader that is alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from tests.kit import readers
from tests.kit.container import Container
from tests.kit.daemon import Daemon
from tests.kit.readers import Outcome, Way
from tests.kit.wellformed import check
from tests.mount import changing
from tests.mount.conftest import Sabotage

GIB = 1 << 30
ALONE_S = 0.25
CROWD_S = float(os.environ.get("PYLXCFS_SOAK", "1"))
CHANGING = "/proc/uptime"

#: What fills pages: sendfile(2) and mmap(2).
FILLS = (readers.SEND, readers.SEND_KEPT, readers.MAP, readers.MAP_KEPT)
PIECES = (*readers.PIECES, *readers.KEPT_PIECES)
#: Ways that in a crowd may get parts of two renderings: pages of a map may be of different times.
MIXED = (*PIECES, readers.MAP, readers.MAP_KEPT)
#: Where the text becomes longer with each rendering, all that ask more than once.
MIXED_GROWING = (*MIXED, readers.WHOLE, *FILLS, *readers.READS[3:])

CROWDS = (
    (readers.WHOLE, readers.KEPT, readers.SEND, readers.ONCE, readers.STAT),
    (readers.KEPT,) * 5,
    (readers.SEND, readers.SEND, readers.SEND_KEPT, readers.MAP, readers.WHOLE),
    (readers.DIRECT, readers.AIO, readers.URING, readers.AIO_DIRECT, readers.URING_DIRECT),
    (readers.WHOLE, readers.KEPT, readers.SEND, readers.DROP),
    (readers.Way("pieces", 100), readers.WHOLE, readers.KEPT),
    (readers.Way("pieces", 1024), readers.Way("kept_pieces", 100), readers.SEND),
)
#: All read the file of a new container at once, so often.
BEGINNERS = (readers.WHOLE, readers.KEPT, readers.SEND, readers.SEND)
ROUNDS = 16


def names(crowd: tuple[Way, ...]) -> str:
    return "+".join(map(str, crowd))


@pytest.fixture(scope="module")
def changed(sabotage: Sabotage) -> Iterator[Daemon]:
    """A daemon whose /proc/uptime changes its size all the time."""
    env = sabotage("proc/uptime", changing.CHANGING)
    with Daemon("--cache-ttl=0.02", env=env) as running:
        yield running


@pytest.fixture
def growing(sabotage: Sabotage) -> Iterator[Daemon]:
    """A daemon whose /proc/uptime becomes longer all the time."""
    env = sabotage("proc/uptime", changing.GROWING)
    with Daemon("--cache-ttl=0.02", env=env) as running:
        yield running


@pytest.fixture(scope="module", params=["own", "caller"])
def mount(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bound(mount: str) -> Literal["own", "host"]:
    return "own" if mount == "own" else "host"


@pytest.fixture(scope="module")
def shifting(changed: Daemon, mount: str) -> Iterator[Container]:
    with Container(changed.mountpoint, bind=bound(mount), memory=GIB) as container:
        yield container


@pytest.fixture(scope="module")
def real(daemon: Daemon, mount: str) -> Iterator[Container]:
    with Container(daemon.mountpoint, bind=bound(mount), memory=GIB, cpus=1) as container:
        yield container


def outcomes(
    container: Container, path: str, crowd: tuple[Way, ...], seconds: float
) -> list[Outcome]:
    with readers.reading(*((container, path, way) for way in crowd)) as running:
        readers.last(running, seconds)
        return [reader.finish() for reader in running]


def assert_page_fills_are_refused(found: Outcome) -> None:
    mapped = found.way in (readers.MAP, readers.MAP_KEPT)
    assert found.errors == {0 if mapped else errno.EINVAL}
    assert not found.texts


def is_whole(text: bytes) -> None:
    changing.judge(text, GIB)


def is_whole_but_for_the_end(text: bytes) -> None:
    changing.judge_but_for_the_end(text, GIB)


def judge_crowd(found: list[Outcome], mount: str, mixed: tuple[Way, ...]) -> str:
    """Fail on what no reader may get; return what is only counted, by way."""
    faults, counted = [], []
    for outcome in found:
        if mount == "caller" and outcome.way in FILLS:
            assert_page_fills_are_refused(outcome)
        elif mount == "caller":
            faults += outcome.faults(is_whole)
        else:
            assert not any(b"\0" in text for text in outcome.texts)
            wrong = outcome.faults(is_whole_but_for_the_end)
            ends = len(outcome.faults(is_whole)) - len(wrong)
            if outcome.way in mixed and not outcome.errors:
                counted += [f"{outcome.way}: {len(wrong)} mixed"] * bool(wrong)
            else:
                faults += wrong
            counted += [f"{outcome.way}: {ends} ends"] * bool(ends)
    assert not faults, "\n".join(faults[:5])
    return f"in {sum(o.reads for o in found)} reads {', '.join(counted) or 'no fault'}"


@pytest.mark.parametrize("way", [*readers.READS, *PIECES, *FILLS], ids=str)
def test_alone_on_a_text_that_changes_its_size(shifting: Container, mount: str, way: Way) -> None:
    (found,) = outcomes(shifting, CHANGING, (way,), ALONE_S)
    assert found.reads > 2
    if mount == "caller" and way in FILLS:
        assert_page_fills_are_refused(found)
    else:
        assert not found.faults(is_whole)


@pytest.mark.parametrize("way", [readers.WHOLE, readers.KEPT, readers.SEND, readers.ONCE], ids=str)
def test_alone_on_a_text_that_grows(growing: Daemon, way: Way) -> None:
    with Container(growing.mountpoint, memory=GIB) as container:
        (found,) = outcomes(container, CHANGING, (way,), 1)
    assert not found.faults(is_whole)


@pytest.mark.parametrize("crowd", CROWDS, ids=names)
def test_a_crowd_on_a_text_that_changes_its_size(
    shifting: Container,
    mount: str,
    crowd: tuple[Way, ...],
    record_property: Callable[[str, object], None],
) -> None:
    found = outcomes(shifting, CHANGING, crowd, CROWD_S)
    # One that drops pages of its container's files may see, and show, two texts in two pages.
    mixed = MIXED if readers.DROP not in crowd else (*MIXED, *crowd)
    record_property("figures", judge_crowd(found, mount, mixed))


def test_a_crowd_that_begins_together(changed: Daemon) -> None:
    """Of the first texts of a container some were cut, in one of four rounds."""
    for _ in range(ROUNDS):
        with Container(changed.mountpoint, memory=GIB) as container:
            found = outcomes(container, CHANGING, BEGINNERS, 0)
        judge_crowd(found, "own", MIXED)


def test_a_crowd_on_a_text_that_grows(
    growing: Daemon, record_property: Callable[[str, object], None]
) -> None:
    with Container(growing.mountpoint, memory=GIB) as container:
        for crowd in (CROWDS[0], CROWDS[2], CROWDS[3]):
            found = outcomes(container, CHANGING, crowd, CROWD_S)
            record_property("figures", judge_crowd(found, "own", MIXED_GROWING))


@pytest.mark.parametrize("path", ["/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/loadavg"])
def test_a_crowd_on_real_files(real: Container, mount: str, path: str) -> None:
    crowd = (*readers.READS, *FILLS, *PIECES[:3])
    for found in outcomes(real, path, crowd, 1):
        if mount == "caller" and found.way in FILLS:
            assert_page_fills_are_refused(found)
        elif found.way not in MIXED:
            assert not found.faults(lambda text: check(path, text))


def test_a_text_that_does_not_change_its_size_is_the_kernels_to_the_byte(real: Container) -> None:
    for path in ("/proc/meminfo", "/proc/stat", "/proc/uptime"):
        (found,) = outcomes(real, path, (readers.WHOLE,), 0)
        for text in found.texts:
            assert not text.endswith((b" \n", b"\n\n")), text
