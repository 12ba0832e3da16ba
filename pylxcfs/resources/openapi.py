"""The description of the HTTP service, in openapi.json beside this file."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Final

from pylxcfs.resources.protocol import Answer


def _read() -> bytes:
    with open(os.path.join(os.path.dirname(__file__), "openapi.json"), "rb") as file:
        return file.read()


ANSWER: Final = Answer(HTTPStatus.OK, _read())
