"""From an owner to its container: what is remembered of that, and until when."""

from __future__ import annotations

import pytest

from pylxcfs.fusefs import nodes
from tests.unit.fusefs.kit import HOST, ME, A, World
from tests.unit.views.fakes import FakeContainer

PAIR = nodes.pair((A, 0))


def replaced(world: World) -> FakeContainer:
    """Let the registry have another container by now."""
    new = world.people.containers[A, 0] = FakeContainer()
    return new


def test_a_container_is_looked_up_once(world: World) -> None:
    old = world.fs.callers.container(PAIR, ME)
    assert old is world.people.containers[A, 0]
    replaced(world)
    assert world.fs.callers.container(PAIR, ME) is old


@pytest.mark.parametrize("change", ["gone", "released"])
def test_one_that_has_ended_or_lost_its_files_is_looked_up_again(world: World, change: str) -> None:
    old = world.fs.callers.container(PAIR, ME)
    new = replaced(world)
    setattr(old, change, True)
    assert world.fs.callers.container(PAIR, ME) is new


def test_all_are_looked_up_again_now_and_then(world: World) -> None:
    world.fs.callers.container(PAIR, ME)
    new = replaced(world)
    world.fs.sweep()
    assert world.fs.callers.container(PAIR, ME) is new


def test_the_namespace_of_a_caller_is_known_without_its_container(world: World) -> None:
    callers = world.fs.callers
    world.people.who[20] = (HOST, 0)
    assert callers.namespace(ME) == A
    assert callers.namespace(20) == HOST
    assert callers.namespace(21) == 0
    world.make_known(world.node(A))
    world.people.who.clear()  # a thread that is known is not looked at
    assert callers.namespace(ME) == A
