"""`python -m pylxcfs` is the command `pylxcfs`; `serve` is there only here, for the keeper."""

from __future__ import annotations

import sys

if sys.argv[1:2] == ["serve"]:
    from pylxcfs.server.serve import main
else:
    from pylxcfs.cli.commands import main

main()
