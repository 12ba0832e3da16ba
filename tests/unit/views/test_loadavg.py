"""/proc/loadavg of a container."""

from __future__ import annotations

import pytest

from pylxcfs.views import loadavg
from pylxcfs.views.model import Load, Options
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST = FakeHost(files={"proc/loadavg": b"9.00 8.00 7.00 6/500 1234\n"})


def test_the_containers_own_load():
    seen = FakeContainer(load_=Load((1.499, 0.25, 0.0), 2, 14, 77))
    assert loadavg.render(HOST, seen, Options()) == b"1.50 0.25 0.00 2/14 77\n"


def test_zeros_once_it_is_known_but_not_averaged():
    seen = FakeContainer(load_=Load((0.0, 0.0, 0.0), 1, 3, 12))
    assert loadavg.render(HOST, seen, Options()) == b"0.00 0.00 0.00 1/3 12\n"


@pytest.mark.parametrize(
    ("running", "total", "words"), [(0, 2, b"1/2"), (0, 0, b"1/1"), (3, 2, b"3/3"), (2, 5, b"2/5")]
)
def test_the_reader_was_not_counted(running, total, words):
    seen = FakeContainer(load_=Load((0.0, 0.0, 0.0), running, total, 12))
    assert loadavg.render(HOST, seen, Options()) == b"0.00 0.00 0.00 " + words + b" 12\n"


def test_the_hosts_file_until_it_is_sampled():
    assert loadavg.render(HOST, FakeContainer(), Options()) == b"9.00 8.00 7.00 6/500 1234\n"


def test_the_hosts_file_where_load_averages_are_off():
    seen = FakeContainer(load_=Load((1.0, 1.0, 1.0), 2, 14, 77))
    off = Options(loadavg=False)
    assert loadavg.render(HOST, seen, off) == b"9.00 8.00 7.00 6/500 1234\n"
