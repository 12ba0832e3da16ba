"""The webhook on a cluster: away, called again, and with the next certificate."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator

import pytest

from pylxcfs.kubernetes import certificates
from tests.conftest import wait_until
from tests.kubernetes.cluster import DEADLINE_S, Cluster, Release, Space, pod_of
from tests.kubernetes.test_cluster_pods import NODES, SMALL, mounts


def scale(release: Release, replicas: int) -> None:
    """Change how many webhooks there are; wait until there are."""
    release.kubectl("scale", "deployment/pylxcfs-webhook", f"--replicas={replicas}")
    selected = "--selector=app.kubernetes.io/component=webhook"
    if replicas:
        release.wait()
    else:
        timeout = f"--timeout={DEADLINE_S:.0f}s"
        release.kubectl("wait", "pod", selected, "--for=delete", timeout)


@pytest.fixture
def away(installed: Release) -> Iterator[Release]:
    """The release without its webhook, which comes back after the test."""
    scale(installed, 0)
    yield installed
    scale(installed, 1)


def test_pods_start_while_the_webhook_is_away(away: Release, space: Space) -> None:
    space.run(pod_of("plain"))
    assert space.memory("plain") == NODES
    assert space.note("plain") is None
    scale(away, 1)
    space.run(pod_of("small"))
    assert space.memory("small") == SMALL


def test_pods_start_while_the_webhook_hangs(
    cluster: Cluster, installed: Release, space: Space
) -> None:
    """The API server waits for timeoutSeconds, and then does without."""
    (webhook,) = cluster.processes("pylxcfs", "webhook")
    webhook.suspend()
    try:
        space.run(pod_of("plain"))
        assert space.memory("plain") == NODES
        assert space.note("plain") is None
    finally:
        webhook.resume()
    asked = pod_of("asked")
    wait_until(
        lambda: "pylxcfs.io/status" in space.create(asked, dry_run=True),
        DEADLINE_S,
        what="the webhook",
    )
    space.run(pod_of("small"))
    assert space.memory("small") == SMALL


@pytest.fixture
def _sidecar(cluster: Cluster) -> Iterator[None]:
    """A webhook that is called after ours, and adds a container."""
    keys = cluster.directory / "tls.crt", cluster.directory / "tls.key"
    webhook = {
        "name": "sidecar.example.com",
        "clientConfig": {
            "url": "https://127.0.0.1:9444/",
            "caBundle": base64.b64encode((cluster.directory / "ca.crt").read_bytes()).decode(),
        },
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
            | {"operations": ["CREATE"]}
        ],
        "objectSelector": {"matchLabels": {"sidecar": "wanted"}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "zz-sidecar"},
        "webhooks": [webhook],
    }
    with cluster.program("tests.kubernetes.sidecar", *map(str, keys), "9444"):
        cluster.apply(configuration)
        yield
        cluster.kubectl("delete", "mutatingwebhookconfiguration/zz-sidecar")


@pytest.mark.usefixtures("_sidecar")
def test_a_sidecar_of_a_later_webhook_gets_files(installed: Release, space: Space) -> None:
    pod = pod_of("two", labels={"sidecar": "wanted"})
    wait_until(
        lambda: "sidecar" in space.create(pod, dry_run=True), DEADLINE_S, what="the other webhook"
    )
    space.run(pod)
    assert space.memory("two", "main") == SMALL
    assert space.memory("two", "sidecar") == 64 * 1024
    assert mounts(space, "two", "main") == mounts(space, "two", "sidecar")


def test_the_certificate_is_replaced_while_it_serves(installed: Release, space: Space) -> None:
    """The webhook starts with one that is due in 20 s, and is asked all the time."""
    name = "pylxcfs-webhook"
    scale(installed, 0)
    now = datetime.datetime.now(datetime.UTC)
    # It is due after two thirds of its life, which began two hours ago.
    past = datetime.timedelta(hours=1)
    rest = datetime.timedelta(hours=1, seconds=30)
    names = [f"{name}.{installed.namespace}.svc", f"{name}.{installed.namespace}.svc.cluster.local"]
    old = certificates.issue(names, now - past, life=past + rest)
    assert not certificates.is_due(old, names, now + datetime.timedelta(seconds=19))
    assert certificates.is_due(old, names, now + datetime.timedelta(seconds=21))
    fields = {"tls.crt": old.certificate, "tls.key": old.key, "ca.crt": old.authorities}
    data = {key: base64.b64encode(text).decode() for key, text in fields.items()}
    installed.kubectl("patch", f"secret/{name}", "--type=merge", "-p", json.dumps({"data": data}))
    scale(installed, 1)
    asked = 0

    def is_replaced() -> bool:
        nonlocal asked
        made = json.loads(space.create(pod_of("asked"), dry_run=True))
        assert "pylxcfs.io/status" in made["metadata"].get("annotations", {}), asked
        asked += 1
        log = installed.kubectl("logs", f"deployment/{name}")
        return log.count("serving with a certificate") == 2

    wait_until(is_replaced, DEADLINE_S, what="the next certificate")
    assert asked > 3
    is_replaced()  # by the next one
    space.run(pod_of("small"))
    assert space.memory("small") == SMALL
