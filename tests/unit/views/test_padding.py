"""Lengthening a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.views.padding import blanks

CASES = [
    (b"a: 1\n", 8, b"a: 1   \n"),
    (b"a: 1\n\n", 8, b"a: 1  \n\n"),
    (b"a: 1", 6, b"a: 1  "),
    (b"a: 1\n", 5, b"a: 1\n"),
    (b"a: 1\n", 2, b"a: 1\n"),
    (b"", 3, b"  \n"),
    (b"", 0, b""),
]


@pytest.mark.parametrize(("text", "length", "expected"), CASES)
def test_blanks(text, length, expected):
    assert blanks(text, length) == expected


@given(st.binary(max_size=50), st.integers(0, 80))
def test_only_blanks_are_added_up_to_the_length(text, length):
    padded = blanks(text, length)
    assert len(padded) == max(len(text), length)
    assert padded.split() == text.split()
