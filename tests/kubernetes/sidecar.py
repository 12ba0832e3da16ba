"""A webhook of somebody else, which adds a container to each pod. Run as a program.

python -m tests.kubernetes.sidecar CERTIFICATE KEY PORT
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.kubernetes.cluster import container_of

SIDECAR = container_of("sidecar", memory="64Mi")


class Handler(BaseHTTPRequestHandler):
    """Answers a review with a patch."""

    def do_POST(self) -> None:
        """Add the container, unless it is there."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response = {"uid": request["uid"], "allowed": True}
        containers = request["object"]["spec"]["containers"]
        if all(one["name"] != SIDECAR["name"] for one in containers):
            patch = [{"op": "add", "path": "/spec/containers/-", "value": SIDECAR}]
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        body = json.dumps({**review, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    certificate, key, port = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", int(port)), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
