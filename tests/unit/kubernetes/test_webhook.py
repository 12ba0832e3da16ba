"""The server, over TLS on loopback; an API server in memory, over TLS as well."""

from __future__ import annotations

import base64
import datetime
import functools
import http.client
import json
import logging
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pylxcfs.kubernetes import keeping, webhook
from pylxcfs.kubernetes.api import Api, ApiError
from pylxcfs.kubernetes.certificates import BadCertificate, Served, issue
from pylxcfs.kubernetes.keeping import Context, Files, Managed, renew
from pylxcfs.kubernetes.patch import Settings
from pylxcfs.kubernetes.review import MOST_BODY
from tests.conftest import wait_until
from tests.unit.kubernetes.api import NAMES, Server, run
from tests.unit.kubernetes.pods import RECORDED, review


def write(directory: Path, served: Served) -> Files:
    """Replace the files as the kubelet does: both at once."""
    place = directory / "files"
    place.mkdir(exist_ok=True)
    for name, text in (("tls.crt", served.certificate), ("tls.key", served.key)):
        (place / name).write_bytes(text)
    return Files(f"{place}/tls.crt", f"{place}/tls.key")


class Client:
    """An HTTPS client with an authority of its own."""

    def __init__(self, bound: str, authorities: bytes) -> None:
        self._port = int(bound.rpartition(":")[2])
        self._tls = ssl.create_default_context(cadata=authorities.decode())

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes, bytes]:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._tls, timeout=20
        )
        try:
            connection.request(method, path, body)
            serial = connection.sock.getpeercert(binary_form=True)
            answer = connection.getresponse()
            return answer.status, answer.read(), serial
        finally:
            connection.close()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return (await trio.to_thread.run_sync(self._ask, "POST", path, body))[:2]

    async def get(self, path: str) -> tuple[int, bytes]:
        return (await trio.to_thread.run_sync(self._ask, "GET", path, None))[:2]

    async def certificate(self) -> bytes:
        return (await trio.to_thread.run_sync(self._ask, "GET", "/healthz", None))[2]


def test_it_answers_over_tls(tmp_path: Path) -> None:
    served = issue(NAMES, keeping.utc_now())
    source = write(tmp_path, served)

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(webhook.serve, Settings(), source, "127.0.0.1:0")
            (bound,) = await nursery.start(start)
            client = Client(bound, served.authorities)
            body = review(RECORDED)
            status, text = await client.post("/mutate", body)
            response = json.loads(text)["response"]
            assert (status, response["allowed"]) == (200, True)
            patch = json.loads(base64.b64decode(response["patch"]))
            assert len(jsonpatch.apply_patch(RECORDED, patch)["spec"]["volumes"]) == 9
            status, text = await client.post("/mutate-asked", body)
            assert (status, "patch" in json.loads(text)["response"]) == (200, False)
            assert json.loads((await client.post("/validate", body))[1])["response"]["allowed"]
            for bad in (b"", b"{}", b"x" * (MOST_BODY + 1), review(RECORDED, uid="")):
                assert (await client.post("/mutate", bad))[0] == 400
            assert (await client.get("/mutate"))[0] == 405
            assert (await client.get("/elsewhere"))[0] == 404
            assert (await client.get("/readyz"))[0] == 200
            lines = (await client.get("/metrics"))[1].decode().splitlines()
            mutated = 'webhook="mutate",outcome="mutated",reason=""'
            assert f"pylxcfs_admissions_total{{{mutated}}} 1" in lines
            wrong = 'webhook="mutate",outcome="error",reason="bad request"'
            assert f"pylxcfs_admissions_total{{{wrong}}} 4" in lines
            assert any(line.startswith("pylxcfs_certificate_expiry_timestamp") for line in lines)
            nursery.cancel_scope.cancel()

    run(work)


def test_http_2_as_the_api_server_speaks_it(tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    served = issue(NAMES, keeping.utc_now())
    source = write(tmp_path, served)
    (tmp_path / "ca.crt").write_bytes(served.authorities)
    (tmp_path / "body").write_bytes(review(RECORDED))

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(webhook.serve, Settings(), source, "127.0.0.1:0")
            (bound,) = await nursery.start(start)
            url = f"https://127.0.0.1:{bound.rpartition(':')[2]}/mutate"
            command = ["curl", "-sS", "--http2", "--cacert", f"{tmp_path}/ca.crt"]
            command += ["--data-binary", f"@{tmp_path}/body", "--write-out", "%{http_version}"]
            # Two requests of one connection.
            command += ["--output", "/dev/null", "--output", "/dev/null", url, url]
            done = await trio.run_process(command, capture_stdout=True)
            assert done.stdout == b"22"
            nursery.cancel_scope.cancel()

    run(work)


def test_a_client_that_is_silent_or_speaks_no_tls_disturbs_nobody(tmp_path: Path) -> None:
    served = issue(NAMES, keeping.utc_now())
    source = write(tmp_path, served)

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(webhook.serve, Settings(), source, "127.0.0.1:0")
            (bound,) = await nursery.start(start)
            port = int(bound.rpartition(":")[2])
            silent = await trio.open_tcp_stream("127.0.0.1", port)
            rude = await trio.open_tcp_stream("127.0.0.1", port)
            await rude.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert (await Client(bound, served.authorities).get("/healthz"))[0] == 200
            for stream in (silent, rude):
                await stream.aclose()
            assert (await Client(bound, served.authorities).get("/healthz"))[0] == 200
            nursery.cancel_scope.cancel()

    run(work)


def test_many_at_once(tmp_path: Path) -> None:
    served = issue(NAMES, keeping.utc_now())
    source = write(tmp_path, served)

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(webhook.serve, Settings(), source, "127.0.0.1:0")
            (bound,) = await nursery.start(start)
            client = Client(bound, served.authorities)
            answers: list[int] = []

            async def one() -> None:
                answers.append((await client.post("/mutate", review(RECORDED)))[0])

            async with trio.open_nursery() as clients:
                for _ in range(50):
                    clients.start_soon(one)
            assert answers == [200] * 50
            nursery.cancel_scope.cancel()

    run(work)


def test_the_next_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    first, second = issue(NAMES, keeping.utc_now()), issue(NAMES, keeping.utc_now())
    source = write(tmp_path, first)
    source.every_s = 0.01

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            start = functools.partial(webhook.serve, Settings(), source, "127.0.0.1:0")
            (bound,) = await nursery.start(start)
            client = Client(bound, first.authorities + second.authorities)
            seen = await client.certificate()
            assert ssl.DER_cert_to_PEM_cert(seen).encode() == first.certificate
            # Half of a change, as of files that are written one after the other.
            (tmp_path / "files/tls.key").write_bytes(second.key)
            await trio.sleep(0.05)
            assert await client.certificate() == seen
            write(tmp_path, second)
            while await client.certificate() == seen:
                await trio.sleep(0.01)
            only_second = Client(bound, second.authorities)
            assert (await only_second.post("/mutate", review(RECORDED)))[0] == 200
            nursery.cancel_scope.cancel()

    run(work)


def test_a_context_refuses_what_does_not_belong_together() -> None:
    one, other = issue(NAMES, keeping.utc_now()), issue(NAMES, keeping.utc_now())
    context = Context()
    assert not context.is_valid
    context.take(one)
    for wrong in (one._replace(key=other.key), one._replace(certificate=b"x"), Served(b"", b"")):
        with pytest.raises(BadCertificate):
            context.take(wrong)
    assert context.served == one
    assert context.is_valid
    hour = datetime.timedelta(hours=1)
    context.take(issue(NAMES, keeping.utc_now() - 2 * hour, life=hour))
    assert not context.is_valid


class FakeApi:
    """A Secret and two webhook configurations, with the API server's manners."""

    SECRET = "/api/v1/namespaces/system/secrets/pylxcfs"
    HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/pylxcfs"

    def __init__(self, directory: Path) -> None:
        self._server = Server(directory, self._answer, ["GET", "PUT", "PATCH"])
        self.serve, self.account = self._server.serve, self._server.account
        self.objects: dict[str, dict[str, Any]] = {
            self.SECRET: {"kind": "Secret", "metadata": {"name": "pylxcfs"}},
            self.HOOKS: {
                "metadata": {"name": "pylxcfs"},
                "webhooks": [
                    {"name": "pods.pylxcfs.io", "clientConfig": {"service": {"name": "x"}}},
                    {"name": "asked.pylxcfs.io", "clientConfig": {"service": {"name": "x"}}},
                ],
            },
        }
        for found in self.objects.values():
            found["metadata"]["resourceVersion"] = "1"
        self.writes: list[str] = []

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if request.headers["authorization"] != "Bearer secret-token":
            return JSONResponse({"message": "Unauthorized"}, 401)
        sent = await request.json() if request.method != "GET" else None
        held = self.objects.get(path)
        if held is None:
            return JSONResponse({"message": f"{path} not found"}, 404)
        version = held["metadata"]["resourceVersion"]
        if request.method == "PUT":
            new = sent
            if new["metadata"].get("resourceVersion") != version:
                return JSONResponse({"message": "the object has been modified"}, 409)
        elif request.method == "PATCH":
            assert request.headers["content-type"] == "application/json-patch+json"
            new = jsonpatch.apply_patch(held, sent)
        else:
            return JSONResponse(held)
        new["metadata"]["resourceVersion"] = str(int(version) + 1)
        self.objects[path] = new
        self.writes.append(request.method)
        return JSONResponse(new)

    def trusted(self) -> list[bytes]:
        return [
            base64.b64decode(one["clientConfig"].get("caBundle", ""))
            for one in self.objects[self.HOOKS]["webhooks"]
        ]


class Clock:
    def __init__(self) -> None:
        self.now = keeping.utc_now()

    def __call__(self) -> datetime.datetime:
        return self.now


def managed(api: Api, clock: Clock) -> Managed:
    hooks = ["mutatingwebhookconfigurations/pylxcfs"]
    return Managed(api, NAMES, "pylxcfs", hooks, now=clock, life=datetime.timedelta(days=90))


def test_certificates_of_our_own_are_rotated_with_what_is_trusted(tmp_path: Path) -> None:
    async def work() -> None:
        fake, clock = FakeApi(tmp_path), Clock()
        async with trio.open_nursery() as nursery:
            api = await nursery.start(fake.serve)
            one, other = managed(api, clock), managed(api, clock)
            first = await one.current()
            assert first is not None
            assert fake.trusted() == [first.authorities] * 2
            assert await other.current() == first, "replicas share it"
            writes = len(fake.writes)
            assert await one.current() == first
            assert len(fake.writes) == writes, "nothing is written while nothing changes"

            clock.now += datetime.timedelta(days=61)
            assert await one.current() is None, "the new authority is published first"
            assert all(first.authorities in trusted for trusted in fake.trusted())
            second = await one.current()
            assert second not in (None, first)
            assert await other.current() == second
            assert fake.trusted() == [second.authorities] * 2

            # Somebody has removed it, as an upgrade of the chart might.
            for hook in fake.objects[fake.HOOKS]["webhooks"]:
                hook["clientConfig"].pop("caBundle")
            await one.current()
            assert fake.trusted() == [second.authorities] * 2
            fake.objects[fake.SECRET]["data"] = {"tls.crt": "%", "tls.key": ""}
            await one.current()
            third = await one.current()
            assert third not in (None, first, second)
            nursery.cancel_scope.cancel()

    run(work)


def test_of_two_replicas_one_makes_the_certificate(tmp_path: Path) -> None:
    async def work() -> None:
        fake, clock = FakeApi(tmp_path), Clock()
        async with trio.open_nursery() as nursery:
            api = await nursery.start(fake.serve)
            found: list[Served | None] = []
            contexts = [Context(), Context()]

            async def one(context: Context) -> None:
                source = managed(api, clock)
                while not await renew(context, source):
                    await trio.sleep(0.01)
                found.append(context.served)

            async with trio.open_nursery() as replicas:
                for context in contexts:
                    replicas.start_soon(one, context)
            assert found[0] == found[1]
            assert fake.writes.count("PUT") == 1
            nursery.cancel_scope.cancel()

    run(work)


def test_an_api_server_that_says_no(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        fake, clock = FakeApi(tmp_path), Clock()
        async with trio.open_nursery() as nursery:
            api = await nursery.start(fake.serve)
            with pytest.raises(ApiError, match="not found") as error:
                await api.get("/api/v1/nothing")
            assert error.value.status == 404
            Path(fake.account, "token").write_text("old")
            with pytest.raises(ApiError, match="Unauthorized"):
                await api.get(fake.SECRET)
            Path(fake.account, "token").write_text("secret-token")
            await api.get(fake.SECRET)
            Path(fake.account, "ca.crt").write_bytes(issue(NAMES, keeping.utc_now()).authorities)
            with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
                await api.get(fake.SECRET)
            context = Context()
            with caplog.at_level(logging.WARNING):
                assert not await renew(context, managed(api, clock))
            assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
            nursery.cancel_scope.cancel()
        with pytest.raises(ApiError):
            await api.get(fake.SECRET)

    run(work)


def test_the_command_serves_and_ends(tmp_path: Path) -> None:
    served = issue(NAMES, keeping.utc_now())
    write(tmp_path, served)
    command = [sys.executable, "-m", "pylxcfs", "webhook", "--listen", "127.0.0.1:0"]
    command += ["--tls-cert", f"{tmp_path}/files/tls.crt", "--tls-key", f"{tmp_path}/files/tls.key"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        wait_until(lambda: b"answering the API server" in log.read_bytes(), 60, what="the server")
        bound = log.read_text().rpartition("https://")[2].split()[0]
        assert Client(bound, served.authorities)._ask("GET", "/readyz", None)[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no certificate"),
        (["--tls-cert", "/x"], "belong together"),
        (["--service", "pylxcfs"], "no pod with a service account"),
        (["--files", "pressure"], "no file pressure"),
        (["--env", "PATH"], "unknown variable PATH"),
        (["--mountpoint", "/mnt"], "no directory of its own above it"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], said: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
    done = subprocess.run(
        [sys.executable, "-m", "pylxcfs", "webhook", *words],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 2
