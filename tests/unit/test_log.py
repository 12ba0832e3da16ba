from __future__ import annotations

import logging

from pylxcfs.log import Formatter


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("pylxcfs.x", level, "x.py", 1, text, (), None)


def test_words_are_plain_and_what_matters_has_its_level() -> None:
    formatter = Formatter(journal=False)
    assert formatter.format(record(logging.INFO, "all is well")) == "pylxcfs: all is well"
    assert formatter.format(record(logging.WARNING, "hm")) == "pylxcfs: WARNING: hm"


def test_every_line_has_a_priority_in_the_journal() -> None:
    formatter = Formatter(journal=True)
    assert formatter.format(record(logging.ERROR, "a\nb")) == "<3>pylxcfs: ERROR: a\n<3>b"
    assert formatter.format(record(logging.DEBUG, "a")) == "<7>pylxcfs: DEBUG: a"
    assert formatter.format(record(logging.INFO, "a")) == "<6>pylxcfs: a"
