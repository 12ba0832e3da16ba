"""`pylxcfs mount` and `pylxcfs unmount` as commands: what they refuse, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylxcfs.keeper import fusemount, holder
from tests.conftest import wait_until
from tests.mount.keeping import DEADLINE_S, ROOT, UPTIME, Keeping


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.close()


def pylxcfs(
    command: str,
    keeping: Keeping,
    *options: str,
    at: str = "",
    prefix: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command on the directories of `keeping`, to its end."""
    runtime_dir, mountpoint = str(keeping.runtime_dir), at or str(keeping.mountpoint)
    words = [command, "--runtime-dir", runtime_dir, *options, mountpoint]
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pylxcfs", *words],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], code: int, message: str, hint: str) -> None:
    """Check one line of what is wrong, one of what to do, and the exit code."""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert message in lines[0]
    assert hint in lines[1]
    assert done.returncode == code


def test_a_second_instance_on_the_same_pid_file_is_refused(keeping: Keeping) -> None:
    keeper = keeping.start()
    done = pylxcfs("mount", keeping)
    refused(done, 5, f"another instance runs: pylxcfs-keeper (pid {keeper.pid})", "unmount")
    assert keeping.read().result() == UPTIME


def test_a_mountpoint_in_use_is_refused(keeping: Keeping, tmp_path: Path) -> None:
    keeping.start()
    (tmp_path / "other").mkdir()
    done = pylxcfs("mount", keeping, "--pidfile", str(tmp_path / "other.pid"))
    refused(done, 4, "has pylxcfs mounted already", f"pylxcfs unmount {keeping.mountpoint}")
    assert keeping.read().result() == UPTIME


def test_a_mountpoint_whose_server_hangs_is_refused_in_time(
    keeping: Keeping, tmp_path: Path
) -> None:
    keeping.start("--watchdog", "0")
    os.kill(keeping.server(), signal.SIGSTOP)
    done = pylxcfs("mount", keeping, "--pidfile", str(tmp_path / "other.pid"))
    refused(done, 4, "has pylxcfs mounted already", "end it first")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda path: None, "does not exist", "mkdir -p"),
        (lambda path: path.touch(), "is not a directory", "name a directory"),
        (lambda path: (path / "x").mkdir(parents=True), "is not empty", "-o nonempty"),
    ],
)
def test_a_mountpoint_that_will_not_do_leaves_nothing(
    keeping: Keeping, tmp_path: Path, make, message: str, hint: str
) -> None:
    path = tmp_path / "elsewhere"
    make(path)
    refused(pylxcfs("mount", keeping, at=str(path)), 4, message, hint)
    assert not keeping.pidfile.exists()
    assert fusemount.mounted_at(str(path)) is None


def test_only_root_may_mount(keeping: Keeping) -> None:
    # The files of the interpreter may be readable by root only: change the uid after the start.
    script = (
        "import os, runpy, sys; import pylxcfs.cli.commands, pylxcfs.cli.launch; os.setuid(65534);"
        "sys.argv = ['pylxcfs', 'mount', '/mnt']; runpy.run_module('pylxcfs', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    refused(done, 3, "only root may do this", "sudo")


def test_without_dev_fuse_it_says_so(keeping: Keeping) -> None:
    hide = ("unshare", "--mount", "--propagation=private", "sh", "-c")
    script = 'mount -t tmpfs none /dev && exec "$0" "$@"'
    done = pylxcfs("mount", keeping, prefix=(*hide, script))
    refused(done, 3, "there is no /dev/fuse", "modprobe fuse")


def test_a_dead_mount_is_replaced_and_its_victims_counted(keeping: Keeping) -> None:
    """The keeper and the server were killed; a mount namespace still holds a file."""
    keeper = keeping.start()
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", "echo; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as container:
        assert container.stdout is not None
        container.stdout.readline()  # it has its namespace
        keeper.kill()
        keeper.wait(timeout=DEADLINE_S)
        process = Path(f"/proc/{keeping.server()}")
        wait_until(lambda: not process.exists(), DEADLINE_S, what="the end of the server")
        log = keeping.log_path.with_name("new")
        with open(log, "wb") as file:
            new = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pylxcfs", "mount"),
                    *("--runtime-dir", str(keeping.runtime_dir), str(keeping.mountpoint)),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=file,
            )
        try:
            wait_until(lambda: "serving at" in log.read_text(), DEADLINE_S, what="the new mount")
            first = log.read_text().splitlines()[0]
            assert f"replacing a dead mount at {keeping.mountpoint}" in first
            assert "1 containers still hold files of it" in first
            assert keeping.read().result().count(b".") == 2
        finally:
            new.terminate()
            assert new.wait(timeout=DEADLINE_S) == 0
            container.communicate()
    assert not keeping.is_mounted()


def test_unmount_ends_a_keeper(keeping: Keeping) -> None:
    keeper = keeping.start("--keep-mounted")
    done = pylxcfs("unmount", keeping)
    assert (done.returncode, done.stderr) == (0, "")
    assert keeper.wait(timeout=DEADLINE_S) == 0
    assert not keeping.is_mounted()
    assert not holder.is_held(str(keeping.runtime_dir))


def test_unmount_ends_a_holder(keeping: Keeping) -> None:
    keeper = keeping.start("--keep-mounted")
    keeper.terminate()
    keeper.wait(timeout=DEADLINE_S)
    assert pylxcfs("unmount", keeping).returncode == 0
    assert not keeping.is_mounted()
    runtime = str(keeping.runtime_dir)
    wait_until(lambda: not holder.is_held(runtime), DEADLINE_S, what="the end of the holder")


def test_unmount_clears_a_dead_mount(keeping: Keeping) -> None:
    keeper = keeping.start()
    keeper.kill()
    keeper.wait(timeout=DEADLINE_S)
    assert pylxcfs("unmount", keeping).returncode == 0
    assert not keeping.is_mounted()


def test_unmount_of_nothing_says_so_and_is_no_failure(keeping: Keeping) -> None:
    done = pylxcfs("unmount", keeping)
    assert done.returncode == 0
    assert "nothing of pylxcfs is mounted" in done.stderr


def test_unmount_of_another_mountpoint_ends_nothing(keeping: Keeping) -> None:
    keeper = keeping.start()
    done = pylxcfs("unmount", keeping, at="/elsewhere")
    refused(done, 4, f"serves {keeping.mountpoint}, not /elsewhere", "--runtime-dir")
    assert keeper.poll() is None
    assert keeping.read().result() == UPTIME
