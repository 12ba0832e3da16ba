"""The chart, rendered by Helm for a matrix of values; every manifest validated.

PYLXCFS_WRITE_DOCS=1 writes container/kubernetes/manifests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylxcfs.cli.commands import cli
from pylxcfs.kubernetes.annotations import PATHS
from pylxcfs.kubernetes.environment import VARIABLES
from pylxcfs.kubernetes.patch import VOLUMES, Settings, decide
from tests.conftest import require

try:
    import helm_python as helm
    import kubernetes_validate
    import yaml
except ImportError as error:
    _MISSING = str(error)
else:
    _MISSING = ""

KUBERNETES = Path(__file__).parents[2] / "container/kubernetes"
CHART = KUBERNETES / "chart"
MANIFESTS = KUBERNETES / "manifests/pylxcfs.yaml"
VERSIONS = ("1.25", "1.37")
#: Of these there is no schema: their objects are not Kubernetes' own.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/")

MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "nri": {"nri": {"enabled": True, "namespaces": ["a", "b"], "socketDirectory": "/run/nri"}},
    "nri for labels": {
        "nri": {"enabled": True},
        "env": ["GOMAXPROCS"],
        "webhook": {
            "namespaceSelector": {
                "matchLabels": {"pylxcfs.io/view": None, "lxcfs-admission-webhook": "enabled"},
                "matchExpressions": [
                    {"key": "team", "operator": "In", "values": ["a", "b"]},
                    {"key": "zone", "operator": "NotIn", "values": ["c"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist"},
                ],
            }
        },
        "networkPolicy": {"enabled": True},
    },
    "nri for annotations": {"nri": {"enabled": True, "namespaceLabels": False}},
    "nri, no webhook": {"nri": {"enabled": True}, "webhook": {"enabled": False}},
    "nri for all, no webhook": {
        "nri": {"enabled": True, "all": True},
        "webhook": {"enabled": False},
    },
    "no agent": {"agent": {"enabled": False}},
    "nothing": {"agent": {"enabled": False}, "webhook": {"enabled": False}},
    "directory": {"webhook": {"volumes": "directory"}, "agent": {"attachNew": True}},
    "fail closed": {
        "webhook": {"failurePolicy": "Fail", "timeoutSeconds": 10, "podSelection": "annotation"}
    },
    "selectors": {
        "webhook": {
            "namespaceSelector": {
                "matchLabels": {"pylxcfs.io/view": None, "lxcfs-admission-webhook": "enabled"},
                "matchExpressions": [{"key": "team", "operator": "Exists"}],
            },
            "podSelection": "none",
            "validation": False,
        }
    },
    "no label of namespaces": {
        "webhook": {
            "namespaceSelector": {
                "matchLabels": None,
                "matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}],
            }
        }
    },
    "cert-manager": {"certificates": {"mode": "cert-manager"}},
    "cert-manager's issuer": {
        "certificates": {
            "mode": "cert-manager",
            "issuerRef": {"name": "ours", "kind": "ClusterIssuer"},
        }
    },
    "existing": {
        "certificates": {"mode": "existing", "existingSecret": "tls", "caBundle": "-----BEGIN"}
    },
    "files and variables": {"files": list(PATHS), "env": list(VARIABLES)},
    "no files": {"files": []},
    "everything": {
        "image": {
            "repository": "registry.example/pylxcfs",
            "digest": "sha256:" + "0" * 64,
            "pullSecrets": [{"name": "registry"}],
        },
        "mountpoint": "/opt/px/m",
        "runtimeDirectory": "/run/px",
        "agent": {
            "seccompAgent": True,
            "attachNew": True,
            "nodeSelector": {"pool": "a"},
            "affinity": {"nodeAffinity": {}},
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "",
            "maxUnavailable": "10%",
            "extraArgs": ["--cpu-view=cpuset"],
            "annotations": {"a": "b"},
        },
        "webhook": {
            "replicas": 1,
            "affinity": {"nodeAffinity": {}},
            "tolerations": [{"operator": "Exists"}],
            "annotations": {"a": "b"},
            "logLevel": "debug",
        },
        "metrics": {
            "enabled": True,
            "containers": True,
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        },
        "networkPolicy": {"enabled": True},
        "podDisruptionBudget": {"enabled": False},
    },
    "runtime class": {"runtimeClass": {"enabled": True}},
    "runtime class on some nodes, and nothing else": {
        "agent": {"enabled": False},
        "webhook": {"enabled": False},
        "runtimeClass": {
            "enabled": True,
            "name": "small",
            "handler": "views",
            "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
        },
    },
    "network policies": {"networkPolicy": {"enabled": True}},
    "network policies with cert-manager": {
        "networkPolicy": {"enabled": True},
        "certificates": {"mode": "cert-manager"},
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": True}},
    },
    "removal": {"remove": True, "metrics": {"enabled": True}, "networkPolicy": {"enabled": True}},
}

#: With these the webhook needs no rights.
CERTS = {"mode": "cert-manager"}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "policy": ({"webhook": {"failurePolicy": "Maybe"}}, "failurePolicy"),
    "unknown": ({"webhok": {}}, "webhok"),
    "file": ({"files": ["pressure"]}, "files"),
    "variable": ({"env": ["PATH"]}, "env"),
    "mountpoint": ({"mountpoint": "/mnt"}, "mountpoint"),
    "digest": ({"image": {"digest": "sha256:1"}}, "digest"),
    "replicas": ({"webhook": {"replicas": 0}}, "replicas"),
    "directory": ({"webhook": {"volumes": "directory"}}, "agent.attachNew=true"),
    "handler": ({"runtimeClass": {"handler": "a.b"}}, "handler"),
    "secret": ({"certificates": {"mode": "existing"}}, "certificates."),
}


@pytest.fixture(autouse=True)
def _packages() -> None:
    if _MISSING:
        require("kubernetes", f"{_MISSING}: pip install -r tests/kubernetes/requirements.txt")


def rendered(values: dict[str, Any], name: str = "pylxcfs") -> dict[str, str]:
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        return chart.render(values, name=name, namespace="pylxcfs-system")


def manifests(values: dict[str, Any], name: str = "pylxcfs") -> list[dict[str, Any]]:
    return [
        document
        for path, text in rendered(values, name).items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def of_kind(found: list[dict[str, Any]], *kinds: str) -> Iterator[dict[str, Any]]:
    return (one for one in found if one["kind"] in kinds)


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_every_manifest_is_valid(values: dict[str, Any]) -> None:
    names = set()
    for name in ("pylxcfs", "x" * 53):
        for manifest in manifests(values, name):
            assert len(manifest["metadata"]["name"]) <= 63
            names.add((name, manifest["kind"], manifest["metadata"]["name"]))
            if not manifest["apiVersion"].startswith(FOREIGN):
                for version in VERSIONS:
                    kubernetes_validate.validate(manifest, version, strict=True)
    assert bool(names) is (values != MATRIX["nothing"])


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_what_is_selected_exists(values: dict[str, Any]) -> None:
    found = manifests(values)
    pods = [one["spec"]["template"] for one in of_kind(found, "DaemonSet", "Deployment")]
    labels = [pod["metadata"]["labels"] for pod in pods]

    def selects(selector: dict[str, str]) -> bool:
        return sum(selector.items() <= one.items() for one in labels) == 1

    for one in of_kind(found, "DaemonSet", "Deployment", "PodDisruptionBudget"):
        assert selects(one["spec"]["selector"]["matchLabels"])
    for one in of_kind(found, "Service"):
        assert selects(one["spec"]["selector"])
    for one in of_kind(found, "NetworkPolicy"):
        assert selects(one["spec"]["podSelector"]["matchLabels"])
    services = {one["metadata"]["name"]: one for one in of_kind(found, "Service")}
    for one in of_kind(found, "ServiceMonitor"):
        wanted = one["spec"]["selector"]["matchLabels"].items()
        (service,) = (s for s in services.values() if wanted <= s["metadata"]["labels"].items())
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in one["spec"]["endpoints"]} <= ports
    accounts = {one["metadata"]["name"] for one in of_kind(found, "ServiceAccount")}
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == accounts
    for one in of_kind(found, "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for hook in one["webhooks"]:
            assert hook["clientConfig"]["service"]["name"] in services
            # Its own pods start without it.
            here = hook["namespaceSelector"]["matchExpressions"][0]
            assert (here["operator"], here["values"][0]) == ("NotIn", "pylxcfs-system")


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_the_commands_take_the_arguments(values: dict[str, Any]) -> None:
    for workload in of_kind(manifests(values), "DaemonSet", "Deployment"):
        spec = workload["spec"]["template"]["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            if container["command"] != ["pylxcfs"]:
                continue
            name, *words = container["args"]
            probes = [
                probe["exec"]["command"]
                for key, probe in container.items()
                if key.endswith("Probe") and "exec" in probe
            ]
            if name == "node-agent" and name not in cli.commands:
                continue  # this version has none
            cli.commands[name].make_context(name, words)
            for probe in probes:
                assert probe[:2] == ["pylxcfs", name]
                cli.commands[name].make_context(name, probe[2:])


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_rights_are_narrow(values: dict[str, Any]) -> None:
    found = manifests(values)
    roles = list(of_kind(found, "Role", "ClusterRole"))
    for role in roles:
        for rule in role["rules"]:
            if rule["resources"] == ["namespaces"]:  # of which labels are read
                assert rule["verbs"] == ["list", "watch"]
                continue
            assert rule["resourceNames"], "objects are named one by one"
            assert set(rule["verbs"]) <= {"get", "update", "patch"}
    bound = {
        subject["name"]
        for one in of_kind(found, "RoleBinding", "ClusterRoleBinding")
        for subject in one["subjects"]
    }
    for workload in of_kind(found, "DaemonSet", "Deployment"):
        spec = workload["spec"]["template"]["spec"]
        is_webhook = workload["kind"] == "Deployment"
        assert spec["automountServiceAccountToken"] is (spec["serviceAccountName"] in bound)
        if is_webhook:
            assert not {"hostPID", "hostNetwork", "hostIPC"} & spec.keys()
            assert all("hostPath" not in volume for volume in spec.get("volumes", []))
            context = spec["containers"][0]["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert spec["securityContext"]["runAsNonRoot"]


def test_helm_finds_nothing_wrong() -> None:
    for version in VERSIONS:
        messages = helm.lint(str(CHART), kube_version=f"{version}.0")["messages"]
        assert [one for one in messages if one["severity"] > 1] == []


@pytest.mark.parametrize(("values", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)


def test_namespaces_are_selected_by_the_label_of_another_webhook() -> None:
    (configuration,) = of_kind(manifests(MATRIX["selectors"]), "MutatingWebhookConfiguration")
    (hook,) = configuration["webhooks"]
    selector = hook["namespaceSelector"]
    assert selector["matchLabels"] == {"lxcfs-admission-webhook": "enabled"}
    assert selector["matchExpressions"][-1]["key"] == "team"
    # Pods with hostPath volumes would be refused there; with NRI there are none.
    assert _is_kept_out(hook)
    for one in of_kind(manifests(MATRIX["nri"]), "MutatingWebhookConfiguration"):
        assert not any(map(_is_kept_out, one["webhooks"]))


def _is_kept_out(hook: dict[str, Any]) -> bool:
    expressions = hook["namespaceSelector"]["matchExpressions"]
    return {
        "key": "pod-security.kubernetes.io/enforce",
        "operator": "NotIn",
        "values": ["baseline", "restricted"],
    } in expressions


def test_the_agents_read_labels_where_nri_needs_them() -> None:
    def words(values: dict[str, Any]) -> list[str]:
        (agent,) = of_kind(manifests(values), "DaemonSet")
        found: list[str] = agent["spec"]["template"]["spec"]["containers"][0]["args"]
        return [word for word in found if word.startswith(("--namespace-selector", "--env"))]

    excluded = "kubernetes.io/metadata.name notin (pylxcfs-system,kube-system)"
    assert words(MATRIX["nri"]) == [f"--namespace-selector={excluded},pylxcfs.io/view=all"]
    selector = "lxcfs-admission-webhook=enabled,team in (a,b),zone notin (c),d,!e"
    assert words(MATRIX["nri for labels"]) == [
        f"--namespace-selector={excluded},{selector}",
        "--env=GOMAXPROCS",
    ]
    for name in ("default", "nri for annotations", "nri for all, no webhook"):
        assert words(MATRIX[name]) == []
        assert not list(of_kind(manifests({**MATRIX[name], "certificates": CERTS}), "ClusterRole"))


def test_a_runtime_class_is_there_until_removal() -> None:
    values = MATRIX["runtime class on some nodes, and nothing else"]
    (one,) = of_kind(manifests(values), "RuntimeClass")
    assert (one["metadata"]["name"], one["handler"]) == ("small", "views")
    assert one["scheduling"]["nodeSelector"] == {"pool": "a"}
    assert not list(of_kind(manifests(MATRIX["default"]), "RuntimeClass"))
    assert not list(of_kind(manifests({**values, "remove": True}), "RuntimeClass"))


@pytest.mark.parametrize(
    ("name", "said", "unsaid"),
    [
        ("default", ["rollout status", "label namespace NAME pylxcfs.io/view=all"], ["handler"]),
        ("nri for all, no webhook", ["--image=debian --overrides"], ["label namespace NAME"]),
        ("nri, no webhook", ["label namespace NAME pylxcfs.io/view=all"], ["--labels="]),
        ("selectors", ["label namespace NAME lxcfs-admission-webhook=enabled"], ["io/view=all"]),
        ("runtime class", ["runtimeClassName: pylxcfs", "runtimes.pylxcfs]"], []),
        ("removal", ["helm -n pylxcfs-system uninstall pylxcfs"], ["label namespace"]),
    ],
)
def test_the_notes_have_the_next_command(name: str, said: list[str], unsaid: list[str]) -> None:
    (notes,) = (text for path, text in rendered(MATRIX[name]).items() if path.endswith("NOTES.txt"))
    assert [words for words in said if words not in notes] == []
    assert [words for words in unsaid if words in notes] == []


def test_volumes_are_left_to_nri() -> None:
    (deployment,) = of_kind(manifests(MATRIX["nri"]), "Deployment")
    assert "--volumes=none" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_plain_manifests_are_those_of_the_chart() -> None:
    text = (
        "# Made from the chart by: PYLXCFS_WRITE_DOCS=1 pytest tests/kubernetes/test_chart.py\n"
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: pylxcfs-system\n  labels:\n"
        "    pod-security.kubernetes.io/enforce: privileged\n"
    )
    for manifest in manifests({}):
        labels = manifest["metadata"]["labels"]
        labels.pop("helm.sh/chart")
        labels.pop("app.kubernetes.io/managed-by")
        if not manifest["kind"].startswith("Cluster") and "Webhook" not in manifest["kind"]:
            manifest["metadata"]["namespace"] = "pylxcfs-system"
        for template in [manifest.get("spec", {}).get("template", {})]:
            if template:
                template["metadata"]["labels"].pop("helm.sh/chart")
                template["metadata"]["labels"].pop("app.kubernetes.io/managed-by")
        text += "---\n" + yaml.safe_dump(manifest, sort_keys=False, width=100)
    if os.environ.get("PYLXCFS_WRITE_DOCS"):
        MANIFESTS.write_text(text)
    assert MANIFESTS.read_text() == text


@pytest.mark.parametrize("volumes", VOLUMES)
def test_a_patched_pod_is_valid(volumes: str) -> None:
    jsonpatch = pytest.importorskip("jsonpatch")
    pod = yaml.safe_load((KUBERNETES / "pod.yaml").read_text())
    for container in pod["spec"]["containers"]:
        container.pop("volumeMounts")
    pod["spec"].pop("volumes")
    settings = Settings(volumes=volumes, files=tuple(PATHS), env=tuple(VARIABLES))
    after = jsonpatch.apply_patch(pod, decide(pod, settings, by_default=True).patch)
    assert after != pod
    for version in VERSIONS:
        kubernetes_validate.validate(after, version, strict=True)
