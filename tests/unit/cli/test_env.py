"""`pylxcfs env`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from pylxcfs.cli.commands import cli
from pylxcfs.errors import UserError
from pylxcfs.kubernetes.environment import VARIABLES
from tests.unit.kubernetes.pods import RECORDED, pod


def run(*words: str) -> str:
    return CliRunner().invoke(cli, ["env", *words], catch_exceptions=False).output


def test_limits_as_words() -> None:
    found = json.loads(run("--limits", "cpu=2,memory=4Gi,nvidia.com/gpu=1", "--json"))
    assert list(found) == list(VARIABLES)
    assert found["SLURM_MEM_PER_NODE"] == "4096"
    assert run("--limits", "cpu=2500m", "--only", "GOMAXPROCS") == "export GOMAXPROCS=3\n"


def test_limits_of_a_pod(tmp_path: Path) -> None:
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(RECORDED))
    assert "export GOMAXPROCS=2\n" in run("--pod", str(path))
    assert run("--pod", str(path), "--container", "prepare").strip() == ""
    path.write_text(json.dumps(pod(resources={"limits": {"cpu": "3"}})))
    assert "export GOMAXPROCS=3\n" in run("--pod", str(path), "--container", "prepare")
    asking = pod(resources={"requests": {"cpu": "5"}})
    asking["metadata"]["annotations"] = {"pylxcfs.io/requests": "true"}
    path.write_text(json.dumps(asking))
    assert "export GOMAXPROCS=5\n" in run("--pod", str(path), "--container", "prepare")
    assert "export GOMAXPROCS=2\n" in run("--pod", str(path), "--container", "app")


def test_limits_of_this_process() -> None:
    assert int(json.loads(run("--json"))["GOMAXPROCS"]) >= 1


def test_the_affinity_of_a_process_counts() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert json.loads(run("--json"))["GOMAXPROCS"] == "1"
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    "words",
    [
        ["--limits", "cpu=x"],
        ["--limits", "cpu"],
        ["--only", "PATH"],
        ["--pod", "/nonexistent"],
        ["--pod", __file__],
        ["--pid", "1", "--limits", "cpu=1"],
        ["--container", "app"],
    ],
)
def test_what_is_wrong_is_named(words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        run(*words)
    assert error.value.hint


@pytest.mark.parametrize("text", ["[]", "{}", '{"spec": {"containers": [1]}}', '"x"'])
def test_no_pod(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pod.json"
    path.write_text(text)
    with pytest.raises(UserError):
        run("--pod", str(path))
