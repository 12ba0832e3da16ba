"""nodeN/meminfo."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import nodememinfo
from tests.unit.views.fakes import captured

TEXT = b"Node 3 MemTotal:        5334816 kB\nNode 3 HugePages_Total:     7\n"


def test_parse_and_render():
    node, info = nodememinfo.parse(TEXT)
    assert node == 3
    assert list(info) == [b"MemTotal", b"HugePages_Total"]
    assert info.number(b"MemTotal") == 5334816 * 1024
    assert info.number(b"HugePages_Total") == 7
    assert nodememinfo.render(node, info.render()) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"Node",
        b"Node 3\n",
        b"Node x MemTotal: 1 kB\n",
        b"Node 03 MemTotal: 1 kB\n",
        b"Node 3 MemTotal: 1 kB",
        b"Node 3 MemTotal: 1 kB\nNode 4 MemFree: 1 kB\n",
        b"Node 3 MemTotal 1 kB\n",
        b"MemTotal: 1 kB\n",
    ],
)
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        nodememinfo.parse(text)


FILES = [
    path for host in captured() for path in sorted(host.glob("sys/devices/system/node/*/meminfo"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-7]}-{path.parts[-2]}")
def test_captured_hosts_round_trip(path):
    node, info = nodememinfo.parse(path.read_bytes())
    assert f"node{node}" == path.parent.name
    assert nodememinfo.render(node, info.render()) == path.read_bytes()
    assert info.number(b"MemTotal") is not None


WORDS = st.sampled_from([b"Node ", b"0 ", b"1 ", b"\n", b"a:", b" 1 kB"])


@given(st.binary(max_size=60) | st.lists(WORDS, max_size=20).map(b"".join))
def test_any_bytes_parse_or_raise_our_error(text):
    try:
        node, info = nodememinfo.parse(text)
    except FormatError:
        return
    assert nodememinfo.render(node, info.render()) == text
