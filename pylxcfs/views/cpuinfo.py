"""proc/cpuinfo: the blocks of the CPUs that the container sees (views/cpus.py).

Blocks are the host's but for their numbers (where numbering is packed) and, on architectures
that have them, `siblings` and `cpu cores`: they count what is left of the package, or programs
would compute CPUs per package that the file does not list. Unlike LXCFS, which leaves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpuinfo
from pylxcfs.views import cpus
from pylxcfs.views.model import Container, Host, Options

PATH = "proc/cpuinfo"

#: What tells a package from another. s390x numbers its sockets within books and drawers.
_PACKAGE = (b"physical id", b"book id", b"drawer id")

#: Texts remembered for one reading of the host's file: more views than a machine has sizes of.
_MOST_TEXTS = 64


class _Memo:
    """One reading of the host's file, parsed, and the texts made from it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.info = cpuinfo.parse(text)
        self.texts: dict[tuple[tuple[int, int], ...], bytes] = {}


#: The last reading. Where clock rates are fixed or not shown it is the same for a machine's life.
_memo: _Memo | None = None


def render(host: Host, container: Container, options: Options) -> bytes:
    text = host.recent(PATH)
    shown = cpus.names(cpus.visible(host, container, options), options)
    return build(text, shown)


def build(text: bytes, shown: Mapping[int, int]) -> bytes:
    """Return the file for CPUs `shown` (real number -> number to show), given the host's."""
    global _memo
    memo = _memo
    if memo is None or memo.text != text:
        memo = _memo = _Memo(text)
    key = tuple(shown.items())
    made = memo.texts.get(key)
    if made is None:
        if len(memo.texts) >= _MOST_TEXTS:
            memo.texts.clear()
        made = memo.texts[key] = _build(memo, shown)
    return made


def _build(memo: _Memo, shown: Mapping[int, int]) -> bytes:
    info = memo.info
    known = set(info.numbers())
    # A CPU may have come or gone between the two readings of the host.
    shown = {real: number for real, number in shown.items() if real in known}
    if not shown:
        raise FormatError("cpuinfo", b"none of the CPUs")
    if tuple(shown) == info.numbers() and all(real == number for real, number in shown.items()):
        return memo.text
    blocks = {real: info.blocks[real] for real in shown if real in info.blocks}
    return info.only(shown, _fitted(blocks)).render()


def _fitted(blocks: Mapping[int, bytes]) -> dict[int, bytes]:
    """Make `siblings` and `cpu cores` count no more than the packages have blocks here."""
    first = next(iter(blocks.values()), b"")
    if cpuinfo.field(first, b"siblings") is None:
        return dict(blocks)
    names = [name for name in _PACKAGE if cpuinfo.field(first, name) is not None]
    packages: dict[tuple[bytes | None, ...], list[int]] = defaultdict(list)
    for number, block in blocks.items():
        packages[tuple([cpuinfo.field(block, name) for name in names])].append(number)
    fitted = dict(blocks)
    for members in packages.values():
        threads = _count(blocks[members[0]], b"siblings")
        if threads is None or threads <= len(members):
            continue  # the package is whole, and core ids need not be unique in it
        cores = len({cpuinfo.field(blocks[number], b"core id") or number for number in members})
        for number in members:
            block = cpuinfo.with_field(blocks[number], b"siblings", len(members))
            if (_count(block, b"cpu cores") or 0) > cores:
                block = cpuinfo.with_field(block, b"cpu cores", cores)
            fitted[number] = block
    return fitted


def _count(block: bytes, name: bytes) -> int | None:
    value = cpuinfo.field(block, name)
    return int(value) if value is not None and value.isdigit() and len(value) <= 6 else None
