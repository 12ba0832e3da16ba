"""Parse and render /proc/cpuinfo of every architecture.

Printed by show_cpuinfo or c_show (arch/*/kernel), one block for each CPU:

x86, arm64, riscv   blocks that begin with `processor : N`, an empty line after each
arm, powerpc        the same, then lines about the machine (`Hardware`, `timebase`)
mips, loongarch     lines about the machine before the first block, with or without an empty line
s390x               a summary with `# processors : N` and `processor N: ...` lines, then (since
                    Linux 4.12) blocks that begin with `cpu number : N`, an empty line before each

Blocks stay text, and fields are found by name when needed. Text that belongs to no CPU keeps its
place. Which CPUs are shown is policy and lives in views/cpus.py. The same on v1 and v2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pylxcfs.errors import FormatError

WHAT = "cpuinfo"

_GAP = b"\n\n"
_COUNT = b"# processors"
#: The first bytes of the file, in which s390x has its count (the second line).
_SUMMARY = 200


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The parts of the file: head, s390x's lines, blocks, tail."""

    head: bytes
    #: s390x's `processor N: ...`, without newlines; empty on other architectures.
    lines: Mapping[int, bytes]
    #: By CPU number, in the file's order, without the newlines that end them.
    blocks: Mapping[int, bytes]
    tail: bytes

    def numbers(self) -> tuple[int, ...]:
        """Return the CPU numbers in the file's order."""
        return tuple(self.lines or self.blocks)

    def render(self) -> bytes:
        """Return the file."""
        pieces = [b"\n".join(self.lines.values())] if self.lines else []
        return self.head + _GAP.join([*pieces, *self.blocks.values()]) + self.tail

    def only(self, shown: Mapping[int, int], blocks: Mapping[int, bytes]) -> CpuInfo:
        """Return the file with only the CPUs in `shown`, renumbered.

        `shown` maps the number of a CPU to its new one. `blocks` has the text of each block, with
        the old number.
        """
        head = with_field(self.head, _COUNT, len(shown)) if self.lines else self.head
        lines = {new: _renamed(self.lines[old], new) for old, new in shown.items() if self.lines}
        kept = {new: renumbered(blocks[old], new) for old, new in shown.items() if self.blocks}
        return CpuInfo(head, lines, kept, self.tail)


def parse(text: bytes) -> CpuInfo:
    """Split the file into blocks.

    Raise FormatError if it has no CPU, or one CPU twice.
    """
    body = text.rstrip(b"\n")
    tail = text[len(body) :]
    if not tail:
        raise FormatError(WHAT, text[-80:])
    if _span(body[:_SUMMARY], _COUNT) is not None:
        return _parse_s390x(body, tail)
    start = _line_start(body, b"processor")
    blocks, rest = _blocks(body[start:].split(_GAP), b"processor")
    return CpuInfo(body[:start], {}, blocks, rest + tail)


def field(block: bytes, name: bytes) -> bytes | None:
    """Return the value of the line `name`; None without such a line."""
    span = _span(block, name)
    return None if span is None else block[span[0] : span[1]].strip()


def with_field(block: bytes, name: bytes, value: int) -> bytes:
    """Return the block with `value` in its line `name`, if any."""
    span = _span(block, name)
    return block if span is None else b"%b %d%b" % (block[: span[0]], value, block[span[1] :])


def renumbered(block: bytes, number: int) -> bytes:
    """Return the block with `number` in its first line."""
    name, colon, value = block.partition(b":")
    old, newline, rest = value.partition(b"\n")
    if old.strip() == b"%d" % number:
        return block
    return b"%b%b %d%b%b" % (name, colon, number, newline, rest)


def _parse_s390x(body: bytes, tail: bytes) -> CpuInfo:
    start = _line_start(body, b"processor ")
    summary, *pieces = body[start:].split(_GAP)
    lines: dict[int, bytes] = {}
    for line in summary.split(b"\n"):
        name, colon, _ = line.partition(b":")
        number = _number(name.removeprefix(b"processor "), line)
        if not colon or number in lines:
            raise FormatError(WHAT, line)
        lines[number] = line
    if not pieces:
        return CpuInfo(body[:start], lines, {}, tail)
    blocks, rest = _blocks(pieces, b"cpu number")
    if tuple(blocks) != tuple(lines):
        raise FormatError(WHAT, summary)
    return CpuInfo(body[:start], lines, blocks, rest + tail)


def _blocks(pieces: list[bytes], name: bytes) -> tuple[dict[int, bytes], bytes]:
    """Return the blocks that begin with `name`, and the rest."""
    blocks: dict[int, bytes] = {}
    number = None
    others: list[bytes] = []
    for piece in pieces:
        key, _, value = piece.partition(b"\n")[0].partition(b":")
        if key.rstrip() != name:
            others.append(piece)
            continue
        if others and number is not None:
            # Text of no known CPU stays with the block before it.
            blocks[number] = _GAP.join([blocks[number], *others])
        elif others:
            raise FormatError(WHAT, others[0])
        others = []
        number = _number(value.strip(), piece)
        if number in blocks:
            raise FormatError(WHAT, piece)
        blocks[number] = piece
    if number is None:
        raise FormatError(WHAT, name)
    return blocks, b"".join([_GAP + piece for piece in others])


def _span(block: bytes, name: bytes) -> tuple[int, int] | None:
    """Return start and end of the value of the line `name`."""
    start = block.find(b"\n" + name) + 1
    if start == 0 and not block.startswith(name):
        return None
    colon = block.find(b":", start)
    if colon < 0 or block[start:colon].rstrip() != name:
        return None
    end = block.find(b"\n", colon)
    return colon + 1, len(block) if end < 0 else end


def _line_start(body: bytes, name: bytes) -> int:
    if body.startswith(name):
        return 0
    start = body.find(b"\n" + name)
    if start < 0:
        raise FormatError(WHAT, body[:80])
    return start + 1


def _number(digits: bytes, line: bytes) -> int:
    if not digits.isdigit() or len(digits) > 5:
        raise FormatError(WHAT, line)
    return int(digits)


def _renamed(line: bytes, number: int) -> bytes:
    return b"processor %d:%b" % (number, line.partition(b":")[2])
