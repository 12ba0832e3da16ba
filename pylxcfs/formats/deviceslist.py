"""Parse devices.list of the v1 devices controller: what a cgroup's processes may do with devices.

Printed by devcgroup_seq_show (security/device_cgroup.c), a rule a line:

    c 1:3 rwm          kind (b, c), major:minor, of which each may be *, and what is allowed
    a *:* rwm          everything; then the kernel lists no exception, not even what is denied

A device may be opened for reading if one of the rules has an r, and for writing with a w. m allows
mknod(2) alone. v2 has no such file, but a BPF program (bpf.py).
"""

from __future__ import annotations

from typing import NamedTuple

from pylxcfs.errors import FormatError


class Rule(NamedTuple):
    """What one line allows; None: every number."""

    is_block: bool
    major: int | None
    minor: int | None
    #: "rwm", or some of these letters.
    access: str


def parse(data: bytes) -> tuple[Rule, ...] | None:
    """Return the rules; None where everything is allowed."""
    rules = []
    for line in data.splitlines():
        try:
            kind, numbers, access = line.decode().split(" ")
            major, minor = [None if word == "*" else int(word) for word in numbers.split(":")]
        except ValueError:
            raise FormatError("devices.list", line) from None
        if kind == "a":
            return None
        if kind not in ("b", "c") or not set(access) <= set("rwm"):
            raise FormatError("devices.list", line)
        rules.append(Rule(kind == "b", major, minor, access))
    return tuple(rules)
