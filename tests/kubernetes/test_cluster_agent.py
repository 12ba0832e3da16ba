"""The node agent on a cluster: replaced, killed, late, with the node, and uninstalled."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.kit.daemon import ROOT
from tests.kubernetes.cluster import (
    DEADLINE_S,
    NODE,
    Cluster,
    Release,
    Space,
    container_of,
    pod_of,
)
from tests.kubernetes.test_cluster_pods import NODES, SMALL, mounts

#: Prints a line for each read: "ok", or what was read instead.
READS = (
    "while :; do value=none; read name value unit </proc/meminfo; "
    f'[ "$value" = {SMALL} ] && echo ok || echo "wrong $value"; sleep 0.05; done'
)


def survivors(release: Release) -> list[psutil.Process]:
    """Return keeper and servers: they are in cgroups of their own, not in the pod's."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if f"/{release.cgroup}" in Path(f"/proc/{process.pid}/cgroup").read_text():
                found.append(process)
    return found


def kill(release: Release) -> None:
    """Kill keeper and servers; their mounts stay, and are dead."""
    processes = survivors(release)
    assert processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=DEADLINE_S)


def ours(cluster: Cluster) -> list[str]:
    """Return the mountpoints of pylxcfs on the node."""
    lines = cluster.node("cat /proc/self/mountinfo").splitlines()
    return sorted(line.split()[4] for line in lines if " - fuse.pylxcfs " in line)


def reads(space: Space, name: str, kib: int, container: str = "") -> bool:
    """Return whether a pod reads this total now."""
    try:
        return space.memory(name, container) == kib
    except (AssertionError, ValueError, IndexError):  # it does not run, or its file is dead
        return False


def identity(space: Space, name: str) -> str:
    """Return the id of a pod's only container."""
    (status,) = space.get(name)["status"]["containerStatuses"]
    return str(status.get("containerID"))


def test_pods_read_on_over_a_rollout(
    cluster: Cluster, installed: Release, space: Space, record_property
) -> None:
    space.run(pod_of("reader", container_of("main", READS)))
    before = survivors(installed)
    mounted = ours(cluster)
    assert len(mounted) == 2
    installed.kubectl("rollout", "restart", "daemonset/pylxcfs-agent")
    installed.wait()
    count = space.logs("reader").count("ok")
    wait_until(lambda: space.logs("reader").count("ok") > count + 20, DEADLINE_S, what="more reads")
    lines = space.logs("reader").split("\n")[:-1]
    assert set(lines) == {"ok"}
    assert ours(cluster) == mounted
    assert not set(before) & set(survivors(installed))
    space.run(pod_of("next"))
    assert space.memory("next") == SMALL
    record_property("figures", f"{len(lines)} reads, none failed")


def test_pods_are_healed_when_everything_of_the_agent_was_killed(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    space.run(pod_of("first"))
    assert space.memory("first") == SMALL
    kill(installed)
    space.create(pod_of("meanwhile"))
    wait_until(lambda: reads(space, "first", SMALL), DEADLINE_S, what="files that work again")
    assert mounts(space, "first") >= {"/proc/meminfo", "/proc/uptime", "/sys/devices/system/cpu"}
    installed.wait()
    space.wait("meanwhile")
    # It may have started after the dead mounts were removed, and before there were new ones.
    assert space.memory("meanwhile") in (SMALL, NODES)
    space.run(pod_of("after"))
    assert space.memory("after") == SMALL


def test_pods_start_on_a_node_before_its_agent(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    """As after a restart of the node: links are there, and no mounts."""
    agent = {"nodeSelector": {"nowhere": "true"}}
    installed.use(agent=agent)
    wait_until(lambda: "agent" not in installed.kubectl("get", "pod"), DEADLINE_S, what="no agent")
    space.run(pod_of("served"))  # keeper and mounts are there without a pod
    assert space.memory("served") == SMALL
    kill(installed)
    cluster.node("umount --lazy /var/lib/pylxcfs/mount /run/pylxcfs/caller")
    assert ours(cluster) == []
    space.run(pod_of("early"))
    assert space.memory("early") == NODES
    installed.use()
    space.run(pod_of("late"))
    assert space.memory("late") == SMALL
    assert reads(space, "served", SMALL)  # healed


def test_everything_of_the_node_is_killed(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    """The mounts are dead then, and containers are started again by the kubelet."""
    space.run(pod_of("before"))
    assert space.memory("before") == SMALL
    killed = identity(space, "before")
    cluster.kill()
    cluster.start()
    wait_until(lambda: identity(space, "before") != killed, DEADLINE_S, what="another container")
    wait_until(lambda: reads(space, "before", SMALL), DEADLINE_S, what="its files")
    installed.wait()
    space.run(pod_of("after"))
    assert space.memory("after") == SMALL


@pytest.fixture
def attaching(release: Release) -> Release:
    """The chart with volumes that any node can mount; the agent brings the files."""
    release.use(agent={"attachNew": True}, webhook={"volumes": "directory"})
    return release


def test_the_agent_brings_the_files(cluster: Cluster, attaching: Release, space: Space) -> None:
    space.run(pod_of("attached"))
    wait_until(lambda: reads(space, "attached", SMALL), DEADLINE_S, what="its files")
    assert {"/proc/meminfo", "/proc/uptime"} <= mounts(space, "attached")
    pod = pod_of("static")
    pod["metadata"]["namespace"] = space.name
    file = cluster.manifests / "static.json"
    file.write_text(json.dumps(pod))
    name = f"static-{NODE}"
    try:
        wait_until(lambda: name in cluster.try_kubectl("get", "pod", "-A"), DEADLINE_S, what=name)
        space.wait(name)
        try:
            wait_until(
                lambda: reads(space, name, SMALL), DEADLINE_S, what="files of the static pod"
            )
        except BaseException as error:
            error.add_note(attaching.kubectl("logs", "daemonset/pylxcfs-agent"))
            error.add_note(cluster.node("cat /run/pylxcfs/keeper.log"))
            raise
    finally:
        file.unlink()
    space.wait(name, "delete")


@pytest.fixture
def _profile(cluster: Cluster, release: Release) -> Iterator[None]:
    release.use(agent={"seccompAgent": True})
    words = [sys.executable, "-m", "pylxcfs", "seccomp-profile"]
    directory = "/var/lib/kubelet/seccomp"
    cluster.node(f"mkdir -p {directory}; cd {ROOT} && {' '.join(words)} >{directory}/pylxcfs.json")
    yield
    cluster.node(f"rm {directory}/pylxcfs.json")


@pytest.mark.usefixtures("_profile")
def test_system_calls_are_answered(space: Space) -> None:
    profile = {"type": "Localhost", "localhostProfile": "pylxcfs.json"}
    main = container_of("main", securityContext={"seccompProfile": profile})
    space.run(pod_of("calls", main, container_of("other")))
    assert space.execute("calls", "busybox nproc", "main").strip() == "1"
    found = space.execute("calls", "busybox free", "main").split("\n")[1].split()
    assert found[:2] == ["Mem:", f"{SMALL}"]
    host = space.execute("calls", "busybox nproc", "other").strip()
    assert host == str(len(psutil.Process().cpu_affinity()))


def test_nothing_is_left_when_it_is_uninstalled(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    space.run(pod_of("stays"))
    assert space.memory("stays") == SMALL
    installed.uninstall()
    assert space.memory("stays") == NODES  # the kernel's
    assert mounts(space, "stays") == set()
    assert ours(cluster) == []
    assert survivors(installed) == []
    assert cluster.node("find /var/lib/pylxcfs -mindepth 2; find /run/pylxcfs -mindepth 2") == ""
    assert list(Path("/sys/fs/cgroup").glob(f"*/{installed.cgroup}")) == []
    selected = "--selector=app.kubernetes.io/name=pylxcfs"
    kinds = "all,secrets,roles,rolebindings,clusterroles,clusterrolebindings,serviceaccounts"
    kinds += ",mutatingwebhookconfigurations,validatingwebhookconfigurations,pdb"
    wait_until(
        lambda: "No resources found" in cluster.kubectl("get", kinds, "-A", selected),
        DEADLINE_S,
        what="the end of its objects",
    )
    space.run(pod_of("after"))
    assert space.memory("after") == NODES
