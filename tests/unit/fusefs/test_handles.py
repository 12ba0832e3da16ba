"""Open files keep their texts, and all of them together no more than the budget."""

from pylxcfs.fusefs.handles import Handles


def test_a_handle_keeps_its_last_text_until_it_is_released() -> None:
    handles = Handles()
    handles.open(1)
    assert 1 in handles
    assert handles.text(1) is None
    handles.keep(1, b"first")
    handles.keep(1, b"second")
    assert handles.text(1) == b"second"
    handles.release(1)
    assert 1 not in handles
    assert len(handles) == 0


def test_a_handle_of_a_server_before_may_keep_a_text() -> None:
    handles = Handles()
    handles.keep(7, b"text")
    assert 7 in handles
    handles.release(7)
    assert handles.text(7) is None


def test_the_oldest_texts_go_when_the_budget_is_spent() -> None:
    handles = Handles(budget=100)
    for handle in range(5):
        handles.open(handle)
        handles.keep(handle, b"x" * 40)
    assert [handles.text(handle) is not None for handle in range(5)] == [False] * 3 + [True] * 2
    assert all(handle in handles for handle in range(5))
    handles.keep(9, b"y" * 500)
    assert handles.text(9) == b"y" * 500
