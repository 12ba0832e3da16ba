"""containerd of our own, and a client of its CRI, which asks as a kubelet does.

Pods use the node's network, so no CNI plugin is needed. One image of BusyBox is that of containers
and of the pause container.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from cri_api.v1 import api_pb2 as api
from cri_api.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

from tests.clients.engines import MEMORY, REPORT, busybox_root, remove_cgroups
from tests.conftest import run_name, wait_until
from tests.kit.cgroups import PERIOD_US

IMAGE = "localhost/pylxcfs-test:1"
#: The runtime handler with `base_runtime_spec`, for a RuntimeClass.
HANDLER = "pylxcfs"
_DEADLINE_S = 60
#: containerd 2 takes version 2, too, and converts it.
_CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{directory}/sock"
[ttrpc]
  address = "{directory}/sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  {cdi}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{directory}/base.json"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni/bin"
    conf_dir = "{directory}/cni/conf"
"""
_DISABLED = ["snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper"]
_DISABLED += ["snapshotter.v1.zfs", "internal.v1.opt"]


def _image(root: Path) -> bytes:
    """Return an OCI image layout with one layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, ".")
    blobs: dict[str, bytes] = {}

    def put(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        kind = f"application/vnd.oci.image.{kind}"
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "1000"], "Env": ["PATH=/bin"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", json.dumps(config).encode()),
        "layers": [put("layer.v1.tar+gzip", gzip.compress(layer.getvalue(), 1))],
    }
    described = put("manifest.v1+json", json.dumps(manifest).encode())
    described["annotations"] = {"io.containerd.image.name": IMAGE}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in blobs.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


class Containerd:
    """containerd on directories of its own; `with` starts and ends it.

    `path`: where its programs are looked for. `base.json` in the directory: the specification of
    HANDLER. `cdi`: a directory of CDI specifications, for containerd 1.7 and newer.
    """

    def __init__(self, directory: Path, path: str, cdi: Path | None = None) -> None:
        self.directory = directory
        self.cgroup = run_name(f"cri-{directory.name}")
        self._environ = {**os.environ, "PATH": path}
        text = _CONFIG.format(
            directory=directory,
            image=IMAGE,
            handler=HANDLER,
            disabled=", ".join(f'"io.containerd.{name}"' for name in _DISABLED),
            cdi=f'enable_cdi = true\n  cdi_spec_dirs = ["{cdi}"]' if cdi else "",
        )
        (directory / "config.toml").write_text(text)

    def __enter__(self) -> Containerd:
        self._log = open(self.directory / "log", "wb")
        command = ["sh", "-c", 'exec containerd "$@"', "sh"]
        self._process = subprocess.Popen(
            [*command, "--config", str(self.directory / "config.toml")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self._environ,
        )
        self._channel = grpc.insecure_channel(f"unix://{self.directory}/sock")
        self._runtime = RuntimeServiceStub(self._channel)
        try:
            wait_until(self._answers, _DEADLINE_S, what="containerd to answer")
            archive = self.directory / "image.tar"
            archive.write_bytes(_image(busybox_root(self.directory / "rootfs")))
            self._import(archive)
        except BaseException as error:
            error.add_note((self.directory / "log").read_text()[-4000:])
            self.__exit__()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, "containerd ended"
        try:
            ImageServiceStub(self._channel).ListImages(api.ListImagesRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    def _import(self, archive: Path) -> None:
        ctr = ["sh", "-c", 'exec ctr "$@"', "sh", "--address", f"{self.directory}/sock"]
        words = ["--namespace=k8s.io", "images", "import", "--snapshotter=native"]
        for local in ([], ["--local"]):  # containerd 2 needs that one, 1 does not know it
            done = subprocess.run(
                [*ctr, *words, *local, str(archive)],
                capture_output=True,
                timeout=120,
                env=self._environ,
            )
            if done.returncode == 0:
                return
        raise AssertionError(done.stderr.decode())

    def report(
        self,
        *,
        handler: str = "",
        mounts: Sequence[tuple[str, str]] = (),
        devices: Sequence[str] = (),
        seccomp: str = "",
        script: str = REPORT,
    ) -> bytes:
        """Return what a script prints in a new pod's container with limits.

        `seccomp`: the file of a Localhost profile.
        """
        spaces = api.NamespaceOption(network=api.NODE, pid=api.CONTAINER, ipc=api.POD)
        security = api.LinuxSandboxSecurityContext(namespace_options=spaces)
        pod = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name="small", uid=handler or "x", namespace="default"),
            log_directory=str(self.directory),
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self.cgroup}", security_context=security
            ),
        )
        run = api.RunPodSandboxRequest(config=pod, runtime_handler=handler)
        sandbox = self._runtime.RunPodSandbox(run, timeout=_DEADLINE_S).pod_sandbox_id
        profile = None
        if seccomp:
            localhost = api.SecurityProfile.Localhost
            profile = api.SecurityProfile(profile_type=localhost, localhost_ref=seccomp)
        try:
            container = api.ContainerConfig(
                metadata=api.ContainerMetadata(name="small"),
                image=api.ImageSpec(image=IMAGE),
                log_path="small.log",
                mounts=[
                    api.Mount(host_path=host, container_path=place, readonly=True)
                    for host, place in mounts
                ],
                CDI_devices=[api.CDIDevice(name=name) for name in devices],
                linux=api.LinuxContainerConfig(
                    resources=api.LinuxContainerResources(
                        cpu_period=PERIOD_US, cpu_quota=PERIOD_US, memory_limit_in_bytes=MEMORY
                    ),
                    security_context=api.LinuxContainerSecurityContext(
                        namespace_options=spaces, seccomp=profile
                    ),
                ),
            )
            create = api.CreateContainerRequest(
                pod_sandbox_id=sandbox, config=container, sandbox_config=pod
            )
            made = self._runtime.CreateContainer(create, timeout=_DEADLINE_S).container_id
            start = api.StartContainerRequest(container_id=made)
            self._runtime.StartContainer(start, timeout=_DEADLINE_S)
            execute = api.ExecSyncRequest(container_id=made, cmd=["/bin/sh", "-c", script])
            done = self._runtime.ExecSync(execute, timeout=_DEADLINE_S)
            assert done.exit_code == 0, done.stderr
            output: bytes = done.stdout
            return output
        finally:
            stop = api.StopPodSandboxRequest(pod_sandbox_id=sandbox)
            self._runtime.StopPodSandbox(stop, timeout=_DEADLINE_S)
            remove = api.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
            self._runtime.RemovePodSandbox(remove, timeout=_DEADLINE_S)

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=_DEADLINE_S)
        self._log.close()
        remove_cgroups(self.cgroup)
