"""The screen of `top` fits every size."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pylxcfs.monitor import screen
from pylxcfs.monitor.rates import Host, Reading, rates, rows
from tests.unit.monitor.kit import MIB, container, counters, state


def shown(width: int, height: int, count: int, first: int = 0) -> list[str]:
    def reading(at_s: float, cpu_s: float) -> Reading:
        listing = [container(f"[bold]-{i:03}", pid=i, pidns=i, cpu_s=cpu_s) for i in range(count)]
        return Reading(at_s, state(counters=counters()), listing)

    before, now = reading(1.0, 10.0), reading(3.0, 11.0)
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    lines = rows(before, now, Host(1000 * MIB, 4), "name")
    console.print(
        screen.screen(
            now.state, rates(before, now), lines, screen.View("name", first), width, height
        ),
        end="",
    )
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("width", "height"), [(40, 6), (40, 10), (56, 12), (64, 20), (72, 24), (80, 24), (200, 60)]
)
@pytest.mark.parametrize("count", [0, 1, 20, 300])
def test_no_line_is_too_long_and_no_screen_too_high(width: int, height: int, count: int) -> None:
    lines = shown(width, height, count)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "q quit" in lines[-1] or "of " in lines[-1]
    assert lines[0].startswith("pylxcfs serving")


def test_80x24_has_every_column() -> None:
    lines = shown(80, 24, 3)
    assert lines[2].split() == ["CONTAINER", "MEMORY", "CPU", "TEXT/S", "FILES"]
    assert "50M/100M" in lines[3]
    assert "0.50/1.5" in lines[3]
    assert "1 own, 1 dead" in lines[3]
    assert "[bold]" in lines[3]  # a name is no markup


def test_the_list_can_be_moved() -> None:
    lines = shown(80, 10, 300, first=100)
    assert "[bold]-100" in lines[3]
    assert lines[-1].startswith("101-106 of 300")
