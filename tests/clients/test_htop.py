"""htop in a pseudo-terminal: reads directories with openat and keeps its files open."""

from __future__ import annotations

import os
import pty
import re
import select
import termios
import tty
from collections.abc import Callable

from tests.clients.conftest import MEMORY
from tests.conftest import wait_until
from tests.kit.container import Container

_ESCAPE = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\([A-Z0-9]|[=>])")


def test_htop_shows_one_cpu_and_the_limit(
    small: Container, program: Callable[[str], str], tmp_path: os.PathLike[str]
) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    termios.tcsetwinsize(slave, (40, 120))
    env = {**os.environ, "TERM": "xterm", "HOME": str(tmp_path), "LC_ALL": "C"}
    env["XDG_CONFIG_HOME"] = str(tmp_path)
    process = small.popen(
        [program("htop"), "--delay=2", "--no-color"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
    )
    os.close(slave)
    screen = bytearray()
    limit = b"/2.00G" if MEMORY == 2 << 30 else b"/%dM" % (MEMORY >> 20)

    def text() -> bytes:
        while select.select([master], [], [], 0)[0]:
            try:
                screen.extend(os.read(master, 65536))
            except OSError:  # EIO: the other side is closed
                break
        return _ESCAPE.sub(b"", bytes(screen))

    try:
        wait_until(lambda: limit in text(), 60, what="the limit on htop's screen")
        wait_until(lambda: b"Load average" in text(), 60, what="the load on htop's screen")
        os.write(master, b"q")
        wait_until(lambda: (text(), process.poll())[1] is not None, 60, what="htop to quit")
        shown = text()
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert process.returncode == 0, shown
    # A CPU outside the view is offline, as htop shows it on a host.
    assert len(re.findall(rb"\[ *offline *\]", shown)) == len(os.sched_getaffinity(0)) - 1, shown
