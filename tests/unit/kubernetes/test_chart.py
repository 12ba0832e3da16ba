"""What the chart says of files and variables is what the code has. Rendered: tests/kubernetes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pylxcfs import __version__
from pylxcfs.kubernetes.annotations import DEFAULT_FILES, PATHS
from pylxcfs.kubernetes.environment import VARIABLES
from pylxcfs.kubernetes.patch import VOLUMES, Settings

CHART = Path(__file__).parents[3] / "container/kubernetes/chart"
VALUES = (CHART / "values.yaml").read_text()


def test_the_schema_has_the_files_and_variables_of_the_code() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert schema["files"]["items"]["enum"] == list(PATHS)
    assert schema["env"]["items"]["enum"] == list(VARIABLES)
    volumes = schema["webhook"]["properties"]["volumes"]["enum"]
    assert volumes == ["auto", *VOLUMES]


def test_the_defaults_are_those_of_the_code() -> None:
    assert f"\nfiles: [{', '.join(DEFAULT_FILES)}]\n" in VALUES
    assert f"\nmountpoint: {Settings().mountpoint}\n" in VALUES
    assert "\nenv: []\n" in VALUES


def test_the_chart_is_that_of_this_version() -> None:
    text = (CHART / "Chart.yaml").read_text()
    assert re.search(r"^appVersion: (.*)$", text, re.MULTILINE)[1] == __version__
