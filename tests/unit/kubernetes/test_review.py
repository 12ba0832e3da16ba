"""Bodies of requests and of answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.kubernetes import review
from pylxcfs.kubernetes.annotations import FILES, VIEW
from pylxcfs.kubernetes.patch import Settings
from pylxcfs.kubernetes.review import BadReview
from tests.unit.kubernetes.pods import PODS, RECORDED, pod
from tests.unit.kubernetes.pods import review as body_of

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def mutate(body: bytes) -> dict[str, Any]:
    return json.loads(review.mutate(body, Settings(), by_default=True).body)


def test_an_answer_has_the_uid_and_a_patch() -> None:
    answer = mutate(body_of(RECORDED))
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answer["response"]
    assert (response["uid"], response["allowed"]) == (UID, True)
    assert response["patchType"] == "JSONPatch"
    after = jsonpatch.apply_patch(RECORDED, json.loads(base64.b64decode(response["patch"])))
    assert len(after["spec"]["volumes"]) == 9


def test_a_pod_that_is_left_has_neither_patch_nor_type() -> None:
    answer = mutate(body_of(pod(hostPID=True)))
    assert answer["response"] == {"uid": UID, "allowed": True}


def test_an_update_of_a_pod_changes_nothing() -> None:
    answer = mutate(body_of(RECORDED, operation="UPDATE", oldObject=RECORDED))
    assert answer["response"] == {"uid": UID, "allowed": True}


def test_ephemeral_containers_without_their_pod_are_left() -> None:
    sent = {
        "apiVersion": "v1",
        "kind": "EphemeralContainers",
        "metadata": {"name": "debugged"},
        "ephemeralContainers": [{"name": "debugger", "image": "busybox"}],
    }
    body = body_of(sent, operation="UPDATE", subResource="ephemeralcontainers", oldObject=sent)
    assert mutate(body)["response"] == {"uid": UID, "allowed": True}


def test_validation_names_the_allowed_values() -> None:
    assert json.loads(review.validate(body_of(RECORDED)).body)["response"]["allowed"]
    wrong = pod()
    wrong["metadata"]["annotations"] = {FILES: "memory-info", VIEW: "maybe"}
    response = json.loads(review.validate(body_of(wrong)).body)["response"]
    assert response["allowed"] is False
    assert response["status"]["code"] == 422
    assert "'memory-info' is not allowed, only: cpuinfo, " in response["status"]["message"]
    assert "'maybe' is not allowed, only: all, proc, cpu, off" in response["status"]["message"]
    # What was there before the webhook came does not keep a pod from being updated.
    update = body_of(wrong, operation="UPDATE", oldObject=wrong)
    assert json.loads(review.validate(update).body)["response"]["allowed"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}',
        b'{"kind": "Pod", "apiVersion": "v1"}',
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}',
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": []}',
        body_of(RECORDED, uid=""),
        body_of(RECORDED, uid=None),
        body_of(RECORDED, uid=5),
        body_of(RECORDED, object=None),
        body_of(RECORDED, resource={"group": "apps", "version": "v1", "resource": "deployments"}),
        body_of(RECORDED, subResource="binding"),
        body_of(pod(containers=5)),
        body_of(pod(containers=["x"])),
        body_of({"metadata": {"annotations": {"a": 1}}, "spec": {}}),
        body_of(RECORDED) + b" " * review.MOST_BODY,
    ],
    ids=lambda body: body[:60].decode(errors="replace"),
)
def test_a_body_that_is_no_review_of_a_pod_is_refused(body: bytes) -> None:
    with pytest.raises(BadReview):
        review.mutate(body, Settings(), by_default=True)
    if b'"containers": ' not in body:
        with pytest.raises(BadReview):
            review.validate(body)


@given(st.one_of(st.binary(), st.recursive(st.text(), st.lists).map(lambda x: repr(x).encode())))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with pytest.raises(BadReview):
        review.mutate(body, Settings(), by_default=True)


@given(PODS)
def test_a_pod_is_never_refused_by_mutation(found: dict[str, Any]) -> None:
    assert mutate(body_of(found))["response"]["allowed"] is True
