"""A Kubernetes cluster of one node, in namespaces of its own, for tests.

    init            pid, mount and network namespace; everything ends with it
      etcd, kube-apiserver, kube-scheduler, kube-controller-manager
      containerd    pods have addresses, by the CNI plugins bridge and host-local
      kubelet

/run, /var/lib and /var/log are empty directories there, the sysctls that a kubelet sets are files,
and its cgroups are below one of this run. The agents of the cluster see no container of the host.

There is no kube-proxy. The API server asks webhooks at the addresses of their endpoints, and the
node has the address of the Service `kubernetes`.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pylxcfs.kubernetes import certificates
from tests.clients.engines import busybox_root, remove_cgroups
from tests.conftest import run_name, wait_until
from tests.kit.daemon import ROOT
from tests.kit.image import archive
from tests.kubernetes.image import REFERENCE

PROGRAMS = ROOT / ".cache/kubernetes"
#: BusyBox with `free`; the pause container, too.
IMAGE = "docker.io/library/pylxcfs-test:1"
NODE = "node1"
#: A test that passes never waits this long.
DEADLINE_S = 180.0
#: For documentation (RFC 5737), so nobody's.
_ADDRESS = "192.0.2.1"
_SERVICE_ADDRESS = "10.96.0.1"
_SERVICES = "10.96.0.0/24"
_PODS = "10.244.0.0/16"
_SERVER = f"https://{_SERVICE_ADDRESS}:443"
_TOKEN = "tests"
#: What a kubelet sets, or refuses to start without.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_FEATURES = "EphemeralContainers=true"
#: As the first process it reaps orphans, which a shell does while it waits.
_INIT = """
set -e
mount --make-rshared /
umount --all --lazy --no-canonicalize --types fuse.pylxcfs  # those of the host
for directory in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 none $directory; done
cd "$1/sysctl"
for name in $(find . -type f); do
    [ ! -e /proc/sys/$name ] || mount --bind $name /proc/sys/$name
done
cd /
ip link set lo up
ip address add $2/32 dev lo
ip address add $3/32 dev lo
echo ready
exec 2>/dev/null
while :; do sleep 100000 || true; done
"""
_CONTAINERD = """
version = 2
root = "{directory}/containerd/root"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}/cni"
    conf_dir = "{directory}/cni"
"""
_NETWORK = """
{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
    "ipam": {{
        "type": "host-local",
        "ranges": [[{{"subnet": "{pods}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]
    }}
}}]}}
"""
_KUBELET = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: {directory}/manifests
resolvConf: {directory}/resolv.conf
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
readOnlyPort: 0
healthzPort: 0
fileCheckFrequency: 1s
nodeStatusUpdateFrequency: 2s
registryPullQPS: 0
eventRecordQPS: 0
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
evictionHard: {{memory.available: 10Mi, nodefs.available: 1%}}
featureGates: {{LocalStorageCapacityIsolation: false, EphemeralContainers: true}}
"""
_KUBECONFIG = """
apiVersion: v1
kind: Config
clusters:
  - {{name: tests, cluster: {{server: {server}, certificate-authority: {directory}/ca.crt}}}}
users: [{{name: tests, user: {{token: {token}}}}}]
contexts: [{{name: tests, context: {{cluster: tests, user: tests}}}}]
current-context: tests
"""
_DISABLED = ("snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper")
_DISABLED += ("snapshotter.v1.zfs", "internal.v1.opt")


class Cluster:
    """The cluster; `with` starts and ends it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pylxcfs-kube-", dir="/tmp"))
        self.manifests = self.directory / "manifests"
        self.cgroup = run_name("kube")
        #: For the processes of the agent that outlive its pod.
        self.agents_cgroup = run_name("kube-agent")
        self._environ = {
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin",
            "HOME": str(self.directory),
            "KUBECONFIG": str(self.directory / "kubeconfig"),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._boot()
            self.start()
            self.load(self._test_image())
        except BaseException as error:
            error.add_note(self.logs())
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The kernel kills the others with init, and removes mounts, links and addresses.
        init = getattr(self, "_unshare", None)
        if init is not None:
            init.kill()
            init.wait(timeout=DEADLINE_S)
            init.stdout.close()
        for process in self._processes.values():
            process.wait(timeout=DEADLINE_S)
        for name in (self.cgroup, self.agents_cgroup):
            remove_cgroups(name)
        shutil.rmtree(self.directory)

    # Programs

    def start(self) -> None:
        """Start what does not run; wait until the node is ready."""
        directory = self.directory
        self._start(
            *("etcd", "--data-dir", f"{directory}/etcd", "--unsafe-no-fsync=true"),
            *("--listen-peer-urls", "http://127.0.0.1:2380"),
        )
        self._start(
            *("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379"),
            *("--secure-port=443", f"--advertise-address={_ADDRESS}"),
            *(
                f"--tls-cert-file={directory}/tls.crt",
                f"--tls-private-key-file={directory}/tls.key",
            ),
            *("--service-account-issuer=https://kubernetes.default.svc", "--allow-privileged=true"),
            f"--service-account-signing-key-file={directory}/account.key",
            f"--service-account-key-file={directory}/account.key",
            *(f"--token-auth-file={directory}/tokens", "--authorization-mode=RBAC"),
            *(f"--service-cluster-ip-range={_SERVICES}", "--enable-aggregator-routing=true"),
            *("--kubelet-preferred-address-types=InternalIP", f"--feature-gates={_FEATURES}"),
        )
        wait_until(self._answers, DEADLINE_S, what="the API server")
        self._start("containerd", "--config", f"{directory}/containerd.toml")
        with_config = f"--kubeconfig={directory}/kubeconfig"
        alone = (with_config, "--leader-elect=false")
        self._start("kube-scheduler", *alone, f"--feature-gates={_FEATURES}")
        self._start(
            *("kube-controller-manager", *alone, f"--root-ca-file={directory}/ca.crt"),
            f"--service-account-private-key-file={directory}/account.key",
        )
        self._start(
            *("kubelet", f"--config={directory}/kubelet.yaml", with_config),
            *("--container-runtime=remote", f"--hostname-override={NODE}"),
            *(f"--node-ip={_ADDRESS}", f"--pod-infra-container-image={IMAGE}"),
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        )
        wait_until(
            lambda: self.try_kubectl("get", "node", NODE, "-o=jsonpath={.metadata.name}") == NODE,
            DEADLINE_S,
            what="the node to register",
        )
        self.wait(f"node/{NODE}", "condition=Ready")

    def kill(self) -> None:
        """Kill every process of the node at once; mounts stay, and those of pylxcfs are dead."""
        self.node("kill -9 -1", check=False)
        for process in self._processes.values():
            process.wait(timeout=DEADLINE_S)
        self._processes.clear()

    def _start(self, name: str, *words: str) -> None:
        running = self._processes.get(name)
        if running is not None and running.poll() is None:
            return
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self._entering("--pid", "--mount", "--net"), name, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd="/",
            )

    def _entering(self, *namespaces: str) -> list[str]:
        return ["nsenter", f"--target={self.init}", *namespaces, "--"]

    def _answers(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended"
        return self.try_kubectl("get", "--raw=/readyz") == "ok"

    def logs(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(
            f"-- {log.name}\n{log.read_text(errors='replace')[-3000:]}"
            for log in sorted(self.directory.glob("*.log"))
        )

    # Namespaces and files

    def _boot(self) -> None:
        self._unshare = subprocess.Popen(
            [
                # Nothing is left where this process is killed.
                *("setpriv", "--pdeathsig=KILL", "unshare", "--kill-child"),
                *("--pid", "--fork", "--mount", "--mount-proc", "--net"),
                *("sh", "-c", _INIT, "init", str(self.directory), _ADDRESS, _SERVICE_ADDRESS),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self._environ,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"ready\n"
        (init,) = psutil.Process(self._unshare.pid).children()
        self.init = init.pid

    def _configure(self) -> None:
        directory = self.directory
        directory.chmod(0o755)
        self.manifests.mkdir()
        for name, value in _SYSCTLS.items():
            file = directory / "sysctl" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        for top in Path("/sys/fs/cgroup").iterdir():
            if top.is_dir() and not top.is_symlink():
                (top / self.cgroup).mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (top / name).exists():
                        (top / self.cgroup / name).write_text((top / name).read_text())
        self._make_keys()
        (directory / "cni").mkdir()
        for name, text in {
            "cni/pods.conflist": _NETWORK,
            "containerd.toml": _CONTAINERD,
            "kubelet.yaml": _KUBELET,
            "kubeconfig": _KUBECONFIG,
            "resolv.conf": "nameserver 192.0.2.2\n",
        }.items():
            content = text.format(
                directory=directory,
                programs=PROGRAMS,
                image=IMAGE,
                disabled=", ".join(f'"io.containerd.{name}"' for name in _DISABLED),
                cgroup=self.cgroup,
                pods=_PODS,
                server=_SERVER,
                token=_TOKEN,
            )
            (directory / name).write_text(content)

    def _make_keys(self) -> None:
        directory = self.directory
        names = [_ADDRESS, _SERVICE_ADDRESS, "127.0.0.1", "kubernetes.default.svc"]
        served = certificates.issue(names, datetime.datetime.now(datetime.UTC))
        (directory / "tls.crt").write_bytes(served.certificate)
        (directory / "tls.key").write_bytes(served.key)
        (directory / "ca.crt").write_bytes(served.authorities)
        account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        text = account.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
        (directory / "account.key").write_bytes(text)
        (directory / "tokens").write_text(f'{_TOKEN},tests,tests,"system:masters"\n')

    # Images

    def _test_image(self) -> Path:
        file = self.directory / "test.tar"
        root = busybox_root(self.directory / "rootfs")
        file.write_bytes(archive(root, IMAGE))
        return file

    def load(self, image: Path) -> None:
        """Give an OCI archive to the node: it has no registry."""
        self.node(f"ctr --namespace k8s.io images import --snapshotter overlayfs {image}")

    # Questions and orders

    def node(self, script: str, *, check: bool = True) -> str:
        """Run a shell script on the node; return what it prints."""
        command = [*self._entering("--pid", "--mount", "--net"), "sh", "-c", script]
        return self._run(command, check=check)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl; return what it prints, with its warnings."""
        return self._run(self._kubectl(words), stdin)

    def try_kubectl(self, *words: str) -> str:
        """Run kubectl; return what it prints, which is a message where it fails."""
        return self._run(self._kubectl(words), check=False)

    def _kubectl(self, words: Sequence[str]) -> list[str]:
        program = Path(sysconfig.get_path("scripts"), "kubectl")
        return [*self._entering("--net"), str(program), *words]

    def helm(self, action: str, **settings: Any) -> dict[str, Any]:
        """Run install, upgrade or uninstall of Helm, without a helm program."""
        command = [*self._entering("--net"), sys.executable, "-m", "tests.kubernetes.helm", action]
        done: dict[str, Any] = json.loads(self._run(command, json.dumps(settings)))
        return done

    def _run(self, command: list[str], stdin: str | None = None, *, check: bool = True) -> str:
        done = subprocess.run(
            command,
            input=stdin or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S + 60,
            env=self._environ,
            cwd=ROOT,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
        return done.stdout

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return processes of pods with these words in their command."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                cgroups = Path(f"/proc/{process.pid}/cgroup").read_text()
                names = [Path(word).name for word in process.cmdline()]
                if f"/{self.cgroup}/" in cgroups and set(words) <= {*names}:
                    found.append(process)
        return found

    @contextlib.contextmanager
    def program(self, module: str, *words: str) -> Iterator[None]:
        """Run a module of the tests on the node."""
        process = subprocess.Popen(
            [*self._entering("--net"), sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            env=self._environ,
            cwd=ROOT,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait(timeout=DEADLINE_S)

    def apply(self, *objects: Mapping[str, Any]) -> str:
        """Create or change objects; return what kubectl says, with warnings."""
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        return self.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def get(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """Return an object, as pod/NAME."""
        found: dict[str, Any] = json.loads(
            self.kubectl("get", name, f"--namespace={namespace}", "--output=json")
        )
        return found

    def wait(self, name: str, condition: str, namespace: str = "default") -> None:
        """Wait for a condition of an object."""
        words = ("wait", name, f"--for={condition}", f"--namespace={namespace}")
        self.kubectl(*words, f"--timeout={DEADLINE_S:.0f}s")

    def execute(
        self, pod: str, script: str, namespace: str = "default", container: str = ""
    ) -> str:
        """Run a shell script in a container of a pod; return what it prints."""
        chosen = [f"--container={container}"] if container else []
        words = ("exec", pod, f"--namespace={namespace}", *chosen, "--", "/bin/sh", "-c", script)
        return self.kubectl(*words)


def pod_of(
    name: str,
    *containers: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod; without containers it has one with 1 CPU and 2 GiB that sleeps."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [*containers] or [container_of("main")],
            **spec,
        },
    }


def container_of(
    name: str, script: str = "", *, cpu: str = "1", memory: str = "2Gi", **settings: Any
) -> dict[str, Any]:
    """Return a container with limits; the node is small, so it requests little."""
    made: dict[str, Any] = {
        "name": name,
        "image": IMAGE,
        "resources": {
            "limits": {"cpu": cpu, "memory": memory},
            "requests": {"cpu": "1m", "memory": "1Mi"},
        },
        **settings,
    }
    if script:
        made["command"] = ["/bin/sh", "-c", script]
    return made


class Space:
    """A namespace with its pods; `with` makes and removes it."""

    _serial = itertools.count(1)

    def __init__(self, cluster: Cluster, labels: Mapping[str, str] | None = None) -> None:
        self._cluster = cluster
        self.name = f"test-{next(self._serial)}"
        self._labels = labels or {}

    def __enter__(self) -> Space:
        metadata = {"name": self.name, "labels": self._labels}
        self._cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        wait_until(self._has_account, DEADLINE_S, what=f"the service account of {self.name}")
        return self

    def _has_account(self) -> bool:
        words = ("get", "serviceaccount/default", "--output=name", f"--namespace={self.name}")
        return self._cluster.try_kubectl(*words).strip() == "serviceaccount/default"

    def create(self, *pods: Mapping[str, Any], dry_run: bool = False) -> str:
        """Create pods; return what kubectl says, with warnings."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
        options = ["--dry-run=server", "--output=json"] if dry_run else []
        words = ("create", "-f", "-", f"--namespace={self.name}", *options)
        return self._cluster.kubectl(*words, stdin=listed)

    def run(self, pod: Mapping[str, Any]) -> str:
        """Create a pod, and wait until it runs; return what kubectl says."""
        said = self.create(pod)
        self.wait(pod["metadata"]["name"])
        return said

    def wait(self, name: str, condition: str = "condition=Ready") -> None:
        """Wait for a condition of a pod."""
        self._cluster.wait(f"pod/{name}", condition, self.name)

    def get(self, name: str) -> dict[str, Any]:
        """Return a pod."""
        return self._cluster.get(f"pod/{name}", self.name)

    def note(self, name: str) -> str | None:
        """Return the status that the webhook has written."""
        noted: dict[str, str] = self.get(name)["metadata"].get("annotations", {})
        return noted.get("pylxcfs.io/status")

    def execute(self, name: str, script: str, container: str = "") -> str:
        """Run a shell script in a container; return what it prints."""
        return self._cluster.execute(name, script, self.name, container)

    def memory(self, name: str, container: str = "") -> int:
        """Return MemTotal in KiB, as the container reads it."""
        return int(self.execute(name, "head -n1 /proc/meminfo", container).split()[1])

    def logs(self, name: str, container: str = "") -> str:
        """Return what a container has printed."""
        chosen = [f"--container={container}"] if container else []
        return self._cluster.kubectl("logs", name, f"--namespace={self.name}", *chosen)

    def __exit__(self, *_: object) -> None:
        self._cluster.kubectl("delete", "namespace", self.name, "--wait=false")


class Release:
    """The chart on the cluster."""

    name = "pylxcfs"
    namespace = "pylxcfs-system"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.cgroup = cluster.agents_cgroup
        self._values: dict[str, Any] | None = None

    def values(self, **changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the tests, and changes to sections of them."""
        repository, _, tag = REFERENCE.rpartition(":")
        sections: dict[str, Any] = {
            "image": {"repository": repository, "tag": tag},
            # Cgroups with names of the run.
            "agent": {"extraArgs": [f"--cgroup={self.cgroup}"]},
            "webhook": {"replicas": 1},
        }
        for section, change in changes.items():
            if isinstance(change, Mapping):
                sections[section] = {**sections.get(section, {}), **change}
            else:
                sections[section] = change
        return sections

    def use(self, **changes: Any) -> None:
        """Install or change it, unless it is that way; wait until it serves."""
        values = self.values(**changes)
        if self._values is None:
            named = {"metadata": {"name": self.namespace}}
            self._cluster.apply({"apiVersion": "v1", "kind": "Namespace", **named})
            self._do("install", values)
        elif values != self._values:
            self._do("upgrade", values)
        self._values = values
        self.wait()

    def _do(self, action: str, values: dict[str, Any] | None = None) -> None:
        settings = {} if values is None else {"values": values}
        self._cluster.helm(action, name=self.name, namespace=self.namespace, **settings)

    def wait(self) -> None:
        """Wait until agent and webhook are as they should be, and ready."""
        for name in ("daemonset/pylxcfs-agent", "deployment/pylxcfs-webhook"):
            words = ("rollout", "status", name, f"--namespace={self.namespace}")
            self._cluster.kubectl(*words, f"--timeout={DEADLINE_S:.0f}s")

    def kubectl(self, *words: str) -> str:
        """Run kubectl in the namespace of the release."""
        return self._cluster.kubectl(*words, f"--namespace={self.namespace}")

    def uninstall(self) -> None:
        """Let the agents clean the node up, and remove the release."""
        self._do("upgrade", self.values(remove=True))
        words = ("rollout", "status", "daemonset/pylxcfs-agent", f"--timeout={DEADLINE_S:.0f}s")
        self.kubectl(*words)
        self._do("uninstall")
        self._values = None
