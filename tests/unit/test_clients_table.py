"""docs/clients.md has a row for every client of the script that writes it."""

from __future__ import annotations

import dataclasses

from tests.clients import table
from tests.clients.programs import CLIENTS, Shown

DOCUMENT = table.DOCUMENT.read_text()


def _rows() -> list[list[str]]:
    text = table.written(DOCUMENT, "clients")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_table_has_every_client_in_order() -> None:
    head, line, *rows = _rows()
    assert [head, line] == [
        [cell.strip() for cell in text.split("|")[1:-1]] for text in table._HEAD.splitlines()
    ]
    for client, row in zip(CLIENTS, rows, strict=True):
        assert table._named(row[0], client.name), row
        assert len(row) == 2 + len(dataclasses.fields(Shown)), row


def test_each_client_has_been_run_or_its_row_says_why_not() -> None:
    for client, row in zip(CLIENTS, _rows()[2:], strict=True):
        assert any("→" in cell for cell in row[2:]) or "not " in row[1], client.name


def test_a_row_marks_what_is_still_the_hosts() -> None:
    host = Shown(cpus=2, total=24 << 30, load=7.5)
    inside, asked = Shown(1, 24 << 30, load=0.1), Shown(1, 512 << 20, load=0.1)
    row = table.Row("free", "4.0", host, inside, ("total",), asked, (), ("meminfo",))
    memory = "24.0 GiB → **24.0 GiB** → 512 MiB"
    assert table._line(row) == (
        f"| free 4.0 | `meminfo` | 2 → 1 | {memory} | | | 7.50 → 0.10 | |\n"
    )


def test_what_a_trace_says_of_reads() -> None:
    trace = """
1 openat(AT_FDCWD</>, "/proc/meminfo", O_RDONLY) = 3</proc/meminfo>
1 openat(AT_FDCWD</>, "/proc/loadavg", O_RDONLY) = -1 ENOENT (No such file or directory)
1 openat(4</sys/devices/system/cpu>, "cpu0", O_RDONLY) = 5</sys/devices/system/cpu/cpu0>
1 <... openat resumed>) = 3</sys/devices/system/cpu/online>
1 sysinfo({uptime=1}) = 0
"""
    assert set(table._reads(trace)) == {"meminfo", "cpu/", "cpu/online", "sysinfo(2)"}


def test_values_are_told_from_the_hosts() -> None:
    held = table.HELD + (4 << 20)
    host = Shown(2, 24 << 30, 1 << 30, 22 << 30, 7.5, 9000.0)
    own = Shown(1, table.MEMORY, held, table.MEMORY - held, 0.1, 30.0)
    assert list(table._wrong(host, own, age=31.0, load=0.12)) == []
    names = [field.name for field in dataclasses.fields(Shown)]
    assert list(table._wrong(host, host, age=31.0, load=0.12)) == names


def test_only_what_is_between_the_marks_is_rewritten() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert table.rewrite(text, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


def test_what_v2_showed_is_compared_with_the_table() -> None:
    said = table._on_v2("6.1", {"free": [], "nproc": ["cpus"], "lscpu": ["cpus"]})
    assert "same cells: free, nproc. Different there: lscpu (cpus)." in " ".join(said.split())
