"""container/demo, as `make demo` runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.conftest import require_fuse
from tests.kit.daemon import ROOT


def test_the_demo_shows_a_small_container_beside_the_host() -> None:
    require_fuse()
    done = subprocess.run(
        [sys.executable, str(ROOT / "container/demo")],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| Mem: +512 ", done.stdout), done.stdout
