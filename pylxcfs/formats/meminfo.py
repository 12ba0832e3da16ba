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
from operator import gt, itemgetter

from pylxcfs.errors import FormatError
from pylxcfs.units import KIB

WHAT = "meminfo"

#: Layouts remembered by `read`: a process reads one host, so only mistakes need a bound.
_MOST_LAYOUTS = 16


class Plan:
    """How some names' lines are put into a file of one layout."""

    __slots__ = ("format", "lines", "names", "places", "plain", "runs", "values")

    def __init__(self, names: tuple[bytes, ...], index: Mapping[bytes, int]) -> None:
        #: The names as they were asked for: a plan is told from another by this tuple's identity.
        self.names = names
        found = sorted([(index[name], name) for name in names if name in index])
        if len(found) < 2:  # one alone would be picked without a tuple around it
            raise FormatError(WHAT, b"")
        self.places = [place for place, _ in found]
        self.format = b"\n".join([b"%-16b%%8d kB" % (name + b":") for _, name in found])
        self.values = itemgetter(*[name for _, name in found])
        self.lines = itemgetter(*self.places)
        #: Length of the lines as long as no number is wider than its column.
        self.plain = len(self.format % tuple([0] * len(found)))
        #: Places that follow each other: (first, end) in the file, (first, end) in the plan.
        self.runs: list[tuple[int, int, int, int]] = []
        start = 0
        for end in range(1, len(found) + 1):
            if end == len(found) or self.places[end] != self.places[end - 1] + 1:
                self.runs.append((self.places[start], self.places[end - 1] + 1, start, end))
                start = end


class Layout:
    """Where each name's line is (of two with one name, the first)."""

    __slots__ = ("_plan", "index")

    def __init__(self, lines: list[bytes]) -> None:
        self.index: dict[bytes, int] = {}
        for position, entry in enumerate(lines[:-1]):
            name, colon, _ = entry.partition(b":")
            if not colon:
                raise FormatError(WHAT, entry)
            self.index.setdefault(name, position)
        self._plan: Plan | None = None

    def plan(self, names: tuple[bytes, ...]) -> Plan:
        plan = self._plan
        if plan is None or plan.names is not names:
            plan = self._plan = Plan(names, self.index)
        return plan


_layouts: dict[bytes, Layout] = {}
#: What `read` has read last, and returned.
_last: tuple[bytes, MemInfo] | None = None


class MemInfo:
    """The lines of one reading, in order, each found by its name."""

    __slots__ = ("_layout", "_lines", "_numbers")

    def __init__(self, lines: list[bytes], layout: Layout) -> None:
        self._lines = lines
        self._layout = layout
        #: What was asked for.
        self._numbers: dict[bytes, int | None] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._layout.index

    def __iter__(self) -> Iterator[bytes]:
        """Yield the names in order."""
        return iter(self._layout.index)

    def number(self, name: bytes) -> int | None:
        """Return bytes where the line is in kB, else the number itself; None: no such line."""
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

    def capped(self, names: tuple[bytes, ...], kib: Mapping[bytes, int]) -> bytes:
        """Return the file with the values `kib`, in kB, for `names`; none above what it said.

        Names that the file has not are left out. `names` is a constant of the caller's, so that
        the plan for it is made once.
        """
        plan = self._layout.plan(names)
        lines = self._lines.copy()
        text = plan.format % plan.values(kib)
        entries = text.split(b"\n")
        # All is laid out alike, so of two lines with equally wide numbers the larger is the one
        # that sorts later, as blanks come before digits. Usually none does.
        if len(text) == plan.plain and True not in map(gt, entries, plan.lines(lines)):
            for first, end, start, stop in plan.runs:
                lines[first:end] = entries[start:stop]
            return b"\n".join(lines)
        for place, entry in zip(plan.places, entries, strict=True):
            host = lines[place]
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
