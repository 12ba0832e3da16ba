"""`python -m pylxcfs` is the command `pylxcfs`."""

from __future__ import annotations

from pylxcfs.cli import main

main()
