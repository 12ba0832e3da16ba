"""What doctor says of facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.monitor import findings, kernel
from pylxcfs.monitor.findings import ERROR, FINE, WARNING, Finding
from pylxcfs.monitor.kernel import Fuse
from tests.unit.monitor.kit import container, counters, state


def worst(found) -> str:
    found = list(found)
    assert all(one.hint for one in found if one.severity != FINE)
    return findings.SEVERITIES[findings.worst(found)]


@pytest.mark.parametrize(
    ("values", "severity"),
    [
        ({}, FINE),
        ({"keeper": None, "state": "stopped"}, WARNING),
        ({"keeper": None, "state": "held"}, WARNING),
        ({"state": "rescue"}, ERROR),
        ({"version": "0.2.0"}, WARNING),
        ({"counters": None}, WARNING),
        ({"counters": counters(fallbacks={"error": 1})}, WARNING),
        ({"mounts": [{"kind": "own", "mountpoint": "/m", "device": None, "alive": False}]}, ERROR),
    ],
)
def test_an_instance(values, severity: str) -> None:
    assert worst(findings.of_instance(state(**values))) == severity


@pytest.mark.parametrize(
    ("fuse", "severity"),
    [(Fuse(True, True), FINE), (Fuse(True, False), WARNING), (Fuse(False, None), ERROR)],
)
def test_the_kernel(
    fuse: Fuse, severity: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("has_pidfds", "finds_inits", "opens_trees", "mounts_beneath"):
        monkeypatch.setattr(kernel, name, lambda: True)
    monkeypatch.setattr(findings.os.path, "exists", lambda path: True)
    assert worst(findings.of_kernel(fuse)) == severity
    monkeypatch.setattr(findings.os.path, "exists", lambda path: False)
    assert worst(findings.of_kernel(fuse)) == ERROR


def test_features_of_this_kernel_can_be_tested() -> None:
    for test in (kernel.has_pidfds, kernel.finds_inits, kernel.opens_trees, kernel.mounts_beneath):
        assert test() in (True, False, None)


@pytest.mark.parametrize(
    ("mounts", "mode", "severity"),
    [
        ("36 35 0:29 / {root}/memory rw - cgroup cgroup rw,memory\n", "v1", WARNING),
        ("", "no cgroup", ERROR),
        ("36 35 0:29 / {root}/unified rw - cgroup2 cgroup2 rw\n", "v2", FINE),
    ],
)
def test_cgroups(tmp_path: Path, mounts: str, mode: str, severity: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mounts.format(root=""))
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("cpu cpuset memory pids\n")
    found = list(findings.of_cgroups(str(tmp_path)))
    assert found[0].text.startswith(mode)
    assert worst(found) == severity


@pytest.mark.parametrize(
    ("names", "enforce", "severity"),
    [
        (None, None, FINE),
        ("capability,apparmor", None, FINE),
        ("capability,selinux", "0", FINE),
        ("capability,selinux", "1", WARNING),
    ],
)
def test_lsms(tmp_path: Path, names: str | None, enforce: str | None, severity: str) -> None:
    for path, text in (("sys/kernel/security/lsm", names), ("sys/fs/selinux/enforce", enforce)):
        if text is not None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
    assert worst(findings.of_lsms(str(tmp_path))) == severity


def test_files_of_containers() -> None:
    good = container(files={"/proc/meminfo": "own", "/proc/stat": "caller"})
    assert worst(findings.of_containers([good])) == FINE
    assert worst(findings.of_containers([good, container("\x1b[2J")])) == ERROR
    foreign = container(files={"/proc/meminfo": "foreign"})
    assert worst(findings.of_containers([foreign])) == WARNING
    assert worst(findings.of_containers(None)) == WARNING
    assert "\x1b" not in "".join(one.text for one in findings.of_containers([container("\x1b[2J")]))


def test_namespaces_of_the_daemon() -> None:
    assert findings.of_namespaces([], "it").severity == FINE
    assert findings.of_namespaces(["pid"], "it").severity == WARNING


def test_the_worst_finding_counts() -> None:
    assert findings.worst([]) == 0
    assert findings.worst([Finding("x", FINE, ""), Finding("y", WARNING, "")]) == 1
