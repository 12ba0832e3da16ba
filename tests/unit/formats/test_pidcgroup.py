"""/proc/PID/cgroup."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import pidcgroup

HYBRID = b"""\
9:name=systemd:/system.slice/docker.service
4:cpu,cpuacct:/docker/abc
3:memory:/docker/a:b c
0::/system.slice/docker.service
"""


def test_each_controller_has_its_path():
    assert pidcgroup.parse(HYBRID) == {
        "name=systemd": "/system.slice/docker.service",
        "cpu": "/docker/abc",
        "cpuacct": "/docker/abc",
        "memory": "/docker/a:b c",
        pidcgroup.UNIFIED: "/system.slice/docker.service",
    }


def test_a_path_may_be_outside_of_the_cgroup_namespace():
    assert pidcgroup.parse(b"0::/../b\n") == {pidcgroup.UNIFIED: "/../b"}


@pytest.mark.parametrize("text", [b"0:\n", b"1:cpu:relative\n", b"garbage\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        pidcgroup.parse(text)


@given(st.binary() | st.text("0:/a\n").map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        pidcgroup.parse(text)
