"""A text whose size changes with every rendering, and what is wrong with one that was read.

    SERIAL LINES LIMIT\\n      the same line as often as it says; LIMIT is the container's memory

Another line in it: two renderings, or another container's. Fewer: cut. The daemon renders it for
/proc/uptime, by `sabotage` of conftest.py.
"""

from __future__ import annotations

import re

_VIEW = """
memory = container.memory()
serial = time.monotonic_ns()
lines = {lines}
line = b"%d %d %d\\n" % (serial, lines, memory.limit if memory else 0)
return line * lines
"""
#: One line to two pages.
CHANGING = _VIEW.format(lines="1 + serial // 1000 % 250")
#: Ever longer, to ten pages in half a minute; each fourth is shorter than that.
GROWING = _VIEW.format(
    lines="1 + serial // 4 % (1 + (host.now_ns() - container.started_ns()) // 20_000_000 % 1400)"
    " if serial % 4 == 0 else 1 + (host.now_ns() - container.started_ns()) // 20_000_000 % 1400"
)
_LINE = re.compile(rb"(\d+ (\d+) (\d+))[ \n]")


def judge(text: bytes, limit: int) -> None:
    """Raise AssertionError unless it is one rendering for a container with this limit.

    Blanks in front of the last newline are padding.
    """
    rest = rest_of(text, limit)
    assert rest.endswith(b"\n"), f"no newline at the end but {rest[:200]!r}"
    assert not rest[:-1].strip(b" "), f"more than a newline at the end: {rest[:200]!r}"


def judge_but_for_the_end(text: bytes, limit: int) -> None:
    """Raise AssertionError unless it is one rendering, whatever blanks and newlines it ends in."""
    rest_of(text, limit)


def rest_of(text: bytes, limit: int) -> bytes:
    """Return the blanks and newlines behind one rendering for a container with this limit."""
    line = _LINE.match(text)
    assert line is not None, f"{text[:100]!r}{_parts(text)}"
    assert int(line[3]) == limit, f"another's: {line[1]!r}"
    wanted = b"\n".join([line[1]] * int(line[2]))
    assert text.startswith(wanted), f"mixed or cut{_parts(text)}"
    rest = text[len(wanted) :]
    assert not rest.strip(b" \n"), f"something behind the end{_parts(text)}"
    return rest


def _parts(text: bytes) -> str:
    """Say where which rendering begins and ends."""
    found: list[str] = []
    for run in re.finditer(rb"(\d+ \d+ \d+\n)\1*|[ \n]+|[^ \n]+", text):
        one = run[0][:50]
        found.append(f"{run.start()}..{run.end()} {one!r}")
    return f", {len(text)} bytes: " + "; ".join(found[:12])
