"""The rules of the project: linters are tests, and documents say what the code has."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pylxcfs.views import VIEWS, View

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pylxcfs"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]],
    ids=" ".join,
)
def test_linter(command: list[str]) -> None:
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    assert program, f"{command[0]} is not installed: pip install -e '.[dev]'"
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_guard_catches_everything() -> None:
    found = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_bytes())):
            if isinstance(node, ast.ExceptHandler) and _is_broad(node):
                found.append(str(module.relative_to(PACKAGE)))
    assert found == ["guard.py"]


def _is_broad(handler: ast.ExceptHandler) -> bool:
    names = (
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
        if (handler.type)
        else {"BaseException"}
    )
    if "BaseException" in names:
        # A handler that cleans up and raises again catches nothing.
        last = handler.body[-1]
        return not (isinstance(last, ast.Raise) and last.exc is None)
    return "Exception" in names


def test_every_module_says_what_lives_there() -> None:
    silent = [module for module in MODULES if not ast.get_docstring(ast.parse(module.read_text()))]
    assert [str(module.relative_to(ROOT)) for module in silent if module.read_text()] == []


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.path)
def test_the_readme_tells_each_file_as_the_table_of_views_does(view: View) -> None:
    rows = re.findall(
        r"^\| \[`([^`]+)`\]\(([^)]+)\) \|.*\| ([^|]+) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    told = {path: (page, summary) for path, page, summary in rows}
    assert view.path in told
    page, summary = told[view.path]
    assert summary == view.summary
    assert (ROOT / page).exists()


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert targets == set(re.findall(r"^  make ([a-z]+) ", shown, re.MULTILINE))
