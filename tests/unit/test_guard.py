"""The guard: any failure becomes the fallback, and the log has one traceback a minute."""

import logging

import pytest

from pylxcfs.errors import SourceError
from pylxcfs.guard import Guard


def fail(error: Exception) -> str:
    raise error


def test_a_bug_gives_the_fallback_and_one_traceback_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    guard = Guard(clock=lambda: now[0])
    for _ in range(5):
        assert guard.call("proc/meminfo", lambda: fail(ZeroDivisionError()), lambda: "host") == (
            "host"
        )
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert guard.failures["proc/meminfo"] == 5
    now[0] = 61
    guard.call("proc/meminfo", lambda: fail(KeyError("x")), lambda: "host")
    assert len(caplog.records) == 2


def test_each_place_has_its_own_minute(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(clock=lambda: 0.0)
    for place in ("proc/meminfo", "proc/stat"):
        guard.call(place, lambda: fail(ValueError()), lambda: "host")
    assert len(caplog.records) == 2


def test_an_attempt_around_a_block_ends_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(clock=lambda: 0.0)
    for error in (ValueError(), SourceError("x"), KeyError()):
        with guard.attempting("connection"):
            fail(error)
    assert guard.failures["connection"] == 2
    assert guard.unavailable["connection"] == 1
    assert [record.exc_info is not None for record in caplog.records] == [True]
    with pytest.raises(KeyboardInterrupt), guard.attempting("connection"):
        raise KeyboardInterrupt


def test_a_source_that_went_away_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    with caplog.at_level(logging.INFO):
        assert guard.call("proc/stat", lambda: fail(SourceError("gone")), lambda: "host") == "host"
    assert not caplog.records
    assert not guard.failures


def test_arguments_reach_both() -> None:
    guard = Guard()
    assert guard.call("add", lambda a, b: a + b, lambda a, b: 0, 2, 3) == 5
    assert guard.call("div", lambda a, b: a // b, lambda a, b: a, 2, 0) == 2


def test_work_that_fails_says_so_and_goes_no_further() -> None:
    guard = Guard()
    assert guard.attempt("sweep", lambda: None)
    assert not guard.attempt("sweep", lambda: fail(ValueError()))
    assert guard.failures["sweep"] == 1


def test_a_warning_is_given_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    guard = Guard(clock=lambda: now[0])
    for _ in range(3):
        guard.warn("answer", "refused: %s", "x")
    now[0] = 61
    guard.warn("answer", "refused: %s", "x")
    assert [record.getMessage() for record in caplog.records] == ["refused: x"] * 2


def test_errors_that_are_no_bug_are_counted_apart() -> None:
    guard = Guard()

    def gone() -> None:
        raise SourceError("gone")

    guard.attempt("proc/meminfo", gone)
    assert guard.unavailable["proc/meminfo"] == 1
    assert not guard.failures
