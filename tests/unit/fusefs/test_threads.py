"""Threads are known as whole readers after two whole files, until a piece or their end."""

import os
import threading
from typing import Any

from pylxcfs.fusefs.threads import WholeReaders
from tests.conftest import wait_until

UPTIME, MEMINFO = 130, 128


def owner_seven(tid: int) -> int:
    return 7


def see(readers: WholeReaders, tid: int, file: int = UPTIME, size: int = 65536) -> None:
    """Let a thread take the 100 bytes of a file."""
    readers.saw_whole(tid, file, size, 100, owner_seven)


def test_two_whole_files_make_a_thread_known() -> None:
    readers = WholeReaders()
    me = os.getpid()
    see(readers, me)
    assert me not in readers
    see(readers, me)
    assert me in readers
    assert readers.owner(me) == 7
    readers.close()


def test_what_a_thread_takes_at_once_is_known_by_file() -> None:
    readers = WholeReaders()
    me = os.getpid()
    see(readers, me, UPTIME, 1024)
    see(readers, me, UPTIME, 512)
    assert [readers.takes(me, file) for file in (UPTIME, MEMINFO)] == [512, 0]
    see(readers, me, MEMINFO, 4096)
    assert [readers.takes(me, file) for file in (UPTIME, MEMINFO)] == [512, 4096]
    readers.saw_piece(me, MEMINFO)
    assert [readers.takes(me, file) for file in (UPTIME, MEMINFO)] == [512, 0]
    readers.close()


def test_who_asks_for_what_is_there_takes_more_when_there_is_more() -> None:
    readers = WholeReaders()
    me = os.getpid()
    for file, size in ((UPTIME, 100), (MEMINFO, 101), (UPTIME, 102)):
        see(readers, me, file, size)
    assert readers.takes(me, UPTIME) == 102
    assert readers.takes(me, MEMINFO) > 1 << 40
    readers.close()


def test_a_piece_in_between_starts_anew() -> None:
    readers = WholeReaders()
    me = os.getpid()
    see(readers, me)
    readers.saw_piece(me, UPTIME)
    see(readers, me)
    assert me not in readers
    readers.close()


def test_a_process_that_ended_is_forgotten() -> None:
    readers = WholeReaders()
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    see(readers, child)
    see(readers, child)
    assert child in readers
    os.kill(child, 9)
    os.waitpid(child, 0)

    def reaped() -> bool:
        readers.reap()
        return child not in readers

    wait_until(reaped, what="the ended process to be forgotten")
    readers.close()


def test_descriptors_are_bounded() -> None:
    readers = WholeReaders(most=1)
    for tid in (os.getpid(), os.getppid()):
        see(readers, tid)
        see(readers, tid)
    assert len(readers) == 1
    readers.close()


def test_a_thread_that_never_was_stays_unknown() -> None:
    readers = WholeReaders()
    nobody = 2**22 + 5
    see(readers, nobody)
    see(readers, nobody)
    assert nobody not in readers
    readers.close()


def test_a_thread_whose_owner_cannot_be_known_stays_unknown() -> None:
    readers = WholeReaders()
    for _ in range(3):
        readers.saw_whole(os.getpid(), UPTIME, 4096, 100, lambda tid: 0)
    assert os.getpid() not in readers
    assert readers.owner(os.getpid()) == 0
    readers.close()


def test_an_end_that_another_thread_has_seen_forgets_nobody_after_it() -> None:
    readers = WholeReaders()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        see(readers, child)
    number = readers._watched[child]
    epoll = readers._epoll

    class Overtaken:
        """Between an answer and what comes of it, another thread reaps, and watches another."""

        done = False

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            found = epoll.poll(timeout)
            if not self.done:
                self.done = True
                readers.reap()
                for _ in range(2):
                    see(readers, os.getpid())
                assert readers._watched[os.getpid()] == number
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(epoll, name)

    readers._epoll = Overtaken()  # type: ignore[assignment]
    readers.reap()
    os.waitpid(child, 0)
    assert os.getpid() in readers
    readers.close()
