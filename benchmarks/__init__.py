"""pylxcfs, C LXCFS and the kernel's own procfs, measured side by side on one machine.

Nothing here is a test: numbers of a shared machine prove nothing by themselves. Only ratios of
one run are judged, and servers take turns in short rounds so that the machine's drift hits all.
"""
