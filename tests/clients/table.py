"""Write the table of docs/clients.md from real runs: python -m tests.clients.table

Each client of programs.py runs in two containers of 1 CPU and 512 MiB, one of them with the files
of a pylxcfs that is started for it, there once more with its system calls answered by the seccomp
agent, and once more below strace. Needs root and /dev/fuse. Installs
nothing: clients that are missing are named, with what would install them.

    --v2     run what the machine of tests/vm has on pure cgroup v2, and write the line on it
    --json   run on this host, print the results, and write nothing
    --only   NAME[,NAME...]; print the rows, and write nothing

Exit codes: 0 written, 1 a client failed, 2 usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.programs import CLIENTS, MIB, Client, Runner, Shown
from tests.kit import notified
from tests.kit.cgroups import is_v2
from tests.kit.container import Container
from tests.kit.daemon import Daemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
MEMORY = 512 * MIB
#: A process of each container holds so much, so that memory is in use.
HELD = 100 * MIB
#: What else may be in use in the container: the client, its page cache, the kernel's part.
ROOM = 100 * MIB
_HOLDER = f"import time; held = b'x' * {HELD}; print(flush=True); time.sleep(86400)"

_SYSCALLS = ("sysinfo", "sched_getaffinity")
_FILES = (
    *("meminfo", "stat", "cpuinfo", "loadavg", "uptime", "swaps", "diskstats", "vmstat"),
    *("slabinfo", "zoneinfo"),
)
#: Printed first in a row: what a client gets its values from, the directories last.
_ORDER = (
    *_FILES,
    "cpu/online",
    "cpu/",
    "node/",
    "/sys/block",
    *(f"{name}(2)" for name in _SYSCALLS),
)


@dataclass(frozen=True)
class Row:
    """What one client showed in both containers; `reads` are names of _ORDER."""

    name: str
    version: str
    without: Shown
    inside: Shown
    #: Names of the fields of `inside` that are not the container's.
    wrong: tuple[str, ...]
    #: The same with the system calls answered, too.
    asked: Shown
    asked_wrong: tuple[str, ...]
    reads: tuple[str, ...] = ()


class Bench:
    """Two containers with the same limits: one without pylxcfs, one with."""

    def __init__(self, daemon: Daemon) -> None:
        self.without = Container(None, memory=MEMORY, cpus=1)
        self.inside = Container(daemon.mountpoint, memory=MEMORY, cpus=1)
        agent = str(daemon.runtime_dir / "seccomp.sock")
        self._notified = [sys.executable, "-ISE", notified.__file__, agent]
        self._born = time.monotonic()
        for container in (self.without, self.inside):
            argv = [sys.executable, "-S", "-c", _HOLDER]
            holder = container.popen(argv, stdout=subprocess.PIPE)
            assert holder.stdout is not None
            holder.stdout.readline()

    def close(self) -> None:
        self.inside.close()
        self.without.close()

    def run(self, client: Client, *, trace: bool) -> Row:
        """Run a client in both; `trace`: once more, for what it reads and its version."""
        without = client.read(Runner(self.without))
        inside = client.read(Runner(self.inside))
        age = time.monotonic() - self._born
        load = float(self.inside.read("/proc/loadavg").split()[0])
        asked = client.read(Runner(self.inside, self._notified))
        return Row(
            client.name,
            client.find_version() if trace else "",
            without,
            inside,
            tuple(_wrong(without, inside, age, load)),
            asked,
            tuple(_wrong(without, asked, age, load)),
            tuple(self._trace(client)) if trace else (),
        )

    def _trace(self, client: Client) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as directory:
            output = Path(directory, "strace")
            calls = ",".join(("open", "openat", "openat2", *_SYSCALLS))
            # -y resolves descriptors; -A, as some clients are several programs.
            prefix = ["strace", "-f", "-qq", "-y", "-A", "-o", str(output), "-e", f"trace={calls}"]
            client.read(Runner(self.inside, prefix))
            text = output.read_text(errors="replace")
        found = set(_reads(text))
        yield from (name for name in _ORDER if name in found)


def _reads(trace: str) -> Iterator[str]:
    for path in re.findall(r"= \d+<(/[^>]*)>", trace):
        name = path.removeprefix("/proc/")
        if name in _FILES:
            yield name
        elif path == "/sys/devices/system/cpu/online":
            yield "cpu/online"
        elif found := re.match(r"/sys/devices/system/(cpu|node)(/|$)", path):
            yield f"{found[1]}/"
        elif re.search(r"/block/[^/]+/stat$", path):
            yield "/sys/block"
    for name in _SYSCALLS:
        if f"{name}(" in trace:
            yield f"{name}(2)"


def _wrong(without: Shown, inside: Shown, age: float, load: float) -> Iterator[str]:
    """Yield the names of values that are not the container's."""
    if inside.cpus not in (None, 1):
        yield "cpus"
    if inside.total is not None and inside.total != MEMORY:
        yield "total"
    if inside.used is not None and not HELD * 0.9 <= inside.used <= HELD + ROOM:
        yield "used"
    free = MEMORY - HELD
    if inside.available is not None and not free - ROOM <= inside.available <= free * 1.1:
        yield "available"
    if _nearer(inside.load, without.load, load):
        yield "load"
    if _nearer(inside.uptime, without.uptime, age):
        yield "uptime"


def _nearer(value: float | None, host: float | None, own: float) -> bool:
    """Return whether a value without a fixed right answer is nearer to the host's."""
    return value is not None and host is not None and abs(value - host) < abs(value - own)


def measure(clients: Iterable[Client], *, trace: bool = True) -> tuple[list[Row], list[str]]:
    """Run the clients that are installed; return their rows, and the names of those that failed."""
    rows, failed = [], []
    with Daemon("--enable-loadavg", "--seccomp-agent") as daemon:
        bench = Bench(daemon)
        try:
            for client in clients:
                print(f"{client.name} ...", file=sys.stderr, flush=True)
                try:
                    rows.append(bench.run(client, trace=trace))
                except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
                    print(f"{client.name} failed: {error}", file=sys.stderr)
                    failed.append(client.name)
        finally:
            bench.close()
    return rows, failed


# -- the document ------------------------------------------------------------------------------

_HEAD = (
    "| client | reads | CPUs | memory | used | available | load | up |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def table(rows: Iterable[Row]) -> str:
    """Return the table: a row for each client, those that did not run included."""
    by_name = {row.name: row for row in rows}
    text = _HEAD
    for client in CLIENTS:
        row = by_name.get(client.name)
        if row is not None:
            text += _line(row)
        elif client.program:
            text += f"| {client.name} | not installed here | | | | | | |\n"
        else:
            text += f"| {client.name} | {client.reads}; not run, see below | | | | | | |\n"
    return text


def _line(row: Row) -> str:
    def cell(name: str) -> str:
        before, after = getattr(row.without, name), getattr(row.inside, name)
        if after is None:
            return ""
        text = f"{_FORMATS[name](before)} → {_bold(name, after, row.wrong)}"
        if name in row.wrong:
            text += f" → {_bold(name, getattr(row.asked, name), row.asked_wrong)}"
        return text

    reads = ", ".join(f"`{name}`" if "(" not in name else name for name in row.reads)
    cells = [f"{row.name} {row.version}".strip(), reads]
    cells += [cell(field.name) for field in dataclasses.fields(Shown)]
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


def _bold(name: str, value: float, wrong: Collection[str]) -> str:
    shown: str = _FORMATS[name](value)
    return f"**{shown}**" if name in wrong else shown


def _memory(size: int) -> str:
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{size / MIB:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


_FORMATS = {
    "cpus": str,
    "total": _memory,
    "used": _memory,
    "available": _memory,
    "load": "{:.2f}".format,
    "uptime": _time,
}


def conditions(kind: str) -> str:
    """Return date, kernel and host in a sentence."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = platform.freedesktop_os_release()
    return (
        f"{time.strftime('%Y-%m-%d')}, {system['NAME']} {system.get('VERSION_ID', '')}, "
        f"Linux {platform.release().split('-')[0]}, {kind}, a host with "
        f"{os.sysconf('SC_NPROCESSORS_ONLN')} CPUs and {_memory(memory)}."
    )


def written(text: str, mark: str) -> str:
    """Return what is between the two comments of a name."""
    return text.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]


def rewrite(text: str, mark: str, inner: str) -> str:
    """Replace what is between the two comments of a name."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
    changed, count = re.subn(pattern, lambda m: m[1] + inner + m[2], text, flags=re.DOTALL)
    assert count == 1, f"no {mark} in {DOCUMENT}"
    return changed


def write(mark: str, inner: str) -> None:
    DOCUMENT.write_text(rewrite(DOCUMENT.read_text(), mark, inner))


# -- cgroup v2 ---------------------------------------------------------------------------------


def in_the_machine() -> str:
    """Boot the machine of tests/vm; return the paragraph on what its clients showed."""
    from tests.vm import machine

    if reason := machine.why_not():
        sys.exit(f"pylxcfs: {reason}")
    result = machine.run(
        ["python", "-m", "tests.clients.table", "--json"],
        environment={"PYLXCFS_REQUEST_TIMEOUT": "60", "PYLXCFS_WATCHDOG": "60"},
        timeout=1500,
        echo=lambda text: print(text, end="", flush=True, file=sys.stderr),
    )
    found = re.search(r"^\{.*\}$", result.output.replace("\r", ""), re.MULTILINE)
    if result.exit_code is None or found is None:
        sys.exit(f"pylxcfs: no answer from the machine\n{result.console[-2000:]}")
    told = json.loads(found[0])
    wrong = {row["name"]: row["wrong"] for row in told["rows"]}
    return _on_v2(told["kernel"], wrong)


def _on_v2(kernel: str, wrong: Mapping[str, list[str]]) -> str:
    """Compare with the bold values of the document."""
    columns = [field.name for field in dataclasses.fields(Shown)]
    same, other = [], []
    for line in written(DOCUMENT.read_text(), "clients").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        name = next((n for n in wrong if cells and _named(cells[0], n)), None)
        if name is None:
            continue
        bold = {c for c, cell in zip(columns, cells[2:], strict=True) if "**" in cell}
        if set(wrong[name]) == bold:
            same.append(name)
        else:
            other.append(f"{name} ({', '.join(sorted(set(wrong[name]) ^ bold))})")
    text = (
        f"On cgroup v2 (Linux {kernel}, the machine of `tests/vm`) these were run, too, and show "
    )
    text += f"the container's and the host's values in the same cells: {', '.join(same)}."
    if other:
        text += f" Different there: {'; '.join(other)}."
    return textwrap.fill(text, 115) + "\n"


def _named(cell: str, name: str) -> bool:
    """Return whether a first cell, "free 4.0.2", is that of a client."""
    return re.fullmatch(rf"{re.escape(name)}( \d\S*)?", cell) is not None


# -- the command -------------------------------------------------------------------------------


def missing(clients: Iterable[Client]) -> Iterator[str]:
    """Yield a line for each client that is not installed."""
    for client in clients:
        if client.program and client.find() is None:
            how = "tools/system-packages run test clients"
            if client.package.startswith("pip: "):
                how = "pip install -e '.[clients]'"
            yield f"{client.name} is not installed ({client.package}): {how}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clients.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--v2", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("pylxcfs: it needs root and /dev/fuse", file=sys.stderr)
        return 2
    if options.v2:
        write("clients on v2", in_the_machine())
        return 0
    wanted = [c for c in CLIENTS if not options.only or c.name in options.only.split(",")]
    for line in missing(wanted):
        print(f"pylxcfs: {line}", file=sys.stderr)
    present = [client for client in wanted if client.find() is not None]
    rows, failed = measure(present, trace=not options.json)
    if options.json:
        told = {"kernel": platform.release().split("-")[0], "rows": []}
        told["rows"] = [dataclasses.asdict(row) for row in rows]
        print(json.dumps(told), flush=True)
    elif options.only:
        print("".join(_line(row) for row in rows), end="")
    elif not failed:
        kind = "cgroup v2" if is_v2() else "cgroup v1"
        write("clients", f"{table(rows)}\n{conditions(kind)}\n")
        print(f"{DOCUMENT} is written", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
