"""Where each value comes from: what has decided about it, on made-up machines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from pylxcfs import resources
from pylxcfs.formats import meminfo
from pylxcfs.resources.advice import threads
from pylxcfs.resources.model import size_name
from pylxcfs.resources.query import Query
from pylxcfs.views.model import CpuView, Options
from tests.unit.resources.conftest import LARGE, MIB, SMALL, made_up, v1_cgroup, v2_cgroup
from tests.unit.resources.test_query import ask, levels
from tests.unit.sources.trees import Tree

#: Values without a source, as docs/resources.md lists them.
WITHOUT = ("scope", "advice.*", "huge_pages.SIZE.size_bytes")
DOCS = (Path(__file__).parents[3] / "docs/resources.md").read_text()


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a document, by its name."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, f"{name}.{key}".lstrip("."))
    elif name == "huge_pages":
        for one in value:
            yield from leaves(one, f"huge_pages.{size_name(one['size_bytes'])}")
    else:
        yield name, value


def without_source(found: resources.Resources) -> set[str]:
    """Return the names of known values that neither have a source nor are in a part with one."""
    document = found.document()
    sources = document.pop("sources")
    missing = set()
    for name, value in leaves(document):
        parts = name.split(".")
        prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        if value is not None and prefixes.isdisjoint(sources):
            if parts[0] == "huge_pages":
                parts[1] = "SIZE"
            missing.add("advice.*" if parts[0] == "advice" else ".".join(parts))
    return missing


def test_every_value_has_a_source(v2, v1_machine):
    assert without_source(resources.of()) <= set(WITHOUT)
    for make, tree in ((v2_cgroup, v2), (v1_cgroup, v1_machine)):
        make(tree, "a")
        make(tree, "a/b", pids="9")
        assert without_source(ask(tree)) <= set(WITHOUT)
        make(tree, "a/c", cpus="1")
        tree.write(
            "proc/self/cgroup",
            (tree.root / "proc/self/cgroup").read_text().replace("a/b", "a/c"),
        )
        assert ask(tree).scope == "container"
        assert without_source(ask(tree)) <= set(WITHOUT)


@pytest.fixture
def v1_machine(tmp_path: Path) -> Tree:
    tree = made_up(tmp_path / "v1", SMALL)
    for name in ("memory", "cpu", "pids", "cpuset"):
        tree.v1(name)
    tree.write("proc/self/cgroup", "4:memory:/a/b\n3:cpu:/a/b\n2:pids:/a/b\n1:cpuset:/a/b\n")
    return tree


def test_the_docs_list_values_without_a_source_and_all_names(v2):
    for name in WITHOUT:
        assert f"`{name}`" in DOCS
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b", cpus="1")
    names = {*resources.of().sources, *ask(v2).sources}
    for name in names:
        part, _, field = name.partition(".")
        written = {f"`{name}`", f"`{part}.*`", f"`{part}.RESOURCE`"}
        if part == "huge_pages":
            written = {f"`huge_pages.SIZE.{field.partition('.')[2]}`"}
        assert any(one in DOCS for one in written), name


def sources(tree: Tree, options: Options | None = None) -> dict[str, tuple[str, int | None]]:
    return {name: one[:2] for name, one in ask(tree, options).sources.items()}


def test_memory_of_the_level_that_leaves_the_least(v2):
    v2_cgroup(v2, "a", memory=str(300 * MIB), usage=290 * MIB, pids="4")
    v2_cgroup(v2, "a/b", memory=str(200 * MIB), usage=50 * MIB, pids="100")
    v2.write("sys/fs/cgroup/a/pids.current", "4\n")
    found = sources(v2)
    assert found["memory.total_bytes"] == ("memory.max", 0)
    assert found["memory.free_bytes"] == ("memory.current", 1)
    assert found["memory.available_bytes"] == ("memory.stat", 0)
    assert found["processes.limit"] == ("pids.max", 1)
    assert found["processes.left"] == ("pids.current", 1)
    v2_cgroup(v2, "a", memory=str(300 * MIB), pids="100")
    found = sources(v2)
    assert found["memory.free_bytes"] == ("memory.current", 0)
    assert found["processes.left"] == ("pids.current", 0)


def _with_swap(tree: Tree) -> None:
    text = (tree.root / "proc/meminfo").read_bytes()
    for name in (b"SwapTotal", b"SwapFree"):
        old = next(line for line in text.splitlines() if line.startswith(name))
        text = text.replace(old, b"%b: %d kB" % (name, 1 << 20))
    assert meminfo.parse(text).number(b"SwapTotal") == 1 << 30
    tree.write("proc/meminfo", text.decode())


def test_swap_under_a_limit(v2):
    _with_swap(v2)
    v2_cgroup(v2, "a", swap=str(10 * MIB))
    v2_cgroup(v2, "a/b", memory=str(100 * MIB), swap=str(20 * MIB))
    found = sources(v2)
    assert found["swap.limit_bytes"] == found["swap.total_bytes"] == ("memory.swap.max", 1)
    assert found["swap.usage_bytes"] == ("memory.swap.current", 0)
    # All levels leave the same; the lowest counts.
    assert found["swap.free_bytes"] == ("memory.swap.current", 0)
    v2.write("sys/fs/cgroup/a/memory.swap.current", f"{5 * MIB}\n")
    assert sources(v2)["swap.free_bytes"] == ("memory.swap.current", 1)
    assert sources(v2, Options(swap=False))["swap.total_bytes"][0].startswith("swap is not")
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b", memory=str(100 * MIB))
    assert sources(v2)["swap.total_bytes"] == ("/proc/meminfo", None)


def test_a_machine_without_swap(v2):
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b", swap=str(20 * MIB))
    found = sources(v2)
    assert found["swap.total_bytes"] == found["swap.free_bytes"] == ("/proc/meminfo", None)


def test_visible_cpus(tmp_path):
    tree = made_up(tmp_path, LARGE)
    tree.v2("cpuset cpu memory pids hugetlb")
    tree.write("proc/self/cgroup", "0::/a\n")
    online = ("/sys/devices/system/cpu/online", None)
    cpuset, quota = ("cpuset.cpus.effective", 0), ("cpu.max", 0)
    by_cpuset = Options(cpu_view=CpuView.CPUSET)
    for cpus, cpu, options, source in (
        ("0-7", "max 100000", Options(), online),
        ("0-3", "max 100000", Options(), cpuset),
        ("0-3", "200000 100000", Options(), quota),
        ("0-3", "900000 100000", Options(), cpuset),
        ("0-7", "900000 100000", Options(), online),
        ("0-7", "100000 100000", by_cpuset, online),
        ("0-3", "100000 100000", by_cpuset, cpuset),
    ):
        v2_cgroup(tree, "a", cpus=cpus, cpu=cpu)
        assert sources(tree, options)["cpu.visible"] == source
        assert sources(tree)["cpu.requested"] == ("cpu.weight", 0)
    # The quota is 1 CPU, and does not decide.
    found = ask(tree, by_cpuset)._replace(cpu=ask(tree, by_cpuset).cpu._replace(affinity=None))
    assert threads(found) == (4, "the cpuset has 4 CPUs")


def test_a_limited_process_of_the_host_has_the_load_of_its_file(v2):
    """From the first question on, as nothing counts its threads."""
    v2_cgroup(v2, "a")
    v2_cgroup(v2, "a/b", memory=str(100 * MIB))
    with contextlib.closing(Query(root=str(v2.root), sample=True)) as query:
        first, second = query.of(), query.of(os.getpid())
    assert first.scope == "container"
    assert first.load == second.load
    assert first.load.averages is not None
    assert first.sources["load"].file == "/proc/loadavg"


@settings(max_examples=30)
@given(own=levels(), parent=levels())
def test_every_value_of_any_limits_has_a_source(tmp_path_factory, own, parent):
    tree = made_up(tmp_path_factory.mktemp("tree") / "root", LARGE)
    _with_swap(tree)
    tree.v2("cpuset cpu memory pids hugetlb")
    tree.write("proc/self/cgroup", "0::/a/b\n")
    v2_cgroup(tree, "a", **parent)
    v2_cgroup(tree, "a/b", **own)
    assert without_source(ask(tree)) <= set(WITHOUT)
