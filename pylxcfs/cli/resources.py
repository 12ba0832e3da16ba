"""`resources`, `resources-service`, and the resources process of a keeper.

What is answered is in the room resources/; here its parts are plugged together.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final, NoReturn, TypeVar

from pylxcfs import log
from pylxcfs.cli import runtime
from pylxcfs.cli.options import Config
from pylxcfs.errors import FormatError, Gone, HostError, SourceError, UserError
from pylxcfs.formats import terminal
from pylxcfs.guard import Guard
from pylxcfs.keeper import child, sdnotify
from pylxcfs.keeper import resources as holding
from pylxcfs.resources.model import Devices, Resources, Source, readable
from pylxcfs.resources.query import Query
from pylxcfs.resources.watch import watch
from pylxcfs.server.server import options_of
from pylxcfs.server.settings import Settings

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_MOST_DOCUMENT: Final = 1 << 20
#: bpf(2) is for root.
_REFUSED: Final = os.strerror(errno.EPERM)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def need_package() -> None:
    """Raise HostError if h11 is not installed."""
    if importlib.util.find_spec("h11") is None:
        raise HostError(
            "the resources service needs the package h11, which is not installed",
            "install it beside pylxcfs: pip install 'pylxcfs[resources]', or leave out --resources"
            " and disable pylxcfs.socket",
        )


def of_process(settings: Settings, pid: int) -> Resources:
    """Return the resources of a process; warn if its limits are not known. Raise UserError."""
    return _warned(_queried(settings, pid, Query.of))


def _warned(found: Resources) -> Resources:
    if found.scope == "unknown":
        _warn(
            "limits are not known here: the cgroup hierarchies of CPUs and memory are not mounted,"
            " or not so that the cgroup of the process can be found in them. Mount the cgroups"
            " again, or ask the resources service"
        )
    return found


def _warn(text: str) -> None:
    sys.stderr.write(f"pylxcfs: {_printable(text)}\n")


def _queried(settings: Settings, pid: int, ask: Callable[[Query, int], _T]) -> _T:
    try:
        with contextlib.closing(_query(settings)) as query:
            return ask(query, pid)
    except (Gone, SourceError, FormatError) as error:
        raise _failed(pid, error) from error


def text(settings: Settings, pid: int, *, as_json: bool) -> str:
    """Return what is printed about a process. Raise UserError."""
    found = of_process(settings, pid)
    return json.dumps(found.document(), indent=2) if as_json else render(found)


def texts_of_changes(settings: Settings, pid: int, *, as_json: bool) -> Iterator[str]:
    """Yield what is printed at once and after each change, until Ctrl-C. Raise UserError."""
    try:
        for change in watch(pid, query=_query(settings)):
            if not change.changed:
                _warned(change.resources)
            found = {"changed": change.changed, **change.resources.document()}
            yield json.dumps(found) if as_json else render(change.resources, change.changed)
    except (Gone, SourceError, FormatError) as error:
        raise _failed(pid, error) from error
    except KeyboardInterrupt:
        return


def devices_text(settings: Settings, pid: int, *, as_json: bool) -> str:
    """Return what is printed about the devices that a process may open. Raise UserError."""
    found = _queried(settings, pid, Query.devices)
    if found.unknown is not None:
        hint = ". bpf(2) takes CAP_SYS_ADMIN: try sudo" if _REFUSED in found.unknown else ""
        _warn(f"the devices are not known: {readable(found.unknown)}{hint}")
    return json.dumps(found.document(), indent=2) if as_json else render_devices(found)


def render_devices(found: Devices) -> str:
    """Return a line for each device: type, numbers, name; and one for each source."""
    if found.allowed is None:
        lines = ["no limit" if found.sources else "not known"]
    else:
        lines = [
            f"{device.type:5}  {f'{device.major}:{device.minor}':8}  {device.name}"
            for device in found.allowed
        ] or ["none"]
    sources = [f"from {one.file}  {readable(one.path or '')}" for one in found.sources]
    return "\n".join(map(_printable, [*lines, *sources]))


def _query(settings: Settings, *, sample: bool = False) -> Query:
    return Query(
        options_of(settings),
        init_pid_method=settings.init_pid_method,
        max_containers=settings.max_containers,
        sample=sample and settings.loadavg,
    )


def _failed(pid: int, error: Exception) -> UserError:
    if isinstance(error, Gone) and not os.path.exists(f"/proc/{pid}"):
        return UserError(f"there is no process {pid}", "give --pid a process that runs")
    return UserError(f"the cgroup of process {pid}: {error}", "see pylxcfs doctor")


def render(found: Resources, changed: tuple[str, ...] = ()) -> str:
    """Return a table for people: name, value, where it is from."""
    document = found.document()
    rows = [("scope", found.scope, "")]
    for part in ("cpu", "memory", "swap", "processes", "load"):
        for name, value in document[part].items():
            key = f"{part}.{name}"
            source = found.sources.get(key) or found.sources.get(part)
            if value is not None or source is not None:
                rows.append((key, _shown(name, value), _from(source)))
    for what, stalls in found.pressure.items():
        text = ", ".join(f"{kind} {stall.avg10:g} %" for kind, stall in stalls.items())
        key = f"pressure.{what}"
        rows.append((key, f"{text} (10 s)", _from(found.sources.get(key))))
    rows.append(("uptime_s", f"{found.uptime_s:g}", _from(found.sources.get("uptime_s"))))
    nodes = " ".join(map(str, found.numa_nodes)) or "none"
    rows.append(("numa_nodes", nodes, _from(found.sources.get("numa_nodes"))))
    for pages in found.huge_pages:
        size = _shown("size_bytes", pages.size_bytes)
        rows.append((f"huge_pages {size}", _shown("limit_bytes", pages.limit_bytes), "limit"))
        rows.append((f"huge_pages {size}", _shown("usage_bytes", pages.usage_bytes), "usage"))
    rows.append(("cgroup.version", found.cgroup.version, ""))
    controllers: dict[str, list[str]] = {}
    for name, path in document["cgroup"]["paths"].items():
        controllers.setdefault(path, []).append(name)
    for path, names in controllers.items():
        rows.append(("cgroup.paths", "", f"{' '.join(names)}: {path}"))
    if found.security.label is not None:
        rows.append(("security.label", found.security.label, ""))
    for name, advice in document["advice"].items():
        rows.append((f"advice.{name}", _shown(name, advice["value"]), advice["reason"]))
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{row[0]:{wide[0]}}  {row[1]:{wide[1]}}  {row[2]}".rstrip() for row in rows]
    if changed:
        lines.insert(0, f"changed: {', '.join(changed)}")
    return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """Return a line for a terminal: an owner of cgroups puts escape sequences into their names."""
    return terminal.printable(line, "\ufffd")


def _shown(name: str, value: object) -> str:
    if value is None:
        return "no limit" if name in ("limit_bytes", "limit", "left", "quota") else "-"
    if name.endswith("_bytes") and isinstance(value, int):
        size = float(value)
        for unit in _UNITS:
            if size < 1024 or unit == _UNITS[-1]:
                return f"{size:.4g} {unit}"
            size /= 1024
    if isinstance(value, tuple):
        return " ".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _from(source: Source | None) -> str:
    if source is None:
        return ""
    where = readable(source.path or source.file)
    return f"{where} ({source.level} above)" if source.level else where


def serve(listener: int, config_fd: int) -> None:
    """Answer as a child of the keeper, until that ends it."""
    child.set_name("pylxcfs-resourc")  # 15 bytes
    settings = Settings.parse(os.pread(config_fd, _MOST_DOCUMENT, 0))
    log.setup(settings.log_level)
    with socket.socket(fileno=listener) as sock:
        try:
            need_package()
        except HostError as error:
            _log.error("connections are closed until a reload: %s; %s", error, error.hint)
            _close_all(sock)
        _answer(settings, sock)


def _close_all(listener: socket.socket) -> NoReturn:
    """Close each connection: a client would wait for ever for a service that takes none."""
    listener.setblocking(True)  # a process before this one may have changed it
    while True:
        listener.accept()[0].close()


def run_alone(config: Config) -> None:
    """Answer until SIGTERM or SIGINT. Raise HostError or InstanceError."""
    need_package()
    given = sdnotify.listen_fds(os.environ).get(holding.LISTEN)
    with contextlib.ExitStack() as stack:
        if given is not None:
            listener = stack.enter_context(socket.socket(fileno=given))
            where = str(listener.getsockname())
        else:
            if os.geteuid() != 0:
                _log.warning("only processes of this user can be told apart; run it with sudo")
            with runtime.writing(config.runtime_dir):
                os.makedirs(config.runtime_dir, mode=0o755, exist_ok=True)
                listener = stack.enter_context(holding.listener_in(config.runtime_dir))
            where = f"{config.runtime_dir}/resources.sock"
        sys.stderr.write(f"pylxcfs: telling processes about their resources at {where}\n")
        _answer(Settings.parse(config.document()), listener)


def _answer(settings: Settings, listener: socket.socket) -> None:
    import trio

    from pylxcfs.resources.service import Service

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Load averages are counted in a thread, which gives the interpreter back soon.
    sys.setswitchinterval(0.0005)
    service = Service(_query(settings, sample=True), listener, Guard())

    async def until_told() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.run)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    trio.run(until_told)
