"""The OpenAPI document, and answers against it."""

from __future__ import annotations

import json
import os
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from pylxcfs import resources
from pylxcfs.resources.protocol import _ASKED, _OTHERS
from pylxcfs.resources.query import Query
from tests.kit.asking import DOCUMENT, check, response_of
from tests.unit.resources.conftest import v1_cgroup, v2_cgroup


def test_the_document_is_openapi():
    openapi_spec_validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_it_has_every_target():
    paths = {path.replace("{pid}", "1") for path in DOCUMENT["paths"]}
    others = {path for path in paths if not _ASKED.fullmatch(path)}
    assert others == set(_OTHERS)
    assert len(paths - others) == 4  # of the client or another process, its resources or devices


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


def test_a_status_that_is_not_described_is_an_error():
    response_of("/v1/processes/12", 404)
    for target, status in (("/v1/self", 418), ("/v1/self/devices", 429), ("/v1/none", 200)):
        with pytest.raises(AssertionError):
            response_of(target, status)
