"""Instances and containers seen from outside: for `status`, `top`, `doctor` and metrics.

    instance.py     the keeper's state, facts of its processes, the server's counters
    parts.py        its optional parts: which are on, and whether they work
    bindings.py     which node each file of a container is bound to
    containers.py   containers with their limits, usage and files
    findings.py     what `doctor` tests
    screen.py       what `top` shows (rich)
    exposition.py   what Prometheus reads (prometheus-client), listening.py where

Everything here only reads. No path of a container is opened, and no file of a mount.
"""
