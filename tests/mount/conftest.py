"""What tests of a real mount share: a daemon for a module, and views that misbehave on purpose."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require_fuse
from tests.kit.daemon import ROOT, Daemon

_SABOTAGE = """
import sys

if "serve" in sys.orig_argv:
    import dataclasses, os, threading, time
    import pylxcfs.views as views

    def render(host, container, options):
{body}

    views.VIEWS = tuple(
        dataclasses.replace(view, render=render) if view.path == {path!r} else view
        for view in views.VIEWS
    )
"""


@pytest.fixture(autouse=True, scope="session")
def _fuse() -> None:
    require_fuse()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """`pylxcfs mount` with its defaults, for all tests of a module."""
    with Daemon() as running:
        yield running


Sabotage = Callable[[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def sabotage(tmp_path_factory: pytest.TempPathFactory) -> Sabotage:
    """Return a function: the environment in which the view of `path` runs `body` instead.

    The server imports it through sitecustomize, so everything else is the real program.
    """

    def environment(path: str, body: str) -> dict[str, str]:
        directory = tmp_path_factory.mktemp("sabotage")
        code = _SABOTAGE.format(path=path, body=textwrap.indent(body.strip(), " " * 8))
        (directory / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": f"{ROOT}:{directory}"}

    return environment
