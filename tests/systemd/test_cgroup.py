"""The unit with the drop-in of docs/cgroup.md: the sandbox lets the cgroup tree work."""

from __future__ import annotations

import re
from pathlib import Path

from tests.systemd.machine import ROOT, UNIT, Machine

#: Makes a container in the machine, which makes a cgroup and enters it.
_USE = """
set -e
own=/sys/fs/cgroup/systemd/tree-test
mkdir -p $own
echo $$ >$own/cgroup.procs
cat >/tmp/use <<'END'
set -e
way=$(sed -n 's/.*:name=systemd:\\(.*\\)/\\1/p' /proc/self/cgroup)
own=/var/lib/pylxcfs/cgroup/systemd$way
mkdir $own/job
echo $$ >$own/job/cgroup.procs
cat $own/job/cgroup.procs
echo $$
chmod 700 $own/job
chown 1:2 $own/job
stat -c '%a %u %g' $own/job
echo 0 >$own/cgroup.procs
rmdir $own/job
END
unshare --mount --pid --fork --mount-proc sh /tmp/use
"""


def drop_in() -> str:
    text = (ROOT / "docs" / "cgroup.md").read_text()
    found = re.search(r"# systemctl edit pylxcfs\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_drop_in_of_the_documentation_is_enough(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        (tmp_path / "units" / f"{UNIT}.d" / "cgroup.conf").write_text(drop_in())
        machine.systemctl("daemon-reload")
        machine.systemctl("start", UNIT)
        assert "cgroup/ does not work" not in machine.log()
        said = machine.run("sh", "-c", _USE).stdout.split()
        assert said[0] == said[-4] == "1"  # behind it cat, which lists them
        assert said[-3:] == ["700", "1", "2"]


def test_the_unit_without_it_says_what_is_missing(tmp_path: Path) -> None:
    with Machine(tmp_path) as machine:
        option = "[Service]\nEnvironment=PYLXCFS_ENABLE_CGROUP=on\n"
        (tmp_path / "units" / f"{UNIT}.d" / "cgroup.conf").write_text(option)
        machine.systemctl("daemon-reload")
        machine.systemctl("start", UNIT)
        assert "cgroup/ does not work: capabilities are missing: CAP_KILL CAP_SET" in machine.log()
