"""The image of the node agent and the webhook, as tools/make-image makes it."""

from __future__ import annotations

import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pylxcfs import __version__
from tests.conftest import require
from tests.kit.daemon import ROOT

REFERENCE = f"docker.io/library/pylxcfs:{__version__}"
BUILD_S = 600


@dataclass(frozen=True)
class Image:
    """An archive of tools/make-image, and what that has printed."""

    archive: Path
    printed: str

    def blobs(self) -> dict[str, bytes]:
        """Return the contents of the archive."""
        with tarfile.open(self.archive) as tar:
            return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def make(archive: Path, before: str = "", **environ: str) -> Image:
    """Make it. `before`: commands of the shell that starts the tool."""
    tool = ["sh", "-c", f'{before} exec "$@"', "sh", str(ROOT / "tools/make-image")]
    done = subprocess.run(
        [*tool, str(archive)],
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        env={**os.environ, **environ},
    )
    if done.returncode == 3:
        require("kubernetes", done.stderr)
    assert done.returncode == 0, done.stderr
    return Image(archive, done.stdout.strip())
