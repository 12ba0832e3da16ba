"""What README says of commands, defaults and the Docker line is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from pylxcfs.cli.commands import cli
from pylxcfs.cli.options import ALIASES, BY_NAME, OPTIONS
from pylxcfs.keeper.banner import docker_line
from pylxcfs.views import VIEWS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_docker_line_is_the_one_that_mount_prints() -> None:
    assert docker_line("/var/lib/pylxcfs") in re.sub(r" \\\n +", " ", README)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"run", "test", "demo"} <= targets
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_command_and_flag_exists() -> None:
    assert set(re.findall(r"[`(]pylxcfs ([a-z-]+)", README)) <= set(cli.commands)
    flags = {form for option in OPTIONS for flag in option.flags for form in flag.split("/")}
    flags |= {flag for alias in ALIASES for flag in alias.flags}
    # Of lscpu, docker, podman, nspawn, bwrap, systemctl and of commands other than `mount`.
    foreign = {"--rm", "--cpus", "--now", "--pid", "--device", "--runtime", "--annotation"}
    foreign |= {"--uidmap", "--private-users", "--bind", "--bind-ro", "--daemon-json", "--patch"}
    foreign |= {"--dry-run"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - foreign <= flags


def test_the_defaults_are_those_of_the_options() -> None:
    defaults = {option.name: option.default for option in OPTIONS}
    assert BY_NAME["mountpoint"].default == "/var/lib/pylxcfs"
    assert f"within 3 s (`--watchdog`, {defaults['watchdog']:g} s by default)" in README
    assert f"after {defaults['request_timeout']:g} s (`--request-timeout`)" in README
    assert f"about {defaults['cache_ttl']:g} s old at most (`--cache-ttl`)" in README
    assert defaults["max_failures"] == 5
    assert "five failures in a row" in README
    lives = next(view.lives for view in VIEWS if view.path == "proc/loadavg")
    assert f"sampled every 5 s, {lives * defaults['cache_ttl']:g} s" in README
    assert defaults["enable_psi_poll"] is False
    assert defaults["vmstat"] is False
