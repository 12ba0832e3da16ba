"""What docs/resources.md shows, but for its clients, which tests/clients/ runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.kit.asking import check

TEXT = (Path(__file__).parents[3] / "docs/resources.md").read_text()
BLOCKS = [
    block.replace("\n    ", "\n") for block in re.findall(r"\n\n((?: {4}.*\n|\n(?= {4}))+)", TEXT)
]


def test_the_answer_is_one():
    (block,) = [block for block in BLOCKS if block.startswith('    {"scope"')]
    check(json.loads(block), "Resources")


@pytest.mark.parametrize("word", ["mine =", "Gone", "pool =", "watch()"])
def test_the_examples_of_the_library_run(word):
    (block,) = [block for block in BLOCKS if "pylxcfs import" in block and word in block]
    code = compile(block.strip(), "docs/resources.md", "exec")
    if word == "watch()":
        assert "for change in" in block  # it has no end
    else:
        exec(code, {})
