"""memory.stat of a cgroup."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError
from pylxcfs.formats import memorystat

NAMES = (
    st.binary(min_size=1, max_size=20).filter(lambda name: len(name.split()) == 1).map(bytes.strip)
)


def test_parse():
    assert memorystat.parse(b"anon 4096\nfile 0\n") == {b"anon": 4096, b"file": 0}


def test_names_that_begin_alike_are_told_apart():
    stat = memorystat.parse(b"file 1\nfile_mapped 2\nfile_dirty 3\nfile_writeback 4\n")
    assert (stat[b"file"], stat[b"file_mapped"]) == (1, 2)


@given(st.dictionaries(NAMES, st.integers(min_value=0, max_value=2**64 - 1)))
def test_what_the_kernel_prints_comes_back(stat):
    text = b"".join(b"%b %d\n" % item for item in stat.items())
    assert memorystat.parse(text) == stat


def test_v1_gives_the_subtree_under_the_names_of_v2():
    text = b"cache 1\nrss 2\ntotal_cache 10\ntotal_rss 20\ntotal_rss_huge 30\ntotal_dirty 40\n"
    assert memorystat.parse_v1(text) == {
        b"file": 10,
        b"anon": 20,
        b"anon_thp": 30,
        b"file_dirty": 40,
    }


def test_v1_counts_of_charges_are_not_taken_for_disk_traffic():
    text = b"pgpgin 9\npgfault 8\ntotal_pgpgin 7\ntotal_pgpgout 6\ntotal_pgfault 5\n"
    assert memorystat.parse_v1(text) == {b"pgfault": 5}


def test_v1_says_its_limits_beside_that():
    text = b"hierarchical_memory_limit 1\nhierarchical_memsw_limit 2\ntotal_swap 3\nswap 4\n"
    assert memorystat.parse_v1(text) == {
        memorystat.V1_LIMIT: 1,
        memorystat.V1_MEMSW_LIMIT: 2,
        memorystat.V1_SWAP: 3,
    }


@pytest.mark.parametrize("text", [b"anon\n", b"anon x\n", b"anon 1 file 2\n", b"anon 1"])
def test_nonsense_is_a_format_error(text):
    for parse in (memorystat.parse, memorystat.parse_v1):
        with pytest.raises(FormatError):
            parse(text)


@given(st.binary() | st.text("ab 01\n").map(str.encode))
def test_any_bytes_parse_or_raise_format_error(text):
    with contextlib.suppress(FormatError):
        memorystat.parse(text)
