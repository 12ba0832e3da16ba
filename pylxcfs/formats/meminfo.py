"""/proc/meminfo (fs/proc/meminfo.c meminfo_proc_show, show_val_kb): `Name:   NUMBER kB` lines.

A name with its colon fills 16 columns, the number is aligned to the right in at least 8; some
lines count pages and have no unit. Lines are split at the colon, since a name may hold blanks;
lines that nobody asks for, and their order, survive to the byte.

`parse` takes any text. `read` is for one who reads the same host's file again and again: the set
of lines does not change while a kernel runs, so where each is, is worked out once. Knows no
policy: which values are put in is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from pylxcfs.errors import FormatError
from pylxcfs.units import KIB

WHAT = "meminfo"

#: Layouts remembered by `read`: a process reads one host, so only mistakes need a bound.
_MOST_LAYOUTS = 16


class Layout:
    """Where each name's line is (of two with one name, the first)."""

    __slots__ = ("_names", "_plan", "index")

    def __init__(self, lines: list[bytes]) -> None:
        self.index: dict[bytes, int] = {}
        for position, entry in enumerate(lines[:-1]):
            name, colon, _ = entry.partition(b":")
            if not colon:
                raise FormatError(WHAT, entry)
            self.index.setdefault(name, position)
        self._names: tuple[bytes, ...] | None = None
        self._plan: tuple[list[int], bytes, itemgetter[Any]]

    def plan(self, names: tuple[bytes, ...]) -> tuple[list[int], bytes, itemgetter[Any]]:
        """Return the places of those `names` that there are, their lines' format, a picker."""
        if self._names is not names:
            found = [name for name in names if name in self.index]
            if len(found) < 2:  # one alone would be picked without a tuple around it
                raise FormatError(WHAT, b"")
            lines = [b"%-16b%%8d kB" % (name + b":") for name in found]
            places = [self.index[name] for name in found]
            self._plan = (places, b"\n".join(lines), itemgetter(*found))
            self._names = names
        return self._plan


_layouts: dict[bytes, Layout] = {}


class MemInfo:
    """The lines of one reading, in order, each found by its name."""

    __slots__ = ("_layout", "_lines")

    def __init__(self, lines: list[bytes], layout: Layout) -> None:
        self._lines = lines
        self._layout = layout

    def __contains__(self, name: bytes) -> bool:
        return name in self._layout.index

    def __iter__(self) -> Iterator[bytes]:
        """Yield the names in order."""
        return iter(self._layout.index)

    def number(self, name: bytes) -> int | None:
        """Return bytes where the line is in kB, else the number itself; None: no such line."""
        place = self._layout.index.get(name)
        if place is None:
            return None
        entry = self._lines[place]
        try:
            if entry.endswith(b" kB"):
                value = int(entry[len(name) + 1 : -3]) * KIB
            else:
                value = int(entry[len(name) + 1 :])
        except ValueError:
            raise FormatError(WHAT, entry) from None
        if value < 0:
            raise FormatError(WHAT, entry)
        return value

    def capped(self, names: tuple[bytes, ...], kib: Mapping[bytes, int]) -> bytes:
        """Return the file with the values `kib`, in kB, for `names`; none above what it said.

        Names that the file has not are left out. `names` is a constant of the caller's: it is
        told from another by identity. Every value fits 8 digits or prints longer than they do.
        """
        places, layout, pick = self._layout.plan(names)
        lines = self._lines.copy()
        entries = (layout % pick(kib)).split(b"\n")
        for place, entry in zip(places, entries):  # noqa: B905 - equal by construction, and hot
            host = lines[place]
            # Both are laid out alike, so the longer line has the larger number; of two equally
            # long ones it is the one that sorts later, as blanks come before digits.
            if len(entry) < len(host) or (entry < host and len(entry) == len(host)):
                lines[place] = entry
        return b"\n".join(lines)

    def replaced(self, kib: Mapping[bytes, int]) -> MemInfo:
        """Return the file with the values `kib`, in kB, in those lines that it has."""
        lines = self._lines.copy()
        for name, value in kib.items():
            place = self._layout.index.get(name)
            if place is not None:
                lines[place] = b"%-16b%8d kB" % (name + b":", value)
        return MemInfo(lines, self._layout)

    def render(self) -> bytes:
        return b"\n".join(self._lines)


def parse(text: bytes) -> MemInfo:
    """Split `text` into lines; numbers are looked at when they are asked for."""
    if text[-1:] != b"\n":
        raise FormatError(WHAT, text[-80:])
    lines = text.split(b"\n")
    return MemInfo(lines, Layout(lines))


def read(text: bytes) -> MemInfo:
    """Parse a reading of a host's file, quicker if one with the same lines has been read before.

    Lines are told apart without their digits and blanks.
    """
    shape = text.translate(None, b"0123456789 ")
    layout = _layouts.get(shape)
    if layout is not None:
        return MemInfo(text.split(b"\n"), layout)
    info = parse(text)
    if len(_layouts) >= _MOST_LAYOUTS:
        _layouts.clear()
    _layouts[shape] = info._layout
    return info
