"""Threads are known as whole readers after two whole files, until a piece or their end."""

import os
import threading
from typing import Any

from pylxcfs.fusefs.threads import WholeReaders
from tests.conftest import wait_until


def owner_seven(tid: int) -> int:
    return 7


def test_two_whole_files_make_a_thread_known_and_a_piece_unknown() -> None:
    readers = WholeReaders()
    me = os.getpid()
    readers.saw_whole(me, owner_seven)
    assert me not in readers
    readers.saw_whole(me, owner_seven)
    assert me in readers
    assert readers.owner(me) == 7
    readers.saw_piece(me)
    assert me not in readers
    readers.close()


def test_a_piece_in_between_starts_anew() -> None:
    readers = WholeReaders()
    me = os.getpid()
    readers.saw_whole(me, owner_seven)
    readers.saw_piece(me)
    readers.saw_whole(me, owner_seven)
    assert me not in readers
    readers.close()


def test_a_process_that_ended_is_forgotten() -> None:
    readers = WholeReaders()
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    readers.saw_whole(child, owner_seven)
    readers.saw_whole(child, owner_seven)
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
        readers.saw_whole(tid, owner_seven)
        readers.saw_whole(tid, owner_seven)
    assert len(readers) == 1
    readers.close()


def test_a_thread_that_never_was_stays_unknown() -> None:
    readers = WholeReaders()
    nobody = 2**22 + 5
    readers.saw_whole(nobody, owner_seven)
    readers.saw_whole(nobody, owner_seven)
    assert nobody not in readers
    readers.close()


def test_a_thread_whose_owner_cannot_be_known_stays_unknown() -> None:
    readers = WholeReaders()
    for _ in range(3):
        readers.saw_whole(os.getpid(), lambda tid: 0)
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
        readers.saw_whole(child, owner_seven)
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
                    readers.saw_whole(os.getpid(), owner_seven)
                assert readers._watched[os.getpid()] == number
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(epoll, name)

    readers._epoll = Overtaken()  # type: ignore[assignment]
    readers.reap()
    os.waitpid(child, 0)
    assert os.getpid() in readers
    readers.close()
