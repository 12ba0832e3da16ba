"""The node agent, in a pid namespace and a mount namespace of its own.

There it sees no other container, and heals none of another instance.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_in_namespaces_of_its_own() -> None:
    files = sorted(str(path) for path in Path(__file__).parent.glob("alone/check_*.py"))
    assert files
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
            *("sh", "-c", '"$@"; exit $?', "init"),  # as init has to, a shell reaps orphans
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
