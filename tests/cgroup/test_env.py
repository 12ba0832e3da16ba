"""`pylxcfs env`, of a container: asked from outside, and by a program in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.cgroups import RUNTIME_MOUNTS, hierarchies

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pylxcfs", "env", "--json"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def check(text: str) -> None:
    found = json.loads(text)
    assert found["GOMAXPROCS"] == "1"
    assert found["SLURM_MEM_PER_NODE"] == "300"
    assert found["GOMEMLIMIT"] == "270MiB"


@pytest.fixture
def container(make_container):
    return make_container(memory=300 * MIB, cpus=0.5)


def test_of_another_container(container):
    command = [*COMMAND, "--pid", str(container.pid)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, check=True)
    check(done.stdout)


def test_a_limit_above_the_memory_of_the_machine(make_container):
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    made = make_container(memory=2 * pages)
    command = [*COMMAND, "--pid", str(made.pid)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, check=True)
    assert json.loads(done.stdout)["SLURM_MEM_PER_NODE"] == str(pages // MIB)


def test_by_a_program_in_the_container(container):
    check(container.exec(COMMAND, env=ENV).stdout.decode())


def test_with_the_mounts_of_a_runtime(make_container):
    made = make_container(memory=300 * MIB, cpus=0.5, namespaces=["cgroup"])
    v1 = [",".join(one.controllers) for one in hierarchies() if one.controllers]
    command = ["unshare", "-m", "sh", "-ec", RUNTIME_MOUNTS, "sh", *COMMAND]
    check(made.exec(command, env={**ENV, "V1": " ".join(v1)}).stdout.decode())
