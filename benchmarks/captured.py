"""A server for the benchmark alone that shows a captured host of 64 CPUs to containers of 16.

Everything else of it is the real program. Usage is that of the real container: what counts here
is how long the texts are.
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
    """Write a sitecustomize module for the server; return the PYTHONPATH that finds it."""
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
