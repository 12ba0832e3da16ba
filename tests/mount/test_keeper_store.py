"""Handing the mounts from one keeper to the next: systemd's fd store, and the holder process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pylxcfs.fuse import init
from pylxcfs.keeper import child, fusemount, holder, resources
from tests.conftest import wait_until
from tests.kit.fusectl import abort
from tests.mount.keeping import DEADLINE_S, UPTIME, Keeping, NotifySocket

NAMES = {"pylxcfs-own", "pylxcfs-own-memory", "pylxcfs-caller", "pylxcfs-caller-memory"}


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


def devices(keeping: Keeping) -> list[str]:
    found = [keeping.device(place) for place in keeping.places]
    assert "" not in found
    return found


def test_ready_is_told_after_the_descriptors_were_stored(
    keeping: Keeping, notify: NotifySocket
) -> None:
    keeping.start(env=notify.env)
    notify.wait("READY=1")
    assert set(notify.store) == NAMES
    stored = [i for i, message in enumerate(notify.messages) if "FDSTORE=1" in message]
    ready = [i for i, message in enumerate(notify.messages) if "READY=1" in message]
    assert max(stored) < min(ready)


def test_a_killed_keeper_is_followed_by_one_that_adopts_the_mount(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    before = devices(keeping)
    reader = keeping.read(again=True)
    first.kill()
    first.wait(timeout=DEADLINE_S)
    keeping.start(env=notify.env, fds=notify.store)
    assert devices(keeping) == before
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
    assert set(notify.store) == NAMES
    reader = keeping.read()  # waits for the next server
    keeping.start(env=notify.env, fds=notify.store)
    assert reader.result() == UPTIME


def test_a_stop_leaves_no_reader_of_the_keepers_own_behind(
    keeping: Keeping, notify: NotifySocket
) -> None:
    """The kernel ends no process whose request a server has taken: systemd would wait for it."""
    late = keeping.control / "late"
    late.touch()
    first = keeping.start(env=notify.env, ready=False)
    keeping.wait_event("late", 1)
    own = {process.pid for process in psutil.Process(first.pid).children()} - {keeping.server()}
    assert own
    first.terminate()
    notify.wait("STOPPING=1")
    late.unlink()
    assert first.wait(timeout=DEADLINE_S) == 0
    assert not any(map(psutil.pid_exists, own))
    keeping.start(env=notify.env, fds=notify.store)
    assert keeping.read().result() == UPTIME


def test_an_end_for_good_empties_the_store(keeping: Keeping, notify: NotifySocket) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.send_signal(child.END_FOR_GOOD)
    assert first.wait(timeout=DEADLINE_S) == 0
    notify.wait("FDSTOREREMOVE=1", 4)
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
    assert f"the mount at {keeping.mountpoint} that was kept is gone; mounting again" in keeping.log
    assert "caller that was kept" not in keeping.log
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


def test_a_reload_is_ready_when_the_server_has_reloaded(
    keeping: Keeping, notify: NotifySocket
) -> None:
    keeper = keeping.start(env=notify.env)
    notify.wait("READY=1")
    os.kill(keeping.server(), signal.SIGSTOP)
    keeper.send_signal(signal.SIGHUP)
    notify.wait("RELOADING=1")
    keeping.wait_log("reload: count: 1")
    assert sum("READY=1" in message for message in notify.receive()) == 1
    os.kill(keeping.server(), signal.SIGCONT)
    notify.wait("READY=1", 2)
    assert keeping.events("reloaded-1") == [keeping.server()]


def test_a_reload_of_what_does_not_validate_is_ready_too(
    keeping: Keeping, notify: NotifySocket
) -> None:
    keeper = keeping.start(env=notify.env)
    notify.wait("READY=1")
    keeping.set("resolve-fail")
    keeper.send_signal(signal.SIGHUP)
    notify.wait("READY=1", 2)


def test_a_mount_after_an_abort_takes_the_place_of_the_dead_one_in_the_store(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    abort(keeping.device(keeping.mountpoint))
    keeping.wait_log("a server serves again")
    notify.wait("FDSTOREREMOVE=1", 2)
    notify.wait("FDSTORE=1", 6)
    assert set(notify.store) == NAMES
    before = devices(keeping)
    first.kill()
    first.wait(timeout=DEADLINE_S)
    keeping.start(env=notify.env, fds=notify.store)
    assert devices(keeping) == before
    assert "is gone" not in keeping.log
    assert keeping.read().result() == UPTIME


def test_a_mount_that_was_aborted_without_a_keeper_is_mounted_again(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    for place in keeping.places:
        abort(keeping.device(place))
    keeping.start(env=notify.env, fds=notify.store)
    assert [len(keeping.devices(place)) for place in keeping.places] == [1, 1]
    assert keeping.read().result() == UPTIME


def test_a_server_gets_none_of_systemds_variables(keeping: Keeping, notify: NotifySocket) -> None:
    keeping.start(env=notify.env)
    environ = Path(f"/proc/{keeping.server()}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"FDSTORE" not in environ


@pytest.mark.parametrize("options", [[], ["--resources"]])
def test_a_stored_resources_socket_is_dropped_with_its_file_where_it_is_not_wanted(
    keeping: Keeping, notify: NotifySocket, options: list[str]
) -> None:
    path = keeping.runtime_dir / "resources.sock"
    with resources.listen(str(keeping.runtime_dir)) as stored:
        keeping.start(*options, env=notify.env, fds={resources.STORED: stored.fileno()})
        dropped = f"FDSTOREREMOVE=1\nFDNAME={resources.STORED}" in notify.receive()
    assert dropped == (not options)
    assert path.exists() == bool(options)


def test_a_kept_mount_goes_to_the_next_start(keeping: Keeping) -> None:
    first = keeping.start("--keep-mounted")
    before = devices(keeping)
    reader = keeping.read(again=True)
    first.terminate()
    assert first.wait(timeout=DEADLINE_S) == 0
    assert devices(keeping) == before
    assert holder.is_held(str(keeping.runtime_dir))
    keeping.start("--keep-mounted")
    assert devices(keeping) == before
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
    assert holder.take(runtime, "/elsewhere") == {}
    assert not holder.end(runtime, "/elsewhere")
    assert keeping.is_mounted()
    assert holder.end(runtime, str(keeping.mountpoint))
    assert not keeping.is_mounted()


def test_a_holder_ends_when_its_mount_is_unmounted(keeping: Keeping) -> None:
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
        _, numbers, _, _ = socket.recv_fds(client, 1000, 8)
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


def test_a_server_gets_its_descriptors_and_no_others(
    keeping: Keeping, notify: NotifySocket
) -> None:
    first = keeping.start(env=notify.env)
    notify.wait("READY=1")
    first.kill()
    first.wait(timeout=DEADLINE_S)
    keeping.start(env=notify.env, fds=notify.store)
    opened = [os.readlink(fd) for fd in Path(f"/proc/{keeping.server()}/fd").iterdir()]
    names = {name for name in opened if "pylxcfs.pid" in name or name.startswith("socket:")}
    assert names == set()
    assert len([name for name in opened if name == "/dev/fuse"]) == 2
    memories = {name.split("-")[1] for name in opened if name.startswith("/memfd:pylxcfs-")}
    assert memories == {"own", "caller"}


# The version before the caller mount had one connection.


class Previous:
    """A mount of the previous version: files are opened, and nothing served it since."""

    def __init__(self, keeping: Keeping) -> None:
        self.connection = os.open("/dev/fuse", os.O_RDWR)
        data = f"fd={self.connection},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        place = os.fsencode(keeping.mountpoint)
        assert fusemount.libc.mount(b"pylxcfs", place, b"fuse.pylxcfs", 6, data) == 0
        offer = init.parse(os.read(self.connection, 8192))
        os.write(self.connection, init.answer(offer._replace(flags2=0), init.CALLER))
        self.init = os.memfd_create(f"pylxcfs-init-{keeping.device(keeping.mountpoint)}")
        self.descriptors = {"pylxcfs-connection": self.connection, "pylxcfs-init": self.init}
        #: A mount namespace that has the mount: what a container is to it.
        self.container = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; read x"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.container.stdout is not None
        self.container.stdout.readline()
        self.file = f"{keeping.mountpoint}/by-pidns/host/proc/uptime"

    def read(self) -> bytes:
        """Read in the container's mount namespace."""
        command = ["nsenter", "-t", str(self.container.pid), "-m", "--", "cat", self.file]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end_container(self) -> None:
        """End the last user of the mount."""
        self.container.communicate(timeout=DEADLINE_S)

    def close(self) -> None:
        """Close this process's descriptors: those in the fd store are others."""
        for number in self.descriptors.values():
            os.close(number)


@pytest.fixture
def previous(keeping: Keeping) -> Iterator[Previous]:
    previous = Previous(keeping)
    yield previous
    previous.end_container()


def is_hosts(text: bytes) -> bool:
    return text != UPTIME and len(text.split()) == 2


def test_containers_from_before_an_upgrade_see_the_hosts_values(
    keeping: Keeping, notify: NotifySocket, previous: Previous
) -> None:
    keeper = keeping.start(env=notify.env, fds=previous.descriptors)
    previous.close()
    assert "before the upgrade see the host's values until they are restarted" in keeping.log
    assert is_hosts(previous.read())
    assert keeping.read().result() == UPTIME
    assert len(keeping.devices(keeping.mountpoint)) == 1
    for pid in keeping.rescues():
        os.kill(pid, signal.SIGKILL)
    assert is_hosts(previous.read())
    previous.end_container()
    keeping.wait_log("the last container with files from before the upgrade has ended")
    notify.wait("FDSTOREREMOVE=1", 2)
    assert keeper.poll() is None
    assert keeping.read().result() == UPTIME


def test_they_go_on_after_further_restarts(
    keeping: Keeping, notify: NotifySocket, previous: Previous
) -> None:
    first = keeping.start(env=notify.env, fds=previous.descriptors)
    notify.wait("READY=1")
    first.terminate()
    assert first.wait(timeout=DEADLINE_S) == 0
    second = keeping.start(env=notify.env, fds={**previous.descriptors, **notify.store})
    previous.close()
    assert is_hosts(previous.read())
    assert keeping.read().result() == UPTIME
    second.send_signal(child.END_FOR_GOOD)
    assert second.wait(timeout=DEADLINE_S) == 0
    assert not keeping.is_mounted()


def test_they_go_on_after_restarts_with_a_holder(keeping: Keeping, previous: Previous) -> None:
    first = keeping.start("--keep-mounted", fds=previous.descriptors)
    previous.close()
    for _ in range(2):
        first.terminate()
        assert first.wait(timeout=DEADLINE_S) == 0
        first = keeping.start("--keep-mounted")
        assert is_hosts(previous.read())
        assert keeping.read().result() == UPTIME


def test_a_previous_mount_without_containers_is_dropped(
    keeping: Keeping, notify: NotifySocket, previous: Previous
) -> None:
    previous.end_container()
    keeping.start(env=notify.env, fds=previous.descriptors)
    previous.close()
    assert "before the upgrade" not in keeping.log
    assert keeping.rescues() == []
    notify.wait("FDSTOREREMOVE=1", 2)
    assert keeping.read().result() == UPTIME
