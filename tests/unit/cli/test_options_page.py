"""docs/options.md is written by hand around two tables that come from config's table."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pylxcfs.cli.options import ALIASES, OPTIONS

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def tables() -> dict[str, str]:
    """Return the tables as the page must have them."""
    rows = ["| TOML key | flags | default | reload | what it does |", "|---|---|---|---|---|"]
    for option in OPTIONS:
        values = option.kind.metavar
        # Of an on/off pair both belong to one flag; the rest are further names of it.
        flags = ", ".join(f"`{flag}`".replace("/", "`, `") for flag in option.flags)
        if values:
            flags = f"{flags or 'MOUNTPOINT'} {values}".replace("|", "\\|")
        live = "yes" if option.live else ""
        default = option.default_text
        rows.append(f"| `{option.name}` | {flags} | {default} | {live} | {option.help} |")
    aliases = ["| flags | what it does |", "|---|---|"]
    for alias in ALIASES:
        aliases.append(f"| {', '.join(f'`{flag}`' for flag in alias.flags)} | {alias.help} |")
    return {"options": "\n".join(rows), "aliases": "\n".join(aliases)}


def test_the_page_has_the_table_of_options() -> None:
    text = PAGE.read_text()
    right = text
    for name, table in tables().items():
        marked = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        right = re.sub(marked, lambda m, t=table: m[1] + t + m[2], right, flags=re.DOTALL)
    if os.environ.get("PYLXCFS_WRITE_DOCS"):
        PAGE.write_text(right)
        text = right
    assert text == right, f"run: PYLXCFS_WRITE_DOCS=1 pytest {__file__}"
