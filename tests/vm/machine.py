"""Boot a virtual machine with pure cgroup v2, run one command in it as root, bring back its output.

    result = run(["python", "-m", "pytest", "tests/cgroup"], cpus=2)

The command starts in the repository, with this Python as `python`; what is written in the
machine is lost. TMPDIR is on a disk, the rest in memory. qemu emulates the processor where the
host has no usable KVM: everything takes twenty times as long, so one boot should do much.
"""

from __future__ import annotations

import os
import secrets
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .image import REPOSITORY, make_filesystem, source_image, system_image
from .kernel import find_kernel, initramfs

QEMU = "qemu-system-x86_64"
#: Variables of the host that the command sees too.
PASSED_ON = ("PYLXCFS_REQUIRE", "CI", "HYPOTHESIS_PROFILE")


@dataclass(frozen=True)
class Result:
    """What the command said. `exit_code` is None if the machine ended without an answer."""

    exit_code: int | None
    output: str
    #: The kernel's own words, for when something went wrong.
    console: str
    seconds: float


def why_not() -> str | None:
    """Say why no machine can be booted here, or return None if one can."""
    for program in (QEMU, "mke2fs", "depmod", "busybox"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed (tools/system-packages test)"
    if os.uname().machine != "x86_64":
        return "the machine is made of this host's programs, and only x86-64 was tried"
    return None


def run(
    args: Sequence[str],
    cpus: int = 2,
    nodes: int = 1,
    memory: str = "4G",
    *,
    kernel_args: str = "",
    environment: Mapping[str, str] | None = None,
    timeout: float = 600,
    echo: Callable[[str], object] | None = None,
) -> Result:
    """Boot a machine with `cpus` and NUMA `nodes`, and run `args` in it.

    `memory` is that of each node. `echo` is called with the output as it comes. When `timeout`
    is over the machine is stopped; Result.exit_code is None then.
    """
    kernel = find_kernel()
    system = system_image()
    mark = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="pylxcfs-vm-") as name:
        scratch = Path(name)
        source_image(scratch / "source.ext4", _script(args, environment or {}))
        with open(scratch / "swap", "wb") as swap:
            swap.truncate(256 << 20)
        make_filesystem(scratch / "scratch", 256 << 20)
        command = [
            *_machine(cpus, nodes, memory),
            *("-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs(kernel))),
            *("-append", f"{_kernel_command_line(mark)} {kernel_args}"),
            *("-serial", f"file:{scratch}/console", "-serial", "stdio"),
            *_disk(system, "on"),
            *_disk(scratch / "source.ext4", "on"),
            *_disk(scratch / "swap", "off"),
            *_disk(scratch / "scratch", "off"),
        ]
        begin = time.monotonic()
        output, code = _converse(command, mark, begin + timeout, echo)
        console = (scratch / "console").read_text(errors="replace")
        return Result(code, output, console, time.monotonic() - begin)


def _script(args: Sequence[str], environment: Mapping[str, str]) -> str:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # /usr/bin/python would be another Python, or none.
    path = os.path.dirname(sys.executable)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in passed.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [f"export PATH={shlex.quote(path)}:$PATH", f"cd {shlex.quote(str(REPOSITORY))}"]
    return "\n".join([*lines, f"exec {shlex.join(args)}"]) + "\n"


def _machine(cpus: int, nodes: int, memory: str) -> list[str]:
    per_node = cpus // nodes
    command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += _processor()
    command += ["-smp", f"{cpus},sockets={nodes},cores={per_node},threads=1"]
    if nodes == 1:
        return [*command, "-m", memory]
    size = int(memory.rstrip("GM"))
    command += ["-m", f"{size * nodes}{memory.lstrip('0123456789')}"]
    for node in range(nodes):
        command += ["-object", f"memory-backend-ram,id=node{node},size={memory}"]
        first = node * per_node
        last = first + per_node - 1
        command += ["-numa", f"node,nodeid={node},cpus={first}-{last},memdev=node{node}"]
    return command


def _processor() -> list[str]:
    """Choose KVM where the processor offers it, emulation where not.

    Emulated processors take turns in one thread. With a thread for each, about one boot in fifty on
    a busy host hung: both processors stood at instructions that the kernel patches when the first
    memory cgroup is made, as if qemu went on running the old ones.
    """
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    if {"vmx", "svm"} & set(flags) and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=single", "-cpu", "max"]


def _kernel_command_line(mark: str) -> str:
    # An emulated TSC passes for unstable, and the clock that is taken instead is far slower.
    # A kernel that makes no progress for a minute says where, and ends the machine.
    return (
        "console=ttyS0 loglevel=5 panic=-1 softlockup_panic=1 watchdog_thresh=30 psi=1"
        " cgroup_no_v1=all tsc=reliable mitigations=off nokaslr apparmor=0"
        f" pylxcfs.mark={mark}"
    )


def _disk(path: Path, readonly: str) -> list[str]:
    options = f"format=raw,if=virtio,readonly={readonly},cache=unsafe,aio=threads"
    return ["-drive", f"file={path},{options}"]


def _converse(
    command: Sequence[str], mark: str, deadline: float, echo: Callable[[str], object] | None
) -> tuple[str, int | None]:
    """Run qemu and read the second serial port up to the mark and the exit code behind it."""
    received = bytearray()
    end = f"\n{mark} ".encode()
    echoed = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        assert qemu.stdout is not None
        try:
            while (left := deadline - time.monotonic()) > 0:
                if not select.select([qemu.stdout], [], [], left)[0]:
                    break
                chunk = os.read(qemu.stdout.fileno(), 65536)
                received += chunk
                if not chunk or (end in received and received.endswith(b"\n")):
                    break
                if echo is not None:
                    # Whole lines, and never the last line's end: the mark may follow.
                    whole = max(received.rfind(b"\n"), echoed)
                    echo(received[echoed:whole].decode(errors="replace"))
                    echoed = whole
        finally:
            # Nothing on the disks is worth a clean shutdown.
            qemu.kill()
    output, _, code = bytes(received).partition(end)
    if echo is not None:
        echo(output[echoed:].decode(errors="replace"))
    return output.decode(errors="replace"), int(code) if code.strip().isdigit() else None
