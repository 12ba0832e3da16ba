"""What is different on old kernels: in the virtual machine only, whose kernel is 6.1."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "PYLXCFS_IN_VM" in os.environ else ["test_*.py"]
