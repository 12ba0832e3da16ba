"""proc/cpuinfo (show_cpuinfo or c_show, arch/*/kernel): blocks of the visible CPUs.

Which CPUs are visible, and from which v1 and v2 files, is in views/cpus.py. A block is the host's,
except its number (with packed numbering) and, on architectures that have them, `siblings` and
`cpu cores`: they count the visible part of a package, because programs compute CPUs per package
from them.

Unlike LXCFS, which leaves both as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from pylxcfs.errors import FormatError
from pylxcfs.formats import cpuinfo
from pylxcfs.views import cpus
from pylxcfs.views.model import Container, Host, Options

PATH = "proc/cpuinfo"

#: Fields that identify a package. s390x numbers its sockets within books and drawers.
_PACKAGE = (b"physical id", b"book id", b"drawer id")

#: Texts that are cached for one reading of the host's file; containers with the same CPUs share.
_MOST_TEXTS = 64


class _Memo:
    """A parsed reading of the host's file, and texts made from it."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.info = cpuinfo.parse(text)
        self.texts: dict[tuple[tuple[int, int], ...], bytes] = {}


#: The last reading. The file never changes on hosts where clock rates are fixed or not shown.
_memo: _Memo | None = None


def render(host: Host, container: Container, options: Options) -> bytes:
    """Return the container's /proc/cpuinfo."""
    text = host.recent(PATH)
    shown = cpus.names(cpus.visible(host, container, options), options)
    return build(text, shown)


def build(text: bytes, shown: Mapping[int, int]) -> bytes:
    """Return the file for the CPUs `shown`, given the host's.

    `shown` maps the real number of a CPU to the number that it appears under.
    """
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
    # A CPU may have been hotplugged between the two readings of the host.
    shown = {real: number for real, number in shown.items() if real in known}
    if not shown:
        raise FormatError("cpuinfo", b"none of the CPUs")
    if tuple(shown) == info.numbers() and all(real == number for real, number in shown.items()):
        return memo.text
    blocks = {real: info.blocks[real] for real in shown if real in info.blocks}
    return info.only(shown, _fitted(blocks)).render()


def _fitted(blocks: Mapping[int, bytes]) -> dict[int, bytes]:
    """Reduce `siblings` and `cpu cores` to the visible part of each package."""
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
            continue  # the whole package is visible; its core ids need not be unique
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
