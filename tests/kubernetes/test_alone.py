"""The node agent, in a pid namespace and a mount namespace of its own.

There it sees no other container, and heals none of another instance.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent / "alone"


def alone(files: Sequence[Path], environ: Mapping[str, str] | None = None) -> None:
    """Run these tests in namespaces of their own."""
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
            *("sh", "-c", '"$@"; exit $?', "init"),  # as init has to, a shell reaps orphans
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environ or {})},
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_namespaces_of_its_own() -> None:
    files = sorted(HERE.glob("check_*.py"))
    assert files
    alone(files)
