"""Threads are known as whole readers after two whole files, until a piece or their end."""

import os
import threading

from pylxcfs.fusefs.threads import WholeReaders
from tests.conftest import wait_until


def test_two_whole_files_make_a_thread_known_and_a_piece_unknown() -> None:
    readers = WholeReaders()
    me = os.getpid()
    readers.saw_whole(me)
    assert me not in readers
    readers.saw_whole(me)
    assert me in readers
    readers.saw_piece(me)
    assert me not in readers
    readers.close()


def test_a_piece_in_between_starts_anew() -> None:
    readers = WholeReaders()
    me = os.getpid()
    readers.saw_whole(me)
    readers.saw_piece(me)
    readers.saw_whole(me)
    assert me not in readers
    readers.close()


def test_a_process_that_ended_is_forgotten() -> None:
    readers = WholeReaders()
    child = os.fork()
    if child == 0:
        threading.Event().wait()
    readers.saw_whole(child)
    readers.saw_whole(child)
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
        readers.saw_whole(tid)
        readers.saw_whole(tid)
    assert len(readers) == 1
    readers.close()


def test_a_thread_that_never_was_stays_unknown() -> None:
    readers = WholeReaders()
    nobody = 2**22 + 5
    readers.saw_whole(nobody)
    readers.saw_whole(nobody)
    assert nobody not in readers
    readers.close()
