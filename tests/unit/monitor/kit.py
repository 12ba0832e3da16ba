"""A state and a listing, as instance.gather and containers.listing return them."""

from __future__ import annotations

from typing import Any

MIB = 1 << 20


def counters(**values: Any) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "pid": 12,
        "began_s": 1000.0,
        "virtual": True,
        "requests": {"own": {"getattr": 100, "read": 25}, "caller": {"read": 7}},
        "files": {"proc/meminfo": [40, 4_000_000], "sys/devices/system": [2, 1000]},
        "fallbacks": {"error": 0, "unavailable": 3, "timeout": 0, "unknown": 1},
        "containers": [[11, 0, 30], [11, 99, 5], [12, 0, 7]],
    } | values


def state(**values: Any) -> dict[str, Any]:
    return {
        "state": "serving",
        "text": "",
        "mountpoint": "/m",
        "runtime_dir": "/r",
        "since": 1000,
        "version": "0.1.0",
        "keeper": {"pid": 1, "version": "0.1.0", "resources": None},
        "server": {
            "pid": 12,
            "version": "0.1.0",
            "age_s": 9.0,
            "cpu_s": 1.0,
            "rss_bytes": 32 * MIB,
            "open_files": 30,
        },
        "mounts": [
            {"kind": "own", "mountpoint": "/m", "device": "0:50", "alive": True},
            {"kind": "caller", "mountpoint": "/r/caller", "device": "0:51", "alive": True},
        ],
        "counts": {"restarts": 1, "failures": 2, "aborts": 3, "heals": 4},
        "counters": counters(),
    } | values


def container(name: str = "web", **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "runtime": "docker",
        "id": "abc",
        "pod": None,
        "pid": 100,
        "pidns": 11,
        "age_s": 5.0,
        "memory_limit_bytes": 100 * MIB,
        "memory_usage_bytes": 50 * MIB,
        "cpus": 1.5,
        "cpu_s": 10.0,
        "files": {"/proc/meminfo": "own", "/proc/stat": "dead", "/proc/swaps": "none"},
    } | values
