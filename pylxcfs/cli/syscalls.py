"""`seccomp-agent`, `seccomp-profile` and the keeper's agent.

The agent's parts are plugged together here, as server/server.py does it for the files.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from pylxcfs import log
from pylxcfs.attach import runtime as runtime_spec
from pylxcfs.cli import runtime
from pylxcfs.cli.launch import document_fd
from pylxcfs.cli.options import Config
from pylxcfs.errors import HostError, UsageError
from pylxcfs.guard import Guard
from pylxcfs.keeper import child
from pylxcfs.keeper.listeners import MOST, Listeners
from pylxcfs.server.server import options_of
from pylxcfs.server.settings import Settings
from pylxcfs.syscalls.agent import Agent
from pylxcfs.syscalls.values import Values

#: Where engines keep their default profile, as files.
_BASES = {
    "docker": ("/etc/docker/seccomp.json", "/usr/share/containers/seccomp.json"),
    "podman": ("/usr/share/containers/seccomp.json",),
}
_MOST_DOCUMENT = 1 << 20
#: Seconds to the next agent after one that failed.
_AGAIN_S = 1.0


def serve(oci: int, lxc: int, channel: int, shared: int, config_fd: int) -> None:
    """Be the agent."""
    child.set_name("pylxcfs-agent")
    settings = Settings.parse(os.pread(config_fd, _MOST_DOCUMENT, 0))
    log.setup(settings.log_level)
    sys.setswitchinterval(0.0005)
    values = Values(options_of(settings), settings.cache_ttl, settings.init_pid_method)
    memory = mmap.mmap(shared, MOST * 8)
    Agent(
        values,
        Guard(),
        oci=socket.socket(fileno=oci),
        lxc=socket.socket(fileno=lxc),
        keeper=socket.socket(fileno=channel),
        shared=memory,
    ).run()


def run_alone(config: Config) -> None:
    """Hold the listeners and keep an agent, until SIGTERM or SIGINT."""
    if os.geteuid() != 0:
        raise HostError("only root may do this", "run it with sudo")
    with runtime.writing(config.runtime_dir):
        os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
        child.block_signals()
        signals = child.signal_fd()
        command = [sys.executable, "-P", "-m", "pylxcfs", "agent"]
        listeners = Listeners(config.runtime_dir, command, document_fd(config))
    listeners.start()
    sys.stderr.write(f"pylxcfs: answering system calls at {config.runtime_dir}/seccomp.sock\n")
    poller = select.poll()
    poller.register(signals, select.POLLIN)
    try:
        while True:
            handlers = listeners.handlers()
            agent = listeners.agent
            assert agent is not None, "one is started as soon as one has ended"
            numbers = [*handlers, agent.pidfd]
            for number in numbers:
                poller.register(number, select.POLLIN)
            ready = {number for number, _ in poller.poll()}
            for number in numbers:
                poller.unregister(number)
            if signals in ready and {signal.SIGTERM, signal.SIGINT} & {
                *child.read_signals(signals)
            }:
                return
            for number, work in handlers.items():
                if number in ready:
                    work()
            if agent.pidfd in ready:
                code = listeners.end_agent()
                sys.stderr.write("pylxcfs: the seccomp agent has ended; starting another\n")
                if code >= 0:
                    time.sleep(_AGAIN_S)  # it has failed: not in a loop
                listeners.start()
    finally:
        listeners.close(keep=False)


def profile(config: Config, base: str) -> bytes:
    """Return the profile for an engine, or for the one in a file. Raise UsageError."""
    socket_path = os.path.join(config.runtime_dir, "seccomp.sock")
    places = _BASES.get(base, (base,))
    for place in places:
        try:
            with open(place, "rb") as file:
                found: Any = json.load(file)
            return json.dumps(runtime_spec.notified(found, socket_path), indent=2).encode() + b"\n"
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UsageError(f"{place}: {error}", "name a seccomp profile in JSON") from error
    raise UsageError(
        f"there is no profile at {' or '.join(places)}",
        "install containers-common (golang-github-containers-common), or name a file with --base",
    )


def write(path: str, text: bytes) -> None:
    """Write a profile, whole or not at all. Raise UsageError."""
    try:
        with open(f"{path}.new", "wb") as file:
            file.write(text)
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name another file with --output") from error
