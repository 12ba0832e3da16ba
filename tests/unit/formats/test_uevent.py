"""uevent of a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.formats.uevent import devname


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"MAJOR=1\nMINOR=3\nDEVNAME=null\nDEVMODE=0666\n", "null"),
        (b"MAJOR=231\nMINOR=194\nDEVNAME=infiniband/uverbs2\n", "infiniband/uverbs2"),
        (b"DEVNAME=a=b", "a=b"),
        (b"MAJOR=1\nMINOR=3\n", None),
        (b"DEVNAME=\n", None),
        (b"XDEVNAME=x\n", None),
        (b"", None),
    ],
)
def test_the_name_of_the_node(data: bytes, name: str | None) -> None:
    assert devname(data) == name


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed(data: bytes) -> None:
    name = devname(data)
    assert name is None or name
