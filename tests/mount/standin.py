"""A server for tests of the keeper: speaks raw FUSE, serves proc/uptime and proc/meminfo.

Run as `standin.py CONTROL --connection-fd N --init-fd I --heartbeat-fd H`. Files in the
directory CONTROL change what it does:

    fail    exit with code 7 at the start
    mute    never write to the heartbeat pipe
    hold    read requests of the file system, but answer none of them to READ
    log     (written here) one line for each start, signal and end
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import select
import signal
import struct
import sys
import time

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, INIT = 1, 2, 3, 14, 15, 17, 18, 26
OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 27, 28, 29, 36, 42
IN = struct.Struct("=IIQQIIII")
OUT = struct.Struct("=IiQ")
NOTIFY_RESEND = 7

#: name -> node id, parent, content (None: a directory)
NODES: dict[int, tuple[int, bytes, bytes | None]] = {
    1: (0, b"", None),
    2: (1, b"proc", None),
    3: (2, b"uptime", b"12.34 56.78\n"),
    4: (2, b"meminfo", b"MemTotal:        1048576 kB\n" * 400),
}


def attr(node: int) -> bytes:
    content = NODES[node][2]
    mode = 0o040555 if content is None else 0o100444
    size = len(content or b"")
    times = struct.pack("=QQQIII", 0, 0, 0, 0, 0, 0)
    rest = struct.pack("=IIIIIII", mode, 1, 0, 0, 0, 4096, 0)
    return struct.pack("=QQQ", node, size, 0) + times + rest


def answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """Return the reply's body, or an errno."""
    if opcode == LOOKUP:
        name = body.rstrip(b"\0")
        for number, (parent, known, _) in NODES.items():
            if (parent, known) == (node, name):
                return struct.pack("=QQQQII", number, 0, 0, 0, 0, 0) + attr(number)
        return errno.ENOENT
    if opcode == GETATTR:
        return struct.pack("=QII", 0, 0, 0) + attr(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("=QII", node, 1, 0)  # FOPEN_DIRECT_IO
    if opcode == READ:
        _, offset, size = struct.unpack_from("=QQI", body)
        return (NODES[node][2] or b"")[offset : offset + size]
    if opcode == STATFS:
        return bytes(80)
    if opcode in (RELEASE, RELEASEDIR):
        return b""
    return errno.ENOSYS


def main() -> None:
    control = sys.argv[1]
    numbers = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    connection = int(numbers["--connection-fd"])
    init = int(numbers["--init-fd"])
    heartbeat = int(numbers["--heartbeat-fd"])

    def is_set(name: str) -> bool:
        return os.path.exists(f"{control}/{name}")

    def log(text: str) -> None:
        with open(f"{control}/log", "a", encoding="ascii") as file:
            file.write(f"{text} {os.getpid()}\n")

    def on_term(*_: object) -> None:
        log("term")
        os._exit(0)

    faulthandler.register(signal.SIGQUIT)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGHUP, lambda *_: log("hup"))
    signal.signal(signal.SIGUSR2, lambda *_: log("usr2"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR2))
    log("start")
    if is_set("fail"):
        sys.exit(7)
    kept = os.pread(init, 8192, 0)
    length, _, unique, *_ = IN.unpack_from(kept)
    if len(kept) == length:  # the first server
        _, minor, readahead, _ = struct.unpack_from("=IIII", kept, IN.size)
        sizes = (readahead, 0, 12, 9, 131072, 1)
        body = struct.pack("=IIIIHHIIHHI7I", 7, min(minor, 31), *sizes, *[0] * 10)
        reply = OUT.pack(OUT.size + len(body), 0, unique) + body
        os.write(connection, reply)
        os.pwrite(init, reply, length)
    else:
        try:
            os.write(connection, OUT.pack(OUT.size, NOTIFY_RESEND, 0))
        except OSError as error:
            log(f"resend-{error.errno}")
    if not is_set("mute"):
        os.write(heartbeat, b"R")
    beat = time.monotonic()
    while True:
        readable, _, _ = select.select([connection], [], [], 0.1)
        if time.monotonic() - beat > 0.1 and not is_set("mute"):
            beat = time.monotonic()
            with contextlib.suppress(BlockingIOError):
                os.write(heartbeat, b"H")
        if not readable:
            continue
        try:
            request = os.read(connection, 135168)
        except OSError as error:
            if error.errno == errno.ENODEV:
                log("unmounted")
                sys.exit(0)
            if error.errno in (errno.EAGAIN, errno.ENOENT, errno.EINTR):
                continue
            raise
        _, opcode, unique, node, _, _, _, _ = IN.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        if opcode == READ and is_set("hold"):
            log("held")
            continue
        result = answer(opcode, node, request[IN.size :])
        body = b"" if isinstance(result, int) else result
        code = -result if isinstance(result, int) else 0
        with contextlib.suppress(FileNotFoundError):  # the reader was interrupted
            os.write(connection, OUT.pack(OUT.size + len(body), code, unique) + body)


if __name__ == "__main__":
    main()
