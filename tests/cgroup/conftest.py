"""Real cgroups and namespaces, on v1, hybrid and v2 hosts; the sources that read them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pylxcfs.sources.cgroups import Hierarchies
from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.initpid import InitFinder
from pylxcfs.sources.loadavg import Sampler
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.sources.registry import Registry
from tests.conftest import require, run_name, wait_until
from tests.kit.cgroups import Cgroup
from tests.kit.container import Container


@pytest.fixture(autouse=True)
def _can_make_cgroups() -> None:
    if os.geteuid() != 0:
        require("cgroup", "only root makes cgroups and namespaces")
    if not os.path.isdir("/sys/fs/cgroup"):
        require("cgroup", "no cgroup hierarchy is mounted")


@pytest.fixture
def _stack() -> Iterator[ExitStack]:
    """End what a test made, the last first: a cgroup ends after what is in it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_cgroup(_stack: ExitStack) -> Callable[..., Cgroup]:
    """Make cgroups below the current one (or below `parent`) in each hierarchy."""
    return lambda **options: _stack.enter_context(Cgroup(**options))


@pytest.fixture
def tmp_cgroup(make_cgroup: Callable[..., Cgroup]) -> Cgroup:
    """Make one cgroup below the current one in each hierarchy."""
    return make_cgroup()


@pytest.fixture
def make_below(_stack: ExitStack) -> Callable[[Path], Path]:
    """Make a cgroup in a directory without giving it controllers.

    On v2 a cgroup that has processes of its own can have only such below it.
    """

    numbers = itertools.count()

    def make(directory: Path) -> Path:
        below = directory / run_name(f"below-{next(numbers)}")
        below.mkdir()
        _stack.callback(wait_until, lambda: _removed(below), what=f"an empty {below}")
        return below

    return make


def _removed(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@pytest.fixture
def make_container(_stack: ExitStack) -> Callable[..., Container]:
    """Start containers that end with the test."""
    return lambda **options: _stack.enter_context(Container(**options))


@pytest.fixture
def hierarchies() -> Hierarchies:
    return Hierarchies.discover()


@pytest.fixture
def make_registry(hierarchies: Hierarchies) -> Iterator[Callable[..., Registry]]:
    """Make registries, started and closed after the test; `method` is InitFinder's."""
    with ExitStack() as stack:

        def make(method: str = "auto", **options: Any) -> Registry:
            finder = InitFinder(method)
            stack.callback(finder.close)
            registry = Registry(hierarchies, HostFiles(), finder, **options)
            stack.callback(registry.close)
            registry.start()
            return registry

        yield make


@pytest.fixture
def sampler(hierarchies: Hierarchies) -> Iterator[Sampler]:
    """Return a sampler that is not started."""
    sampler = Sampler(hierarchies)
    yield sampler
    sampler.close()


@pytest.fixture
def registry(make_registry: Callable[..., Registry], sampler: Sampler) -> Registry:
    return make_registry(want_load=sampler.want)


@pytest.fixture
def look_up(registry: Registry) -> Callable[[int], ContainerSource]:
    """Return the container that a process is in."""

    def look_up(pid: int) -> ContainerSource:
        identity = registry.identify(pid)
        assert identity is not None
        container = registry.get(identity, pid)
        assert container is not None
        return container

    return look_up
