"""containerd of our own, and pods in it, asked for by CRI as a kubelet does.

Pods use the node's network, so no CNI plugin is needed. One image of BusyBox is that of containers
and of the pause container.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from cri_api.v1 import api_pb2 as api
from cri_api.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

from tests.clients.engines import MEMORY, busybox_root, remove_cgroups
from tests.conftest import run_name, wait_until
from tests.kit.cgroups import PERIOD_US
from tests.kit.image import archive

IMAGE = "localhost/pylxcfs-test:1"
#: The runtime handler with `base_runtime_spec`, for a RuntimeClass.
HANDLER = "pylxcfs"
_DEADLINE_S = 60
#: containerd 2 takes version 2, too, and converts it; containerd 1.6 has no NRI.
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
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  disable_connections = false
  socket_path = "{directory}/nri.sock"
  plugin_path = "{directory}/nri/plugins"
  plugin_config_path = "{directory}/nri/conf.d"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  {cdi}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    {handler}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{directory}/cni/bin"
    conf_dir = "{directory}/cni/conf"
"""
_HANDLER = f"""
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER}]
      runtime_type = "io.containerd.runc.v2"
      base_runtime_spec = "{{directory}}/base.json"
"""
_DISABLED = ["snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper"]
_DISABLED += ["snapshotter.v1.zfs", "internal.v1.opt"]


def limited(cpus: float, memory: int, shares: int = 0) -> Any:
    """Return limits of a container: CPUs, bytes, and the weight of its CPUs."""
    return api.LinuxContainerResources(
        cpu_period=PERIOD_US,
        cpu_quota=int(cpus * PERIOD_US),
        memory_limit_in_bytes=memory,
        cpu_shares=shares,
    )


class Pod:
    """A pod with one container that runs; `end` removes both."""

    def __init__(self, containerd: Containerd, sandbox: str, config: Any) -> None:
        self._containerd, self.sandbox, self.config = containerd, sandbox, config
        self.container = ""

    def run(self, script: str) -> str:
        """Run a shell script in the container; return what it prints."""
        return str(self._execute("/bin/sh", "-c", script).stdout.decode())

    def output(self, script: str) -> bytes:
        """Run a shell script that has to succeed; return what it prints."""
        done = self._execute("/bin/sh", "-c", script)
        assert done.exit_code == 0, done.stderr
        return bytes(done.stdout)

    def exit_code(self, *command: str) -> int:
        """Run a command in the container; return its exit code."""
        return int(self._execute(*command).exit_code)

    def _execute(self, *command: str) -> Any:
        request = api.ExecSyncRequest(container_id=self.container, cmd=command)
        return self._containerd.runtime.ExecSync(request, timeout=_DEADLINE_S)

    def add(self, name: str, **settings: Any) -> Pod:
        """Start one more container in the pod; return the pod as seen from it."""
        other = Pod(self._containerd, self.sandbox, self.config)
        linux = api.LinuxContainerConfig(resources=limited(1, MEMORY))
        return self._containerd._run(other, linux=linux, name=name, **settings)

    def resize(self, limits: Any) -> None:
        """Change the limits of the container, as a kubelet does in place."""
        update = api.UpdateContainerResourcesRequest(container_id=self.container, linux=limits)
        self._containerd.runtime.UpdateContainerResources(update, timeout=_DEADLINE_S)

    def ended(self) -> bool:
        """Return whether the container has ended."""
        request = api.ContainerStatusRequest(container_id=self.container)
        status = self._containerd.runtime.ContainerStatus(request, timeout=_DEADLINE_S).status
        return bool(status.state == api.CONTAINER_EXITED)

    def mounts(self) -> dict[str, str]:
        """Return the paths that views cover, and what they are in their mount."""
        text = self.run("grep fuse.pylxcfs /proc/self/mountinfo")
        words = [line.split() for line in text.splitlines()]
        found = {fields[4]: fields[3] for fields in words}
        assert len(found) == len(words), f"stacked: {words}"
        return found

    def memory(self) -> int:
        """Return MemTotal in bytes, as a program in the container reads it."""
        return int(self.run("head -n1 /proc/meminfo").split()[1]) << 10

    def end(self) -> None:
        """Remove the pod, once."""
        if self not in self._containerd.pods:
            return
        self._containerd.pods.remove(self)
        stop = api.StopPodSandboxRequest(pod_sandbox_id=self.sandbox)
        self._containerd.runtime.StopPodSandbox(stop, timeout=_DEADLINE_S)
        remove = api.RemovePodSandboxRequest(pod_sandbox_id=self.sandbox)
        self._containerd.runtime.RemovePodSandbox(remove, timeout=_DEADLINE_S)


class Containerd:
    """containerd on directories of its own; `with` starts and ends it.

    `path`: where its programs are looked for. `base.json` in the directory: the specification of
    HANDLER. `cdi`: a directory of CDI specifications, for containerd 1.7 and newer.
    """

    def __init__(
        self, directory: Path, path: str, snapshotter: str = "native", cdi: Path | None = None
    ) -> None:
        self.directory = directory
        self.nri = directory / "nri.sock"
        self.cgroup = run_name(f"cri-{directory.name}")
        self._environ = {**os.environ, "PATH": path}
        self.pods: list[Pod] = []
        self._made = -1
        has_handler = (directory / "base.json").exists()
        text = _CONFIG.format(
            directory=directory,
            image=IMAGE,
            disabled=", ".join(f'"io.containerd.{name}"' for name in _DISABLED),
            snapshotter=snapshotter,
            cdi=f'enable_cdi = true\n  cdi_spec_dirs = ["{cdi}"]' if cdi else "",
            handler=_HANDLER.format(directory=directory) if has_handler else "",
        )
        self._snapshotter = snapshotter
        (directory / "config.toml").write_text(text)

    def __enter__(self) -> Containerd:
        self.start()
        try:
            image = self.directory / "image.tar"
            image.write_bytes(archive(busybox_root(self.directory / "rootfs"), IMAGE))
            self.load(image)
        except BaseException as error:
            error.add_note((self.directory / "log").read_text()[-4000:])
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start it; after `stop` again, with the same pods."""
        command = ["sh", "-c", 'exec containerd "$@"', "sh"]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.directory / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )
        self._channel = grpc.insecure_channel(f"unix://{self.directory}/sock")
        self.runtime = RuntimeServiceStub(self._channel)
        wait_until(self._answers, _DEADLINE_S, what="containerd to answer")

    def stop(self) -> None:
        """End it; containers go on."""
        self._channel.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=_DEADLINE_S)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "containerd ended"
        try:
            ImageServiceStub(self._channel).ListImages(api.ListImagesRequest(), timeout=5)
            self.runtime.ListPodSandbox(api.ListPodSandboxRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    def load(self, image: Path) -> None:
        """Import an image."""
        ctr = ["sh", "-c", 'exec ctr "$@"', "sh", "--address", f"{self.directory}/sock"]
        words = ["--namespace=k8s.io", "images", "import", f"--snapshotter={self._snapshotter}"]
        for local in ([], ["--local"]):  # containerd 2 needs that one, 1 does not know it
            done = subprocess.run(
                [*ctr, *words, *local, str(image)],
                capture_output=True,
                timeout=120,
                env=self._environ,
            )
            if done.returncode == 0:
                return
        raise AssertionError(done.stderr.decode())

    def pod(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        namespace: str = "default",
        volumes: Mapping[str, str] | None = None,
        limits: Any = None,
        pid: int = api.CONTAINER,
        handler: str = "",
        seccomp: str = "",
        **settings: Any,
    ) -> Pod:
        """Start a pod with a container with limits: one CPU and MEMORY, or `limits`.

        `volumes`: paths of the node by their place. `seccomp`: the file of a Localhost profile.
        `settings` are those of ContainerConfig.
        """
        pod = self._sandbox(labels or {}, annotations or {}, namespace, pid, handler=handler)
        limits = limits or limited(1, MEMORY)
        mounts = [
            api.Mount(host_path=host, container_path=place, readonly=True)
            for place, host in (volumes or {}).items()
        ]
        linux = api.LinuxContainerConfig(resources=limits)
        if seccomp:
            localhost = api.SecurityProfile.Localhost
            profile = api.SecurityProfile(profile_type=localhost, localhost_ref=seccomp)
            linux.security_context.seccomp.CopyFrom(profile)
        return self._run(pod, mounts=mounts, linux=linux, **settings)

    def daemon_pod(
        self,
        command: Sequence[str],
        mounts: Sequence[Any],
        environ: Mapping[str, str],
        image: str = IMAGE,
    ) -> Pod:
        """Start a privileged pod in the node's pid namespace, as that of a DaemonSet."""
        pod = self._sandbox({}, {}, "kube-system", pid=api.NODE, privileged=True)
        return self._run(
            pod,
            image=image,
            command=command,
            mounts=mounts,
            envs=[api.KeyValue(key=key, value=value) for key, value in environ.items()],
            linux=api.LinuxContainerConfig(resources=api.LinuxContainerResources()),
        )

    def _sandbox(
        self,
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
        namespace: str,
        pid: int = api.CONTAINER,
        privileged: bool = False,
        handler: str = "",
    ) -> Pod:
        spaces = api.NamespaceOption(network=api.NODE, pid=pid, ipc=api.POD)
        self._made += 1
        name, uid = f"pod-{self._made}", str(uuid.uuid4())
        config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            log_directory=str(self.directory),
            labels=labels,
            annotations=annotations,
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=f"/{self.cgroup}/kubepods/pod{uid}",
                security_context=api.LinuxSandboxSecurityContext(
                    namespace_options=spaces, privileged=privileged
                ),
            ),
        )
        run = api.RunPodSandboxRequest(config=config, runtime_handler=handler)
        sandbox = self.runtime.RunPodSandbox(run, timeout=_DEADLINE_S).pod_sandbox_id
        pod = Pod(self, sandbox, config)
        self.pods.append(pod)
        return pod

    def _run(
        self, pod: Pod, *, linux: Any, name: str = "small", image: str = IMAGE, **settings: Any
    ) -> Pod:
        secure = pod.config.linux.security_context
        linux.security_context.namespace_options.CopyFrom(secure.namespace_options)
        linux.security_context.privileged = secure.privileged
        container = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=image),
            log_path=f"{pod.config.metadata.name}.log",
            linux=linux,
            **settings,
        )
        create = api.CreateContainerRequest(
            pod_sandbox_id=pod.sandbox, config=container, sandbox_config=pod.config
        )
        pod.container = self.runtime.CreateContainer(create, timeout=_DEADLINE_S).container_id
        start = api.StartContainerRequest(container_id=pod.container)
        self.runtime.StartContainer(start, timeout=_DEADLINE_S)
        return pod

    def __exit__(self, *_: object) -> None:
        for pod in [*self.pods]:
            pod.end()
        self.stop()
        remove_cgroups(self.cgroup)
