"""VIEWS: the files that are served; their order never changes."""

from __future__ import annotations

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.views import VIEWS
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost, captured

#: The place of a path is part of node ids that the kernel holds, across restarts and upgrades:
#: append only.
ORDER = [
    "proc/meminfo",
    "proc/cpuinfo",
    "proc/stat",
    "proc/uptime",
    "proc/loadavg",
    "proc/swaps",
    "proc/diskstats",
    "proc/slabinfo",
    "proc/vmstat",
    "proc/pressure/cpu",
    "proc/pressure/memory",
    "proc/pressure/io",
    "proc/pressure/irq",
]


def test_the_order_is_the_one_that_node_ids_have():
    assert [view.path for view in VIEWS] == ORDER


def test_vmstat_alone_has_to_be_switched_on():
    off = [view.path for view in VIEWS if not view.enabled(Options())]
    assert off == ["proc/vmstat"]
    assert all(view.enabled(Options(vmstat=True)) for view in VIEWS)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.path)
def test_every_row_says_what_it_is(view):
    assert view.summary
    assert "|" not in view.summary  # it stands in a table


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.path)
@pytest.mark.parametrize("directory", captured(), ids=lambda path: path.name)
def test_a_container_without_any_controller_reads_a_whole_text(view, directory):
    host = FakeHost(directory=directory)
    try:
        host.read(view.host)
    except SourceError:
        pytest.skip(f"this host has no {view.host}")
    text = view.render(host, FakeContainer(), Options())
    assert text.endswith(b"\n")
