"""Patched pods are valid for every version of Kubernetes that is supported.

Applied by a JSON Patch library, validated by the schemas of `kubernetes-validate`.
"""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pylxcfs.kubernetes import patch
from pylxcfs.kubernetes.annotations import (
    ALIASES,
    DEFAULT_FILES,
    ENV,
    FILES,
    PATHS,
    REQUESTS,
    VIEW,
)
from pylxcfs.kubernetes.environment import VARIABLES
from pylxcfs.kubernetes.patch import Settings, decide
from tests.conftest import require
from tests.unit.kubernetes.pods import RECORDED

try:
    import kubernetes_validate
except ImportError as error:
    _MISSING = str(error)
else:
    _MISSING = ""

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]

_names = st.sampled_from(["a", "b-1", "pylxcfs", "pylxcfs-meminfo", "pylxcfs-cpu"])
_amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.sampled_from(["1", "250m", "2Gi"])
)
_mounts = st.fixed_dictionaries(
    {
        "name": _names,
        "mountPath": st.sampled_from(
            ["/data", "/proc/meminfo", "/proc/", "/sys/devices/system/cpu/cpu0/online"]
        ),
    }
)
_variables = st.fixed_dictionaries(
    {"name": st.sampled_from([*VARIABLES, "OTHER"]), "value": st.just("1")}
)


def _containers(least: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    optional = {
        "volumeMounts": st.lists(_mounts, max_size=2),
        "volumeDevices": st.just([{"name": "a", "devicePath": "/dev/xvda"}]),
        "env": st.lists(_variables, max_size=2),
        "envFrom": st.just([{"prefix": "GO", "configMapRef": {"name": "x"}}]),
        "resources": st.fixed_dictionaries({}, optional={"limits": _amounts, "requests": _amounts}),
    }
    fixed = {"name": _names, "image": st.just("debian")}
    return st.lists(st.fixed_dictionaries(fixed, optional=optional), min_size=least, max_size=3)


_notes = st.dictionaries(
    st.sampled_from([VIEW, FILES, ENV, REQUESTS, "team/owner", *ALIASES]),
    st.sampled_from(["true", "cpu", "none", "meminfo,cpu", "GOMAXPROCS", "x"]),
)
_volumes = st.one_of(
    st.fixed_dictionaries({"name": _names, "emptyDir": st.just({})}),
    st.fixed_dictionaries(
        {"name": _names, "hostPath": st.just({"path": "/var/lib/pylxcfs/mount/proc/meminfo"})}
    ),
)
PODS = st.fixed_dictionaries(
    {
        "apiVersion": st.just("v1"),
        "kind": st.just("Pod"),
        "metadata": st.fixed_dictionaries(
            {"name": st.just("p")}, optional={"annotations": _notes, "labels": _notes}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": _containers(1)},
            optional={
                "initContainers": _containers(0),
                "volumes": st.lists(_volumes, max_size=3),
                "shareProcessNamespace": st.booleans(),
            },
        ),
    }
)
SETTINGS = st.builds(
    Settings,
    volumes=st.sampled_from(patch.VOLUMES),
    files=st.sampled_from([DEFAULT_FILES, tuple(PATHS)]),
    env=st.sampled_from([(), tuple(VARIABLES)]),
)


@pytest.fixture(autouse=True)
def _packages() -> None:
    if _MISSING:
        require("kubernetes", f"{_MISSING}: pip install -r tests/kubernetes/requirements.txt")


def check(pod: dict[str, Any], settings: Settings, versions: list[str]) -> None:
    after = jsonpatch.apply_patch(pod, decide(pod, settings, by_default=True).patch)
    for version in versions:
        kubernetes_validate.validate(after, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("volumes", patch.VOLUMES)
def test_a_recorded_pod_stays_valid(version: str, volumes: str) -> None:
    pod = copy.deepcopy(RECORDED)
    pod["metadata"].pop("creationTimestamp")  # null: the schemas are those of what is stored
    pod["metadata"]["annotations"][REQUESTS] = "true"
    pod["spec"]["containers"][0]["resources"]["limits"].pop("cpu")
    check(pod, Settings(volumes=volumes, files=tuple(PATHS), env=tuple(VARIABLES)), [version])


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PODS, SETTINGS)
def test_generated_pods_stay_valid(pod: dict[str, Any], settings: Settings) -> None:
    for version in VERSIONS[:: len(VERSIONS) - 1]:
        kubernetes_validate.validate(pod, version, strict=True)
    check(pod, settings, VERSIONS)
