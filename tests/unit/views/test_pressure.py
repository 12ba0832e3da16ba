"""/proc/pressure/* of a container."""

from __future__ import annotations

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.views import pressure
from pylxcfs.views.model import Options
from tests.unit.views.fakes import FakeContainer, FakeHost

RENDERS = {
    "cpu": pressure.render_cpu,
    "memory": pressure.render_memory,
    "io": pressure.render_io,
    "irq": pressure.render_irq,
}


@pytest.mark.parametrize("resource", RENDERS)
def test_the_containers_own_text(resource):
    own = b"some avg10=1.00 avg60=0.00 avg300=0.00 total=%d\n" % len(resource)
    seen = FakeContainer(pressure_={resource: own})
    assert RENDERS[resource](FakeHost(), seen, Options()) == own


@pytest.mark.parametrize("resource", RENDERS)
def test_the_hosts_text_where_the_container_has_none(resource):
    host = FakeHost(files={f"proc/pressure/{resource}": resource.encode()})
    assert RENDERS[resource](host, FakeContainer(), Options()) == resource.encode()
    empty = FakeContainer(pressure_={resource: b""})
    assert RENDERS[resource](host, empty, Options()) == resource.encode()


def test_neither_has_one():
    with pytest.raises(SourceError):
        pressure.render_irq(FakeHost(), FakeContainer(), Options())
