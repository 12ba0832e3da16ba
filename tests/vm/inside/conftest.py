"""These tests run in the virtual machine only; elsewhere pytest does not collect them.

Emulation makes each program's start slow, so most tests call the views on the real sources in
their own process; test_mounted.py alone starts the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from tests.conftest import wait_until
from tests.kit.container import Container

collect_ignore_glob = [] if "PYLXCFS_IN_VM" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def host() -> HostFiles:
    return HostFiles()


@pytest.fixture(scope="session")
def source(host: HostFiles) -> Iterator[Callable[[Container], ContainerSource]]:
    """Return a function: what the sources make of a running container."""
    finder = InitFinder("auto")
    registry = Registry(Hierarchies.discover(), host, finder)

    def find(container: Container) -> ContainerSource:
        identity = registry.identify(container.pid)
        assert identity is not None
        # The helper that enters the namespace gives up after two seconds, which an emulated
        # machine can take for two forks.
        return wait_until(lambda: registry.get(identity, container.pid), what="its init")

    yield find
    registry.close()
    finder.close()
