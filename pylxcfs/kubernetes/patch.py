"""From a pod to a JSON Patch: which volumes, mounts and variables are added, and what is left.

Pure. The patch adds, and replaces nothing but the status annotation. What the pod has at a path,
under a name of a volume or in a variable is left to it, and named in that annotation and in a
warning. A pod that was patched gets an empty patch, so the webhook may be called again, and after
a sidecar was added the sidecar gets its files.

How a volume looks decides whether pods start while the node does not serve:

    files       a hostPath for each file, without a type: needs the links that the agent leaves
                below the mountpoint (proc/meminfo -> /proc/meminfo), and then always starts but on
                a mount that is dead
    directory   the directory above the mountpoint, with HostToContainer: always starts; the files
                come by the agent, after the container has started
    none        no volume, but an annotation that tells the NRI plugin of the node to do it
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pylxcfs.errors import PylxcfsError
from pylxcfs.kubernetes import annotations as keys
from pylxcfs.kubernetes import environment
from pylxcfs.kubernetes.annotations import DEFAULT_FILES, PATHS

#: What is in these fields starts as a container.
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
_EPHEMERAL: Final = ("ephemeralContainers",)

VOLUMES: Final = ("files", "directory", "none")
#: Letters of a status or a warning. The API server cuts warnings of more than 256.
_MOST_STATUS: Final = 1024
_MOST_WARNING: Final = 240

Json = dict[str, Any]


class NotAPod(PylxcfsError):
    """The object is not one that the API server would send as a pod."""


class Settings(NamedTuple):
    """What the webhook adds unless a pod asks for something else."""

    mountpoint: str = "/var/lib/pylxcfs/mount"
    volumes: str = "files"
    files: tuple[str, ...] = DEFAULT_FILES
    env: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        return posixpath.dirname(self.mountpoint)


class Decision(NamedTuple):
    """What is done with a pod."""

    patch: list[Json]
    warnings: list[str]
    #: mutated, unchanged or left.
    outcome: str
    #: For metrics and the log: one of few.
    reason: str


def decide(
    pod: Mapping[str, Any],
    settings: Settings,
    *,
    by_default: bool,
    old: Mapping[str, Any] | None = None,
    ephemeral: bool = False,
) -> Decision:
    """Return the patch for a pod. Raise NotAPod.

    `by_default`: a pod that says nothing is patched, since its namespace has the label.
    `ephemeral`: the request is for the pod's ephemeral containers, where nothing else may change;
    those of `old` are running.
    """
    for field in ("metadata", "spec"):
        if pod.get(field) is None:
            raise NotAPod(f"there is no {field}")
    metadata, spec = _mapping(pod, "metadata"), _mapping(pod, "spec")
    noted = _texts(metadata, "annotations")
    wishes = keys.wishes(noted, _texts(metadata, "labels"))
    warnings = [f"pylxcfs: {mistake}" for mistake in wishes.mistakes]
    inject = by_default if wishes.inject is None else wishes.inject
    reason = ""
    if not inject:
        reason = "not asked" if wishes.inject is None else "opted out"
    elif _is_windows(spec):
        reason = "windows"
    elif spec.get("hostPID") is True:
        reason = "hostPID"
    if reason:
        if wishes.inject and inject:
            warnings.append(f"pylxcfs: the pod is left as it is: {reason}")
        return Decision([], _cut(warnings), "left", reason)

    work = _Work(spec, settings, wishes, _running(old) if ephemeral else frozenset(), ephemeral)
    patch = work.patch()
    if not ephemeral:
        status = "mutated"
        if work.left:
            status = f"mutated, left to the pod: {'; '.join(work.left)}"[:_MOST_STATUS]
        notes = {keys.STATUS: status}
        if settings.volumes == "none" and work.files and wishes.view is None:
            notes[keys.VIEW] = "all"
        if wishes.requests and (requested := work.requested()):
            notes[keys.REQUESTED] = json.dumps(requested, separators=(",", ":"))
        patch += _annotate(metadata, noted, notes)
    warnings += [f"pylxcfs: left to the pod: {text}" for text in work.left]
    outcome = "mutated" if patch else "unchanged"
    return Decision(patch, _cut(warnings), outcome, "conflict" if work.left else "")


def mistakes(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is wrong with the annotations of a pod, for validation. Raise NotAPod."""
    metadata = _mapping(pod, "metadata")
    return keys.wishes(_texts(metadata, "annotations"), _texts(metadata, "labels")).mistakes


class _Volume(NamedTuple):
    """A volume, and where its mount belongs in a container."""

    name: str
    host_path: str
    type: str
    target: str
    propagation: str

    def volume(self) -> Json:
        host_path = {"path": self.host_path, **({"type": self.type} if self.type else {})}
        return {"name": self.name, "hostPath": host_path}

    def mount(self) -> Json:
        mount: Json = {"name": self.name, "mountPath": self.target, "readOnly": True}
        if self.propagation:
            mount["mountPropagation"] = self.propagation
        return mount

    def is_volume(self, volume: Mapping[str, Any]) -> bool:
        """Return whether a volume is this one, also after the API server's defaults."""
        host_path = volume.get("hostPath")
        return (
            volume.keys() == {"name", "hostPath"}
            and isinstance(host_path, dict)
            and host_path.get("path") == self.host_path
            and (host_path.get("type") or "") == self.type
        )

    def is_mount(self, mount: Mapping[str, Any]) -> bool:
        return mount.get("name") == self.name and mount.get("mountPath") == self.target


class _Work:
    """One pod: what it has, what it wants, and what is left to it."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        settings: Settings,
        wishes: keys.Wishes,
        running: frozenset[str],
        ephemeral: bool,
    ) -> None:
        self._spec = spec
        self._ephemeral = ephemeral
        self._running = running
        files = settings.files if wishes.files is None else wishes.files
        if wishes.files is None and wishes.part is not None:
            files = tuple(name for name in files if name in keys.PARTS[wishes.part])
        self._env = settings.env if wishes.env is None else wishes.env
        self.files = files
        self._wanted = list(_volumes(settings, files))
        self._shows_requests = wishes.requests
        #: What is left to the pod, in words.
        self.left: list[str] = []

    def patch(self) -> list[Json]:
        """Return the operations on the spec."""
        present = {volume.get("name"): volume for volume in _objects(self._spec, "volumes")}
        usable = []
        for wanted in self._wanted:
            held = present.get(wanted.name)
            if held is None and self._ephemeral:
                continue  # volumes of a pod that runs cannot be changed
            if held is None or wanted.is_volume(held):
                usable.append(wanted)
            else:
                self.left.append(f"volume {wanted.name}")
        used: dict[str, _Volume] = {}
        operations = []
        for field in _EPHEMERAL if self._ephemeral else _CONTAINERS:
            for i, container in enumerate(_objects(self._spec, field)):
                if container.get("name") in self._running:
                    continue
                path = f"/spec/{field}/{i}"
                mounts = list(self._mounts(container, usable, used))
                operations += _append(container, f"{path}/volumeMounts", mounts)
                if self._env:
                    operations += _append(container, f"{path}/env", self._variables(container))
        added = [one.volume() for one in used.values() if one.name not in present]
        # Volumes first: a reader of the patch finds a name before its use.
        return _append(self._spec, "/spec/volumes", added) + operations

    def _mounts(
        self, container: Mapping[str, Any], usable: Sequence[_Volume], used: dict[str, _Volume]
    ) -> Iterator[Json]:
        mounts = _objects(container, "volumeMounts")
        taken = [_path(mount.get("mountPath")) for mount in mounts]
        taken += [_path(one.get("devicePath")) for one in _objects(container, "volumeDevices")]
        for volume in usable:
            if any(volume.is_mount(mount) for mount in mounts):
                continue
            if any(_overlap(volume.target, path) for path in taken):
                self.left.append(f"{volume.target} of {_name(container)}")
                continue
            used[volume.name] = volume
            yield volume.mount()

    def requested(self) -> dict[str, Json]:
        """Return what containers request, by their names, where they have no limit."""
        found = {}
        for field in _CONTAINERS:
            for container in _objects(self._spec, field):
                limits, requests = self._resources(container)
                wanted = {
                    resource: requests[resource]
                    for resource in ("cpu", "memory")
                    if environment.quantity(requests.get(resource))
                    and not environment.quantity(limits.get(resource))
                }
                if wanted:
                    found[_name(container)] = wanted
        return found

    def _resources(self, container: Mapping[str, Any]) -> tuple[Json, Json]:
        """Return limits and requests; those of the pod hold where a container has none."""
        owners = [_mapping(owner, "resources") for owner in (self._spec, container)]
        limits, requests = (
            {**_mapping(owners[0], what), **_mapping(owners[1], what)}
            for what in ("limits", "requests")
        )
        return limits, requests

    def _variables(self, container: Mapping[str, Any]) -> list[Json]:
        limits, requests = self._resources(container)
        if self._shows_requests:
            limits = {**requests, **limits}
        found = environment.values(environment.limits_of(limits), self._env)
        have = {variable.get("name") for variable in _objects(container, "env")}
        # Which names a ConfigMap or Secret brings is not known here, and `env` wins over them.
        prefixes = [str(one.get("prefix") or "") for one in _objects(container, "envFrom")]
        result, hidden = [], []
        for name, value in found.items():
            if name in have:
                continue
            if any(name.startswith(prefix) for prefix in prefixes):
                hidden.append(name)
            else:
                result.append({"name": name, "value": value})
        if hidden:
            self.left.append(f"variables of {_name(container)}, which has envFrom")
        return result


def _volumes(settings: Settings, files: Sequence[str]) -> Iterator[_Volume]:
    if settings.volumes == "directory" and files:
        place = settings.directory
        yield _Volume("pylxcfs", place, "DirectoryOrCreate", place, "HostToContainer")
    elif settings.volumes == "files":
        for name in files:
            path = PATHS[name]
            yield _Volume(f"pylxcfs-{name}", f"{settings.mountpoint}/{path}", "", f"/{path}", "")


def _append(owner: Mapping[str, Any], path: str, added: list[Json]) -> list[Json]:
    """Return operations that append to the list at `path`, which may be missing."""
    if not added:
        return []
    if not owner.get(path.rpartition("/")[2]):
        return [{"op": "add", "path": path, "value": added}]
    return [{"op": "add", "path": f"{path}/-", "value": value} for value in added]


def _annotate(
    metadata: Mapping[str, Any], noted: Mapping[str, str], notes: Mapping[str, str]
) -> list[Json]:
    notes = {key: text for key, text in notes.items() if noted.get(key) != text}
    if notes and metadata.get("annotations") is None:
        return [{"op": "add", "path": "/metadata/annotations", "value": notes}]
    return [
        {"op": "add", "path": f"/metadata/annotations/{key.replace('/', '~1')}", "value": text}
        for key, text in notes.items()
    ]


def _is_windows(spec: Mapping[str, Any]) -> bool:
    if _mapping(spec, "os").get("name") == "windows":
        return True
    selector = _mapping(spec, "nodeSelector")
    systems = ("kubernetes.io/os", "beta.kubernetes.io/os")
    if any(selector.get(key) == "windows" for key in systems):
        return True
    owners = [spec, *(one for field in _CONTAINERS for one in _objects(spec, field))]
    if any(_mapping(one, "securityContext").get("windowsOptions") for one in owners):
        return True
    affinity = _mapping(_mapping(spec, "affinity"), "nodeAffinity")
    required = _mapping(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    terms = _objects(required, "nodeSelectorTerms")
    # Terms are alternatives, and the expressions of one hold together.
    return bool(terms) and all(
        any(
            one.get("key") in systems
            and one.get("operator") == "In"
            and one.get("values") == ["windows"]
            for one in _objects(term, "matchExpressions")
        )
        for term in terms
    )


def _running(old: Mapping[str, Any] | None) -> frozenset[str]:
    if old is None:
        return frozenset()
    containers = _objects(_mapping(old, "spec"), "ephemeralContainers")
    return frozenset(_name(container) for container in containers)


def _overlap(one: str, other: str) -> bool:
    return (
        other == "/"
        or one == other
        or f"{one}/".startswith(f"{other}/")
        or (other.startswith(f"{one}/"))
    )


def _path(value: object) -> str:
    """Return a path in the container, as the runtime takes it."""
    # Two slashes in front are kept by normpath.
    return posixpath.normpath("/" + str(value or "").lstrip("/"))


def _name(container: Mapping[str, Any]) -> str:
    return str(container.get("name") or "")


def _mapping(owner: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a field that is an object, or empty. Raise NotAPod."""
    value = owner.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotAPod(f"{key} is not an object")
    return value


def _objects(owner: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a field that is a list of objects, or empty. Raise NotAPod."""
    value = owner.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise NotAPod(f"{key} is not a list of objects")
    return value


def _texts(owner: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return a field that maps names to text, or empty. Raise NotAPod."""
    value = _mapping(owner, key)
    if not all(isinstance(one, str) for one in value.values()):
        raise NotAPod(f"{key} has a value that is not text")
    return value


def _cut(warnings: list[str]) -> list[str]:
    """Return warnings as the API server takes them, without those that say the same."""
    short = (
        one if len(one) <= _MOST_WARNING else one[: _MOST_WARNING - 3] + "..." for one in warnings
    )
    return list(dict.fromkeys(short))
