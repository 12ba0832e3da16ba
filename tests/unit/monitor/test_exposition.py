"""What Prometheus reads, parsed by its own parser; and the files beside it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pylxcfs.kubernetes.webhook import Counts
from pylxcfs.monitor import exposition
from tests.unit.monitor.kit import container, state

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "container" / "monitoring"
PAGE = ROOT / "docs" / "metrics.md"


NRI = {"registered": True, "calls": {"CreateContainer": [4, 0.02]}, "slow": 1}
LISTING = [container(), container("\x1bx", pidns=12, id="d" * 500)]


def samples(*, by_container: bool = False, listing=LISTING, nri=NRI, **values) -> dict[str, float]:
    class Fixed:
        def collect(self):
            return exposition.metrics(state(**values), listing, nri, by_container=by_container)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fixed())
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_everything_is_there() -> None:
    found = samples()
    for name, value in {
        "pylxcfs_up{}": 1,
        "pylxcfs_state{state=serving}": 1,
        "pylxcfs_state{state=rescue}": 0,
        "pylxcfs_mount_alive{mount=own}": 1,
        "pylxcfs_server_restarts_total{}": 1,
        "pylxcfs_server_failures_total{}": 2,
        "pylxcfs_connection_aborts_total{}": 3,
        "pylxcfs_heals_total{}": 4,
        "pylxcfs_host_containers{}": 2,
        "pylxcfs_container_files{bound=dead}": 2,
        "pylxcfs_known_containers{}": 3,
        "pylxcfs_renderings_total{file=proc/meminfo}": 40,
        "pylxcfs_rendering_seconds_total{file=proc/meminfo}": 0.004,
        "pylxcfs_requests_total{mount=own,opcode=getattr}": 100,
        "pylxcfs_host_fallbacks_total{reason=unavailable}": 3,
        "pylxcfs_server_start_time_seconds{}": 1000,
        "pylxcfs_virtualisation{}": 1,
    }.items():
        assert found[name] == value, name
    assert not any("container=" in name for name in found)


def test_containers_have_labels_only_if_that_is_wanted() -> None:
    found = samples(by_container=True)
    name = "pylxcfs_container_renderings_total{container=web,id=abc,runtime=docker}"
    assert found[name] == 35
    [other] = [name for name in found if "container=?x" in name]
    assert len(other) < 400


def test_without_a_server_only_the_keeper_speaks() -> None:
    found = samples(counters=None, server=None)
    assert found["pylxcfs_up{}"] == 0
    assert found["pylxcfs_server_failures_total{}"] == 2
    assert not any("renderings" in name for name in found)


def of_webhook() -> dict[str, float]:
    counts = Counts()
    counts.admissions["mutate", "mutated", "label"] += 1
    with counts.time("mutate"):
        pass
    return parsed(counts.text(2000.0))


def all_names() -> set[str]:
    return {name.partition("{")[0] for name in samples(by_container=True) | of_webhook()}


def test_pods_are_counted_by_what_their_files_are_bound_to() -> None:
    def one(pod: str | None, *kinds: str) -> dict[str, object]:
        return container(pod=pod, files={f"/proc/{n}": kind for n, kind in enumerate(kinds)})

    listing = [
        one(None, "own"),
        one("a", "none"),  # the pause container
        one("a", "own", "caller", "none"),
        one("b", "caller", "none"),
        one("c", "none", "none"),
        one("d", "own"),
        one("d", "dead"),
        one("e", "lxcfs"),
        one("f", "none"),
    ]
    found = samples(listing=listing)
    counts = {kind: found[f"pylxcfs_pods{{bound={kind}}}"] for kind in ("own", "caller", "none")}
    assert counts == {"own": 1, "caller": 1, "none": 2}
    assert found["pylxcfs_pods{bound=dead}"] == found["pylxcfs_pods{bound=other}"] == 1


def test_without_a_plugin_nothing_is_said_of_it() -> None:
    assert samples()["pylxcfs_nri_answer_seconds_sum{method=CreateContainer}"] == 0.02
    assert samples()["pylxcfs_nri_slow_answers_total{}"] == 1
    assert not any("nri" in name for name in samples(nri=None))


def test_the_page_has_every_metric_and_no_other() -> None:
    # A summary has a row for both.
    names = {re.sub("_(sum|count)$", "", name) for name in all_names()}
    documented = set(re.findall(r"^\| `(pylxcfs_\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert documented == names


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_what_uses_metrics_uses_those_that_exist(name: str) -> None:
    names = all_names()
    text = (MONITORING / name).read_text()
    used = set(re.findall(r"\bpylxcfs_\w+", text))
    assert used
    assert used <= names
    if name.endswith(".json"):
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    "command", [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]]
)
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (package prometheus) is not installed")
    done = subprocess.run(
        [promtool, *command], cwd=MONITORING, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
