"""What variables say of limits."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.kubernetes.environment import (
    VARIABLES,
    Limits,
    gpus_here,
    limits_of,
    quantity,
    shell,
    values,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        (2, 2),
        (0.5, Decimal("0.5")),
        ("500m", Decimal("0.5")),
        ("129e6", 129_000_000),
        ("129M", 129_000_000),
        ("123Mi", 123 << 20),
        ("1E", 10**18),
        ("1E3", 1000),
        ("2Gi", 2 << 30),
        ("+1.5Ki", 1536),
        (".5", Decimal("0.5")),
        ("100u", Decimal("0.0001")),
        ("x", None),
        ("", None),
        ("-1", None),
        ("1Xi", None),
        (True, None),
        (None, None),
        ({}, None),
    ],
)
def test_quantities(text: object, number: object) -> None:
    assert quantity(text) == number


@given(st.one_of(st.text(), st.floats(), st.integers(), st.from_regex(r"[0-9.eEimKG+-]{1,9}")))
def test_no_quantity_raises(text: object) -> None:
    found = quantity(text)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, Limits()),
        ({"cpu": "250m"}, Limits(cpus=1)),
        ({"cpu": "2500m", "memory": "1Gi"}, Limits(3, 1 << 30)),
        ({"cpu": "0", "memory": "0"}, Limits()),
        ({"nvidia.com/gpu": "2"}, Limits(gpus=2)),
        ({"nvidia.com/a100": 1, "nvidia.com/mig-1g.5gb": "3"}, Limits(gpus=4)),
        ({"amd.com/gpu": "1"}, Limits(gpus=1)),
        ({"nvidia.com/gpumem": "4000", "nvidia.com/gpu": "1"}, Limits(gpus=1)),
        ({"rdma/hca": "1", "nvidia.com/rdma_x": "1", "ephemeral-storage": "1Gi"}, Limits()),
    ],
)
def test_limits_of_a_container(resources: dict[str, object], limits: Limits) -> None:
    assert limits_of(resources) == limits


def test_a_variable_without_its_limit_is_left_out() -> None:
    assert values(Limits(), VARIABLES) == {}
    assert set(values(Limits(memory_bytes=1 << 30), VARIABLES)) == {
        "SLURM_MEM_PER_NODE",
        "GOMEMLIMIT",
    }


@given(st.integers(1, 4096), st.integers(1, 1 << 50), st.integers(0, 64))
def test_every_variable_has_a_value_for_all_limits(cpus: int, memory: int, gpus: int) -> None:
    found = values(Limits(cpus, memory, gpus), VARIABLES)
    assert list(found) == list(VARIABLES)
    assert 1 <= int(found["UV_THREADPOOL_SIZE"]) <= 1024
    assert int(found["GOMEMLIMIT"].removesuffix("MiB")) << 20 <= max(memory, 1 << 20)


def test_devices_of_this_process(tmp_path: Path) -> None:
    assert gpus_here(str(tmp_path)) is None
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus_here(str(tmp_path)) == 2


def test_lines_for_a_shell_are_quoted() -> None:
    assert shell({"A": "1", "B": "-x y"}) == "export A=1\nexport B='-x y'"
