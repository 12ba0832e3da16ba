"""Tables in docs/options.md and the man page come from the code.

PYLXCFS_WRITE_DOCS=1 writes both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pylxcfs.cli import manpage
from pylxcfs.cli.commands import EXIT_CODES, SIGNALS, cli
from pylxcfs.cli.kinds import Choice
from pylxcfs.cli.options import ALIASES, OPTIONS

DOCS = Path(__file__).parents[3] / "docs"
MAN_PAGE = DOCS / "pylxcfs.8"


def tables() -> dict[str, str]:
    """Return the tables as docs/options.md must have them."""
    options = [
        "| TOML key | flags | values | default | reload | what it does |",
        "|---|---|---|---|---|---|",
    ]
    for option in OPTIONS:
        flags = ", ".join(f"`{flag}`".replace("/", "`, `") for flag in option.flags)
        values = option.kind.accepts
        if isinstance(option.kind, Choice):
            values = ", ".join(f"`{choice}`" for choice in option.kind.choices)
        cells = (
            f"`{option.name}`",
            flags or "MOUNTPOINT",
            values,
            option.default_text,
            "yes" if option.live else "",
            option.help,
        )
        options.append(f"| {' | '.join(cells)} |")
    aliases = ["| flags | what it does |", "|---|---|"]
    for alias in ALIASES:
        aliases.append(f"| {', '.join(f'`{flag}`' for flag in alias.flags)} | {alias.help} |")
    signals = ["| signal | what the keeper does |", "|---|---|"]
    signals += [f"| {signal} | {text} |" for signal, text in SIGNALS.items()]
    codes = ["| code | meaning |", "|---|---|"]
    codes += [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    found = {"options": options, "aliases": aliases, "signals": signals, "exit codes": codes}
    return {name: "\n".join(lines) for name, lines in found.items()}


def check(path: Path, text: str) -> None:
    """Compare the file with what it should be, or write it."""
    if os.environ.get("PYLXCFS_WRITE_DOCS"):
        path.write_text(text)
    assert path.read_text() == text, f"run: PYLXCFS_WRITE_DOCS=1 pytest {__file__}"


def test_the_page_has_the_tables_of_the_code() -> None:
    path = DOCS / "options.md"
    text = path.read_text()
    for name, table in tables().items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = marked.subn(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text)
        assert count == 1, name
    check(path, text)


def test_the_page_has_every_command() -> None:
    page = (DOCS / "options.md").read_text()
    section = page.split("\n## Commands\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`pylxcfs ([a-z-]+)", section))
    assert named == {name for name, command in cli.commands.items() if not command.hidden}


def test_the_man_page_is_that_of_the_code() -> None:
    check(MAN_PAGE, manpage.page())


@pytest.mark.parametrize(
    "command",
    [
        ["groff", "-man", "-ww", "-z", "-Tutf8"],
        ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l"],
    ],
    ids=lambda command: command[0],
)
def test_the_man_page_has_no_mistakes_in_its_language(command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, str(MAN_PAGE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_man_page_has_every_flag_and_variable() -> None:
    text = MAN_PAGE.read_text().replace("\\-", "-")
    for option in OPTIONS:
        assert rf"\fB{option.env}\fR" in text
        for flag in option.flags:
            for form in flag.split("/"):
                assert rf"\fB{form}\fR" in text, form
