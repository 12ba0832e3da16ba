"""Rules for devices, in numbers that no runtime writes. Those of the kernel: tests/cgroup."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.errors import FormatError, Gone, SourceError
from pylxcfs.formats import bpf, deviceslist
from pylxcfs.sources import devices
from pylxcfs.sources.cgroups import Place
from pylxcfs.views.model import Device

#: Takes 2,001 instructions, and allows nothing.
PROGRAM = bytes((0xB7, 0, 0, 0, 0, 0, 0, 0)) * 2000 + bytes((0x95, 0, 0, 0, 0, 0, 0, 0))
NULL = Device(False, 1, 3)

numbers = st.one_of(st.none(), st.integers(0, 3))
rules = st.lists(
    st.tuples(st.booleans(), numbers, numbers, st.sampled_from(["r", "w", "m", "rw", "rwm"]))
)
made = st.builds(Device, st.booleans(), st.integers(0, 3), st.integers(0, 3))


def line(is_block: bool, major: int | None, minor: int | None, access: str) -> bytes:
    shown = ["*" if number is None else str(number) for number in (major, minor)]
    return f"{'b' if is_block else 'c'} {':'.join(shown)} {access}\n".encode()


@given(rules, st.lists(made))
def test_a_device_may_be_opened_if_one_of_the_rules_says_so(written, asked):
    text = b"".join([line(*one) for one in written])
    allowed = devices._Answers(text, None).may_open(asked)
    assert allowed == {
        device
        for device in asked
        for rule in deviceslist.parse(text) or ()
        if rule.is_block == device.is_block
        and rule.major in (None, device.major)
        and rule.minor in (None, device.minor)
        and set(rule.access) & set("rw")
    }


def test_programs_that_take_too_long_are_not_known(monkeypatch):
    """Each run is within the kernel's bounds; it is their number. The second look is refused."""
    monkeypatch.setattr(devices, "instructions", lambda number: PROGRAM)
    runs = []
    allows = bpf.allows
    monkeypatch.setattr(bpf, "allows", lambda *words: runs.append(1) or allows(*words))
    answers = devices._Answers(None, (1,))
    few = [Device(False, 1, minor) for minor in range(100)]
    many = [Device(False, 2, minor) for minor in range(1000)]
    for _ in range(2):
        assert answers.may_open(few) == frozenset()  # each device is asked about once
        with pytest.raises(FormatError):
            devices._Answers(None, (1,)).may_open(many)
    with pytest.raises(FormatError):
        answers.may_open(many)
    before = len(runs)
    with pytest.raises(FormatError):
        answers.may_open(many)
    assert len(runs) == before


@pytest.mark.parametrize("error", [FormatError("BPF program"), SourceError("BPF map 1"), Gone("")])
def test_programs_with_maps_that_failed_are_run_again_a_second_later(monkeypatch, error):
    """Maps change. One that has ended is no failure: other programs may be in effect by now."""
    runs, clock = [], [0.0]

    def allows(*words):
        runs.append(1)
        raise error

    monkeypatch.setattr(devices, "effective", lambda directory: (1,))
    monkeypatch.setattr(devices, "instructions", lambda number: PROGRAM)
    monkeypatch.setattr(bpf, "uses_maps", lambda program: True)
    monkeypatch.setattr(bpf, "allows", allows)
    monkeypatch.setattr(devices.time, "monotonic", lambda: clock[0])
    rules = devices.DeviceRules(None, Place(2, ("/",), up_to_root=False))
    for now in (0.0, 0.1, 0.9, 1.1, 1.2):
        clock[0] = now
        with pytest.raises(type(error)):
            rules.may_open([NULL])
    assert len(runs) == (5 if isinstance(error, Gone) else 2)
