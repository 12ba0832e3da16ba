"""Parse /proc/meminfo and replace values in it: `Name:   NUMBER kB` lines.

Printed by meminfo_proc_show and show_val_kb (fs/proc/meminfo.c). A name with its colon fills 16
columns, and the number is aligned to the right in at least 8. Numbers are kB; some lines count
pages and have no unit. A name may hold blanks, so lines are split at the colon. Lines that no
caller asks for, and the order of lines, are kept to the byte. The same on v1 and v2.

`parse` takes any text. `read` is for repeated readings of one host's file: the set of lines does
not change while a kernel runs, so the place of each line is computed once. Which values replace
the host's is policy and lives in views/meminfo.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter

from pylxcfs.errors import FormatError
from pylxcfs.units import KIB

WHAT = "meminfo"

#: Layouts that `read` caches. A process reads one host, which has one layout.
_MOST_LAYOUTS = 16


class Plan:
    """How the lines of some names are replaced in one layout."""

    __slots__ = ("format", "names", "runs", "values")

    def __init__(self, names: tuple[bytes, ...], layout: Layout) -> None:
        #: The names, in the caller's order. Plans are compared by the identity of this tuple.
        self.names = names
        index, fronts, widths = layout.index, layout.fronts, layout.widths
        found = sorted([(index[name], name) for name in names if name in index])
        if len(found) < 2:  # itemgetter of one key returns no tuple
            raise FormatError(WHAT, b"")
        places = [place for place, _ in found]
        self.format = b"\n".join(
            [(name + b":").ljust(fronts[name]) + b"%%%dd kB" % widths[name] for _, name in found]
        )
        self.values = itemgetter(*[name for _, name in found])
        #: Runs of adjacent places: (first, end) in the file, (first, end) in the plan.
        self.runs: list[tuple[int, int, int, int]] = []
        start = 0
        for end in range(1, len(found) + 1):
            if end == len(found) or places[end] != places[end - 1] + 1:
                self.runs.append((places[start], places[end - 1] + 1, start, end))
                start = end


class Layout:
    """The place of each name's line; the first, if repeated."""

    __slots__ = ("_plan", "fronts", "index", "widths")

    def __init__(self, lines: list[bytes]) -> None:
        self.index: dict[bytes, int] = {}
        #: Columns before a number: 16, or less where the kernel does not align a line
        #: (FileHugePages of nodes, Linux 6.1). Columns of a number: 8, or less after a long name.
        self.fronts: dict[bytes, int] = {}
        self.widths: dict[bytes, int] = {}
        for position, entry in enumerate(lines[:-1]):
            name, colon, _ = entry.partition(b":")
            if not colon:
                raise FormatError(WHAT, entry)
            if self.index.setdefault(name, position) == position:
                end = len(entry) - len(b" kB")
                digits = len(entry[:end].rpartition(b" ")[2])
                front = self.fronts[name] = max(len(name) + 1, end - max(8, digits))
                self.widths[name] = max(1, min(8, end - front))
        self._plan: Plan | None = None

    def plan(self, names: tuple[bytes, ...]) -> Plan:
        """Return the plan for `names`; the last one is cached."""
        plan = self._plan
        if plan is None or plan.names is not names:
            plan = self._plan = Plan(names, self)
        return plan


_layouts: dict[bytes, Layout] = {}
#: The last argument and result of `read`.
_last: tuple[bytes, MemInfo] | None = None


class MemInfo:
    """The lines of the file, in order, found by name."""

    __slots__ = ("_layout", "_lines", "_numbers")

    def __init__(self, lines: list[bytes], layout: Layout) -> None:
        self._lines = lines
        self._layout = layout
        #: Numbers that have been parsed.
        self._numbers: dict[bytes, int | None] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._layout.index

    def __iter__(self) -> Iterator[bytes]:
        """Yield the names in order."""
        return iter(self._layout.index)

    def number(self, name: bytes) -> int | None:
        """Return a line's value: bytes, or a number without unit.

        None if there is no such line.
        """
        if name in self._numbers:
            return self._numbers[name]
        value = self._numbers[name] = self._number(name)
        return value

    def _number(self, name: bytes) -> int | None:
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

    def filled(self, names: tuple[bytes, ...], kib: Mapping[bytes, int]) -> bytes:
        """Return the file with values replaced.

        `kib` holds the values in kB for `names`; lines that the file does not have are left out.
        `names` is a constant of the caller, so that its plan is made once.
        """
        plan = self._layout.plan(names)
        lines = self._lines.copy()
        entries = (plan.format % plan.values(kib)).split(b"\n")
        for first, end, start, stop in plan.runs:
            lines[first:end] = entries[start:stop]
        return b"\n".join(lines)

    def render(self) -> bytes:
        """Return the file."""
        return b"\n".join(self._lines)


def parse(text: bytes) -> MemInfo:
    """Split `text` into lines; numbers are parsed when they are needed."""
    if text[-1:] != b"\n":
        raise FormatError(WHAT, text[-80:])
    lines = text.split(b"\n")
    return MemInfo(lines, Layout(lines))


def read(text: bytes) -> MemInfo:
    """Parse a host's file; faster once its layout is cached.

    The layout is the text without digits and blanks.
    """
    global _last
    last = _last
    if last is not None and last[0] is text:
        return last[1]
    info = _read(text)
    _last = text, info
    return info


def _read(text: bytes) -> MemInfo:
    shape = text.translate(None, b"0123456789 ")
    layout = _layouts.get(shape)
    if layout is not None:
        return MemInfo(text.split(b"\n"), layout)
    info = parse(text)
    if len(_layouts) >= _MOST_LAYOUTS:
        _layouts.clear()
    _layouts[shape] = info._layout
    return info
