from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylxcfs.cli.options import BY_NAME, Config, load
from pylxcfs.errors import DocumentError
from pylxcfs.server.settings import Settings, read


def document(**options: object) -> bytes:
    return json.dumps({"format": 1, "options": options}).encode()


def test_the_defaults_are_those_of_the_table_of_options() -> None:
    assert asdict(Settings()) == {
        field.name: BY_NAME[field.name].default for field in fields(Settings)
    }


def test_a_server_gets_what_the_command_line_resolved() -> None:
    flags = {"cache_ttl": 1.0, "cpu_view": "cpuset", "fuse_options": ("ro", "nonempty")}
    settings = Settings.parse(load(flags, {"PYLXCFS_DISABLE_SWAP": "1"}).document())
    assert settings == Settings(
        cache_ttl=1.0, cpu_view="cpuset", disable_swap=True, fuse_options=("ro", "nonempty")
    )


def test_every_setting_is_in_the_document() -> None:
    options = json.loads(Config().document())["options"]
    assert {field.name for field in fields(Settings)} <= set(options)


def test_keys_of_another_version_are_ignored_and_missing_ones_take_the_default() -> None:
    assert Settings.parse(document(cache_ttl=1, colour="red")) == Settings(cache_ttl=1.0)
    assert Settings.parse(document()) == Settings()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        b"{}",
        b'{"format": 2, "options": {}}',
        b'{"format": 1}',
        b'{"format": 1, "options": []}',
        b"[" * 100_000,
        document(cache_ttl="1"),
        document(cache_ttl=True),
        b'{"format": 1, "options": {"cache_ttl": NaN}}',
        b'{"format": 1, "options": {"cache_ttl": 1e999}}',
        document(loadavg=1),
        document(max_containers=1.5),
        document(max_containers=True),
        document(mountpoint=None),
        document(fuse_options="ro"),
        document(fuse_options=[1]),
    ],
)
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(DocumentError):
        Settings.parse(text)


@given(st.binary() | st.recursive(st.none() | st.integers(), st.lists).map(str).map(str.encode))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    with pytest.raises(DocumentError):
        Settings.parse(text)


def test_it_is_read_from_the_beginning_as_often_as_needed() -> None:
    memory = os.memfd_create("config")
    os.write(memory, document(cache_ttl=3))
    assert read(memory).cache_ttl == 3
    assert read(memory).cache_ttl == 3
    os.close(memory)


def test_a_read_while_the_keeper_writes_waits_for_the_whole_document() -> None:
    memory = os.memfd_create("config")
    new = document(cache_ttl=3)
    os.write(memory, new[:9])
    writer = threading.Timer(0.03, lambda: os.pwrite(memory, new, 0))
    writer.start()
    assert read(memory).cache_ttl == 3
    writer.join()
    os.close(memory)


def test_a_descriptor_that_never_holds_a_document_is_refused() -> None:
    memory = os.memfd_create("config")
    with pytest.raises(DocumentError):
        read(memory)
    os.close(memory)
