"""A size and a page never change at the same time."""

from __future__ import annotations

import itertools

import pytest

from pylxcfs.fusefs.snapshots import STEP_NS, Snapshot

CONTAINER = object()


def snapshot(data: bytes, mtime_ns: int, size: int = 0) -> Snapshot:
    return Snapshot(data, 10**12, mtime_ns, CONTAINER, size)  # type: ignore[arg-type]


def page(told: Snapshot) -> bytes:
    return told.part(0, 64)


@pytest.mark.parametrize("texts", [(b"9.99\n", b"10.00\n"), (b"0-3\n", b"0\n")])
def test_whatever_the_kernel_has_heeded_a_reader_gets_a_whole_text(
    texts: tuple[bytes, bytes],
) -> None:
    """Each size with each page, of two answers that follow each other."""
    shown, wanted = snapshot(texts[0], 1), snapshot(texts[1], 2)
    now_ns = 0
    steps = [shown]
    while steps[-1].size != wanted.size or steps[-1].data != wanted.data:
        steps.append(steps[-1].step(wanted, now_ns))
        steps[-1].told_ns = now_ns
        now_ns += STEP_NS
    assert len(steps) == 3
    for old, new in itertools.pairwise(steps):
        assert (old.size != new.size) != (page(old) != page(new))
        assert (old.mtime_ns == new.mtime_ns) == (page(old) == page(new))
        for size in (old.size, new.size):
            for text in (old, new):
                assert page(text)[:size].rstrip(b"\n") + b"\n" in texts


def test_a_step_is_taken_back_by_nobody_until_all_have_heeded_it() -> None:
    shown = snapshot(b"9.99\n", 1)
    step = shown.step(snapshot(b"10.00\n", 2), 0)
    assert step.expires_ns == STEP_NS
    even_longer = snapshot(b"100.00\n", 3)
    assert step.step(even_longer, STEP_NS - 1) is step
    second = step.step(even_longer, STEP_NS)
    assert (second.data, second.size) == (b"9.99\n", 7)
    assert second.step(even_longer, 2 * STEP_NS) is even_longer
    same = snapshot(b"10.01\n", 3)
    assert step.step(same, STEP_NS - 1) is step
    assert step.step(same, STEP_NS) is same


def test_an_old_text_is_not_shown_again() -> None:
    """The old size is not believed any more, and for so long that no answer is on its way."""
    shown, wanted = snapshot(b"9.99\n", 1), snapshot(b"10.00\n", 2)
    for told_ns, expires_ns in [(1000, 500), (400, 1000)]:
        shown.told_ns, shown.expires_ns = told_ns, expires_ns
        assert shown.step(wanted, 1000 + STEP_NS).data == b"9.99\n"
        assert shown.step(wanted, 1001 + STEP_NS) is wanted


def test_a_text_that_changes_while_it_shrinks_keeps_the_size() -> None:
    first = snapshot(b"0-3\n", 1).step(snapshot(b"0\n", 2), 0)
    second = first.step(snapshot(b"1\n", 3), STEP_NS)
    assert (first.size, second.size) == (4, 4)
    assert page(second).startswith(b"1\n\n")


def test_nothing_is_kept_of_another_container() -> None:
    wanted = snapshot(b"10.00\n", 2)
    others = Snapshot(b"9.99\n", 10**12, 1, object())  # type: ignore[arg-type]
    assert others.step(wanted, 0) is wanted
