"""Seccomp profiles in which two calls are notified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pylxcfs.attach.runtime import NOTIFIED as NAMES
from pylxcfs.attach.runtime import NotPatched, notified, patch

BASE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read", "sysinfo", "sched_getaffinity"], "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["sysinfo"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}


def test_the_two_calls_move_to_a_rule_of_their_own() -> None:
    made = notified(BASE, "/run/x.sock")
    assert made["listenerPath"] == "/run/x.sock"
    assert made["syscalls"] == [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": []},
        BASE["syscalls"][2],
        {"names": list(NAMES), "action": "SCMP_ACT_NOTIFY"},
    ]
    assert {key: made[key] for key in ("defaultAction", "archMap")} == {
        key: BASE[key] for key in ("defaultAction", "archMap")
    }
    assert notified(made, "/run/x.sock") == made


@pytest.mark.parametrize("profile", [{}, {"syscalls": []}, {**BASE, "syscalls": [{"x": 1}]}])
def test_what_is_no_profile_is_refused(profile: dict) -> None:
    with pytest.raises(NotPatched):
        notified(profile, "/run/x.sock")


def test_the_profile_of_the_distribution() -> None:
    path = Path("/usr/share/containers/seccomp.json")
    if not path.exists():
        pytest.skip("containers-common is not installed")
    base = json.loads(path.read_text())
    made = notified(base, "/run/x.sock")
    allowed = {name for rule in base["syscalls"] for name in rule["names"]}
    assert {name for rule in made["syscalls"] for name in rule["names"]} == allowed | set(NAMES)


FILTER = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["sysinfo", "x"], "action": "A"}],
}


@pytest.mark.parametrize(
    "text",
    [
        f'{{"linux": {{"seccomp": {json.dumps(FILTER)} , "x":  1}}, "a": [ 1 ]}}',
        '{"linux": {"x":  1}, "a": [ 1 ]}',
        '{"linux": {"seccomp": null, "x":  1}, "a": [ 1 ]}',
    ],
)
def test_a_bundle_gets_a_filter_and_keeps_the_rest_to_the_byte(text: str) -> None:
    made = patch(text, socket="/run/x.sock")
    found = json.loads(made)["linux"]["seccomp"]
    assert found["listenerPath"] == "/run/x.sock"
    assert found["syscalls"][-1]["names"] == list(NAMES)
    assert '"x":  1' in made
    assert made.endswith(', "a": [ 1 ]}')
    assert patch(made, socket="/run/x.sock") == made


def test_a_bundle_without_linux_is_refused() -> None:
    with pytest.raises(NotPatched):
        patch("{}", socket="/run/x.sock")
