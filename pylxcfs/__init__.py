"""pylxcfs: each container reads its own numbers in /proc and /sys, from a FUSE filesystem.

What lives where is told in ARCHITECTURE.md; the table of what is served is `views.VIEWS`.
"""

__version__ = "0.1.0"
