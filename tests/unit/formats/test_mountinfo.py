"""/proc/PID/mountinfo."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import mountinfo
from pylxcfs.formats.mountinfo import Mount

CASES = [
    (
        b"33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n",
        Mount("/", "/sys/fs/cgroup/cpuacct", "cgroup", ("rw", "cpuacct"), "0:30", "cgroup", 33, 31),
    ),
    (  # optional fields, however many
        b"36 35 0:29 /docker/x /sys/fs/cgroup/cpu rw shared:9 master:3 - cgroup cgroup rw,cpu\n",
        Mount(
            *("/docker/x", "/sys/fs/cgroup/cpu", "cgroup", ("rw", "cpu"), "0:29", "cgroup"),
            *(36, 35, 9),
        ),
    ),
    (  # an empty source
        b"41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2  rw,nsdelegate\n",
        Mount("/", "/sys/fs/cgroup", "cgroup2", ("rw", "nsdelegate"), "0:38", "", 41, 31),
    ),
    (
        b"41 31 0:38 / /a\\040b\\134c\\011 rw - tmpfs none rw\n",
        Mount("/", "/a b\\c\t", "tmpfs", ("rw",), "0:38", "none", 41, 31),
    ),
]


@pytest.mark.parametrize(("line", "mount"), CASES)
def test_parse(line, mount):
    assert mountinfo.parse(line) == [mount]


def test_parse_of_one_type():
    found = mountinfo.parse(b"".join(line for line, _ in CASES), "cgroup")
    assert [mount.fstype for mount in found] == ["cgroup", "cgroup", "cgroup2"]


def test_names_are_escaped_as_the_kernel_does():
    assert mountinfo.escape("/a b\\c\t") == b"/a\\040b\\134c\\011"


def test_the_order_of_the_file_is_kept():
    assert mountinfo.parse(b"".join(line for line, _ in CASES)) == [mount for _, mount in CASES]


@pytest.mark.parametrize("text", [b"x\n", b"1 2 3 / /x rw cgroup cgroup rw\n", b"1 2 - a b c\n"])
def test_nonsense_is_a_format_error(text):
    with pytest.raises(FormatError):
        mountinfo.parse(text)


@given(
    st.binary()
    | st.lists(st.sampled_from(["1", "/", "\\777", "-", "\n"])).map(
        lambda words: " ".join(words).encode()
    )
)
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        mountinfo.parse(text)
