"""docs/kubernetes.md names tests and shows output: both are there."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from pylxcfs.cli.commands import cli
from pylxcfs.kubernetes.annotations import ALIASES, ENV, FILES, PATHS, STATUS, VIEW

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/kubernetes.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"`(test_[a-z_]+)`", PAGE))
    assert len(named) > 5
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_every_key_and_file_is_named() -> None:
    for key in (VIEW, FILES, ENV, STATUS, *ALIASES):
        assert f"`{key}`" in PAGE
    assert f"`{' '.join(PATHS)}`" in PAGE


def test_the_output_is_that_of_the_command() -> None:
    limits = "cpu=2,memory=4Gi,nvidia.com/gpu=1"
    shown = CliRunner().invoke(cli, ["env", "--limits", limits]).output
    assert f"$ pylxcfs env --limits {limits}\n{shown}$ " in PAGE
