"""How much of the host the unit leaves to the service, as systemd-analyze counts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.conftest import require
from tests.systemd.machine import ROOT, SOCKET, UNIT

#: What cannot be better: root, the host's mounts, /proc and network namespace, CAP_SYS_ADMIN,
#: CAP_SYS_PTRACE, and calls that mount (docs/security.md).
MOST = 4.5


def test_the_exposure_does_not_grow(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        require("systemd", "systemd-analyze is not installed")
    text = (ROOT / "systemd" / UNIT).read_text()
    text = re.sub(r"^(Exec\w+=)pylxcfs", r"\1/bin/true", text, flags=re.MULTILINE)
    (tmp_path / UNIT).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(tmp_path / UNIT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        require("systemd", "systemd-analyze is older than 250")
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST, done.stdout


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        require("systemd", "systemd-analyze is not installed")
    text = (ROOT / "systemd" / UNIT).read_text()
    text = re.sub(r"^(Exec\w+=)pylxcfs", r"\1/bin/true", text, flags=re.MULTILINE)
    (tmp_path / UNIT).write_text(text)
    shutil.copy(ROOT / "systemd" / SOCKET, tmp_path)
    units = [str(tmp_path / UNIT), str(tmp_path / SOCKET)]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if UNIT in line or SOCKET in line] == []


def test_it_has_no_mount_namespace_of_its_own() -> None:
    """Nobody would see what it mounts."""
    text = (ROOT / "systemd" / UNIT).read_text()
    keys = set(re.findall(r"^(\w+)=", text, re.MULTILINE))
    private = {key for key in keys if key.startswith(("Private", "ReadOnly", "Inaccessible"))}
    private |= keys & {"ProtectSystem", "ProtectHome", "ProtectProc", "ProcSubset", "RootDirectory"}
    private |= {key for key in keys if key.startswith(("ProtectKernel", "ProtectControl"))}
    assert private == set()
