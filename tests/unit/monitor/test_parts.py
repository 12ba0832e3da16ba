"""Optional parts of an instance: what is said of a socket that does not answer."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pylxcfs.cli import status
from pylxcfs.cli.options import Config
from pylxcfs.keeper.resources import listen
from pylxcfs.monitor import findings, instance, parts
from pylxcfs.monitor.findings import ERROR, FINE, WARNING
from pylxcfs.monitor.instance import Place
from tests.kit.asking import DEADLINE_S, serving
from tests.unit.monitor.kit import counters, state


def gather(directory: Path, socket: Path | None = None, **options: Any) -> Any:
    values = {name: value for name, value in options.items() if name == "counters"}
    config = Config(**{name: options[name] for name in options.keys() - values})
    (directory / "config.json").write_bytes(config.document())
    keeper = {"pid": os.getpid(), "resources": socket and str(socket)}
    known = state(keeper=keeper, **values)
    return parts.gather(Place("/m", str(directory), str(directory / "pid")), known)


def test_a_service_that_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as path:
        found = gather(tmp_path, resources=True)
    assert found["resources"] == parts.Part(str(path), True, "answers")._asdict()
    assert found["cgroup"] is found["devices"] is None


def test_the_socket_is_gone(tmp_path: Path) -> None:
    found = parts.ask(f"{tmp_path}/resources.sock")
    assert (found.works, found.text) == (False, "the socket is gone")
    assert found.hint.startswith("stop and start the instance")


def test_a_directory_or_a_file_is_in_its_place(tmp_path: Path) -> None:
    place = tmp_path / "resources.sock"
    place.mkdir()
    found = parts.ask(str(place))
    assert (found.works, found.text.split()[:2]) == (False, ["a", "directory"])
    assert found.hint.startswith(f"rmdir {place}; ")
    place.rmdir()
    place.touch()
    found = parts.ask(str(place))
    assert (found.works, found.hint.split(";")[0]) == (False, f"rm {place}")


def test_the_process_that_made_it_has_ended(tmp_path: Path) -> None:
    listen(str(tmp_path)).close()
    found = parts.ask(f"{tmp_path}/resources.sock")
    assert found.works is False
    assert "nobody listens" in found.text
    assert found.hint


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("closes", [True, False])
def test_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool, closes: bool
) -> None:
    monkeypatch.setattr(instance, "_PATIENCE_S", DEADLINE_S if closes else 0.05)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: is_installed or None)

    def close() -> None:
        listener.accept()[0].close()

    with listen(str(tmp_path)) as listener:
        thread = threading.Thread(target=close)
        if closes:
            thread.start()
        found = parts.ask(f"{tmp_path}/resources.sock")
        if closes:
            thread.join()
    assert found.works is False
    assert ("h11" in found.text) is not is_installed
    assert ("pip install" in found.hint) is not is_installed


@pytest.mark.parametrize(
    ("answer", "text", "hint"),
    [
        (b'{"error": "not now", "hint": "again"}\n', "the answer is an error: not now", "again"),
        (b'{"other": 1}\n', "the answer is not that of the resources service", parts._LOG),
        (b"[]\n", "the answer is not that of the resources service", parts._LOG),
        (b"", "the connection was closed without an answer in JSON", parts._LOG),
    ],
)
def test_another_answer(tmp_path: Path, answer: bytes, text: str, hint: str) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(64) == b"self\n"
            connection.sendall(answer)

    with listen(str(tmp_path)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        found = parts.ask(f"{tmp_path}/resources.sock")
        thread.join()
    assert (found.works, found.text, found.hint) == (False, text, hint)


def test_the_socket_of_systemd_is_the_one_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    with listen(str(tmp_path)):
        found = gather(tmp_path, path)["resources"]
    assert (found["place"], found["text"]) == (str(path), "the socket is gone")


def test_what_the_server_says_of_its_parts(tmp_path: Path) -> None:
    told = counters(problems={"enable_cgroup": "capabilities are missing: CAP_KILL"})
    on = {"enable_cgroup": True, "enable_devices": True}
    found = gather(tmp_path, counters=told, **on)
    assert found["cgroup"]["text"] == "it does not work: capabilities are missing: CAP_KILL"
    assert found["devices"] == parts.Part("/m/sys", True, "works")._asdict()
    severities = {one.subject: one.severity for one in findings.of_parts(found)}
    assert severities == {"cgroup": ERROR, "devices": FINE}
    for silent in (None, counters()):  # of an older version
        found = gather(tmp_path, counters=silent, **on)
        assert found["cgroup"]["works"] is found["devices"]["works"] is None
        assert {one.severity for one in findings.of_parts(found)} == {WARNING}
        assert all(one.hint for one in findings.of_parts(found))


def test_without_an_instance_or_its_configuration_nothing_is_known(tmp_path: Path) -> None:
    place = Place("/m", str(tmp_path), str(tmp_path / "pid"))
    assert parts.gather(place, state()) is None
    (tmp_path / "config.json").write_text("nonsense")
    assert parts.gather(place, state()) is None
    assert gather(tmp_path, resources=True)["resources"]["works"] is False
    assert parts.gather(place, state(keeper=None)) is None
    assert list(findings.of_parts(None)) == []


def test_the_text_has_a_row_for_each_part_and_what_to_do() -> None:
    part = parts.Part("/r/resources.sock", False, "the socket is gone", "start it")._asdict()
    known = state(keeper=None, server=None, parts={"resources": part, "cgroup": None})
    lines = status.render(known).splitlines()
    at = lines.index("  resources:          /r/resources.sock: the socket is gone")
    assert lines[at + 1 : at + 3] == [
        "                      -> start it",
        "  cgroup:             off",
    ]


@pytest.mark.parametrize(("needed", "severity"), [(set(), FINE), ({"h11"}, ERROR)])
def test_a_package_that_an_option_needs(
    monkeypatch: pytest.MonkeyPatch, needed: set[str], severity: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "h11" else True)
    [found] = findings.of_packages(needed)
    assert (found.severity, found.hint) == (severity, "pip install 'pylxcfs[resources]'")
