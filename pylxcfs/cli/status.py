"""`status`: the state that the keeper wrote, and facts of its processes.

An instance runs while a process holds the lock of the pid file: a status.json without it is an
old one.
"""

from __future__ import annotations

import json
import time
from typing import Any

import psutil

from pylxcfs.cli import runtime
from pylxcfs.cli.options import Config
from pylxcfs.keeper import holder, instance
from pylxcfs.units import MIB

#: Exit codes of `status`. 3 is also what systemctl returns for a unit that does not run.
SERVING, STOPPED, NOT_SERVING = 0, 3, 6


def gather(config: Config) -> dict[str, Any]:
    """Return the state of the instance, as --json prints it."""
    keeper = instance.owner(config.pid_path)
    if keeper is None:
        held = holder.is_held(config.runtime_dir)
        return {
            "state": "held" if held else "stopped",
            "text": "the mounts are held for the next start" if held else "no instance runs",
            "mountpoint": config.mountpoint,
            "runtime_dir": config.runtime_dir,
            "since": None,
            "keeper": None,
            "server": None,
        }
    written = _written(runtime.status_path(config))
    if written.get("keeper") != keeper:
        written = {}  # of an earlier keeper
    return {
        "state": written.get("state", "starting"),
        "text": written.get("text", ""),
        "mountpoint": written.get("mountpoint") or instance.mountpoint_of(keeper),
        "runtime_dir": config.runtime_dir,
        "since": written.get("since"),
        "keeper": _facts(keeper),
        "server": _facts(written.get("server"), parent=keeper),
    }


def exit_code(state: dict[str, Any]) -> int:
    """Return the exit code that says the state."""
    if state["keeper"] is None:
        return STOPPED
    return SERVING if state["state"] == "serving" else NOT_SERVING


def render(state: dict[str, Any]) -> str:
    """Return the state as text for people."""
    lines = [f"{state['state']}: {state['text']}" if state["text"] else str(state["state"])]
    rows = [("mountpoint", state["mountpoint"]), ("runtime directory", state["runtime_dir"])]
    if isinstance(state["since"], int | float):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state["since"]))
        rows.append(("since", when))
    rows += [(name, _line(state[name])) for name in ("keeper", "server") if state[name]]
    lines += [f"  {name + ':':<20}{value}" for name, value in rows]
    return "\n".join(lines)


def _written(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _facts(pid: object, parent: int | None = None) -> dict[str, Any] | None:
    """Return facts of a process; None if it has ended."""
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if parent is not None and process.ppid() != parent:
                return None  # it has ended, and the number is another process now
            times = process.cpu_times()
            return {
                "pid": pid,
                "age_s": round(time.time() - process.create_time(), 1),
                "rss_bytes": process.memory_info().rss,
                "cpu_s": round(times.user + times.system, 2),
                "open_files": _open_files(process),
            }
    except psutil.Error:
        return None


def _open_files(process: psutil.Process) -> int | None:
    try:
        count: int = process.num_fds()
    except psutil.AccessDenied:
        return None
    return count


def _line(facts: dict[str, Any]) -> str:
    words = [
        f"pid {facts['pid']}",
        f"running for {_duration(facts['age_s'])}",
        f"{facts['rss_bytes'] / MIB:.1f} MiB",
        f"{facts['cpu_s']:.2f} s CPU time",
    ]
    if facts["open_files"] is not None:
        words.append(f"{facts['open_files']} open files")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"
