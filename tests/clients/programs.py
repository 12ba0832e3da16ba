"""The clients of docs/clients.md: how each is started, and what it shows.

A client is a function that runs a program in a container and takes CPUs, memory, load and uptime
from its output. No file of pylxcfs is read here. Containers, comparison and the document are in
table.py.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.container import Container

KIB, MIB = 1 << 10, 1 << 20
#: A client that works never needs this long, even in a machine without KVM.
DEADLINE_S = 240.0
ENVIRONMENT = {**os.environ, "LC_ALL": "C", "TERM": "xterm", "COLUMNS": "200"}

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\([A-Z0-9]|[=>])")
_LOADS = re.compile(r"[Ll]oad average: *([\d.]+)")


@dataclass(frozen=True)
class Shown:
    """What a client shows. None: it does not show this. Memory in bytes, uptime in seconds."""

    cpus: int | None = None
    total: int | None = None
    used: int | None = None
    available: int | None = None
    load: float | None = None
    uptime: float | None = None


class Runner:
    """Starts programs in a container, below `prefix` (strace)."""

    def __init__(self, container: Container, prefix: Sequence[str] = ()) -> None:
        self._container = container
        self._prefix = list(prefix)

    def say(self, *argv: str) -> str:
        """Run a program; return its output."""
        done = self._container.exec(
            [*self._prefix, *argv], timeout=DEADLINE_S, env=ENVIRONMENT, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{argv} exits {done.returncode}: {(done.stderr).decode()}")
        return done.stdout.decode()

    def start(self, *argv: str, stdio: int, **env: str) -> subprocess.Popen[bytes]:
        """Start a program, with one descriptor for input, output and errors."""
        return self._container.popen(
            [*self._prefix, *argv],
            stdin=stdio,
            stdout=stdio,
            stderr=stdio,
            env={**ENVIRONMENT, **env},
        )


@dataclass(frozen=True)
class Client:
    """A row of the table."""

    name: str
    #: The program to look for on PATH; "" is a client that cannot be had.
    program: str
    #: How to get it: a Debian package, or "pip: PACKAGE".
    package: str
    read: Callable[[Runner], Shown]
    #: Arguments that make it print its version, and what the version looks like there.
    version: tuple[str, ...] = ("--version",)
    pattern: str = r"(\d+\.\d[\w.]*)"
    #: For one that cannot be had: what its source says that it reads.
    reads: str = ""

    def find(self) -> str | None:
        """Return the program's path, beside this Python or on PATH."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return shutil.which(self.program, path=path) if self.program else None

    def find_version(self) -> str:
        """Return the version that the program prints."""
        argv = [self.find() or self.program, *self.version]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=DEADLINE_S, env=ENVIRONMENT, check=False
        )
        found = re.search(self.pattern, done.stdout + done.stderr)
        if found is None and shutil.which("dpkg-query"):  # numactl does not tell its version
            argv = ["dpkg-query", "--show", "--showformat=${Version}", self.package]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            found = re.match(r"([\d.]+)", done.stdout)
        return found[1] if found else ""


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"no {pattern!r} in:\n{text}"
    return float(found[1])


def _age(text: str) -> float:
    """Return the seconds of "up 2 min", "up 1:03", "up 3 days, 4:05"."""
    found = re.search(r"up +(?:(\d+) days?, +)?(?:(\d+):(\d+)|(\d+) min)", text)
    assert found is not None, text
    days, hours, minutes, only = (int(part or 0) for part in found.groups())
    return (days * 24 * 60 + hours * 60 + minutes + only) * 60.0


def _free(run: Runner) -> Shown:
    row = run.say("free", "--bytes").splitlines()[1].split()[1:]
    return Shown(total=int(row[0]), used=int(row[1]), available=int(row[5]))


def _top(run: Runner) -> Shown:
    text = run.say("top", "-b", "-n1", "-1")
    return Shown(
        cpus=len(re.findall(r"%Cpu\d+ *:", text)),
        total=int(_number(r"MiB Mem : *([\d.]+) total", text) * MIB),
        used=int(_number(r"([\d.]+) used, .* buff/cache", text) * MIB),
        load=_number(_LOADS.pattern, text),
        uptime=_age(text),
    )


def _uptime(run: Runner) -> Shown:
    text = run.say("uptime")
    return Shown(load=_number(_LOADS.pattern, text), uptime=_age(text))


def _vmstat(run: Runner) -> Shown:
    text = run.say("vmstat", "-s")
    return Shown(
        total=int(_number(r"(\d+) K total memory", text)) * KIB,
        used=int(_number(r"(\d+) K used memory", text)) * KIB,
    )


def _htop(run: Runner) -> Shown:
    """Read htop's screen until it shows a load average, then quit it."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    termios.tcsetwinsize(slave, (40, 120))
    text = ""
    with tempfile.TemporaryDirectory() as home:
        process = run.start(
            "htop", "--delay=5", "--no-color", stdio=slave, HOME=home, XDG_CONFIG_HOME=home
        )
        os.close(slave)
        try:
            until = time.monotonic() + DEADLINE_S
            # It knows no uptime in the first second of a container.
            while not re.search(r"Uptime: (?!\(unknown)", text) and time.monotonic() < until:
                if select.select([master], [], [], 1)[0]:
                    text += os.read(master, 65536).decode(errors="replace")
            os.write(master, b"q")
            while select.select([master], [], [], 5)[0]:
                try:
                    text += os.read(master, 65536).decode(errors="replace")
                except OSError:  # EIO: htop has ended
                    break
            process.wait(timeout=DEADLINE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            os.close(master)
    text = _ESCAPE.sub("", text)
    unit = {"K": KIB, "M": MIB, "G": MIB << 10}
    memory = re.search(r"Mem\[[^\]\d]*([\d.]+)([KMG])/([\d.]+)([KMG])", text)
    clock = re.search(r"Uptime: (?:(\d+) days?(?:\(!\))?, )?(\d+):(\d+):(\d+)", text)
    assert memory is not None, text
    assert clock is not None, text
    days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
    # A single CPU has no number.
    bars = {name for name, bar in re.findall(r"(\d+|CPU)\[([^\]]*)\]", text) if "off" not in bar}
    return Shown(
        cpus=len(bars),
        total=int(float(memory[3]) * unit[memory[4]]),
        used=int(float(memory[1]) * unit[memory[2]]),
        load=_number(_LOADS.pattern, text),
        uptime=float(((days * 24 + hours) * 60 + minutes) * 60 + seconds),
    )


def _mpstat(run: Runner) -> Shown:
    text = run.say("mpstat", "-P", "ALL")
    return Shown(cpus=len(re.findall(r"^\S+ +\d+ ", text, re.MULTILINE)))


def _sar(run: Runner) -> Shown:
    text = run.say("sar", "-r", "-q", "1", "1")
    memory, load = (
        lines.splitlines()[1].split()[1:] for lines in text[text.index("Average:") :].split("\n\n")
    )
    return Shown(
        cpus=int(_number(r"\((\d+) CPU\)", text)),
        used=int(memory[2]) * KIB,  # kbmemfree, kbavail, kbmemused
        available=int(memory[1]) * KIB,
        load=float(load[2]),
    )


def _iostat(run: Runner) -> Shown:
    return Shown(cpus=int(_number(r"\((\d+) CPU\)", run.say("iostat"))))


def _lscpu(run: Runner) -> Shown:
    text = run.say("lscpu", "-p=cpu")
    return Shown(cpus=len([line for line in text.splitlines() if line[0] != "#"]))


def _numactl(run: Runner) -> Shown:
    text = run.say("numactl", "-H")
    total = sum(int(size) for size in re.findall(r"node \d+ size: (\d+) MB", text)) * MIB
    free = sum(int(size) for size in re.findall(r"node \d+ free: (\d+) MB", text)) * MIB
    cpus = " ".join(re.findall(r"node \d+ cpus:(.*)", text)).split()
    return Shown(cpus=len(cpus), total=total, used=total - free)


def _lstopo(run: Runner) -> Shown:
    text = run.say("lstopo-no-graphics", "--of", "console", "--no-io")
    unit = {"KB": KIB, "MB": MIB, "GB": MIB << 10}
    total = re.search(r"Machine \((\d+)(KB|MB|GB)", text)
    assert total is not None, text
    return Shown(cpus=text.count("PU L#"), total=int(total[1]) * unit[total[2]])


_PSUTIL = """
import json, os, time, psutil
memory = psutil.virtual_memory()
print(json.dumps({"cpus": psutil.cpu_count(), "total": memory.total, "used": memory.used,
    "available": memory.available, "load": psutil.getloadavg()[0],
    "uptime": time.time() - psutil.boot_time()}))
"""


def _psutil(run: Runner) -> Shown:
    return Shown(**json.loads(run.say(sys.executable, "-c", _PSUTIL)))


def _glances(run: Runner) -> Shown:
    program = Client("", "glances", "", _glances).find() or "glances"
    text = run.say(program, "--stdout-json", "core,mem,load,uptime", "--stop-after", "1")
    told = json.loads(text)
    clock = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d+):(\d+)", told["uptime"])
    assert clock is not None, told
    days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
    return Shown(
        cpus=told["core"]["log"],
        total=told["mem"]["total"],
        used=told["mem"]["used"],
        available=told["mem"]["available"],
        load=told["load"]["min1"],
        uptime=float(((days * 24 + hours) * 60 + minutes) * 60 + seconds),
    )


def _node_exporter(run: Runner) -> Shown:
    """Scrape it over the loopback interface: a container of the kit has the host's network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [f"--collector.{name}" for name in ("cpu", "meminfo", "loadavg", "stat")]
    process = run.start(
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        *flags,
        f"--web.listen-address={address}",
        stdio=subprocess.DEVNULL,
    )
    try:
        text = ""
        until = time.monotonic() + DEADLINE_S
        while not text:
            assert process.poll() is None, "it ended"
            assert time.monotonic() < until, "no answer"
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                    text = answer.read().decode()
            except OSError:
                time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=DEADLINE_S)
    number = r"([\d.e+]+)$"
    return Shown(
        cpus=len(set(re.findall(r'^node_cpu_seconds_total{cpu="(\d+)"', text, re.MULTILINE))),
        total=int(_number(rf"^node_memory_MemTotal_bytes {number}", text)),
        available=int(_number(rf"^node_memory_MemAvailable_bytes {number}", text)),
        load=_number(rf"^node_load1 {number}", text),
        uptime=time.time() - _number(rf"^node_boot_time_seconds {number}", text),
    )


def _zabbix_agentd(run: Runner) -> Shown:
    def ask(key: str) -> float:
        return _number(r"\[[ud]\|([\d.]+)\]", run.say("zabbix_agentd", "-t", key))

    return Shown(
        cpus=int(ask("system.cpu.num")),
        total=int(ask("vm.memory.size[total]")),
        available=int(ask("vm.memory.size[available]")),
        load=ask("system.cpu.load[all,avg1]"),
        uptime=ask("system.uptime"),
    )


_COLLECTD = """
BaseDir "{home}"
PIDFile "{home}/pid"
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin cpu
LoadPlugin memory
LoadPlugin load
LoadPlugin uptime
LoadPlugin csv
<Plugin csv>
  DataDir "{home}/csv"
</Plugin>
"""


def _collectd(run: Runner) -> Shown:
    """Let it write CSV files, and read their last lines."""
    with tempfile.TemporaryDirectory() as home:
        config = Path(home, "collectd.conf")
        config.write_text(_COLLECTD.format(home=home))
        process = run.start("collectd", "-f", "-C", str(config), stdio=subprocess.DEVNULL)

        def last(name: str) -> list[float]:
            for path in Path(home, "csv").glob(f"*/{name}-*"):
                rows = [line for line in path.read_text().splitlines() if line[:1].isdigit()]
                if rows:
                    return [float(field) for field in rows[-1].split(",")[1:]]
            return []

        kinds = ("used", "buffered", "cached", "free", "slab_unrecl", "slab_recl")
        names = ["cpu-0/cpu-user", "load/load", "uptime/uptime"]
        names += [f"memory/memory-{kind}" for kind in kinds]
        try:
            until = time.monotonic() + DEADLINE_S
            while not all(last(name) for name in names):
                assert process.poll() is None, "it ended"
                assert time.monotonic() < until, "no values"
                time.sleep(0.2)
            cpus = len(list(Path(home, "csv").glob("*/cpu-*")))
            memory = {kind: int(last(f"memory/memory-{kind}")[0]) for kind in kinds}
            load, uptime = last("load/load")[0], last("uptime/uptime")[0]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=DEADLINE_S)
    return Shown(
        cpus=cpus, total=sum(memory.values()), used=memory["used"], load=load, uptime=uptime
    )


def _nproc(run: Runner) -> Shown:
    return Shown(cpus=int(run.say("nproc")))


def _busybox_free(run: Runner) -> Shown:
    row = run.say("busybox", "free", "-k").splitlines()[1].split()[1:]
    return Shown(total=int(row[0]) * KIB, used=int(row[1]) * KIB, available=int(row[5]) * KIB)


def _busybox_top(run: Runner) -> Shown:
    text = run.say("busybox", "top", "-b", "-n1")
    used = int(_number(r"Mem: (\d+)K used", text)) * KIB
    total = used + int(_number(r"(\d+)K free", text)) * KIB
    return Shown(total=total, used=used, load=_number(_LOADS.pattern, text))


def _busybox_uptime(run: Runner) -> Shown:
    text = run.say("busybox", "uptime")
    return Shown(load=_number(_LOADS.pattern, text), uptime=_age(text))


def _busybox_nproc(run: Runner) -> Shown:
    return Shown(cpus=int(run.say("busybox", "nproc")))


def _absent(run: Runner) -> Shown:
    raise AssertionError("it cannot be had")


def _busybox(applet: str, read: Callable[[Runner], Shown]) -> Client:
    return Client(f"BusyBox {applet}", "busybox", "busybox-static", read, (), r"BusyBox v(\S+)")


#: In the order of the table.
CLIENTS = (
    Client("free", "free", "procps", _free),
    Client("top", "top", "procps", _top, ("-V",)),
    Client("uptime", "uptime", "procps", _uptime),
    Client("vmstat", "vmstat", "procps", _vmstat),
    Client("htop", "htop", "htop", _htop),
    Client("mpstat", "mpstat", "sysstat", _mpstat, ("-V",)),
    Client("sar", "sar", "sysstat", _sar, ("-V",)),
    Client("iostat", "iostat", "sysstat", _iostat, ("-V",)),
    Client("lscpu", "lscpu", "util-linux", _lscpu),
    Client("nproc", "nproc", "coreutils", _nproc),
    Client("numactl", "numactl", "numactl", _numactl),
    Client("lstopo", "lstopo-no-graphics", "hwloc-nox", _lstopo),
    Client(
        "psutil",
        sys.executable,
        "pip: psutil",
        _psutil,
        ("-c", "import psutil; print(psutil.__version__)"),
    ),
    Client("glances", "glances", "pip: glances", _glances, pattern=r"Glances version:\s*(\S+)"),
    Client("node_exporter", "prometheus-node-exporter", "prometheus-node-exporter", _node_exporter),
    Client(
        "cadvisor",
        "",
        "",
        _absent,
        reads="`meminfo`, `cpuinfo`, `cpu/`, `node/`",
    ),
    Client("zabbix_agentd", "zabbix_agentd", "zabbix-agent", _zabbix_agentd, ("-V",)),
    Client("collectd", "collectd", "collectd-core", _collectd, ("-h",), r"collectd (\d\S+?)\.git"),
    _busybox("free", _busybox_free),
    _busybox("top", _busybox_top),
    _busybox("uptime", _busybox_uptime),
    _busybox("nproc", _busybox_nproc),
)
