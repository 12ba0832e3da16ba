"""Pods on a cluster with the chart's defaults: what they get, and what they read."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.kit.cgroups import is_v2
from tests.kubernetes.cluster import (
    DEADLINE_S,
    IMAGE,
    Cluster,
    Release,
    Space,
    container_of,
    pod_of,
)

SMALL = 2 * 1024 * 1024
NODES = psutil.virtual_memory().total >> 10
FILES = ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps", "uptime")


def mounts(space: Space, name: str, container: str = "") -> set[str]:
    """Return the paths that files of ours cover in a container."""
    text = space.execute(name, "grep fuse.pylxcfs /proc/self/mountinfo || true", container)
    found = [line.split()[4] for line in text.splitlines()]
    assert len(set(found)) == len(found), f"stacked: {found}"
    return set(found)


def test_a_pod_of_a_labelled_namespace_reads_its_limits(installed: Release, space: Space) -> None:
    space.run(pod_of("small"))
    assert space.execute("small", "head -n1 /proc/meminfo").split() == [
        "MemTotal:",
        f"{SMALL}",
        "kB",
    ]
    assert space.execute("small", "grep -c ^processor /proc/cpuinfo").strip() == "1"
    assert space.execute("small", "cat /sys/devices/system/cpu/online").strip() == "0"
    shown = re.search(r"^Mem: +(\d+)", space.execute("small", "/bin/free"), re.MULTILINE)
    assert shown is not None
    assert int(shown[1]) == SMALL
    assert float(space.execute("small", "cat /proc/uptime").split()[0]) < DEADLINE_S
    assert mounts(space, "small") == {f"/proc/{name}" for name in FILES} | {
        "/sys/devices/system/cpu"
    }
    assert space.note("small") == "mutated"


def test_a_pod_that_opts_out_reads_the_nodes(installed: Release, space: Space) -> None:
    space.run(pod_of("out", annotations={"pylxcfs.io/view": "off"}))
    assert space.memory("out") == NODES
    assert mounts(space, "out") == set()
    assert space.note("out") is None


def test_a_single_pod_asks_by_a_label(installed: Release, plain: Space) -> None:
    plain.create(pod_of("asks", labels={"pylxcfs.io/view": "all"}), pod_of("silent"))
    for name in ("asks", "silent"):
        plain.wait(name)
    assert plain.memory("asks") == SMALL
    assert plain.memory("silent") == NODES


def test_a_pod_chooses_its_files(installed: Release, space: Space) -> None:
    space.run(pod_of("chooses", annotations={"pylxcfs.io/files": "meminfo"}))
    assert mounts(space, "chooses") == {"/proc/meminfo"}


def test_a_value_that_is_not_understood_is_refused(installed: Release, space: Space) -> None:
    with pytest.raises(AssertionError, match="all, proc, cpu, off"):
        space.create(pod_of("wrong", annotations={"pylxcfs.io/view": "maybe"}))


def test_each_container_reads_its_own_limits(installed: Release, space: Space) -> None:
    shown = "head -n1 /proc/meminfo; grep -c ^processor /proc/cpuinfo"
    first = container_of("first", shown, memory="64Mi")
    big = container_of("big", memory="1Gi", cpu="2")
    space.run(pod_of("several", container_of("main"), big, initContainers=[first]))
    assert space.logs("several", "first").split() == ["MemTotal:", "65536", "kB", "1"]
    assert space.memory("several", "main") == SMALL
    assert space.memory("several", "big") == 1024 * 1024
    cpus = min(2, psutil.cpu_count() or 1)
    counted = space.execute("several", "grep -c ^processor /proc/cpuinfo", "big")
    assert int(counted) == cpus


def test_an_ephemeral_container_starts(cluster: Cluster, installed: Release, space: Space) -> None:
    """Kubernetes 1.20 asks webhooks without the pod, so it has no files; 1.22 sends the pod."""
    space.run(pod_of("debugged"))
    ephemeral = {
        "apiVersion": "v1",
        "kind": "EphemeralContainers",
        "metadata": {"name": "debugged"},
        "ephemeralContainers": [
            {"name": "debugger", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}
        ],
    }
    path = f"/api/v1/namespaces/{space.name}/pods/debugged/ephemeralcontainers"
    cluster.kubectl("replace", f"--raw={path}", "-f", "-", stdin=json.dumps(ephemeral))
    wait_until(
        lambda: "running" in str(space.get("debugged")["status"].get("ephemeralContainerStatuses")),
        DEADLINE_S,
        what="the ephemeral container",
    )
    assert space.memory("debugged", "debugger") == NODES
    assert space.memory("debugged", "main") == SMALL
    service = f"/api/v1/namespaces/{installed.namespace}/services/https:pylxcfs-webhook:https"
    counted = cluster.kubectl("get", f"--raw={service}/proxy/metrics")
    assert 'outcome="left",reason="no pod"' in counted
    assert 'outcome="error"' not in counted


def test_what_a_pod_mounts_is_left_to_it_and_named(installed: Release, space: Space) -> None:
    main = container_of("main", volumeMounts=[{"name": "own", "mountPath": "/sys/devices/system"}])
    volumes = [{"name": "own", "emptyDir": {}}, {"name": "pylxcfs-stat", "emptyDir": {}}]
    said = space.run(pod_of("conflict", main, volumes=volumes))
    for left in ("volume pylxcfs-stat", "/sys/devices/system/cpu of main"):
        assert f"Warning: pylxcfs: left to the pod: {left}" in said
        assert left in (space.note("conflict") or "")
    wanted = {f"/proc/{name}" for name in FILES if name != "stat"}
    assert mounts(space, "conflict") == wanted
    assert space.memory("conflict") == SMALL


def test_a_pod_in_the_nodes_pid_namespace_is_left(installed: Release, space: Space) -> None:
    space.run(pod_of("pids", hostPID=True))
    assert space.memory("pids") == NODES
    assert mounts(space, "pids") == set()


def test_containers_that_share_a_pid_namespace(installed: Release, space: Space) -> None:
    """On cgroup v1 nothing tells them apart, so they read the limit of their pod."""
    pod = pod_of(
        "shared",
        container_of("main"),
        container_of("big", memory="3Gi"),
        shareProcessNamespace=True,
    )
    space.run(pod)
    both = [space.memory("shared", name) for name in ("main", "big")]
    assert both == ([SMALL, SMALL * 3 // 2] if is_v2() else [SMALL * 5 // 2] * 2)


def test_a_pod_for_windows_is_left(installed: Release, space: Space) -> None:
    pod = pod_of("windows", nodeSelector={"kubernetes.io/os": "windows"})
    made = json.loads(space.create(pod, dry_run=True))
    assert "volumes" not in made["spec"]
    assert "volumeMounts" not in made["spec"]["containers"][0]


def test_a_static_pod_starts(cluster: Cluster, installed: Release, space: Space) -> None:
    """No webhook is asked for what the kubelet starts; its mirror is admitted."""
    pod = pod_of("static")
    pod["metadata"]["namespace"] = space.name
    file = cluster.manifests / "static.json"
    file.write_text(json.dumps(pod))
    name = "static-node1"
    try:
        wait_until(lambda: name in cluster.try_kubectl("get", "pod", "-A"), DEADLINE_S, what=name)
        space.wait(name)
        assert space.memory(name) == NODES
    finally:
        file.unlink()
    space.wait(name, "delete")


def test_fifty_pods_at_once(cluster: Cluster, installed: Release, space: Space) -> None:
    wanted = {f"pod-{number}": 65536 + 1024 * number for number in range(50)}
    # Each waits for the others: all read while all run.
    pods = [
        pod_of(
            name,
            container_of("main", "head -n1 /proc/meminfo; sleep 100000", memory=f"{kib}Ki"),
            labels={"app": "many"},
        )
        for name, kib in wanted.items()
    ]
    space.create(*pods)
    words = ("--selector=app=many", f"--namespace={space.name}")
    timeout = f"--timeout={2 * DEADLINE_S:.0f}s"
    cluster.kubectl("wait", "pod", "--for=condition=Ready", *words, timeout)
    text = cluster.kubectl("logs", "--prefix", "--max-log-requests=50", *words)
    lines = re.findall(r"^\[pod/(\S+)/main\] MemTotal: +(\d+) kB$", text, re.MULTILINE)
    assert len(lines) == len(wanted), text
    found = {name: int(kib) for name, kib in lines}
    assert found == wanted


def test_new_limits_of_a_running_pod_show(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    """As a kubelet with in-place resize does it, by writing the cgroup."""
    space.run(pod_of("resized", container_of("main", memory="64Mi", cpu="1")))
    assert space.memory("resized") == 64 * 1024
    pod = space.get("resized")
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].rpartition("/")[2]
    # On v1 the limit of both may not be the lower one, where the kernel accounts for swap.
    v1 = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
    names = ("memory.max",) if is_v2() else v1
    top = Path("/sys/fs/cgroup") if is_v2() else Path("/sys/fs/cgroup/memory")
    (inner,) = (top / cluster.cgroup).rglob(f"*{container}*")
    for directory in (inner.parent, inner):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (directory / name).write_text(str(128 << 20))
    # A text lives for 0.1 s; the pause is longer than that, and a read in between may be either.
    seen = space.execute("resized", "sleep 0.2; head -n1 /proc/meminfo").split()[1]
    assert int(seen) == 128 * 1024
