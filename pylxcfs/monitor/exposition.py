"""What Prometheus reads: an instance as metrics. Names, labels and units: docs/metrics.md.

Each scrape asks the server for its counters, and looks at the mounts of all containers. Counters
begin at 0 with each server (and with each keeper: restarts, failures, aborts, heals), as Prometheus
expects. Without an answer of a server only what the keeper says is there, and pylxcfs_up is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from pylxcfs.keeper import report
from pylxcfs.kubernetes import latency
from pylxcfs.monitor import bindings, containers, instance
from pylxcfs.monitor.instance import Place
from pylxcfs.units import NS_PER_S

_STATES = (report.STARTING, report.SERVING, report.FAILING, report.RESCUE, report.STOPPING)

_COUNTS = {
    report.RESTARTS: ("pylxcfs_server_restarts", "Servers that were started after the first one."),
    report.FAILURES: ("pylxcfs_server_failures", "Servers that failed."),
    report.ABORTS: ("pylxcfs_connection_aborts", "Connections that ended and were mounted again."),
    report.HEALS: ("pylxcfs_heals", "Starts of the process that replaces dead files."),
}

#: The first that one file of a pod has is that of the pod.
_TELLING = (bindings.DEAD, bindings.OWN, bindings.CALLER)


def application(place: Place, *, by_container: bool) -> Any:  # noqa: ANN401  WSGI's
    """Return the WSGI application that answers a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Instance(place, by_container=by_container))
    return make_wsgi_app(registry)


class Instance(Collector):
    """The metrics of one instance."""

    def __init__(self, place: Place, *, by_container: bool) -> None:
        self._place = place
        self._by_container = by_container

    def describe(self) -> list[Metric]:
        """Return nothing: registration needs no reading."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read the instance, and return its metrics."""
        state = instance.gather(self._place)
        listing = containers.listing(bindings.devices(state["mounts"]))
        nri = instance.ask(self._place.runtime_dir, latency.SOCKET)
        return metrics(state, listing, nri, by_container=self._by_container)


def metrics(
    state: dict[str, Any],
    listing: list[dict[str, Any]],
    nri: dict[str, Any] | None,
    *,
    by_container: bool,
) -> Iterator[Metric]:
    """Return the metrics of what instance.gather and containers.listing have returned.

    `nri`: the counts of the plugin (kubernetes/latency.py), None where none runs.
    """
    yield from _of_keeper(state)
    yield from _of_files(listing)
    yield from _of_pods(listing)
    if nri is not None:
        yield from _of_nri(nri)
    counters = state["counters"]
    if counters is None:
        return
    yield from _of_process(state["server"], counters)
    yield from _of_server(counters)
    if by_container:
        yield from _of_containers(counters, listing)


def _of_keeper(state: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pylxcfs_up", "1 if a server answers.", value=int(state["counters"] is not None)
    )
    states = GaugeMetricFamily(
        "pylxcfs_state", "1 for the state that the keeper is in.", labels=["state"]
    )
    for name in _STATES:
        states.add_metric([name], int(state["state"] == name))
    yield states
    mounts = GaugeMetricFamily(
        "pylxcfs_mount_alive", "1 if the mount is there and served.", labels=["mount"]
    )
    for mount in state["mounts"]:
        mounts.add_metric([mount["kind"]], int(mount["alive"] is True))
    yield mounts
    build = GaugeMetricFamily(
        "pylxcfs_build_info", "Versions that run.", labels=["part", "version"]
    )
    for part in ("keeper", "server"):
        if state[part] and state[part].get("version"):
            build.add_metric([part, state[part]["version"]], 1)
    yield build
    for name, (metric, text) in _COUNTS.items():
        if name in state["counts"]:
            yield CounterMetricFamily(metric, text, value=state["counts"][name])


def _of_files(listing: list[dict[str, Any]]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pylxcfs_host_containers", "Containers that run on this host.", value=len(listing)
    )
    counts = Counter(kind for one in listing for kind in one["files"].values())
    files = GaugeMetricFamily(
        "pylxcfs_container_files",
        "Files in all containers, by what they are bound to.",
        labels=["bound"],
    )
    for kind in bindings.KINDS:
        files.add_metric([kind], counts[kind])
    yield files


def _of_pods(listing: list[dict[str, Any]]) -> Iterator[Metric]:
    """Count pods. The pause container has no files, so one container speaks for its pod."""
    found: dict[str, set[str]] = {}
    for one in listing:
        if one["pod"] is not None:
            found.setdefault(one["pod"], set()).update(one["files"].values())
    pods = GaugeMetricFamily(
        "pylxcfs_pods", "Pods on this node, by what their files are bound to.", labels=["bound"]
    )
    counts = Counter(map(_of_pod, found.values()))
    for kind in (*_TELLING, bindings.OTHER, bindings.NONE):
        pods.add_metric([kind], counts[kind])
    yield pods


def _of_pod(kinds: set[str]) -> str:
    for kind in _TELLING:
        if kind in kinds:
            return kind
    return bindings.OTHER if kinds - {bindings.NONE} else bindings.NONE


def _of_nri(nri: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pylxcfs_nri_registered",
        "1 if the runtime has the plugin.",
        value=int(nri["registered"]),
    )
    times = SummaryMetricFamily(
        "pylxcfs_nri_answer_seconds", "Time to answer the runtime.", labels=["method"]
    )
    for method, (count, spent_s) in nri["calls"].items():
        times.add_metric([method], count, spent_s)
    yield times
    yield CounterMetricFamily(
        "pylxcfs_nri_slow_answers",
        "Answers after 100 ms; the runtime waits 2 s.",
        value=nri["slow"],
    )


def _of_process(server: dict[str, Any] | None, counters: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pylxcfs_server_start_time_seconds",
        "When the server began, since the epoch.",
        value=counters["began_s"],
    )
    if server is None:
        return
    yield CounterMetricFamily(
        "pylxcfs_server_cpu_seconds", "CPU time of the server.", value=server["cpu_s"]
    )
    yield GaugeMetricFamily(
        "pylxcfs_server_resident_memory_bytes",
        "Resident memory of the server.",
        value=server["rss_bytes"],
    )
    if server["open_files"] is not None:
        yield GaugeMetricFamily(
            "pylxcfs_server_open_fds", "Open files of the server.", value=server["open_files"]
        )


def _of_server(counters: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pylxcfs_virtualisation",
        "0 while SIGUSR2 shows the host's values to all.",
        value=int(counters["virtual"]),
    )
    yield GaugeMetricFamily(
        "pylxcfs_known_containers",
        "Containers that the server has in memory.",
        value=len(counters["containers"]),
    )
    renderings = CounterMetricFamily("pylxcfs_renderings", "Texts that were made.", labels=["file"])
    seconds = CounterMetricFamily(
        "pylxcfs_rendering_seconds", "Time in which they were made.", labels=["file"]
    )
    for name, (count, spent_ns) in counters["files"].items():
        renderings.add_metric([name], count)
        seconds.add_metric([name], spent_ns / NS_PER_S)
    yield renderings
    yield seconds
    requests = CounterMetricFamily(
        "pylxcfs_requests", "Requests of the kernel.", labels=["mount", "opcode"]
    )
    for mount, counts in counters["requests"].items():
        for opcode, count in counts.items():
            requests.add_metric([mount, opcode], count)
    yield requests
    fallbacks = CounterMetricFamily(
        "pylxcfs_host_fallbacks",
        "Times that the host's file was shown in place of a container's.",
        labels=["reason"],
    )
    for reason, count in counters["fallbacks"].items():
        fallbacks.add_metric([reason], count)
    yield fallbacks


def _of_containers(counters: dict[str, Any], listing: list[dict[str, Any]]) -> Iterator[Metric]:
    names = {one["pidns"]: one for one in listing}
    sums: Counter[tuple[str, str, str]] = Counter()
    for pidns, _, count in counters["containers"]:
        one = names.get(pidns)
        if one is not None:
            name = containers.printable(one["name"])
            sums[one["runtime"] or "", name, containers.printable(one["id"])] += count
    found = CounterMetricFamily(
        "pylxcfs_container_renderings",
        "Texts that were made for a container.",
        labels=["runtime", "container", "id"],
    )
    for labels, count in sums.items():
        found.add_metric(list(labels), count)
    yield found
