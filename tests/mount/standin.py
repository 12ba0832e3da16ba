"""A server for tests of the keeper: two files on both mounts.

They are proc/uptime and proc/meminfo. Run as

    standin.py CONTROL serve --config-fd N --own-fd N --own-memory-fd N --caller-fd N
        --caller-memory-fd N --heartbeat-fd N
    standin.py CONTROL resolve

Node ids are those of tree/nodes.py with proc/uptime as view 0 and proc/meminfo as view 1, so that
the rescue server can take over. Files in the directory CONTROL change what it does:

    fail            exit with code 7 at the start
    slow            say that it serves once this is gone
    mute            never write to the heartbeat pipe
    hold            read requests of the file system, but answer none of them to READ
    late            answer requests to READ once this is gone
    resolve-fail    the configuration is wrong
    resolve-hang    resolving takes for ever
    log             (written here) one line for each start, signal and end
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pylxcfs.fuse import wire
from pylxcfs.tree import nodes

UPTIME, MEMINFO = nodes.FILES, nodes.FILES + 1
CONTENTS = {UPTIME: b"12.34 56.78\n", MEMINFO: b"MemTotal:        1048576 kB\n" * 400}
LINKS = {
    nodes.LINKS: b"../own/host/proc/uptime",
    nodes.LINKS + 1: b"../own/host/proc/meminfo",
}
VIEW = {nodes.VIEW_PROC: {b"uptime": UPTIME, b"meminfo": MEMINFO}}
CHILDREN = {
    "own": {
        nodes.ROOT: {b"proc": nodes.PROC, b"own": nodes.OWN},
        nodes.PROC: {b"uptime": nodes.LINKS, b"meminfo": nodes.LINKS + 1},
        nodes.OWN: {b"host": nodes.VIEW_ROOT},
        nodes.VIEW_ROOT: {b"proc": nodes.VIEW_PROC},
        **VIEW,
    },
    "caller": {nodes.ROOT: {b"proc": nodes.VIEW_PROC}, **VIEW},
}


#: The owner of the nodes below own/host, as servers and the rescue server number them.
HOST = nodes.pair((os.stat("/proc/self/ns/pid").st_ino, 0))


def number(kind: str, index: int) -> int:
    """Return the node of a file index: another one for a name would unhash its dentry."""
    is_view = nodes.VIEW_ROOT <= index < nodes.LINKS or index >= nodes.FILES
    return nodes.node(HOST, index) if kind == "own" and is_view else index


def attributes(node: int) -> wire.Attributes:
    if node in CONTENTS:
        return wire.Attributes(0o100444, len(CONTENTS[node]), time.time_ns(), 0)
    return wire.Attributes(0o120777 if node in LINKS else 0o040555, 0, time.time_ns(), 0)


def answer(kind: str, opcode: int, told: int, body: bytes) -> bytes | None:
    """Return the data of the answer; None: not implemented."""
    node = nodes.index_of(told)
    if opcode == wire.LOOKUP:
        child = CHILDREN[kind].get(node, {}).get(body.rstrip(b"\0"))
        if child is None:
            raise FileNotFoundError
        found = number(kind, child)
        return wire.entry_out(found, 0, nodes.inode_number(found), attributes(child), 0)
    if opcode == wire.GETATTR:
        return wire.attr_out(nodes.inode_number(told), attributes(node))
    if opcode == wire.READLINK:
        return LINKS[node]
    if opcode == wire.OPEN and kind == "caller":
        return wire.OPEN_OUT.pack(node, wire.FOPEN_DIRECT_IO)
    if opcode == wire.OPENDIR:
        return wire.OPEN_OUT.pack(node, 0)
    if opcode == wire.READ:
        _, offset, size, flags = wire.READ_IN.unpack_from(body)
        data = CONTENTS[node][offset : offset + size]
        return data if flags & wire.READ_LOCKOWNER else data.ljust(size)
    if opcode == wire.STATFS:
        return wire.STATFS_OUT
    if opcode in (wire.RELEASE, wire.RELEASEDIR, wire.FLUSH):
        return b""
    return None


def reply(kind: str, opcode: int, unique: int, node: int, body: bytes) -> bytes:
    try:
        data = answer(kind, opcode, node, body)
    except FileNotFoundError:
        return wire.error_reply(unique, errno.ENOENT)
    return wire.error_reply(unique, errno.ENOSYS) if data is None else wire.data_reply(unique, data)


class Standin:
    def __init__(self, control: str, numbers: dict[str, int]) -> None:
        self.control = control
        self.numbers = numbers

    def is_set(self, name: str) -> bool:
        return os.path.exists(f"{self.control}/{name}")

    def log(self, text: str) -> None:
        with open(f"{self.control}/log", "a", encoding="ascii") as file:
            file.write(f"{text} {os.getpid()}\n")

    def beat(self, byte: bytes) -> None:
        if not self.is_set("mute"):
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self.numbers["--heartbeat-fd"], byte)

    def on_term(self, *_: object) -> None:
        self.log("term")
        os._exit(0)

    def on_hup(self, *_: object) -> None:
        document = json.loads(os.pread(self.numbers["--config-fd"], 4096, 0))
        self.log(f"reloaded-{document['options']['count']}")
        self.beat(b"L")

    def serve(self, kind: str) -> None:
        connection = self.numbers[f"--{kind}-fd"]
        while True:
            try:
                request = os.read(connection, wire.BUFFER)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    self.log("unmounted")
                    os._exit(0)
                if error.errno in (errno.EAGAIN, errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, opcode, unique, node, *_ = wire.IN_HEADER.unpack_from(request)
            if opcode in wire.UNANSWERED:
                continue
            if opcode == wire.READ and self.is_set("hold"):
                self.log("held")
                continue
            if opcode == wire.READ and self.is_set("late"):
                self.log("late")
                while self.is_set("late"):
                    time.sleep(0.01)
            data = reply(kind, opcode, unique, node, request[wire.IN_HEADER.size :])
            with contextlib.suppress(FileNotFoundError):  # the reader was interrupted
                os.write(connection, data)

    def run(self) -> None:
        faulthandler.register(signal.SIGQUIT)
        signal.signal(signal.SIGTERM, self.on_term)
        signal.signal(signal.SIGHUP, self.on_hup)
        signal.signal(signal.SIGUSR2, lambda *_: self.log("usr2"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR2))
        self.log("start")
        if self.is_set("fail"):
            sys.exit(7)
        for kind in CHILDREN:
            try:
                os.write(self.numbers[f"--{kind}-fd"], wire.NOTIFY_RESEND)
            except OSError as error:
                self.log(f"resend-{error.errno}")
            threading.Thread(target=self.serve, args=(kind,), daemon=True).start()
        self.beat(b"H")
        while self.is_set("slow"):
            time.sleep(0.01)
        self.beat(b"R")
        while True:
            time.sleep(0.1)
            self.beat(b"H")


def resolve(control: str) -> None:
    """Count how often the configuration was resolved."""
    if os.path.exists(f"{control}/resolve-hang"):
        signal.pause()
    document = json.load(sys.stdin)
    if os.path.exists(f"{control}/resolve-fail"):
        sys.exit("pylxcfs: the file says nonsense")
    document["options"]["count"] += 1
    sys.stderr.write(f"pylxcfs: count: {document['options']['count']}\n")
    json.dump(document, sys.stdout)


if __name__ == "__main__":
    if sys.argv[2] == "resolve":
        resolve(sys.argv[1])
    elif sys.argv[2] == "answer-resources":
        signal.pause()
    else:
        pairs = zip(sys.argv[3::2], sys.argv[4::2], strict=True)
        Standin(sys.argv[1], {name: int(number) for name, number in pairs}).run()
