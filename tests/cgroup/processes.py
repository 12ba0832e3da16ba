"""Looking at processes, which may end at any time."""

from __future__ import annotations


def name_of(pid: int) -> str:
    """Return the name of a program; "" if the process has ended.

    What a test starts by way of a shell is there once it has its own name.
    """
    return _read(f"/proc/{pid}/comm").strip()


def command_of(pid: int) -> str:
    return _read(f"/proc/{pid}/cmdline")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


def descendants_of(pid: int) -> list[int]:
    found = children_of(pid)
    for child in list(found):
        found += descendants_of(child)
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
