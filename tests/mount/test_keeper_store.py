"""Handing the mount from one keeper to the next: systemd's fd store, and the holder process."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.keeper import child, fusemount, holder
from tests.conftest import wait_until
from tests.mount.keeping import DEADLINE_S, UPTIME, Keeping, NotifySocket

BOTH = {"pylxcfs-connection", "pylxcfs-init"}


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.close()


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    notify = NotifySocket(tmp_path)
    yield notify
    notify.close()


def device(keeping: Keeping) -> str:
    mounted = fusemount.mounted_at(str(keeping.mountpoint))
    assert mounted is not None
    return mounted.device


def test_ready_is_told_after_both_descriptors_were_stored(
    keeping: Keeping, notify: NotifySocket
) -> None:
    keeping.start(env=notify.env)
    notify.wait("READY=1")
    assert set(notify.store) == BOTH
    stored = [i for i, message in enumerate(notify.messages) if "FDSTORE=1" in message]
    ready = [i for i, message in enumerate(notify.messages) if "READY=1" in message]
    assert max(stored) < min(ready)


def test_a_killed_keeper_is_followed_by_one_that_adopts_the_mount(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    before = device(keeping)
    reader = keeping.read(again=True)
    first.kill()
    first.wait(timeout=DEADLINE_S)
    keeping.start(env=notify.env, fds=notify.store)
    assert device(keeping) == before
    assert keeping.read().result() == UPTIME
    assert reader.end() == b""


def test_a_stop_under_systemd_leaves_the_mount_to_the_next_start(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.terminate()
    assert first.wait(timeout=DEADLINE_S) == 0
    notify.wait("STOPPING=1")
    assert set(notify.store) == BOTH
    reader = keeping.read()  # waits for the next server
    keeping.start(env=notify.env, fds=notify.store)
    assert reader.result() == UPTIME


def test_an_end_for_good_empties_the_store(keeping: Keeping, notify: NotifySocket) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.send_signal(child.END_FOR_GOOD)
    assert first.wait(timeout=DEADLINE_S) == 0
    notify.wait("FDSTOREREMOVE=1", 2)
    assert not notify.store
    assert not keeping.is_mounted()


def test_stored_descriptors_of_a_mount_that_is_gone_are_dropped(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    fusemount.detach(str(keeping.mountpoint))
    old = dict(notify.store)
    keeping.start(env=notify.env, fds=old)
    notify.wait("FDSTOREREMOVE=1", 2)
    notify.wait("READY=1", 2)
    assert "mounting anew" in keeping.log
    assert keeping.read().result() == UPTIME


def test_a_broken_upgrade_keeps_the_mount_and_a_good_one_takes_over(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    reader = keeping.read(again=True)
    first.terminate()
    first.wait(timeout=DEADLINE_S)
    keeping.set("fail")
    second = keeping.start("--max-failures", "2", env=notify.env, fds=notify.store, ready=False)
    keeping.wait_log("the mount is kept")
    notify.wait("READY=1", 2)  # else systemd would take the keeper for failed
    notify.wait("STATUS=no server")
    second.terminate()
    assert second.wait(timeout=DEADLINE_S) == 0
    keeping.set("fail", on=False)
    keeping.start(env=notify.env, fds=notify.store)
    assert keeping.read().result() == UPTIME
    assert reader.end() == b""


def test_systemds_watchdog_is_fed_by_the_keeper(keeping: Keeping, notify: NotifySocket) -> None:
    keeping.start(env={**notify.env, "WATCHDOG_USEC": "300000"})
    notify.wait("WATCHDOG=1", 3)


def test_a_reload_is_told(keeping: Keeping, notify: NotifySocket) -> None:
    keeper = keeping.start(env=notify.env)
    notify.wait("READY=1")
    keeper.send_signal(signal.SIGHUP)
    notify.wait("RELOADING=1")
    notify.wait("READY=1", 2)


def test_a_server_gets_none_of_systemds_variables(keeping: Keeping, notify: NotifySocket) -> None:
    keeping.start(env=notify.env)
    environ = Path(f"/proc/{keeping.server()}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"FDSTORE" not in environ


def test_a_kept_mount_goes_to_the_next_start(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    before = device(keeping)
    reader = keeping.read(again=True)
    first.terminate()
    assert first.wait(timeout=DEADLINE_S) == 0
    assert device(keeping) == before
    assert holder.is_held(str(keeping.runtime_dir))
    keeping.start("--keep-mounted")
    assert device(keeping) == before
    assert keeping.read().result() == UPTIME
    assert reader.end() == b""
    wait_until(
        lambda: not (keeping.runtime_dir / "hold.sock").exists(),
        DEADLINE_S,
        what="the end of the holder",
    )


def test_a_holder_gives_nothing_to_another_mountpoint(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    first.terminate()
    first.wait(timeout=DEADLINE_S)
    runtime = str(keeping.runtime_dir)
    assert holder.take(runtime, "/elsewhere") is None
    assert not holder.end(runtime, "/elsewhere")
    assert keeping.is_mounted()
    assert holder.end(runtime, str(keeping.mountpoint))
    assert not keeping.is_mounted()


def test_a_holder_whose_mount_is_unmounted_ends(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    first.terminate()
    first.wait(timeout=DEADLINE_S)
    os.system(f"umount -l {keeping.mountpoint}")
    runtime = str(keeping.runtime_dir)
    wait_until(lambda: not holder.is_held(runtime), DEADLINE_S, what="the end of the holder")


def test_an_end_for_good_unmounts_even_if_the_mount_was_to_be_kept(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    first.send_signal(child.END_FOR_GOOD)
    assert first.wait(timeout=DEADLINE_S) == 0
    assert not keeping.is_mounted()
    assert not holder.is_held(str(keeping.runtime_dir))


def test_a_client_that_takes_and_vanishes_does_not_end_the_holder(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    first.terminate()
    first.wait(timeout=DEADLINE_S)
    runtime = str(keeping.runtime_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(keeping.runtime_dir / "hold.sock"))
        client.send(b"take " + os.fsencode(keeping.mountpoint))
        _, numbers, _, _ = socket.recv_fds(client, 100, 2)
    for number in numbers:
        os.close(number)
    wait_until(lambda: holder.is_held(runtime), DEADLINE_S, what="the holder to listen again")
    keeping.start("--keep-mounted")
    assert keeping.read().result() == UPTIME


def test_a_stop_for_good_is_not_undone_by_a_second_signal(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    os.kill(keeping.server(), signal.SIGSTOP)  # so that the stop takes its time
    first.send_signal(child.END_FOR_GOOD)
    wait_until(lambda: not keeping.is_mounted(), DEADLINE_S, what="unmounting")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=DEADLINE_S) == 0
    assert not holder.is_held(str(keeping.runtime_dir))


def test_a_server_gets_its_three_descriptors_and_no_others(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    keeping.start(env=notify.env, fds=notify.store)
    opened = {os.readlink(fd) for fd in Path(f"/proc/{keeping.server()}/fd").iterdir()}
    names = {name for name in opened if "pylxcfs.pid" in name or name.startswith("socket:")}
    assert names == set()
    assert len([name for name in opened if name == "/dev/fuse"]) == 1
