"""`doctor`: everything that is tested on this host, and how it is shown.

The tests are in monitor/findings.py.
"""

from __future__ import annotations

import os
from typing import Any

from pylxcfs.cli import launch
from pylxcfs.cli.options import Config
from pylxcfs.cli.status import place_of
from pylxcfs.monitor import bindings, containers, findings, instance, kernel, parts
from pylxcfs.monitor.findings import Finding

_MARKS = {findings.FINE: "ok", findings.WARNING: "warning", findings.ERROR: "error"}


def examine(config: Config) -> dict[str, Any]:
    """Return all findings, as --json prints them."""
    place = place_of(config)
    state = instance.gather(place)
    keeper = state["keeper"]["pid"] if state["keeper"] else None
    server = state["server"]["pid"] if state["server"] else None
    listing = None
    if os.geteuid() == 0:
        listing = containers.listing(bindings.devices(state["mounts"]))
    try:
        own = launch.own_namespaces(keeper)
    except OSError:  # of another user
        own = launch.own_namespaces()
    needed = {"h11"} if config.resources else set()
    if config.metrics_listen:
        needed.add("prometheus_client")
    found: list[Finding] = [
        *findings.of_instance(state),
        *findings.of_parts(parts.gather(place, state)),
        *findings.of_kernel(kernel.fuse()),
        *findings.of_cgroups(),
        *findings.of_lsms(),
        findings.of_namespaces(own, "the instance" if keeper else "this process"),
        *findings.of_runtimes(),
        findings.of_descriptors(server),
        *findings.of_packages(needed),
        *findings.of_containers(listing),
        *findings.of_others(keeper),
    ]
    return {
        "severity": findings.SEVERITIES[findings.worst(found)],
        "findings": [one._asdict() for one in found],
    }


def exit_code(found: dict[str, Any]) -> int:
    """Return 0 for fine, 1 with warnings, 2 with errors."""
    return findings.SEVERITIES.index(found["severity"])


def render(found: dict[str, Any]) -> str:
    """Return the findings as text for people."""
    lines = []
    for one in found["findings"]:
        lines.append(f"{_MARKS[one['severity']]:<8} {one['subject']}: {one['text']}")
        if one["hint"]:
            lines.append(f"{'':<8}   -> {one['hint']}")
    return "\n".join(lines)
