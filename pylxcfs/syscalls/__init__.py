"""Answers to sysinfo(2) and sched_getaffinity(2), from the computation that the files have."""
