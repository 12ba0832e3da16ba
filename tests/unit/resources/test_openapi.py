"""The OpenAPI document, and answers against it."""

from __future__ import annotations

import json
import os
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from pylxcfs import resources
from pylxcfs.resources import openapi
from pylxcfs.resources.protocol import _PROCESS, _TARGETS
from pylxcfs.resources.query import Query
from tests.unit.resources.conftest import v1_cgroup, v2_cgroup

DOCUMENT = json.loads(openapi.ANSWER.body)


def check(value: Any, schema: str) -> None:
    """Fail if the value is not as the document says."""
    whole = {**DOCUMENT["components"]["schemas"][schema], "components": DOCUMENT["components"]}
    validator = jsonschema.Draft202012Validator(_closed(whole))
    validator.validate(json.loads(json.dumps(value)))


def _closed(schema: Any) -> Any:
    """Return a schema by which a field that is not described is an error."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**{name: _closed(value) for name, value in schema.items()}, **closed}


def check_event(value: dict[str, Any]) -> list[str]:
    """Fail if an event is not as the document says; return what it says has changed."""
    _, event = DOCUMENT["components"]["schemas"]["Event"]["allOf"]
    rest = {name: one for name, one in value.items() if name not in event["properties"]}
    jsonschema.Draft202012Validator(event).validate(value)
    check(rest, "Resources")
    return value["changed"]


def test_the_document_is_openapi():
    openapi_spec_validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_it_has_every_target():
    paths = {path.replace("{pid}", "1") for path in DOCUMENT["paths"]}
    assert {path for path in paths if not _PROCESS.fullmatch(path)} == set(_TARGETS)
    assert any(map(_PROCESS.fullmatch, paths))


def test_every_field_is_described():
    def undescribed(schema: dict[str, Any], name: str) -> list[str]:
        missing = [] if "description" in schema or "$ref" in schema or name == "" else [name]
        for key, one in schema.get("properties", {}).items():
            missing += undescribed(one, f"{name}.{key}")
        return missing

    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert undescribed(schema, "") == [], name


def test_of_this_process():
    check(resources.of().document(), "Resources")
    check(resources.of().document(with_paths=False), "Resources")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_of_made_up_machines(version, request):
    tree = request.getfixturevalue(version)
    make = v1_cgroup if version == "v1" else v2_cgroup
    make(tree, "a")
    make(tree, "a/b", **({"quota": 50000} if version == "v1" else {"cpu": "50000 100000"}))
    query = Query(root=str(tree.root))
    found = query.of(os.getpid())
    query.close()
    check(found.document(), "Resources")
    inside = found.document(with_paths=False)
    check(inside, "Resources")
    assert str(tree.root) not in json.dumps(inside)


def test_an_unknown_field_is_an_error():
    with pytest.raises(jsonschema.ValidationError):
        check({**resources.of().document(), "more": 1}, "Resources")
