"""The pod of a process, by the cgroups that kubelets make."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylxcfs.sources import runtimes

UID = "0b0b1fde-5a2e-4a3f-9a58-8a4f3f1c2d3e"
CHECKSUM = "9f0c5d6c2a7b4e1f8d3a6b5c4d7e8f90"
ID = "c" * 64


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        (f"/kubepods/burstable/pod{UID}/{ID}", UID),
        (f"/kubepods/pod{CHECKSUM}/{ID}", CHECKSUM),
        (
            "/kubepods.slice/kubepods-besteffort.slice/"
            f"kubepods-besteffort-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
            UID,
        ),
        (f"/try-kube/kubepods/besteffort/pod{UID}/{ID}/init", UID),
        (f"/docker/{ID}", None),
        (f"/podman/pod{UID}/{ID}", None),
        ("/", None),
    ],
)
def test_the_pod_of_a_process(tmp_path: Path, path: str, pod: str | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(f"4:memory:{path}\n0::/\n")
    assert runtimes.pod_of(7, str(tmp_path)) == pod


def test_a_process_that_has_ended(tmp_path: Path) -> None:
    assert runtimes.pod_of(7, str(tmp_path)) is None
