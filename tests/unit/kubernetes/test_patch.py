"""Patches, applied by an independent library."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.attach.engines import RUNC_ALLOWS
from pylxcfs.attach.views import paths
from pylxcfs.kubernetes import patch
from pylxcfs.kubernetes.annotations import (
    ALIASES,
    DEFAULT_FILES,
    ENV,
    FILES,
    PATHS,
    REQUESTED,
    REQUESTS,
    STATUS,
    VIEW,
)
from pylxcfs.kubernetes.environment import VARIABLES
from pylxcfs.kubernetes.patch import Decision, NotAPod, Settings, decide
from tests.unit.kubernetes.pods import PODS, RECORDED, pod

PLAIN = Settings()
EVERYTHING = Settings(files=tuple(PATHS), env=tuple(VARIABLES))
_LISTS = ("volumes", "containers", "initContainers", "ephemeralContainers")

settings_ = st.builds(
    Settings,
    volumes=st.sampled_from(patch.VOLUMES),
    files=st.sampled_from([DEFAULT_FILES, tuple(PATHS), ("meminfo",), ()]),
    env=st.sampled_from([(), tuple(VARIABLES), ("GOMAXPROCS",)]),
)


def apply(found: dict[str, Any], decision: Decision) -> dict[str, Any]:
    before = copy.deepcopy(found)
    after = jsonpatch.JsonPatch(decision.patch).apply(found)
    assert found == before
    return json.loads(json.dumps(after))


def patched(found: dict[str, Any], settings: Settings = PLAIN) -> dict[str, Any]:
    return apply(found, decide(found, settings, by_default=True))


def with_annotations(**annotations: str) -> dict[str, Any]:
    made = pod()
    made["metadata"]["annotations"] = annotations
    return made


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {one["mountPath"]: one["name"] for one in container.get("volumeMounts", [])}


def test_a_pod_gets_its_files_in_every_container() -> None:
    after = patched(RECORDED)
    assert after["metadata"]["annotations"] == {"team/owner": "a~b/c", STATUS: "mutated"}
    volumes = {one["name"]: one for one in after["spec"]["volumes"]}
    assert volumes["pylxcfs-meminfo"]["hostPath"] == {"path": "/var/lib/pylxcfs/mount/proc/meminfo"}
    wanted = {f"/{PATHS[name]}": f"pylxcfs-{name}" for name in DEFAULT_FILES}
    assert mounts(after["spec"]["initContainers"][0]) == wanted
    assert mounts(after["spec"]["containers"][0]) == {
        **wanted,
        "/var/run/secrets/kubernetes.io/serviceaccount": "default-token-x7k2p",
    }
    assert all(one["readOnly"] for one in after["spec"]["containers"][0]["volumeMounts"])


def test_what_can_be_chosen_is_served_and_what_runc_allows() -> None:
    assert set(PATHS.values()) <= set(paths())
    assert {path for path in PATHS.values() if path.startswith("proc/")} == set(RUNC_ALLOWS)


def test_the_directory_above_is_one_volume_that_follows_the_host() -> None:
    after = patched(RECORDED, PLAIN._replace(volumes="directory"))
    assert after["spec"]["volumes"][1:] == [
        {
            "name": "pylxcfs",
            "hostPath": {"path": "/var/lib/pylxcfs", "type": "DirectoryOrCreate"},
        }
    ]
    assert after["spec"]["containers"][0]["volumeMounts"][1:] == [
        {
            "name": "pylxcfs",
            "mountPath": "/var/lib/pylxcfs",
            "readOnly": True,
            "mountPropagation": "HostToContainer",
        }
    ]


def test_with_nri_there_are_no_volumes() -> None:
    after = patched(RECORDED, EVERYTHING._replace(volumes="none"))
    assert after["spec"]["volumes"] == RECORDED["spec"]["volumes"]
    assert after["metadata"]["annotations"][VIEW] == "all", "for the plugin of the node"
    asked = patched(with_annotations(**{VIEW: "cpu"}), PLAIN._replace(volumes="none"))
    assert asked["metadata"]["annotations"][VIEW] == "cpu"
    assert {"name": "GOMAXPROCS", "value": "2"} in after["spec"]["containers"][0]["env"]


@pytest.mark.parametrize(
    ("annotations", "labels", "by_default", "wanted"),
    [
        ({}, {}, True, True),
        ({}, {}, False, False),
        ({VIEW: "all"}, {}, False, True),
        ({}, {VIEW: "true"}, False, True),
        ({VIEW: "disabled"}, {}, True, False),
        ({}, {VIEW: "disabled"}, True, False),
        ({VIEW: "all"}, {VIEW: "disabled"}, True, False),
        *(({key: "false"}, {}, True, False) for key in ALIASES),
        *(({key: "off"}, {}, True, False) for key in ALIASES),
        *(({key: "true"}, {}, False, True) for key in ALIASES),
        ({VIEW: "perhaps"}, {}, False, False),
        ({VIEW: "perhaps"}, {}, True, True),
    ],
)
def test_who_is_patched(
    annotations: dict[str, str], labels: dict[str, str], by_default: bool, wanted: bool
) -> None:
    found = pod()
    found["metadata"].update(annotations=annotations, labels=labels)
    decision = decide(found, PLAIN, by_default=by_default)
    assert bool(decision.patch) is wanted
    assert bool(decision.warnings) is ("perhaps" in annotations.values())


def test_files_are_chosen_by_the_pod() -> None:
    after = patched(with_annotations(**{FILES: "/proc/meminfo, cpu"}))
    names = [one["name"] for one in after["spec"]["volumes"]]
    assert names == ["default-token-x7k2p", "pylxcfs-meminfo", "pylxcfs-cpu"]


def test_parts_are_chosen_by_the_word_for_the_nri_plugin() -> None:
    after = patched(with_annotations(**{VIEW: "cpu"}))
    names = [one["name"] for one in after["spec"]["volumes"]]
    assert names[1:] == ["pylxcfs-cpuinfo", "pylxcfs-stat", "pylxcfs-cpu"]
    after = patched(with_annotations(**{VIEW: "proc"}))
    assert "pylxcfs-cpu" not in [one["name"] for one in after["spec"]["volumes"]]


def test_a_file_that_does_not_exist_is_named_with_those_that_do() -> None:
    found = with_annotations(**{FILES: "meminfo,pressure"})
    decision = decide(found, PLAIN, by_default=True)
    assert len(decision.warnings) == 1
    assert "'pressure' is not allowed, only: cpuinfo, diskstats" in decision.warnings[0]
    assert patch.mistakes(found)[0] in decision.warnings[0]
    assert [one["name"] for one in apply(found, decision)["spec"]["volumes"]][1:] == [
        "pylxcfs-meminfo"
    ]


@pytest.mark.parametrize(
    "taken",
    ["/proc/meminfo", "//proc/./meminfo/", "/proc", "/", "proc/meminfo"],
)
def test_a_path_that_the_pod_uses_is_left_and_named(taken: str) -> None:
    found = pod()
    found["spec"]["containers"][0]["volumeMounts"].append({"name": "own", "mountPath": taken})
    decision = decide(found, PLAIN._replace(files=("meminfo",)), by_default=True)
    after = apply(found, decision)
    assert after["spec"]["containers"] == found["spec"]["containers"]
    assert "/proc/meminfo" in mounts(after["spec"]["initContainers"][0])
    left = "left to the pod: /proc/meminfo of app"
    assert after["metadata"]["annotations"][STATUS] == f"mutated, {left}"
    assert decision.warnings == [f"pylxcfs: {left}"]
    assert decision.reason == "conflict"


def test_a_mount_below_a_directory_of_ours_is_left() -> None:
    found = pod()
    path = "/sys/devices/system/cpu/cpu0/online"
    found["spec"]["containers"][0]["volumeMounts"].append({"name": "own", "mountPath": path})
    after = patched(found)
    assert "/sys/devices/system/cpu" not in mounts(after["spec"]["containers"][0])
    assert "/sys/devices/system/cpu" in mounts(after["spec"]["initContainers"][0])


def test_a_volume_name_that_the_pod_uses_is_left_and_named() -> None:
    found = pod(volumes=[{"name": "pylxcfs-stat", "emptyDir": {}}])
    after = patched(found)
    assert after["spec"]["volumes"][0] == {"name": "pylxcfs-stat", "emptyDir": {}}
    assert "/proc/stat" not in mounts(after["spec"]["containers"][0])
    assert "volume pylxcfs-stat" in after["metadata"]["annotations"][STATUS]


_WINDOWS = {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "windows"}},
        {"nodeSelector": {"kubernetes.io/os": "windows"}},
        {"securityContext": {"windowsOptions": {"hostProcess": True}}},
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [_WINDOWS]}]
                    }
                }
            }
        },
        {"hostPID": True},
    ],
)
def test_windows_and_pods_in_the_hosts_pid_namespace_are_left(spec: dict[str, Any]) -> None:
    found = pod(**spec)
    assert decide(found, PLAIN, by_default=True).patch == []
    assert decide(found, PLAIN, by_default=True).warnings == []
    found["metadata"]["annotations"][VIEW] = "enabled"
    assert "left as it is" in decide(found, PLAIN, by_default=True).warnings[0]


def test_an_ephemeral_container_gets_the_volumes_that_the_pod_has() -> None:
    running = patched(RECORDED)
    old = copy.deepcopy(running)
    running["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox"}]
    decision = decide(running, EVERYTHING, by_default=True, old=old, ephemeral=True)
    after = apply(running, decision)
    wanted = {f"/{PATHS[name]}": f"pylxcfs-{name}" for name in DEFAULT_FILES}
    assert mounts(after["spec"]["ephemeralContainers"][0]) == wanted
    after["spec"].pop("ephemeralContainers")
    assert after == old, "nothing else may change in a pod that runs"
    # The one that runs stays as it is when the next one comes.
    both = copy.deepcopy(running)
    both["spec"]["ephemeralContainers"].append({"name": "second", "image": "busybox"})
    decision = decide(both, PLAIN, by_default=True, old=running, ephemeral=True)
    assert {one["path"] for one in decision.patch} == {"/spec/ephemeralContainers/1/volumeMounts"}


def test_a_sidecar_that_came_later_gets_its_files() -> None:
    once = patched(RECORDED)
    once["spec"]["containers"].append({"name": "sidecar", "image": "proxy"})
    for volume in once["spec"]["volumes"]:
        volume.setdefault("hostPath", {}).setdefault("type", "")  # the server's default
    decision = decide(once, PLAIN, by_default=True)
    assert {one["path"] for one in decision.patch} == {"/spec/containers/1/volumeMounts"}
    assert decision.warnings == []


def test_variables_are_those_of_the_limits_and_never_over_the_pods() -> None:
    found = pod()
    container = found["spec"]["containers"][0]
    container["env"] = [{"name": "GOMAXPROCS", "value": "7"}]
    env = patched(found, EVERYTHING)["spec"]["containers"][0]["env"]
    assert env[0] == {"name": "GOMAXPROCS", "value": "7"}
    assert {one["name"]: one["value"] for one in env[1:]} == {
        "SLURM_CPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_MEM_PER_NODE": "2048",
        "SLURM_GPUS_PER_NODE": "1",
        "GOMEMLIMIT": "1843MiB",
        "OMP_NUM_THREADS": "2",
        "PYTHON_CPU_COUNT": "2",
        "UV_THREADPOOL_SIZE": "4",
        "RAYON_NUM_THREADS": "2",
        "JAVA_TOOL_OPTIONS": "-XX:ActiveProcessorCount=2",
    }
    assert "env" not in patched(found, EVERYTHING)["spec"]["initContainers"][0]
    assert "env" not in patched(RECORDED)["spec"]["containers"][0], "off by default"


def test_variables_that_a_config_map_may_bring_are_left() -> None:
    found = pod()
    found["spec"]["containers"][0]["envFrom"] = [{"prefix": "GO", "configMapRef": {"name": "x"}}]
    found["metadata"]["annotations"][ENV] = "GOMAXPROCS,OMP_NUM_THREADS"
    decision = decide(found, PLAIN, by_default=True)
    env = apply(found, decision)["spec"]["containers"][0]["env"]
    assert env == [{"name": "OMP_NUM_THREADS", "value": "2"}]
    assert decision.warnings == ["pylxcfs: left to the pod: variables of app, which has envFrom"]


def test_requests_are_told_to_the_node_where_there_is_no_limit() -> None:
    resources = {
        "app": {"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "side": {"requests": {"cpu": "250m", "memory": "64Mi", "nvidia.com/gpu": "1"}},
        "plain": {"limits": {"cpu": "1"}},
    }
    found = pod(
        containers=[{"name": name, "resources": value} for name, value in resources.items()]
    )
    assert REQUESTED not in patched(found)["metadata"]["annotations"]
    found["metadata"]["annotations"][REQUESTS] = "true"
    after = patched(found, PLAIN._replace(volumes="none", env=("GOMAXPROCS", "GOMEMLIMIT")))
    assert json.loads(after["metadata"]["annotations"][REQUESTED]) == {
        "app": {"cpu": "1500m"},
        "side": {"cpu": "250m", "memory": "64Mi"},
    }
    environs = {
        one["name"]: {variable["name"]: variable["value"] for variable in one["env"]}
        for one in after["spec"]["containers"]
    }
    assert environs == {
        "app": {"GOMAXPROCS": "2", "GOMEMLIMIT": "1843MiB"},
        "side": {"GOMAXPROCS": "1", "GOMEMLIMIT": "57MiB"},
        "plain": {"GOMAXPROCS": "1"},
    }
    found["metadata"]["annotations"][REQUESTS] = "always"
    assert "'always' is not allowed, only: true, false" in patch.mistakes(found)[0]


@given(PODS, settings_, st.booleans())
def test_a_patch_applies_and_touches_only_what_it_adds(
    found: dict[str, Any], settings: Settings, by_default: bool
) -> None:
    decision = decide(found, settings, by_default=by_default)
    assert all(one["op"] == "add" for one in decision.patch)
    after = apply(found, decision)
    if not decision.patch:
        assert after == found
    notes = (found["metadata"].get("annotations") or {}).copy()
    if decision.patch:
        changed = after["metadata"]["annotations"]
        notes.pop(STATUS, None)
        ours = {STATUS, REQUESTED} if VIEW in notes else {STATUS, REQUESTED, VIEW}
        assert {key: value for key, value in changed.items() if key not in ours} == notes
    before, spec = found["spec"], after["spec"]
    assert {k: v for k, v in before.items() if k not in _LISTS} == {
        k: v for k, v in spec.items() if k not in _LISTS
    }
    old, new = before.get("volumes") or [], spec.get("volumes") or []
    assert new[: len(old)] == old
    names = [one["name"] for one in new[len(old) :]]
    assert len(set(names)) == len(names)
    assert not set(names) & {one["name"] for one in old}
    for field in _LISTS[1:]:
        one_by_one = zip(before.get(field) or [], spec.get(field) or [], strict=True)
        for one, other in one_by_one:
            for added in ("volumeMounts", "env"):
                had, has = one.get(added) or [], other.get(added) or []
                assert has[: len(had)] == had
            had = one.get("env") or []
            names = {variable["name"] for variable in (other.get("env") or [])[len(had) :]}
            assert not names & {variable["name"] for variable in had}
            unchanged = {k: v for k, v in one.items() if k not in ("volumeMounts", "env")}
            assert unchanged == {k: v for k, v in other.items() if k not in ("volumeMounts", "env")}


@given(PODS, settings_, st.booleans())
def test_a_second_call_changes_nothing(
    found: dict[str, Any], settings: Settings, by_default: bool
) -> None:
    once = apply(found, decide(found, settings, by_default=by_default))
    again = decide(once, settings, by_default=by_default)
    assert again.patch == []


@given(PODS, settings_)
def test_a_request_for_ephemeral_containers_changes_those_alone(
    found: dict[str, Any], settings: Settings
) -> None:
    decision = decide(found, settings, by_default=True, ephemeral=True)
    assert all(one["path"].startswith("/spec/ephemeralContainers/") for one in decision.patch)
    apply(found, decision)


_nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "spec", "annotations", "containers", "volumes", "name", "env", "os"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), _nonsense))
def test_nonsense_is_refused_or_left(found: dict[str, Any]) -> None:
    with contextlib.suppress(NotAPod):
        apply(found, decide(found, EVERYTHING, by_default=True))
