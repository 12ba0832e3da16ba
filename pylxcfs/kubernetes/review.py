"""AdmissionReview of admission.k8s.io/v1: from the body of a request to that of an answer.

Pure. A body that is no review for a pod raises BadReview, which becomes status 400: the API
server then does what failurePolicy says. `mutate` never refuses a pod; `validate` refuses what
`mutate` would have warned of.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

from pylxcfs.errors import PylxcfsError
from pylxcfs.kubernetes import patch
from pylxcfs.kubernetes.patch import Json, NotAPod, Settings

#: An object of etcd has 1.5 MiB by default, and an update brings two.
MOST_BODY: Final = 8 << 20

_VERSION: Final = "admission.k8s.io/v1"


class BadReview(PylxcfsError):
    """The body is not an AdmissionReview for a pod."""


class Answer(NamedTuple):
    """The body of an answer, with what metrics and the log say of it."""

    body: bytes
    outcome: str
    reason: str


class _Request(NamedTuple):
    uid: str
    pod: Json
    old: Json | None
    operation: str
    ephemeral: bool


def mutate(body: bytes, settings: Settings, *, by_default: bool) -> Answer:
    """Return the answer with a patch. Raise BadReview."""
    request = _parse(body)
    if request.operation != "CREATE" and not request.ephemeral:
        # Of a pod that exists, volumes and containers cannot be changed.
        return _answer(request, {"allowed": True}, "left", "not created")
    if request.ephemeral and request.pod.get("kind") == "EphemeralContainers":
        # Kubernetes before 1.22 sends them without their pod.
        return _answer(request, {"allowed": True}, "left", "no pod")
    try:
        decision = patch.decide(
            request.pod,
            settings,
            by_default=by_default,
            old=request.old,
            ephemeral=request.ephemeral,
        )
    except NotAPod as error:
        raise BadReview(f"not a pod: {error}") from error
    response: dict[str, Any] = {"allowed": True}
    if decision.patch:
        text = json.dumps(decision.patch, separators=(",", ":"))
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(text.encode()).decode()
    if decision.warnings:
        response["warnings"] = decision.warnings
    return _answer(request, response, decision.outcome, decision.reason)


def validate(body: bytes) -> Answer:
    """Return whether the annotations of a pod have allowed values. Raise BadReview."""
    request = _parse(body)
    try:
        wrong = patch.mistakes(request.pod)
        # An update is about something else: the annotations that were there are not its fault.
        if request.operation != "CREATE" and wrong == patch.mistakes(request.old or {}):
            wrong = ()
    except NotAPod as error:
        raise BadReview(f"not a pod: {error}") from error
    if not wrong:
        return _answer(request, {"allowed": True}, "allowed", "")
    status = {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": "pylxcfs: " + "; ".join(wrong),
    }
    return _answer(request, {"allowed": False, "status": status}, "denied", "invalid")


def _answer(request: _Request, response: dict[str, Any], outcome: str, reason: str) -> Answer:
    review = {
        "apiVersion": _VERSION,
        "kind": "AdmissionReview",
        "response": {"uid": request.uid, **response},
    }
    return Answer(json.dumps(review, separators=(",", ":")).encode(), outcome, reason)


def _parse(body: bytes) -> _Request:
    if len(body) > MOST_BODY:
        raise BadReview(f"the body has more than {MOST_BODY} bytes")
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadReview("the body is not JSON") from error
    match review:
        case {"apiVersion": str() as version, "kind": "AdmissionReview"} if version == _VERSION:
            pass
        case {"apiVersion": version, "kind": kind}:
            raise BadReview(
                f"this is {kind!r:.60} of {version!r:.60}, not AdmissionReview of {_VERSION}"
            )
        case _:
            raise BadReview("the body is not an AdmissionReview")
    match review.get("request"):
        case {"uid": str() as uid, "object": dict() as pod, **rest} if uid:
            pass
        case {"uid": str() as uid} if uid:
            raise BadReview("the request has no object")
        case _:
            raise BadReview("the request has no uid")
    match rest.get("resource"):
        case {"group": "", "resource": "pods"}:
            pass
        case _:
            raise BadReview("the request is not for a pod")
    subresource = rest.get("subResource") or ""
    if subresource not in ("", "ephemeralcontainers"):
        raise BadReview(f"the request is for {subresource!r:.60} of a pod")
    old = rest.get("oldObject")
    operation = rest.get("operation")
    return _Request(
        uid,
        pod,
        old if isinstance(old, dict) else None,
        operation if isinstance(operation, str) else "",
        subresource == "ephemeralcontainers",
    )
