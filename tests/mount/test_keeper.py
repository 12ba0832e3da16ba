"""The keeper on a real FUSE mount, with a stand-in for the server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.keeper import child, resources
from tests.conftest import require, wait_until
from tests.kit.fusectl import abort
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


def test_a_server_that_loads_slowly_is_not_replaced(keeping: Keeping) -> None:
    """It answers readers, but its next heartbeat comes once it has loaded everything."""
    keeping.start("--watchdog", "0.5")
    keeping.set("slow")
    os.kill(keeping.server(), signal.SIGKILL)
    keeping.wait_event("start", 2)
    assert keeping.read().result() == UPTIME
    time.sleep(1)
    keeping.set("slow", on=False)
    keeping.wait_log("a server serves again")
    assert "no sign of life" not in keeping.log


def host_shows(text: bytes) -> bool:
    """Tell whether this is the host's proc/uptime, and not the stand-in's."""
    return text != UPTIME and len(text.split()) == 2


def test_a_server_that_hangs_is_replaced_within_3_seconds(keeping: Keeping) -> None:
    keeping.start()
    began = time.monotonic()
    os.kill(keeping.server(), signal.SIGSTOP)
    keeping.wait_event("start", 2)
    assert keeping.read().result() == UPTIME
    assert time.monotonic() - began < 3


def test_where_no_server_can_be_had_readers_get_the_hosts_values(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "3")
    keeping.set("hold")
    waiting = keeping.read()
    keeping.wait_event("held")
    keeping.set("hold", on=False)
    keeping.set("fail")
    os.kill(keeping.server(), signal.SIGKILL)
    keeping.wait_log("the mount is kept")
    assert len(keeping.events("start")) == 4
    needs_resend(keeping)
    assert host_shows(waiting.result())
    assert keeper.poll() is None
    assert keeping.state == "rescue"
    for place in (keeping.mountpoint / "own/host/proc", keeping.caller / "proc"):
        assert host_shows(keeping.read(place / "uptime").result())
        assert keeping.read(place / "meminfo").result().startswith(b"MemTotal:")
        assert set(keeping.list(place)) == {"uptime", "meminfo"}
    keeping.set("fail", on=False)
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("a server serves again")
    assert keeping.state == "serving"
    assert keeping.read().result() == UPTIME
    wait_until(lambda: not keeping.rescues(), DEADLINE_S, what="the end of the rescue servers")
    assert keeping.read().result() == UPTIME


def test_readers_see_no_error_while_servers_fail_and_come_back(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    readers = [keeping.read(name, again=True) for name in ("proc/uptime", "proc/meminfo")]
    readers.append(keeping.read(keeping.caller / "proc/uptime", again=True))
    for round in range(1, 4):
        keeping.set("fail")
        keeper.send_signal(signal.SIGUSR1)
        keeping.wait_log("the mount is kept", round)
        keeper.send_signal(signal.SIGUSR1)
        keeping.wait_log("the server still fails", round)
        keeping.set("fail", on=False)
        keeper.send_signal(signal.SIGUSR1)
        keeping.wait_log("a server serves again", round)
    needs_resend(keeping)
    assert [reader.process.poll() for reader in readers] == [None] * 3
    assert [reader.end() for reader in readers] == [b""] * 3


def test_a_rescue_server_that_is_killed_is_replaced(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("the mount is kept")
    reader = keeping.read(again=True)
    for pid in wait_until(keeping.rescues, DEADLINE_S, what="rescue servers"):
        os.kill(pid, signal.SIGKILL)
    keeping.wait_log("a rescue server failed", 2)
    needs_resend(keeping)
    assert host_shows(keeping.read().result())
    assert reader.end() == b""


def test_a_container_can_be_killed_while_no_server_can_be_had(keeping: Keeping) -> None:
    """A reader cannot be killed while a server has its request."""
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeping.set("hold")
    reader = keeping.read()
    keeping.wait_event("held")
    keeper.send_signal(signal.SIGUSR1)
    needs_resend(keeping)
    reader.process.kill()
    reader.process.wait(timeout=DEADLINE_S)


def test_a_reload_tries_again_after_giving_up(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("the mount is kept")
    keeping.set("fail", on=False)
    keeping.set("resolve-fail")  # as where the installation is broken
    keeper.send_signal(signal.SIGHUP)
    keeping.wait_log("a server serves again")
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
    assert not keeping.is_mounted()


@pytest.mark.parametrize("kind", ["own", "caller"])
def test_an_aborted_mount_is_mounted_again(keeping: Keeping, kind: str) -> None:
    keeper = keeping.start()
    place = {"own": keeping.mountpoint, "caller": keeping.caller}[kind]
    for count in (1, 2, 3):
        abort(keeping.device(place))
        keeping.wait_log(f"the connection of {place} was aborted", count)
        keeping.wait_event("start", count + 1)
        keeping.wait_log("a server serves again", count)
        assert keeping.read().result() == UPTIME
        assert keeping.read(keeping.caller / "proc/uptime").result() == UPTIME
        assert len(keeping.devices(place)) == 1  # nothing dead below it
    assert keeper.poll() is None
    assert keeping.state == "serving"
    assert "in a row" not in keeping.log


def test_aborts_without_end_are_answered_slower_and_slower(keeping: Keeping) -> None:
    keeper = keeping.start()
    began = time.monotonic()
    for count in range(1, 9):
        abort(keeping.device(keeping.mountpoint))
        keeping.wait_event("start", count + 1)
    # 0.1 s for each of the first four, then 0.2, 0.4, 0.8, 1.6 s.
    assert time.monotonic() - began > 3
    assert keeper.poll() is None
    keeping.wait_log("a server serves again", 1)
    assert keeping.read().result() == UPTIME


def test_a_privileged_container_that_unmounts_by_force_does_not_end_it(keeping: Keeping) -> None:
    keeping.start()
    script = f"umount -f {keeping.mountpoint}"
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
        timeout=DEADLINE_S,
        check=True,
    )
    keeping.wait_log("was aborted")
    keeping.wait_log("a server serves again")
    assert keeping.read().result() == UPTIME


def test_an_abort_while_the_rescue_server_answers(keeping: Keeping) -> None:
    keeper = keeping.start("--max-failures", "1")
    keeping.set("fail")
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("the mount is kept")
    for place in keeping.places:
        abort(keeping.device(place))
        keeping.wait_log(f"the connection of {place} was aborted")
        wait_until(lambda: len(keeping.rescues()) == 2, DEADLINE_S, what="both rescue servers")
        assert host_shows(keeping.read().result())
        assert host_shows(keeping.read(keeping.caller / "proc/uptime").result())
    assert keeping.state == "rescue"
    keeping.set("fail", on=False)
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_log("a server serves again")
    assert keeping.read().result() == UPTIME


@pytest.mark.parametrize("force", ["", "-f"])
def test_an_unmount_by_hand_ends_the_keeper_and_is_no_abort(keeping: Keeping, force: str) -> None:
    keeper = keeping.start()
    os.system(f"umount {force} {keeping.mountpoint}")
    assert keeper.wait(timeout=DEADLINE_S) == 0
    assert "was unmounted; ending" in keeping.log
    assert "abort" not in keeping.log
    assert not keeping.is_mounted()


def test_an_unmounted_caller_mount_is_mounted_again(keeping: Keeping) -> None:
    keeper = keeping.start()
    os.system(f"umount {keeping.caller}")
    keeping.wait_log(f"{keeping.caller} was unmounted; mounting it again")
    keeping.wait_log("a server serves again")
    assert keeping.read(keeping.caller / "proc/uptime").result() == UPTIME
    assert keeper.poll() is None


def test_usr1_replaces_the_server_without_a_reader_noticing(keeping: Keeping) -> None:
    keeper = keeping.start()
    reader = keeping.read(again=True)
    old = keeping.server()
    keeper.send_signal(signal.SIGUSR1)
    keeping.wait_event("start", 2)
    assert keeping.events("term") == [old]
    assert keeping.read().result() == UPTIME
    assert reader.end() == b""


def test_toggle_and_stacks_are_passed_on(keeping: Keeping) -> None:
    keeper = keeping.start()
    server = keeping.server()
    keeper.send_signal(signal.SIGUSR2)
    assert keeping.wait_event("usr2") == server
    keeper.send_signal(signal.SIGQUIT)
    keeping.wait_log("most recent call first")
    assert keeping.read().result() == UPTIME
    assert keeping.server() == server


def test_a_reload_gives_the_server_a_new_document(keeping: Keeping) -> None:
    keeper = keeping.start()
    server = keeping.server()
    for count in (1, 2):
        keeper.send_signal(signal.SIGHUP)
        assert keeping.wait_event(f"reloaded-{count}") == server
        keeping.wait_log(f"reload: count: {count}")
    document = json.loads((keeping.runtime_dir / "config.json").read_text())
    assert document["options"] == {"count": 2}


def test_a_configuration_that_is_wrong_changes_nothing(keeping: Keeping) -> None:
    keeper = keeping.start()
    keeping.set("resolve-fail")
    keeper.send_signal(signal.SIGHUP)
    keeping.wait_log("reload: the file says nonsense")
    keeping.wait_log("reload: the configuration stays as it was (exit code 1)")
    assert keeping.events("reloaded") == []
    assert not (keeping.runtime_dir / "config.json").exists()
    keeping.set("resolve-fail", on=False)
    keeper.send_signal(signal.SIGHUP)
    keeping.wait_event("reloaded-1")


def test_a_reload_during_another_is_done_after_it(keeping: Keeping) -> None:
    keeper = keeping.start()
    keeping.set("resolve-hang")
    keeper.send_signal(signal.SIGHUP)
    (resolver,) = wait_until(keeping.resolvers, DEADLINE_S, what="a resolver")
    keeper.send_signal(signal.SIGHUP)
    keeping.set("resolve-hang", on=False)
    os.kill(resolver, signal.SIGKILL)
    keeping.wait_event("reloaded-1")
    assert keeping.log.count("the configuration stays as it was") == 1


def test_reading_goes_on_while_a_reload_hangs(keeping: Keeping) -> None:
    keeper = keeping.start()
    keeping.set("resolve-hang")
    keeper.send_signal(signal.SIGHUP)
    wait_until(keeping.resolvers, DEADLINE_S, what="a resolver")
    os.kill(keeping.server(), signal.SIGKILL)
    assert keeping.read().result() == UPTIME
    keeping.wait_log("the resolver takes longer than 10 s")
    keeping.wait_log("the configuration stays as it was")


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


def test_the_resources_socket_of_another_process_is_replaced_once_that_has_ended(
    keeping: Keeping,
) -> None:
    path = keeping.runtime_dir / "resources.sock"
    with resources.listen(str(keeping.runtime_dir)):
        inode = path.stat().st_ino
        keeping.start("--resources")
        keeping.wait_log(f"another resources service listens at {path}; trying again")
        assert path.stat().st_ino == inode
    with socket.socket(socket.AF_UNIX) as client:
        wait_until(lambda: client.connect_ex(str(path)) == 0, DEADLINE_S, what="the keeper's")


def test_a_server_that_never_says_ready_is_not_announced(keeping: Keeping) -> None:
    keeping.set("mute")
    keeper = keeping.start(ready=False)
    keeping.wait_event("start")
    assert keeping.read().result() == UPTIME
    assert "serving at" not in keeping.log
    keeper.terminate()
    assert keeper.wait(timeout=DEADLINE_S) == 0
