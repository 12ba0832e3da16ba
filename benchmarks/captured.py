"""A server on a captured host of 64 CPUs; containers have 16.

For the benchmark only; all other code of the server is the real one. Usage is that of the real
container, since only the length of the texts matters here.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from pylxcfs.sources.containers import ContainerSource
from pylxcfs.sources.procfs import HostFiles
from pylxcfs.views.model import CpuLimit

REPOSITORY = Path(__file__).resolve().parent.parent
HOST = REPOSITORY / "tests" / "data" / "hosts" / "debian12-qemu-64cpu-4node-6.1"
#: The files of which the length depends on the number of CPUs.
FILES = ("proc/cpuinfo", "proc/stat")
LIMIT = CpuLimit(cpuset=None, quota=16.0)


def install(directory: Path) -> str:
    """Write a sitecustomize module; return the PYTHONPATH that finds it."""
    code = """
        import sys
        if "serve" in sys.orig_argv:
            from benchmarks.captured import replace_host
            replace_host()
    """
    (directory / "sitecustomize.py").write_text(textwrap.dedent(code))
    return os.pathsep.join((str(REPOSITORY), str(directory)))


def replace_host() -> None:
    """Make the server that this process becomes read the captured host."""
    HostFiles.__init__.__defaults__ = (str(HOST),)
    ContainerSource.cpu_limit = lambda self: LIMIT  # type: ignore[method-assign]
