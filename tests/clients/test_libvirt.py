"""libvirt's LXC driver, with a daemon of our own in a mount namespace.

libvirt is in no group of tools/system-packages, as its packages start services: the test runs where
libvirtd and its LXC driver are installed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.clients.engines import (
    FILES,
    MEMORY,
    REPORT,
    busybox_root,
    check_report,
    open_directory,
    programs,
    remove_cgroups,
)
from tests.conftest import require, run_name
from tests.kit.cgroups import PERIOD_US, is_v2
from tests.kit.daemon import Daemon

DOMAIN = """
<domain type='lxc'>
  <name>small</name>
  <memory unit='bytes'>{memory}</memory>
  <vcpu>1</vcpu>
  <cputune><period>{period}</period><quota>{period}</quota></cputune>
  <resource><partition>/{partition}</partition></resource>
  <os>
    <type>exe</type>
    <init>/bin/sh</init><initarg>-c</initarg><initarg>{script}</initarg>
  </os>
  <devices>
    <emulator>/usr/lib/libvirt/libvirt_lxc</emulator>
    <filesystem type='mount' accessmode='passthrough'>
      <source dir='{root}'/><target dir='/'/>
    </filesystem>
    {files}
    <console type='pty'/>
  </devices>
</domain>
"""
FILE = """<filesystem type='mount' accessmode='passthrough'>
  <source dir='{mountpoint}/{path}'/><target dir='/{path}'/><readonly/>
</filesystem>"""
HOSTDEVS = """
<hostdev mode='capabilities' type='misc'>
  <source><char>/dev/fuse</char></source>
</hostdev>
<hostdev mode='capabilities' type='net'>
  <source><interface>hpc0</interface></source>
</hostdev>
"""
#: Its directories are fixed, so it gets empty ones. It refuses hybrid hosts, and looks at every
#: driver that it finds.
RUN = """
cd "$1" || exit 1
for at in /run /var/lib /var/log /var/cache; do mount -t tmpfs libvirt $at || exit 1; done
mkdir etc work drivers && mount -t tmpfs libvirt etc && mkdir etc/upper etc/work || exit 1
mount -t overlay -o lowerdir=/etc,upperdir=$1/etc/upper,workdir=$1/etc/work libvirt /etc || exit 1
[ ! -d /sys/fs/cgroup/unified ] || umount /sys/fs/cgroup/unified || exit 1
cp "$2" drivers
ip link add hpc0 type veth peer name hpc1
LIBVIRT_DRIVER_DIR=$1/drivers libvirtd >log 2>&1 &
daemon=$!
export LIBVIRT_DEFAULT_URI=lxc:///system
end() { virsh destroy small; kill $daemon; wait $daemon; }
for try in $(seq 100); do
  virsh -q list >/dev/null 2>&1 && break
  sleep 0.1
done
if virsh -q create domain.xml >&2; then
  for try in $(seq 200); do
    [ ! -e root/done ] || break
    sleep 0.1
  done
fi
end >/dev/null 2>&1
cat log >&2
"""


@pytest.fixture(scope="module")
def daemon(hiding: Daemon) -> Daemon:
    return hiding


def run(daemon: Daemon, paths: Sequence[str], script: str, devices: str = "") -> bytes:
    """Run a script in a domain with paths bound and devices; return what it writes to /report.

    The host's network of the domain has an interface hpc0.
    """
    programs("libvirt", "libvirtd", "virsh")
    found = list(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_lxc.so"))
    if not found:
        require("libvirt", "libvirt has no LXC driver here")
    partition = run_name("libvirt")
    if is_v2():
        require("libvirt", "on cgroup v2 it asks systemd for cgroups")
    for top in {os.path.realpath(entry) for entry in os.scandir("/sys/fs/cgroup")}:
        if top != "/sys/fs/cgroup/unified":
            _make(Path(top, f"{partition}.partition"))
    files = [FILE.format(mountpoint=daemon.mountpoint, path=path) for path in paths]
    with open_directory() as directory:
        domain = DOMAIN.format(
            memory=MEMORY,
            period=PERIOD_US,
            partition=partition,
            script=escape(f"({script}) >/report; echo >/done; sleep 1000"),
            root=busybox_root(directory / "root"),
            files="\n".join([*files, devices]),
        )
        (directory / "domain.xml").write_text(domain)
        try:
            done = subprocess.run(
                [
                    *("unshare", "--mount", "--net", "--propagation=private"),
                    *("sh", "-c", RUN, "sh", str(directory), str(found[0])),
                ],
                capture_output=True,
                timeout=120,
                stdin=subprocess.DEVNULL,
            )
        finally:
            remove_cgroups(f"{partition}.partition")
        report = directory / "root/report"
        assert report.exists(), done.stderr.decode()
        return report.read_bytes()


def test_libvirt_binds_files_as_filesystems(daemon: Daemon) -> None:
    paths = [f"proc/{name}" for name in FILES] + ["sys/devices/system/cpu"]
    check_report(run(daemon, paths, REPORT))


def test_devices_and_interfaces_of_a_domain_are_those_that_show() -> None:
    """The domain of docs/hpc.md: a character device and a network interface."""
    if not os.path.exists("/dev/fuse"):
        require("libvirt", "there is no /dev/fuse")
    directories = [
        path
        for path in ("sys/class/misc", "sys/class/mem", "sys/dev/char", "sys/block")
        if os.path.isdir(f"/{path}")
    ]
    script = (
        "for d in class/misc class/mem block class/net; do echo $d: $(busybox ls /sys/$d); done"
    )
    with Daemon("--enable-devices") as daemon:
        report = run(daemon, ["proc/meminfo", *directories], script, HOSTDEVS).decode()
    shown = {line.partition(":")[0]: set(line.split()[1:]) for line in report.splitlines()}
    assert shown["class/misc"] == {"fuse"}
    assert shown["class/mem"] == {"null", "zero", "full", "random", "urandom"}
    assert shown["block"] == set()
    assert {"lo", "hpc0"} <= shown["class/net"]


def _make(cgroup: Path) -> None:
    cgroup.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (cgroup / name).exists():
            (cgroup / name).write_text((cgroup.parent / name).read_text())
