"""The keeper on a real FUSE mount, with a stand-in for the server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.keeper import child
from tests.conftest import require, wait_until
from tests.mount.keeping import DEADLINE_S, UPTIME, Keeping


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.close()


def needs_resend(keeping: Keeping) -> None:
    """Skip on kernels before 6.9, where a request that a dead server had taken is lost."""
    keeping.wait_event("start", 2)
    if keeping.events("resend-"):
        require("resend", "this kernel has no FUSE_NOTIFY_RESEND (Linux 6.9)")


def test_serves_and_says_so_when_a_read_has_worked(keeping: Keeping) -> None:
    keeping.start()
    assert f"pylxcfs: serving at {keeping.mountpoint}\n" in keeping.log
    assert f"-v {keeping.mountpoint}/proc/meminfo:/proc/meminfo:ro" in keeping.log
    assert keeping.read().result() == UPTIME


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, child.END_FOR_GOOD])
def test_a_stop_ends_the_server_and_unmounts(keeping: Keeping, number: int) -> None:
    keeper = keeping.start()
    keeper.send_signal(number)
    assert keeper.wait(timeout=DEADLINE_S) == 0
    assert not keeping.is_mounted()
    assert not keeping.pidfile.exists()
    assert not Path(f"/proc/{keeping.server()}").exists()
    assert "Traceback" not in keeping.log


def test_a_stop_does_not_wait_for_ever_for_a_server_that_hangs(keeping: Keeping) -> None:
    keeper = keeping.start()
    os.kill(keeping.server(), signal.SIGSTOP)
    keeper.terminate()
    assert keeper.wait(timeout=DEADLINE_S) == 0
    assert not keeping.is_mounted()


def test_readers_see_no_error_while_the_server_is_killed_again_and_again(
    keeping: Keeping,
) -> None:
    keeping.start()
    readers = [keeping.read(again=True) for _ in range(3)]
    for count in range(1, 11):
        os.kill(keeping.server(), signal.SIGKILL)
        keeping.wait_event("start", count + 1)
    needs_resend(keeping)
    assert keeping.read().result() == UPTIME
    assert [reader.process.poll() for reader in readers] == [None] * 3
    assert [reader.end() for reader in readers] == [b""] * 3
    assert "in a row" not in keeping.log  # killed from outside: no sign of a bad server


def test_a_read_in_flight_is_answered_by_the_next_server(keeping: Keeping) -> None:
    keeping.start()
    keeping.set("hold")
    reader = keeping.read()
    keeping.wait_event("held")
    keeping.set("hold", on=False)
    os.kill(keeping.server(), signal.SIGKILL)
    needs_resend(keeping)
    assert reader.result() == UPTIME


def test_a_stopped_server_is_replaced_with_its_stacks_in_the_log(keeping: Keeping) -> None:
    keeping.start("--watchdog", "0.5")
    stopped = keeping.server()
    os.kill(stopped, signal.SIGSTOP)
    reader = keeping.read()
    keeping.wait_log("shows no sign of life")
    keeping.wait_event("start", 2)
    assert reader.result() == UPTIME
    assert keeping.server() != stopped
    assert "standin.py" in keeping.log  # from faulthandler


def test_a_server_that_cannot_start_is_given_up_and_the_mount_kept(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "3")
    keeping.set("fail")
    os.kill(keeping.server(), signal.SIGKILL)
    keeping.wait_log("the mount is kept")
    assert len(keeping.events("start")) == 4
    reader = keeping.read()
    assert keeper.poll() is None
    assert keeping.is_mounted()
    keeping.set("fail", on=False)
    keeper.send_signal(signal.SIGUSR1)
    assert reader.result() == UPTIME


def test_a_reload_tries_again_after_giving_up(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("the mount is kept")
    keeping.set("fail", on=False)
    keeper.send_signal(signal.SIGHUP)
    assert keeping.read().result() == UPTIME


def test_a_new_mount_whose_server_cannot_start_is_not_left_behind(keeping: Keeping) -> None:
    keeping.set("fail")
    keeper = keeping.start("--max-failures", "2", ready=False)
    assert keeper.wait(timeout=DEADLINE_S) == 1
    assert not keeping.is_mounted()
    assert not keeping.pidfile.exists()


def test_an_unmount_after_giving_up_ends_the_keeper(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("the mount is kept")
    os.system(f"umount -l {keeping.mountpoint}")
    assert keeper.wait(timeout=DEADLINE_S) == 0


def test_usr1_replaces_the_server_without_a_reader_noticing(keeping: Keeping) -> None:
    keeper = keeping.start()
    reader = keeping.read(again=True)
    old = keeping.server()
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_event("start", 2)
    assert keeping.events("term") == [old]
    assert keeping.read().result() == UPTIME
    assert reader.end() == b""


def test_reload_toggle_and_stacks_are_passed_on(keeping: Keeping) -> None:
    keeper = keeping.start()
    server = keeping.server()
    keeper.send_signal(signal.SIGHUP)
    assert keeping.wait_event("hup") == server
    keeper.send_signal(signal.SIGUSR2)
    assert keeping.wait_event("usr2") == server
    keeper.send_signal(signal.SIGQUIT)
    keeping.wait_log("most recent call first")
    assert keeping.read().result() == UPTIME
    assert keeping.server() == server


def test_unmounting_from_outside_ends_server_and_keeper(keeping: Keeping) -> None:
    keeper = keeping.start()
    os.system(f"umount {keeping.mountpoint}")
    assert keeper.wait(timeout=DEADLINE_S) == 0
    assert keeping.events("unmounted") == [keeping.server()]
    assert "was unmounted; ending" in keeping.log


def test_the_server_dies_with_its_keeper(keeping: Keeping) -> None:
    keeper = keeping.start()
    keeper.kill()
    keeper.wait(timeout=DEADLINE_S)
    path = Path(f"/proc/{keeping.server()}")
    wait_until(lambda: not path.exists(), DEADLINE_S, what="the end of the server")


def test_signals_at_any_moment_of_the_end_do_no_harm(keeping: Keeping) -> None:
    for _ in range(5):
        keeper = keeping.start()
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

        def send_until_it_ends(keeper=keeper, numbers=numbers) -> bool:
            for number in numbers:
                keeper.send_signal(number)
            return keeper.poll() is not None

        wait_until(send_until_it_ends, DEADLINE_S, what="the end of the keeper")
        assert keeper.returncode == 0
        assert not keeping.is_mounted()
    assert "Traceback" not in keeping.log
    assert "ignored" not in keeping.log


def test_a_server_that_never_says_ready_is_not_announced(keeping: Keeping) -> None:
    keeping.set("mute")
    keeper = keeping.start(ready=False)
    keeping.wait_event("start")
    assert keeping.read().result() == UPTIME
    assert "serving at" not in keeping.log
    keeper.terminate()
    assert keeper.wait(timeout=DEADLINE_S) == 0
