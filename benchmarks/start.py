"""What views cost at a container's start: `runc run` of one that ends at once.

    python -m benchmarks.start [N]        N rounds (15); the ways take turns

Prints a table for docs/runtimes/: the median for each way, and what it is above no views.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pylxcfs.attach import engines, runtime
from pylxcfs.cli.engines import served
from tests.clients.engines import busybox_root, open_directory, remove_cgroups
from tests.conftest import run_name
from tests.kit.daemon import Daemon


def main(rounds: int) -> None:
    """Measure and print."""
    cgroup = run_name("start")
    with Daemon() as daemon, open_directory() as directory:
        root = busybox_root(directory / "rootfs")
        place, paths = str(daemon.mountpoint), served()
        plain = [path for path in paths if path in engines.RUNC_ALLOWS or path.startswith("sys/")]
        mounts = [runtime.mount_of(place, path) for path in plain]
        hook = runtime.hook_of(place, paths)
        nothing = {"path": "/bin/true", "args": ["true"]}
        wrapper = [sys.executable, "-ISE", runtime.__file__, "--pylxcfs-mountpoint", place]
        ways = {
            "no views": (["runc"], None, []),
            f"{len(mounts)} plain mounts": (["runc"], None, mounts),
            "a hook that does nothing (/bin/true)": (["runc"], nothing, []),
            f"the hook, {len(paths)} files": (["runc"], hook, []),
            "the hook and plain mounts (CDI)": (["runc"], hook, mounts),
            "the runtime wrapper": (wrapper, None, []),
        }
        bundles = {}
        for name, (_, added, more) in ways.items():
            bundles[name] = directory / str(len(bundles))
            _bundle(bundles[name], root, cgroup, added, more)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        try:
            for _ in range(rounds):
                for name, (command, _, _) in ways.items():
                    text = (bundles[name] / "config.json").read_bytes()
                    taken[name].append(_run(command, bundles[name], directory, cgroup))
                    (bundles[name] / "config.json").write_bytes(text)  # the wrapper patches it
        finally:
            remove_cgroups(cgroup)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(f"| `runc run`, median of {rounds} | ms | above no views |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.0f} | {median - medians['no views']:.0f} |")


def _bundle(
    directory: Path,
    root: Path,
    cgroup: str,
    hook: dict[str, object] | None,
    mounts: list[dict[str, object]],
) -> None:
    directory.mkdir()
    subprocess.run(["runc", "spec"], cwd=directory, check=True, timeout=60)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/busybox", "true"])
    config["process"].pop("rlimits", None)
    config["root"]["path"] = str(root)
    config["linux"]["cgroupsPath"] = f"/{cgroup}"
    text = runtime.patch(json.dumps(config), hook, mounts)
    (directory / "config.json").write_text(text)


def _run(command: list[str], bundle: Path, directory: Path, name: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [*command, "--root", str(directory / "state"), "run", "-b", str(bundle), name],
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
