"""Pods for tests: one as an API server sends it, and generated ones."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from pylxcfs.kubernetes.annotations import ALIASES, ENV, FILES, PATHS, REQUESTS, VIEW
from pylxcfs.kubernetes.environment import VARIABLES

#: The object of an AdmissionReview of a real API server (1.20), for `kubectl run`.
RECORDED: dict[str, Any] = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {
        "name": "small",
        "namespace": "team",
        "creationTimestamp": None,
        "annotations": {"team/owner": "a~b/c"},
    },
    "spec": {
        "volumes": [
            {
                "name": "default-token-x7k2p",
                "secret": {"secretName": "default-token-x7k2p"},
            }
        ],
        "initContainers": [{"name": "prepare", "image": "busybox", "resources": {}}],
        "containers": [
            {
                "name": "app",
                "image": "busybox",
                "command": ["sleep", "1000"],
                "resources": {
                    "limits": {"cpu": "1500m", "memory": "2Gi", "nvidia.com/gpu": "1"},
                    "requests": {"cpu": "1500m", "memory": "2Gi", "nvidia.com/gpu": "1"},
                },
                "volumeMounts": [
                    {
                        "name": "default-token-x7k2p",
                        "readOnly": True,
                        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    }
                ],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "imagePullPolicy": "IfNotPresent",
            }
        ],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
    },
    "status": {},
}


def pod(**spec: Any) -> dict[str, Any]:
    """Return the recorded pod with fields of its spec changed."""
    made = copy.deepcopy(RECORDED)
    made["spec"].update(spec)
    return made


def review(found: dict[str, Any], **request: Any) -> bytes:
    """Return the body of a request for a pod."""
    content = {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "team",
            "object": found,
            "oldObject": None,
            **request,
        },
    }
    return json.dumps(content).encode()


_words = st.text("abc-/.~1", min_size=1, max_size=6)
_paths = st.one_of(
    st.sampled_from([f"/{path}" for path in PATHS.values()]),
    st.sampled_from(["/", "/proc", "/proc/", "//proc/meminfo", "/sys", "/data", "proc/stat"]),
    st.just("/sys/devices/system/cpu/cpu0/online"),
)
_names = st.one_of(_words, st.sampled_from(["pylxcfs", "pylxcfs-meminfo", "pylxcfs-cpu"]))
_quantities = st.one_of(
    st.sampled_from(["1", "250m", "2Gi", "1e3", "129M", "0", "x", ""]), st.integers(0, 99)
)
_limits = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "amd.com/gpu"]), _quantities
)
_mounts = st.fixed_dictionaries({"name": _names, "mountPath": _paths})
_variables = st.fixed_dictionaries(
    {"name": st.one_of(st.sampled_from(list(VARIABLES)), _words), "value": _words}
)


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with some of these fields, null in some."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(st.none(), field) for name, field in fields.items()}
    )


def _with(
    fixed: dict[str, st.SearchStrategy[Any]], rest: st.SearchStrategy[dict[str, Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda one, other: {**other, **one}, st.fixed_dictionaries(fixed), rest)


_containers = st.lists(
    _with(
        {"name": _words, "image": st.just("debian")},
        _maybe(
            volumeMounts=st.lists(_mounts, max_size=3),
            volumeDevices=st.lists(st.fixed_dictionaries({"devicePath": _paths}), max_size=1),
            env=st.lists(_variables, max_size=3),
            envFrom=st.lists(_maybe(prefix=st.sampled_from(["", "GO", "MY_"])), max_size=2),
            resources=_maybe(limits=_limits, requests=_limits),
        ),
    ),
    max_size=3,
)
_annotations = st.dictionaries(
    st.one_of(st.sampled_from([VIEW, FILES, ENV, REQUESTS, "pylxcfs.io/status", *ALIASES]), _words),
    st.one_of(
        st.sampled_from(["true", "off", "cpu", "all", "none", "meminfo,cpu", "GOMAXPROCS"]), _words
    ),
    max_size=4,
)

PODS = st.builds(
    lambda metadata, spec: {"metadata": metadata, "spec": spec},
    _maybe(annotations=_annotations, labels=_annotations),
    _maybe(
        volumes=st.lists(
            _with({"name": _names}, _maybe(hostPath=_maybe(path=_paths, type=_words))), max_size=3
        ),
        containers=_containers,
        initContainers=_containers,
        ephemeralContainers=_containers,
        hostPID=st.booleans(),
        nodeSelector=st.dictionaries(st.just("kubernetes.io/os"), st.just("windows")),
        resources=_maybe(limits=_limits, requests=_limits),
    ),
)
