"""The command that puts the files into a Docker container.

runc allows a fixed list of files to be mounted over in /proc, these; all of /sys is allowed.
Standard library only.
"""

from __future__ import annotations

import shlex

PROC_FILES = ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime")
CPU_DIRECTORY = "sys/devices/system/cpu"
#: Where containers see the resources socket.
RESOURCES = "/run/pylxcfs/resources.sock"


def docker_line(mountpoint: str, resources: str | None = None) -> str:
    """Return a command that can be pasted into a shell. `resources`: the path of that socket."""
    paths = [f"proc/{name}" for name in PROC_FILES] + [CPU_DIRECTORY]
    binds = " ".join(f"-v {shlex.quote(f'{mountpoint}/{path}')}:/{path}:ro" for path in paths)
    if resources is not None:
        binds += f" --mount {shlex.quote(f'type=bind,src={resources},dst={RESOURCES},ro')}"
    return f"docker run --rm -it -m 512m --cpus 1 {binds} debian free -m"
