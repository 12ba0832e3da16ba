"""The program that calls, compiled once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.daemon import DEADLINE_S

CALLER = Path(__file__).with_name("caller.c")


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program that makes both calls, and prints what it gets."""
    program = tmp_path_factory.mktemp("caller") / "caller"
    command = ["cc", "-O1", "-static", "-pthread", "-o", str(program), str(CALLER)]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    return program
