"""Helm's actions on the chart, as a program: the cluster's network namespace is not the tests'.

python -m tests.kubernetes.helm install|upgrade|uninstall    settings on stdin, as JSON
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import helm_python as helm

CHART = Path(__file__).parents[2] / "container/kubernetes/chart"


def main(action: str, name: str, namespace: str, values: dict[str, Any] | None = None) -> object:
    """Do it, and return what Helm says."""
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=namespace) as config:
        if action == "uninstall":
            return config.uninstall(name)
        return getattr(config, action)(str(CHART), name, values or {})


if __name__ == "__main__":
    json.dump(main(sys.argv[1], **json.load(sys.stdin)), sys.stdout, default=str)
