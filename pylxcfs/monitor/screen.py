"""One screen of `top`, made of rows and rates (rates.py) with rich.

It fits any terminal from 40x6 on: columns that do not fit are left out, the names last. Reads no
key and no file.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pylxcfs.monitor.rates import Rates, Row
from pylxcfs.units import MIB

#: From this part of a limit on a bar is yellow, and red.
_HIGH: Final = 0.75
_FULL: Final = 0.9
_KEYS: Final = "q quit  s order: {order}  up/down move  space read now"
#: Lines of the header, of the table's head, and of the keys.
_FIXED_LINES: Final = 4


class View(NamedTuple):
    """What the user has chosen."""

    order: str
    first: int


def room(height: int) -> int:
    """Return how many containers fit into a terminal."""
    return max(1, height - _FIXED_LINES)


def screen(
    state: dict[str, Any], rates: Rates, rows: list[Row], view: View, width: int, height: int
) -> RenderableType:
    """Return what is shown in a terminal of this size."""
    shown = rows[view.first : view.first + room(height)]
    keys = _KEYS.format(order=view.order)
    if len(shown) < len(rows):
        keys = f"{view.first + 1}-{view.first + len(shown)} of {len(rows)}  {keys}"
    blank = Text("\n" * (room(height) - len(shown) - 1)) if len(shown) < room(height) else None
    parts: list[RenderableType] = [
        _line(_first(state, rates, len(rows))),
        _line(_second(rates)),
        _table(shown, width),
        *([blank] if blank is not None else []),
        _line(Text(keys, style="reverse")),
    ]
    return Group(*parts)


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _first(state: dict[str, Any], rates: Rates, count: int) -> Text:
    good = state["state"] == "serving"
    text = Text("pylxcfs ").append(state["state"], style="bold green" if good else "bold red")
    text.append(f"  {count} containers")
    server = state["server"]
    if server:
        cpu = "" if rates.cpu is None else f", {100 * rates.cpu:.1f}% CPU"
        text.append(f"  server {server['rss_bytes'] / MIB:.0f} MiB{cpu}")
    restarts = state["counts"].get("restarts")
    if restarts:
        text.append(f"  {restarts} restarts", style="yellow")
    return text


def _second(rates: Rates) -> Text:
    if rates.fallbacks is None:
        return Text("the server does not answer", style="red")
    made = "-" if rates.renderings is None else f"{rates.renderings:.0f}"
    kept = "-" if rates.page_cache is None else f"{100 * rates.page_cache:.0f}%"
    requests = "+".join(f"{rate:.0f}" for rate in rates.requests.values()) or "-"
    text = Text(f"renderings/s {made}  requests/s {requests}  pages kept {kept}")
    style = "yellow" if rates.fallbacks else ""
    return text.append(f"  host's file {rates.fallbacks}", style=style)


def _table(rows: list[Row], width: int) -> Table:
    """Return the table; bars get what the other columns leave."""
    files, made, numbers = width >= 72, width >= 56, width >= 64
    widths = {"files": 14 if width < 100 else 20, "made": 6, "memory": 11, "cpu": 9}
    left = width - (widths["files"] + 1) * files - (widths["made"] + 1) * made
    left -= (widths["memory"] + widths["cpu"] + 2) * numbers
    name = min(30, max(10, left // 2))
    bar = max(4, (left - name - 2) // 2)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    columns: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
    table.add_column("CONTAINER", width=name, **columns)
    table.add_column("MEMORY", width=bar, **columns)
    if numbers:
        table.add_column("", width=widths["memory"], justify="right", **columns)
    table.add_column("CPU", width=bar, **columns)
    if numbers:
        table.add_column("", width=widths["cpu"], justify="right", **columns)
    if made:
        table.add_column("TEXT/S", width=widths["made"], justify="right", **columns)
    if files:
        table.add_column("FILES", width=widths["files"], **columns)
    for row in rows:
        cells: list[RenderableType] = [
            Text(row.name),
            _bar(row.memory_bytes, row.memory_limit_bytes),
        ]
        if numbers:
            cells.append(Text(f"{_size(row.memory_bytes)}/{_size(row.memory_limit_bytes)}"))
        cells.append(_bar(row.cpu, row.cpus))
        if numbers:
            used = "-" if row.cpu is None else f"{row.cpu:.2f}"
            cells.append(Text(f"{used}/{row.cpus:g}"))
        if made:
            cells.append(Text("-" if row.renderings is None else f"{row.renderings:.1f}"))
        if files:
            cells.append(Text(row.files, style="red" if "dead" in row.files else ""))
        table.add_row(*cells)
    return table


def _bar(used: float | None, limit: float) -> RenderableType:
    part = (used or 0.0) / limit if limit > 0 else 0.0
    style = "red" if part >= _FULL else "yellow" if part >= _HIGH else "green"
    return ProgressBar(100, min(100.0, 100 * part), complete_style=style, finished_style=style)


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    number, unit = size / MIB, "M"
    if number >= 10_000:
        number, unit = number / 1024, "G"
    return f"{number:.0f}{unit}"
