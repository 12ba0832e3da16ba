"""proc/slabinfo: the container's on v1, else the host's."""

from __future__ import annotations

import pytest

from pylxcfs.views import slabinfo
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost

HOST = b"slabinfo - version: 2.1\n# name\nkmalloc-8 1 2\n"
OWN = b"slabinfo - version: 2.1\n# name\nkmalloc-8 0 1\n"


@pytest.mark.parametrize(("own", "expected"), [(OWN, OWN), (None, HOST), (b"", HOST)])
def test_slabinfo(own, expected):
    container = FakeContainer(slabinfo_=own)
    assert slabinfo.render(FakeHost({"proc/slabinfo": HOST}), container, Options()) == expected
