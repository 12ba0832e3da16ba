"""Work in a background thread."""

from __future__ import annotations

import threading

import pytest

from pylxcfs.sources.background import Background


def test_a_request_runs_the_work_once():
    runs = []

    def work():
        runs.append(threading.current_thread().name)
        yield

    background = Background("busy", work, share=0.5)
    background.request()
    assert not background.settle(0)
    background.start()
    assert background.settle(60)
    assert runs == ["busy"]
    background.close()


def test_a_period_runs_it_without_a_request():
    done = threading.Event()

    def work():
        if len(runs) == 3:
            done.set()
        runs.append(None)
        yield

    runs: list[None] = []
    background = Background("busy", work, share=0.5, period=lambda: 0.001)
    background.start()
    assert done.wait(60)
    background.close()


def test_an_error_is_given_to_attempt_and_ends_nothing():
    failures, runs = [], []

    def attempt(place, work):
        try:
            work()
        except ZeroDivisionError as error:
            failures.append((place, error))

    def work():
        runs.append(None)
        yield
        if len(runs) == 1:
            raise ZeroDivisionError

    background = Background("busy", work, share=0.5, attempt=attempt)
    background.start()
    for _ in range(2):
        background.request()
        assert background.settle(60)
    assert [place for place, _ in failures] == ["busy"]
    assert len(runs) == 2
    background.close()


def test_closing_ends_work_that_never_ends():
    begun = threading.Event()

    def work():
        while True:
            begun.set()
            yield

    background = Background("busy", work, share=0.5)
    background.start()
    background.request()
    assert begun.wait(60)
    background.close()
    assert "busy" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("share", [1, 0.5, 0.05])
def test_pauses_are_for_the_cpu_time_of_slices(share, monkeypatch):
    """Not for their time; after the last one, too, or requests in a loop would have no pause."""
    pauses = []

    def work():
        for _ in range(3):
            yield

    clock = iter(range(100))
    monkeypatch.setattr("time.thread_time", lambda: next(clock))
    background = Background("busy", work, share=share)
    monkeypatch.setattr(background._closing, "wait", pauses.append)
    background._run()
    assert pauses == pytest.approx([1 / share - 1] * 4)
