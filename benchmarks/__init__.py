"""Benchmarks of pylxcfs, C LXCFS and the kernel's own procfs.

These are not tests: absolute numbers of a shared machine prove nothing. Targets are ratios of one
run, and servers are measured in alternate short rounds, so that the machine's drift affects all.
"""
