"""/proc/cpuinfo: one block a CPU, in each architecture's own words (arch/*/kernel, show_cpuinfo).

x86, arm64, riscv   blocks that begin with `processor : N`, an empty line behind each
arm, powerpc        the same, and lines about the machine at the end (`Hardware`, `timebase`)
mips, loongarch     lines about the machine before the first block, with or without an empty line
s390x               a summary with `# processors : N` and `processor N: ...` lines, then (since
                    Linux 4.12) blocks that begin with `cpu number : N`, an empty line before each

A block is text: what it says is looked up by name when asked for. Text that belongs to no CPU
stays where it is. Knows no policy: which CPUs are shown is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pylxcfs.errors import FormatError

WHAT = "cpuinfo"

_GAP = b"\n\n"
_COUNT = b"# processors"
#: Where s390x's count is: in the second line.
_SUMMARY = 200


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The file in pieces: head, s390x's lines, blocks with an empty line between, tail."""

    head: bytes
    #: s390x's `processor N: ...`, without newlines; empty on other architectures.
    lines: Mapping[int, bytes]
    #: By CPU number, in the file's order, without the newlines at their ends.
    blocks: Mapping[int, bytes]
    tail: bytes

    def numbers(self) -> tuple[int, ...]:
        """CPUs in the file's order."""
        return tuple(self.lines or self.blocks)

    def render(self) -> bytes:
        pieces = [b"\n".join(self.lines.values())] if self.lines else []
        return self.head + _GAP.join([*pieces, *self.blocks.values()]) + self.tail

    def only(self, shown: Mapping[int, int], blocks: Mapping[int, bytes]) -> CpuInfo:
        """Return the file with the CPUs of `shown` alone, under the numbers it maps them to.

        `blocks` has what their blocks shall say, still under their own numbers.
        """
        head = with_field(self.head, _COUNT, len(shown)) if self.lines else self.head
        lines = {new: _renamed(self.lines[old], new) for old, new in shown.items() if self.lines}
        kept = {new: renumbered(blocks[old], new) for old, new in shown.items() if self.blocks}
        return CpuInfo(head, lines, kept, self.tail)


def parse(text: bytes) -> CpuInfo:
    """Find the blocks. Text without a single CPU, or with one twice, is a FormatError."""
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
    """Return the value of the line `name : value`, or None where the block has no such line."""
    span = _span(block, name)
    return None if span is None else block[span[0] : span[1]].strip()


def with_field(block: bytes, name: bytes, value: int) -> bytes:
    """Return the block with another value in the line `name`; as it was, if it has none."""
    span = _span(block, name)
    return block if span is None else b"%b %d%b" % (block[: span[0]], value, block[span[1] :])


def renumbered(block: bytes, number: int) -> bytes:
    """Return the block with another number in its first line."""
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
    """Return the blocks that begin with the line `name : N`, and what follows the last one."""
    blocks: dict[int, bytes] = {}
    number = None
    others: list[bytes] = []
    for piece in pieces:
        key, _, value = piece.partition(b"\n")[0].partition(b":")
        if key.rstrip() != name:
            others.append(piece)
            continue
        if others and number is not None:
            # Of no CPU that is known: it goes with the one before it.
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
    """Where the value of the line `name` is: from behind the colon to the end of the line."""
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
